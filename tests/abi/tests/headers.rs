//! `xen-abi` against the C headers of Debian 13's libxen-dev (Xen 4.20).
//!
//! The headers come from `RADON_XEN_HEADERS` (a directory that holds `xen/xen.h`) or
//! are fetched by `headers.sh`. Without them the test fails; set
//! `RADON_SKIP_XEN_HEADERS=1` where they cannot be had.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use xen_abi::layout::{Const, Field, Header, Layout};

/// Where the headers are; `None` when the caller has chosen to go without.
fn headers() -> Option<PathBuf> {
    if std::env::var_os("RADON_SKIP_XEN_HEADERS").is_some() {
        eprintln!("RADON_SKIP_XEN_HEADERS is set: layouts NOT compared");
        return None;
    }
    if let Some(dir) = std::env::var_os("RADON_XEN_HEADERS") {
        let dir = PathBuf::from(dir);
        assert!(
            dir.join("xen/xen.h").is_file(),
            "RADON_XEN_HEADERS: no xen/xen.h in {}",
            dir.display()
        );
        return Some(dir);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("headers.sh");
    let out = Command::new(&script).output().expect("running headers.sh");
    assert!(
        out.status.success(),
        "no headers to compare with (RADON_XEN_HEADERS=DIR names some, RADON_SKIP_XEN_HEADERS=1 goes without):\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Some(PathBuf::from(
        String::from_utf8(out.stdout).expect("a path").trim(),
    ))
}

/// Compiles `program` and runs it; `Err` is the compiler's complaint.
fn compile_and_run(name: &str, program: &str, include: &Path) -> Result<Output, String> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let source = dir.join(format!("{name}.c"));
    let binary = dir.join(name);
    std::fs::write(&source, program).expect("writing the program");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let out = Command::new(&cc)
        .args(["-std=gnu11", "-w", "-m64", "-I"])
        .arg(include)
        .arg(&source)
        .arg("-o")
        .arg(&binary)
        .output()
        .unwrap_or_else(|error| panic!("no C compiler {}: {error}", cc.display()));
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    Ok(Command::new(&binary)
        .output()
        .expect("running the comparison"))
}

#[test]
fn layouts_and_numbers_are_those_of_the_headers() {
    let Some(include) = headers() else { return };
    let out =
        compile_and_run("whole", &abi_tests::whole(), &include).unwrap_or_else(|e| panic!("{e}"));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}");
    println!("{text}");
}

/// The comparison itself: a wrong size, offset, number or name must be noticed.
#[test]
fn differences_are_noticed() {
    let Some(include) = headers() else { return };
    let run = |name, layout: Layout, number: Const| {
        let layouts: &'static [Layout] = Box::leak(Box::new([layout]));
        let consts: &'static [Const] = Box::leak(Box::new([number]));
        let (layouts, consts) = (
            Box::leak(Box::new([layouts])),
            Box::leak(Box::new([consts])),
        );
        let header = Header {
            paths: &["xen/event_channel.h"],
            layouts,
            consts,
        };
        compile_and_run(name, &abi_tests::program(&[header]), &include)
    };
    let field = |offset, size| -> &'static [Field] {
        Box::leak(Box::new([Field {
            name: "port",
            offset,
            size,
        }]))
    };
    let layout = |size, fields| Layout {
        c_type: "struct evtchn_alloc_unbound",
        size,
        fields,
    };
    let send = Const {
        name: "EVTCHNOP_send",
        value: 4,
    };

    assert!(
        run("right", layout(8, field(4, 4)), send)
            .expect("compiles")
            .status
            .success()
    );
    assert!(
        !run("size", layout(12, field(4, 4)), send)
            .expect("compiles")
            .status
            .success()
    );
    assert!(
        !run("offset", layout(8, field(0, 4)), send)
            .expect("compiles")
            .status
            .success()
    );
    assert!(
        !run("width", layout(8, field(4, 8)), send)
            .expect("compiles")
            .status
            .success()
    );
    let wrong = Const { value: 5, ..send };
    assert!(
        !run("number", layout(8, field(4, 4)), wrong)
            .expect("compiles")
            .status
            .success()
    );
    let unknown = Const {
        name: "EVTCHNOP_sned",
        value: 4,
    };
    assert!(run("name", layout(8, field(4, 4)), unknown).is_err());
}

/// A table that `headers.rs` leaves out would never be compared.
#[test]
fn every_table_is_listed() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hypervisor/abi/src");
    let listed = std::fs::read_to_string(src.join("headers.rs")).expect("headers.rs");
    let mut seen = 0;
    for path in sources(&src) {
        let module = path
            .strip_prefix(&src)
            .expect("below src")
            .components()
            .next()
            .expect("a name");
        let module = module
            .as_os_str()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        let text = std::fs::read_to_string(&path).expect("a source file");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if !matches!(line.trim(), "abi_structs! {" | "abi_consts! {") {
                continue;
            }
            let table = lines
                .next()
                .expect("a table")
                .trim()
                .split(':')
                .next()
                .expect("a name");
            // The macros' own definitions pass their table on.
            if table.starts_with('$') {
                continue;
            }
            seen += 1;
            let name = format!("crate::{module}::{table}");
            let found = listed
                .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                .any(|word| word == name);
            assert!(found, "{name} is not in headers.rs");
        }
    }
    assert!(
        seen > 40,
        "only {seen} tables found: has the layout of the sources changed?"
    );
}

/// All `.rs` files below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
