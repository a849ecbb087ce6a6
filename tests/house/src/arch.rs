//! The law of directions (`docs/architecture.md`): what may depend on what.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::source::{Source, crate_paths, sources};

/// Our crates in `hypervisor/`: folder, name, and which of ours each may depend on.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("abi", "xen-abi", &[]),
    ("x86-defs", "x86-defs", &[]),
    ("image", "guest-image", &["xen-abi", "x86-defs"]),
    ("x86-emul", "x86-emul", &["xen-abi", "x86-defs"]),
    (
        "core",
        "radon-core",
        &["xen-abi", "x86-defs", "guest-image", "x86-emul"],
    ),
    (
        "x86",
        "radon-x86",
        &[
            "xen-abi",
            "x86-defs",
            "guest-image",
            "x86-emul",
            "radon-core",
        ],
    ),
    (
        "radon",
        "radon",
        &[
            "xen-abi",
            "x86-defs",
            "guest-image",
            "x86-emul",
            "radon-core",
            "radon-x86",
        ],
    ),
];

/// Our crates in `dom0-tools/`, programs of dom0's user space: what of ours each may depend on,
/// and may it have unsafe code.
const TOOLS: &[(&str, &[&str], bool)] = &[
    ("xencall", &["xen-abi"], true),
    ("xenstore", &["xen-abi"], false),
    ("xlcfg", &[], false),
    ("xenstored", &["xen-abi", "xencall", "xenstore"], false),
    ("xenconsoled", &["xen-abi", "xencall", "xenstore"], false),
    (
        "toolstack",
        &["xen-abi", "guest-image", "xencall", "xenstore", "xlcfg"],
        false,
    ),
    (
        "xl",
        &["xen-abi", "xencall", "xenstore", "xlcfg", "toolstack"],
        false,
    ),
];

/// Crates without a line of unsafe code: the compiler is told to see to it.
const SAFE: &[&str] = &["abi", "x86-defs", "image", "x86-emul", "core"];

/// Outside crates and the only crates of ours that may use them directly.
const DOORS: &[(&str, &[&str])] = &[
    ("x86_64", &["radon-x86"]),
    ("uart_16550", &["radon-x86"]),
    ("acpi", &["radon-x86"]),
    ("font8x8", &["radon-x86"]),
    ("linked_list_allocator", &["radon"]),
    ("spin", &["radon-core", "radon-x86", "radon"]),
    ("elf", &["guest-image"]),
    ("lz4_flex", &["guest-image"]),
    ("miniz_oxide", &["guest-image"]),
    ("xz4rust", &["guest-image"]),
    ("zstd-rs", &["guest-image"]),
    (
        "bitflags",
        &["xen-abi", "x86-defs", "radon-core", "radon-x86"],
    ),
    (
        "zerocopy",
        &["xen-abi", "x86-defs", "guest-image", "radon-core"],
    ),
    ("log", &["guest-image", "radon-core", "radon-x86", "radon"]),
];

/// Rooms of a crate, by prefix of the module path, and rooms that they must not name.
struct Wall {
    krate: &'static str,
    from: &'static [&'static str],
    to: &'static [&'static str],
    why: &'static str,
}

const WALLS: &[Wall] = &[
    Wall {
        krate: "core",
        from: &["evtchn", "grant", "p2m", "sched"],
        to: &["hypercall", "hypervisor", "run", "dom0"],
        why: "these rooms do not know who calls them",
    },
    Wall {
        krate: "core",
        from: &["sched"],
        to: &["domain", "hvm", "machine", "mm"],
        why: "the scheduler knows units and CPUs, neither domains nor hardware",
    },
    Wall {
        krate: "core",
        from: &[
            "mm",
            "time",
            "sync",
            "guest",
            "cpu_policy",
            "cmdline",
            "vpci",
            "access",
        ],
        to: &["hypercall", "run", "dom0"],
        why: "a lower room defines a trait instead",
    },
    Wall {
        krate: "core",
        from: &["hvm"],
        to: &["pv"],
        why: "what PV and HVM share goes to guest, cpu_policy, p2m or x86-emul",
    },
    Wall {
        krate: "core",
        from: &["pv"],
        to: &["hvm"],
        why: "what PV and HVM share goes to guest, cpu_policy, p2m or x86-emul",
    },
    Wall {
        krate: "x86",
        from: &["hvm::svm"],
        to: &["hvm::vmx"],
        why: "what both backends share goes to hvm/",
    },
    Wall {
        krate: "x86",
        from: &["hvm::vmx"],
        to: &["hvm::svm"],
        why: "what both backends share goes to hvm/",
    },
];

