//! The package is built from stand-ins, unpacked into a scratch root, and its script is run.

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("radon-deb-{name}-{}", std::process::id()));
        _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        permit(&path, 0o755).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_package_unpacks_to_what_its_units_start() {
    let scratch = Scratch::new("package");
    let programs = scratch.0.join("programs");
    std::fs::create_dir(&programs).unwrap();
    for name in tools::PROGRAMS {
        scratch.script(&format!("programs/{name}"), "#!/bin/sh\n");
    }
    let image = scratch.script("radon.elf", "image");
    let parts = Parts {
        image: &image,
        programs: &programs,
        completion: b"complete -F _xl xl\n",
        version: "0.1.0",
    };
    let top = scratch.0.join("top");
    stage(&Layout::new().unwrap(), &parts, &top).unwrap();
    let package = pack(&parts, &top, &scratch.0).unwrap();
    assert!(package.ends_with("radon-tools_0.1.0_amd64.deb"));

    let field = |name: &str| {
        let mut command = Command::new("dpkg-deb");
        let out = step::output(command.arg("-f").arg(&package).arg(name)).unwrap();
        String::from_utf8(out).unwrap().trim().to_owned()
    };
    assert_eq!(field("Package"), PACKAGE);
    assert_eq!(field("Version"), "0.1.0");
    assert!(field("Installed-Size").parse::<u64>().unwrap() > 0);

    let root = scratch.0.join("root");
    step::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root)).unwrap();
    assert!(root.join("boot/radon.elf").is_file() && root.join("etc/xen/auto").is_dir());
    for (name, _) in tools::LINKS {
        // The link's target is there.
        assert!(root.join("usr/sbin").join(name).is_file(), "{name}");
    }
    for (name, is_wanted) in UNITS {
        let folder = root.join("usr/lib/systemd/system");
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        for line in text.lines() {
            let Some((key, command)) = line.split_once("=/usr/") else {
                continue;
            };
            assert!(key.starts_with("Exec"), "{name}: {line}");
            let program = command.split_whitespace().next().unwrap();
            let mode = root.join("usr").join(program).metadata().unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o755, "{name}: {line}");
        }
        let wanted = folder.join("multi-user.target.wants").join(name);
        assert_eq!(wanted.is_file(), *is_wanted, "{name}");
    }
}

/// A daemon may be started anew, or die: units that it takes along would end all guests. At halt
/// the order of the units has the guests end before the daemons.
#[test]
fn a_daemon_takes_no_other_unit_along() {
    let layout = Layout::new().unwrap();
    for (name, _) in UNITS {
        let text = std::fs::read_to_string(layout.script(&format!("boot/deb/{name}"))).unwrap();
        let listed = |key: &str| -> Vec<&str> {
            let values = text.lines().filter_map(|line| line.strip_prefix(key));
            values.flat_map(str::split_whitespace).collect()
        };
        for key in ["Requires=", "Requisite=", "BindsTo=", "PartOf="] {
            assert_eq!(listed(key), Vec::<&str>::new(), "{name}: {key}");
        }
        let after = listed("After=");
        for wanted in listed("Wants=") {
            assert!(after.contains(&wanted), "{name} is not after {wanted}");
        }
        // Else it stays at halt, and nobody waits for its end.
        let is_stopped = !text.contains("DefaultDependencies=no");
        assert!(is_stopped || name.ends_with(".mount"), "{name}");
    }
    let guests = std::fs::read_to_string(layout.script("boot/deb/xendomains.service")).unwrap();
    for daemon in ["xenstored.service", "xenconsoled.service"] {
        let is_before = |line: &str| line.starts_with("After=") && line.contains(daemon);
        assert!(guests.lines().any(is_before), "{daemon}");
    }
}

#[test]
fn daemons_may_open_files_for_every_guest() {
    for name in ["xenstored.service", "xenconsoled.service"] {
        let path = Layout::new().unwrap().script(&format!("boot/deb/{name}"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let limit = lines.find_map(|line| line.strip_prefix("LimitNOFILE="));
        // Three for each of as many domains as there can be.
        assert!(
            limit.unwrap().parse::<u32>().unwrap() > 3 * 0x7ff0,
            "{name}"
        );
    }
}

/// A stand-in for xl: guests are files in a folder, named after their numbers.
const XL: &str = r#"#!/bin/sh
echo "xl $*" >>"$STATE/log"
case $1 in
list)
    echo "Name                                        ID   Mem VCPUs	State	Time(s)"
    echo "Domain-0                                     0  1826     2     r-----      29.2"
    for guest in "$STATE"/guests/*; do
        [ -f "$guest" ] && echo "$(cat "$guest")       ${guest##*/}   192     1     -b----       4.6"
    done
    exit 0 ;;
domid)
    grep -qx "$2" "$STATE"/guests/* 2>/dev/null ;;
create)
    for config; do :; done
    name=$(sed -n 's/^name = "\(.*\)"/\1/p' "$config")
    [ "$2" = -n ] && { printf '{\n    "c_info": {\n        "name": "%s",\n        "uuid": "x"\n' "$name"; exit; }
    [ -n "$name" ] || { echo "xl: no name" >&2; exit 1; }
    count=$(ls "$STATE/guests" | wc -l)
    echo "$name" >"$STATE/guests/$((count + 1))" ;;
shutdown)
    for guest in "$STATE"/guests/*; do
        grep -qx stubborn "$guest" || rm "$guest"
    done ;;
destroy)
    rm "$STATE/guests/$2" ;;
esac
"#;

#[test]
fn guests_are_started_once_and_all_are_stopped() {
    let scratch = Scratch::new("guests");
    for folder in ["bin", "guests", "auto"] {
        std::fs::create_dir(scratch.0.join(folder)).unwrap();
    }
    scratch.script("bin/xl", XL);
    for (file, text) in [
        ("a.cfg", "name = \"one\"\n"),
        ("b.cfg", "name = \"stubborn\"\n"),
        ("broken.cfg", "nonsense\n"),
    ] {
        std::fs::write(scratch.0.join("auto").join(file), text).unwrap();
    }
    let script = Layout::new().unwrap().script("boot/deb/guests");
    let run = |what: &str| {
        let path = std::env::var("PATH").unwrap();
        let out = Command::new("sh")
            .arg(&script)
            .arg(what)
            .env(
                "PATH",
                format!("{}:{path}", scratch.0.join("bin").display()),
            )
            .env("STATE", &scratch.0)
            .env("XENDOMAINS_AUTO", scratch.0.join("auto"))
            .env("XENDOMAINS_STOP_MAXWAIT", "5")
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let guests = || {
        let mut all: Vec<String> = std::fs::read_dir(scratch.0.join("guests"))
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        all.sort();
        all.concat()
    };
    // One configuration is broken: the others start all the same.
    let (code, said) = run("start");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said, "one started\nstubborn started\n");
    assert_eq!(guests(), "one\nstubborn\n");
    assert_eq!(run("start").1, "one runs already\nstubborn runs already\n");
    assert_eq!(guests(), "one\nstubborn\n");
    let (code, said) = run("stop");
    assert_eq!((code, guests().as_str()), (Some(0), ""), "{said}");
    assert!(said.contains("destroying domain 2"), "{said}");
    assert_eq!(run("stop"), (Some(0), String::new()));
    assert_eq!(run("dance").0, Some(2));
}
