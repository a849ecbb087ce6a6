//! Configurations: from files and command lines, as JSON.

use toolstack::layout::mac_text;
use xlcfg::{Config, GuestKind, Source};

use crate::context::{Context, Failure, Result};
use crate::json::{Json, object};

/// A configuration that was read: typed, and as the text that is kept.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) text: String,
}

/// Reads a file with overrides; prints problems.
pub(crate) fn load(path: &str, overrides: &[String]) -> Result<Loaded> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(format!(
            "reading the configuration {path}: {error}\n  help: give the path of a file as in /etc/xen/*.cfg"
        ))
    })?;
    let mut source = Source::new(path, &text);
    for word in overrides {
        source.add_override(word);
    }
    load_source(&source)
}

/// The same from a text that is there already.
pub(crate) fn load_source(source: &Source) -> Result<Loaded> {
    match xlcfg::load(source) {
        Ok((config, problems)) => {
            if !problems.is_empty() {
                eprintln!("{}", problems.render(source));
            }
            Ok(Loaded {
                config,
                text: source.text().to_owned(),
            })
        }
        Err(problems) => {
            eprintln!("{}", problems.render(source));
            let count = problems.errors();
            let s = if count == 1 { "" } else { "s" };
            eprintln!("xl: {count} error{s}; no guest is made");
            Err(Failure::Told)
        }
    }
}

/// Letters of a guest's type.
fn kind_name(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Pv => "pv",
        GuestKind::Pvh => "pvh",
        GuestKind::Hvm => "hvm",
    }
}

/// As `xl list -l` and `xl create -n` show it: the members of libxl's JSON.
pub(crate) fn as_json(config: &Config) -> Json {
    let mut c_info = object! {
        "type": kind_name(config.kind),
        "name": config.name.as_str(),
    };
    if let Some(uuid) = config.uuid {
        c_info.add("uuid", uuid.to_string());
    }
    let online: Vec<Json> = (0..config.vcpus).map(Json::from).collect();
    let mut b_info = object! {
        "max_vcpus": config.max_vcpus,
        "avail_vcpus": online,
        "max_memkb": config.max_memory_mib << 10,
        "target_memkb": config.memory_mib << 10,
        "kernel": config.kernel.clone().unwrap_or_default(),
        "cmdline": config.command_line.as_str(),
    };
    if let Some(ramdisk) = &config.ramdisk {
        b_info.add("ramdisk", ramdisk.as_str());
    }
    let mut sched = object! {};
    if let Some(weight) = config.weight {
        sched.add("weight", weight);
    }
    if let Some(cap) = config.cap {
        sched.add("cap", cap);
    }
    b_info.add("sched_params", sched);
    let disks: Vec<Json> = config
        .disks
        .iter()
        .map(|disk| {
            object! {
                "pdev_path": disk.target.clone().unwrap_or_default(),
                "vdev": disk.vdev.name.as_str(),
                "backend": "phy",
                "format": disk.format.name(),
                "removable": u8::from(disk.is_cdrom),
                "readwrite": u8::from(disk.is_writable),
                "is_cdrom": u8::from(disk.is_cdrom),
            }
        })
        .collect();
    let nics: Vec<Json> = (0_u32..)
        .zip(&config.vifs)
        .map(|(at, vif)| {
            let mut nic = object! {"devid": vif.devid.unwrap_or(at)};
            if let Some(mac) = vif.mac {
                nic.add("mac", mac_text(mac));
            }
            if let Some(bridge) = &vif.bridge {
                nic.add("bridge", bridge.as_str());
            }
            nic
        })
        .collect();
    let mut json = object! {"c_info": c_info, "b_info": b_info};
    if !disks.is_empty() {
        json.add("disks", disks);
    }
    if !nics.is_empty() {
        json.add("nics", nics);
    }
    let actions = [
        ("on_poweroff", config.on_poweroff),
        ("on_reboot", config.on_reboot),
        ("on_watchdog", config.on_watchdog),
        ("on_crash", config.on_crash),
        ("on_soft_reset", config.on_soft_reset),
    ];
    for (name, action) in actions {
        json.add(name, action.name().replace('-', "_"));
    }
    json
}

/// `config-update`: what the next reboot of a domain uses.
pub(crate) fn update(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "config-update",
        "dqf:",
        &[("defconfig", 'f')],
        (0, crate::args::MANY)
    );
    let Some((domain, rest)) = args.operands.split_first() else {
        return Err(Failure::new(
            "no domain is named\n  help: xl config-update DOMAIN FILE",
        ));
    };
    let (overrides, files): (Vec<String>, Vec<String>) =
        rest.iter().cloned().partition(|word| word.contains('='));
    let path = match (args.value('f'), files.as_slice()) {
        (Some(path), []) => path,
        (None, [path]) => path.as_str(),
        (None, []) => {
            return Err(Failure::new(
                "no configuration is named\n  help: xl config-update DOMAIN FILE",
            ));
        }
        (_, [.., other]) => {
            return Err(Failure::usage(format!(
                "one configuration at a time: '{other}' is one too many\n  help: settings are written name=value"
            )));
        }
    };
    let d = context.domain(domain)?;
    let loaded = load(path, &overrides)?;
    if context.is_dry_run || args.has('d') {
        crate::output::say!("{}", as_json(&loaded.config));
    }
    if context.is_dry_run {
        return Ok(());
    }
    let machine = &mut context.machine()?;
    let Loaded { config, text } = loaded;
    Ok(toolstack::current::update(machine, d, &config, &text)?)
}