/// The only rooms of core, besides `hypercall` itself, that may name `hypercall`: entry code.
const ENTRY: &[&str] = &["hvm::exit", "pv::entry"];

/// Names that hide what a room is for.
const HIDING: &[&str] = &[
    "util", "utils", "common", "misc", "helpers", "manager", "base",
];

/// Longest file.
const MAX_LINES: usize = 1000;

fn is_in(module: &[String], room: &str) -> bool {
    let mut room = room.split("::");
    let mut module = module.iter();
    room.all(|part| module.next().is_some_and(|m| m == part))
}

/// Every offence against the law, one line each.
///
/// # Errors
/// When the sources cannot be read.
pub fn check(top: &Path) -> Result<Vec<String>> {
    let mut offences = Vec::new();
    crates(top, &mut offences)?;
    for (folder, _, _) in CRATES {
        for source in sources(top, &format!("hypervisor/{folder}"))? {
            offences.extend(walls(folder, &source));
            offences.extend(shape(&source));
        }
    }
    for folder in SAFE {
        offences.extend(forbids(top, &format!("hypervisor/{folder}"))?);
    }
    tools(top, &mut offences)?;
    Ok(offences)
}

/// An offence when a crate may have unsafe code as far as the compiler knows.
fn forbids(top: &Path, krate: &str) -> Result<Option<String>> {
    for root in ["src/lib.rs", "src/main.rs"] {
        let Ok(text) = std::fs::read_to_string(top.join(krate).join(root)) else {
            continue;
        };
        if !text.contains("#![forbid(unsafe_code)]") {
            return Ok(Some(format!("{krate}/{root} does not forbid unsafe code")));
        }
    }
    Ok(None)
}

/// dom0's tools use the ABI and each other, never the hypervisor's crates.
fn tools(top: &Path, offences: &mut Vec<String>) -> Result<()> {
    let known: BTreeMap<&str, &(&str, &[&str], bool)> = TOOLS.iter().map(|t| (t.0, t)).collect();
    for entry in std::fs::read_dir(top.join("dom0-tools"))? {
        let folder = entry?.file_name().to_string_lossy().into_owned();
        let krate = format!("dom0-tools/{folder}");
        let Ok(text) = std::fs::read_to_string(top.join(&krate).join("Cargo.toml")) else {
            continue;
        };
        let Some((name, allowed, is_unsafe)) = known.get(folder.as_str()) else {
            offences.push(format!("{krate}: not in the table of {}", file!()));
            continue;
        };
        let manifest: toml::Table = text.parse().with_context(|| krate.clone())?;
        for table in ["dependencies", "dev-dependencies"] {
            let table = manifest.get(table).and_then(toml::Value::as_table);
            for dependency in table.into_iter().flat_map(toml::Table::keys) {
                let is_ours = known.contains_key(dependency.as_str())
                    || CRATES.iter().any(|c| c.1 == dependency);
                if is_ours && !allowed.contains(&dependency.as_str()) {
                    offences.push(format!(
                        "{name} depends on {dependency}: against the law of directions"
                    ));
                }
            }
        }
        if !is_unsafe {
            offences.extend(forbids(top, &krate)?);
        }
        for source in sources(top, &krate)? {
            offences.extend(shape(&source));
        }
    }
    Ok(())
}

fn crates(top: &Path, offences: &mut Vec<String>) -> Result<()> {
    let known: BTreeMap<&str, &(&str, &str, &[&str])> = CRATES.iter().map(|c| (c.0, c)).collect();
    for entry in std::fs::read_dir(top.join("hypervisor"))? {
        let folder = entry?.file_name().to_string_lossy().into_owned();
        let manifest = top.join("hypervisor").join(&folder).join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(&manifest) else {
            continue;
        };
        let Some((_, name, allowed)) = known.get(folder.as_str()) else {
            offences.push(format!(
                "hypervisor/{folder}: not in the table of {}",
                file!()
            ));
            continue;
        };
        offences.extend(dependencies(name, allowed, &text)?);
    }
    Ok(())
}

fn dependencies(name: &str, allowed: &[&str], manifest: &str) -> Result<Vec<String>> {
    let manifest: toml::Table = manifest
        .parse()
        .with_context(|| format!("{name}'s manifest"))?;
    let ours = |dependency: &str| CRATES.iter().any(|c| c.1 == dependency);
    let named = |table: &str| -> Vec<String> {
        let table = manifest.get(table).and_then(toml::Value::as_table);
        table.map_or_else(Vec::new, |t| t.keys().cloned().collect())
    };
    let mut offences = Vec::new();
    for dependency in named("dependencies")
        .into_iter()
        .chain(named("dev-dependencies"))
    {
        if ours(&dependency) && !allowed.contains(&dependency.as_str()) {
            offences.push(format!(
                "{name} depends on {dependency}: against the law of directions"
            ));
        }
    }
    for dependency in named("dependencies").iter().filter(|d| !ours(d)) {
        match DOORS.iter().find(|door| door.0 == *dependency) {
            None => offences.push(format!(
                "{name} depends on {dependency}: no door for it in {}",
                file!()
            )),
            Some((_, doors)) if !doors.contains(&name) => offences.push(format!(
                "{name} depends on {dependency}, which enters by {}",
                doors.join(", ")
            )),
            Some(_) => {}
        }
    }
    Ok(offences)
}

