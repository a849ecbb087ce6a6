use super::*;
use crate::options::{OPTIONS, Treatment};
use crate::{load, parse};

const TINY: &str = "name = 'a'\ntype = 'pvh'\nmemory = 64\nkernel = '/k'\n";

fn good(text: &str) -> Config {
    let source = Source::new("t.cfg", &format!("{TINY}{text}"));
    match load(&source) {
        Ok((config, problems)) => {
            assert!(problems.is_empty(), "{}", problems.render(&source));
            config
        }
        Err(problems) => panic!("{}", problems.render(&source)),
    }
}

/// The problems of a text that follows the good lines.
fn bad(text: &str) -> String {
    let source = Source::new("t.cfg", &format!("{TINY}{text}"));
    match load(&source) {
        Ok((_, problems)) => panic!("{text:?} was taken; {}", problems.render(&source)),
        Err(problems) => problems.render(&source),
    }
}

#[test]
fn the_smallest_guest() {
    let config = good("");
    assert_eq!(config.name, "a");
    assert_eq!(config.kind, GuestKind::Pvh);
    assert_eq!((config.vcpus, config.max_vcpus), (1, 1));
    assert_eq!((config.memory_mib, config.max_memory_mib), (64, 64));
    assert_eq!(config.on_reboot, Action::Restart);
    assert_eq!(config.on_crash, Action::Destroy);
    assert!(config.has_acpi && config.disks.is_empty() && config.vifs.is_empty());
}