fn walls(krate: &str, source: &Source) -> Vec<String> {
    let mut offences = Vec::new();
    for path in crate_paths(&source.module, &source.tokens) {
        let mut offend = |why: &str| {
            let path = path.join("::");
            let offence = format!("{}: names crate::{path}: {why}", source.path);
            if !offences.contains(&offence) {
                offences.push(offence);
            }
        };
        for wall in WALLS.iter().filter(|wall| wall.krate == krate) {
            if wall.from.iter().any(|room| is_in(&source.module, room))
                && wall.to.iter().any(|room| is_in(&path, room))
            {
                offend(wall.why);
            }
        }
        let may_call = is_in(&source.module, "hypercall")
            || ENTRY.iter().any(|room| is_in(&source.module, room));
        if krate == "core" && is_in(&path, "hypercall") && !may_call {
            offend("only entry code calls hypercalls");
        }
    }
    offences
}

fn shape(source: &Source) -> Vec<String> {
    let mut offences = Vec::new();
    if source.lines > MAX_LINES {
        offences.push(format!("{}: {} lines, split it", source.path, source.lines));
    }
    if let Some(name) = source
        .module
        .last()
        .filter(|name| HIDING.contains(&name.as_str()))
    {
        offences.push(format!(
            "{}: '{name}' says nothing about the room",
            source.path
        ));
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn source(module: &str, text: &str) -> Source {
        Source {
            path: format!("{module}.rs"),
            module: module.split("::").map(str::to_owned).collect(),
            lines: text.lines().count(),
            tokens: proc_macro2::TokenStream::from_str(text).unwrap(),
        }
    }

    #[test]
    fn the_house_keeps_the_law() {
        let offences = check(&crate::top()).unwrap();
        assert!(offences.is_empty(), "{}", offences.join("\n"));
    }

    #[test]
    fn forbidden_edges_are_seen() {
        let seen = |krate, module, text| walls(krate, &source(module, text)).len();
        assert_eq!(
            seen("core", "evtchn::port", "use crate::hypercall::Ctx;"),
            2
        );
        assert_eq!(
            seen("core", "evtchn::port", "use crate::machine::Machine;"),
            0
        );
        assert_eq!(
            seen("core", "hvm::exit", "use crate::hypercall::{self, Ctx};"),
            0
        );
        assert_eq!(
            seen("core", "hvm::io", "fn f() { crate::hypercall::enter(c) }"),
            1
        );
        assert_eq!(
            seen("core", "sched::null", "use super::super::domain::Vcpu;"),
            1
        );
        assert_eq!(
            seen("x86", "hvm::svm::exit", "use super::super::vmx::cap;"),
            1
        );
        assert_eq!(
            seen("x86", "hvm::vmx", "use crate::hvm::{host, svm::cap};"),
            1
        );
        assert_eq!(seen("x86", "hvm", "pub mod svm; pub mod vmx;"), 0);
    }

    #[test]
    fn forbidden_dependencies_are_seen() {
        let seen = |name, allowed: &[&str], text| dependencies(name, allowed, text).unwrap().len();
        let upwards = "[dependencies]\nradon-x86.workspace = true\n";
        assert_eq!(seen("radon-core", &["xen-abi"], upwards), 1);
        let in_tests = "[dev-dependencies]\nradon-core.workspace = true\n";
        assert_eq!(seen("xen-abi", &[], in_tests), 1);
        let door = "[dependencies]\nx86_64.workspace = true\n";
        assert_eq!(seen("radon-core", &["xen-abi"], door), 1);
        assert_eq!(seen("radon-x86", &["radon-core"], door), 0);
        let stranger = "[dependencies]\nleft-pad = \"1\"\n";
        assert_eq!(seen("radon-core", &[], stranger), 1);
    }

    #[test]
    fn names_and_sizes_are_seen() {
        assert_eq!(shape(&source("hvm::util", "")).len(), 1);
        assert_eq!(shape(&source("hvm::exit", &"\n".repeat(1001))).len(), 1);
        assert!(shape(&source("hvm::exit", "fn f() {}")).is_empty());
    }
}