#[test]
fn a_full_guest() {
    let config = good(concat!(
        "vcpus = 2; maxvcpus = 4\n",
        "maxmem = \"0x80\"\n",
        "cpus = ['0', 'all,^0']; cpus_soft = \"node:0\"\n",
        "cpu_weight = 512; cap = 50\n",
        "root = '/dev/xvda1'; extra = 'console=hvc0'; extra += ' quiet'\n",
        "on_crash = 'coredump-restart'; on_poweroff = \"preserve\"\n",
        "disk = ['/a,,xvda', '/b,raw,xvdb,ro'] ; vif = [ '', 'bridge=x' ]\n",
        "uuid = '00112233-4455-6677-8899-aabbccddeeff'\n",
        "tsc_mode = 2; timer_mode = 'no_missed_ticks_pending'; acpi = 0\n",
        "max_grant_frames = 64; usb = 0; vnc = 0; serial = ''; device_model_version = 'qemu-xen'\n",
    ));
    assert_eq!((config.vcpus, config.max_vcpus), (2, 4));
    assert_eq!((config.memory_mib, config.max_memory_mib), (64, 128));
    assert_eq!((config.cpus.len(), config.cpus_soft.len()), (2, 4));
    assert_eq!(config.command_line, "root=/dev/xvda1 console=hvc0 quiet");
    assert_eq!(config.on_crash, Action::CoredumpRestart);
    assert_eq!(config.on_poweroff, Action::Preserve);
    assert_eq!((config.disks.len(), config.vifs.len()), (2, 2));
    let uuid = config.uuid.unwrap();
    assert_eq!(uuid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(config.tsc_mode, TscMode::Native);
    assert_eq!(config.timer_mode, Some(TimerMode::NoMissedTicksPending));
    assert!(!config.has_acpi);
    assert_eq!(config.max_grant_frames, Some(64));
}

#[test]
fn overrides_win_without_a_word() {
    let mut source = Source::new("t.cfg", TINY);
    source.add_override("memory=96");
    source.add_override("name='b'; vcpus=2");
    let (config, problems) = load(&source).unwrap();
    assert_eq!(
        (config.memory_mib, config.name.as_str(), config.vcpus),
        (96, "b", 2)
    );
    assert!(problems.is_empty());
    source.add_override("vcpus=0");
    let rendered = load(&source).unwrap_err().render(&source);
    assert!(
        rendered.starts_with("command line:1:7: error: 'vcpus' cannot be 0"),
        "{rendered}"
    );
}

#[test]
fn each_mistake_is_an_error_with_a_place_and_a_remedy() {
    let cases = [
        (
            "memroy = 3\n",
            "t.cfg:5:1: error: unknown option 'memroy'",
            "did you mean 'memory'?",
        ),
        ("vcpus = 'two'\n", "t.cfg:5:9", "write digits"),
        ("vcpus = 2; maxvcpus = 1\n", "t.cfg:5:9", "raise maxvcpus"),
        ("maxmem = 32\n", "t.cfg:3:10", "raise maxmem"),
        ("type = 'pvm'\n", "t.cfg:5:8", "'pv'"),
        (
            "on_crash = 'restrat'\n",
            "t.cfg:5:12",
            "did you mean 'restart'?",
        ),
        (
            "pci = ['01:00.0']\n",
            "t.cfg:5:1: error: 'pci' is not supported",
            "vif =",
        ),
        (
            "bootloader = 'pygrub'\n",
            "t.cfg:5:1",
            "kernel = and ramdisk =",
        ),
        ("vnc = 1\n", "t.cfg:5:1", "xl console"),
        ("disk = '/a,,xvda'\n", "t.cfg:5:8", "brackets"),
        ("disk = [ ['/a,,xvda'] ]\n", "t.cfg:5:10", "quotes"),
        (
            "disk = ['/a,,xvda', '/b,,xvda']\n",
            "t.cfg:5:21",
            "its own name",
        ),
        (
            "vif = ['mac=00:16:3e:00:00:01', 'mac=00:16:3e:00:00:01']\n",
            "t.cfg:5:33",
            "mac=",
        ),
        ("uuid = '1234'\n", "t.cfg:5:8", "8-4-4-4-12"),
        ("cpus = '0-'\n", "t.cfg:5:8", "node:0"),
        ("cpu_weight = 0\n", "t.cfg:5:14", "1 to 65535"),
        ("kernel += ['x']\n", "t.cfg:5:11", "both"),
        ("vcpus = [ 1 ]\n", "t.cfg:5:9", "remove the brackets"),
    ];
    for (text, place, help) in cases {
        let rendered = bad(text);
        assert!(
            rendered.contains(place) && rendered.contains(help),
            "{text}: {rendered}"
        );
    }
}

#[test]
fn what_is_missing_is_said() {
    for (text, what) in [
        ("memory = 1\n", "no name"),
        ("name = 'a'\n", "no memory"),
        ("name = '12'\nmemory = 1\n", "domain number"),
        ("name = 'a/b'\nmemory = 1\n", "cannot be a name"),
    ] {
        let source = Source::new("t.cfg", text);
        let rendered = load(&source).unwrap_err().render(&source);
        assert!(rendered.contains(what), "{rendered}");
    }
}

#[test]
fn doubtful_things_are_warned_of() {
    let source = Source::new(
        "t.cfg",
        &format!("{TINY}memory = 65\ncmdline = 'a'\nextra = 'b'\nvif = ['model=e1000']\n"),
    );
    let (config, problems) = load(&source).unwrap();
    assert_eq!((config.memory_mib, config.command_line.as_str()), (65, "a"));
    let rendered = problems.render(&source);
    for what in [
        "line 3 already",
        "'extra' is not used",
        "no card is emulated",
    ] {
        assert!(rendered.contains(what), "{rendered}");
    }
}

#[test]
fn every_option_that_is_to_be_applied_is_read() {
    let source = Source::new("t.cfg", TINY);
    let mut problems = Problems::default();
    let document = parse(&source, &mut problems);
    let mut settings = Settings::new(&document, &source, &mut problems);
    // Those that are read only when others are there.
    let text = ["type", "builder"];
    assert!(Config::read_settings(&mut settings).is_some());
    for info in OPTIONS {
        if matches!(info.treatment, Treatment::Applied { .. }) && !text.contains(&info.name) {
            assert!(settings.asked.contains(info.name), "{}", info.name);
        }
    }
}

#[test]
fn amounts_of_memory() {
    assert_eq!(parse_memory_kib("512"), Some(512 << 10));
    assert_eq!(parse_memory_kib("1g"), Some(1 << 20));
    assert_eq!(parse_memory_kib("2048K"), Some(2048));
    assert_eq!(parse_memory_kib("4096b"), Some(4));
    for text in ["", "m", "1x", "-1", "1gb", "99999999999999999999"] {
        assert_eq!(parse_memory_kib(text), None, "{text}");
    }
}
