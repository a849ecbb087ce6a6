use super::*;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use log::LevelFilter;
use proptest::prelude::*;

/// Parses a line without complaints.
fn clean(line: &str) -> Options<'_> {
    let (options, complaints) = parse(line.as_bytes());
    let texts: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    assert!(texts.is_empty(), "{line}: {texts:?}");
    options
}

/// The only complaint about a line.
fn complaint(line: &str) -> Problem {
    let (_, complaints) = parse(line.as_bytes());
    let mut list = complaints.iter();
    let first = list
        .next()
        .unwrap_or_else(|| panic!("no complaint about {line}"));
    assert_eq!(list.next(), None, "{line}");
    first.problem
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn the_line_of_debian() {
    let options = clean(
        "placeholder dom0_mem=2G,max:2G dom0=pvh com1=115200,8n1 console=com1,vga loglvl=all guest_loglvl=all/all no-real-mode edd=off",
    );
    assert_eq!(
        options.dom0_mem.resolve(8 * GIB, 7 * GIB),
        Ok(Dom0Memory {
            initial: 2 * GIB,
            max: Some(2 * GIB)
        })
    );
    assert_eq!(options.com1, Some(SerialConfig::pc(1)));
    assert_eq!(options.com2, None);
    assert_eq!(
        options.console,
        ConsoleSet {
            com1: true,
            com2: false,
            vga: true
        }
    );
    assert_eq!(options.loglvl.always, LevelFilter::Trace);
}

#[test]
fn an_empty_line_gives_defaults() {
    for line in ["", " \t\n ", "\0\0"] {
        let options = clean(line);
        assert_eq!(
            options.dom0_mem.resolve(GIB, GIB).unwrap().initial,
            GIB - 64 * MIB
        );
        assert_eq!(options.dom0_max_vcpus.resolve(4, 128), 4);
        assert_eq!(options.sched, SchedulerKind::Credit2);
        assert!(options.smt && options.iommu.enable && !options.noreboot);
    }
}

#[test]
fn memory_of_dom0() {
    let total = 10 * GIB;
    let available = 9 * GIB;
    let resolve = |text: &str| {
        let line = ["dom0_mem=", text].concat();
        clean(&line).dom0_mem.resolve(total, available)
    };
    let initial = |text| resolve(text).unwrap().initial;
    assert_eq!(initial("1G"), GIB);
    assert_eq!(initial("524288"), 512 * MIB, "KiB without a suffix");
    assert_eq!(initial("0x80000"), 512 * MIB);
    assert_eq!(initial("-1G"), 8 * GIB);
    assert_eq!(initial("25%"), 2560 * MIB);
    assert_eq!(initial("1G+10%"), 2 * GIB);
    assert_eq!(initial("-50%"), 4 * GIB);
    assert_eq!(initial("1G,min:2G"), 2 * GIB);
    assert_eq!(initial("min:2G,max:1G"), GIB, "max beats min");
    assert_eq!(initial("max:1G"), GIB);
    assert_eq!(initial("100000000b"), 100_000_000 & !0xfff, "whole pages");
    assert_eq!(resolve("1G").unwrap().max, None);
    assert_eq!(resolve("max:50%").unwrap().max, Some(5 * GIB));
    assert_eq!(resolve("0"), Err(Dom0MemError::TooSmall { wanted: 0 }));
    assert_eq!(resolve("-20G"), Err(Dom0MemError::TooSmall { wanted: 0 }));
    assert_eq!(
        resolve("20G"),
        Err(Dom0MemError::TooLarge {
            wanted: 20 * GIB,
            available
        })
    );
    for nonsense in [
        "",
        "much",
        "1Q",
        "1G+",
        "1G+5",
        "100%",
        "1%%",
        "--1G",
        "1G,,",
        "min:",
        "99999999999T",
        "5%+1G",
    ] {
        let line = ["dom0_mem=", nonsense].concat();
        let (options, complaints) = parse(line.as_bytes());
        assert_eq!(options.dom0_mem, Dom0Mem::default(), "{nonsense}");
        assert!(complaints.fatal().is_some(), "{nonsense}");
    }
}

#[test]
fn vcpus_of_dom0() {
    let resolve = |text: &str, cpus| {
        let line = ["dom0_max_vcpus=", text].concat();
        clean(&line).dom0_max_vcpus.resolve(cpus, 128)
    };
    assert_eq!(resolve("3", 8), 3);
    assert_eq!(resolve("300", 8), 128);
    for (cpus, vcpus) in [(2, 4), (4, 4), (6, 6), (8, 8), (10, 8)] {
        assert_eq!(resolve("4-8", cpus), vcpus);
    }
    assert_eq!(
        (resolve("-2", 8), resolve("4-", 2), resolve("4-", 9)),
        (2, 4, 9)
    );
    for nonsense in ["", "0", "-", "x", "8-4", "1-0", "4294967296", "-1-2"] {
        let line = ["dom0_max_vcpus=", nonsense].concat();
        assert!(parse(line.as_bytes()).1.fatal().is_some(), "{nonsense}");
    }
}

#[test]
fn serial_ports() {
    let config = clean("com2=9600,7e2,0x2e8,5").com2.unwrap();
    assert_eq!((config.baud, config.divisor()), (Some(9600), Some(12)));
    assert_eq!(
        (config.data_bits, config.parity, config.stop_bits),
        (7, Parity::Even, 2)
    );
    assert_eq!((config.io_base, config.irq), (0x2e8, Some(5)));
    let config = clean("com1=38400,,,0").com1.unwrap();
    assert_eq!(
        (config.io_base, config.irq, config.data_bits),
        (0x3f8, None, 8)
    );
    assert_eq!(clean("com1=auto,8n1").com1.unwrap().divisor(), None);
    assert_eq!(
        clean("com1=115200/29491200").com1.unwrap().divisor(),
        Some(16)
    );
    for nonsense in [
        "fast",
        "115200,9n1",
        "115200,8x1",
        "115200,8n1,pci",
        "115200,8n1,0x3f8,4,5",
        "0",
        "230400",
        "1",
        "115200/0",
        "115200,8n1,0xffff",
    ] {
        let line = ["com1=", nonsense].concat();
        assert!(
            matches!(complaint(&line), Problem::BadValue(_)),
            "{nonsense}"
        );
    }
}

#[test]
fn switches_have_many_forms() {
    assert!(!clean("smt=off").smt && !clean("no-smt").smt && clean("smt=no smt").smt);
    assert!(clean("noreboot").noreboot && !clean("noreboot=0").noreboot);
    assert!(clean("reboot=no").noreboot);
    assert_eq!(clean("reboot=k,w").reboot, RebootMethod::Keyboard);
    assert!(!clean("no-iommu").iommu.enable && !clean("iommu=0").iommu.enable);
    let iommu = clean("iommu=verbose,no-intremap,required=yes").iommu;
    assert!(iommu.enable && iommu.verbose && !iommu.intremap && iommu.required);
    assert_eq!(
        clean("watchdog").watchdog,
        Watchdog {
            enable: true,
            timeout: 5
        }
    );
    assert_eq!(
        clean("watchdog=30").watchdog,
        Watchdog {
            enable: true,
            timeout: 30
        }
    );
    assert!(
        !clean("watchdog watchdog_timeout=0").watchdog.enable
            && !clean("no-watchdog").watchdog.enable
    );
    assert_eq!(
        clean("console_timestamps").console_timestamps,
        Timestamps::Date
    );
    assert_eq!(clean("maxcpus=2 maxcpus=0").maxcpus, None);
    assert_eq!(clean("cpuid=no-avx,no-smep").cpuid, b"no-avx,no-smep");
    let levels = clean("loglvl=warning/debug").loglvl;
    assert_eq!(
        (levels.always, levels.limited),
        (LevelFilter::Warn, LevelFilter::Debug)
    );
    for line in [
        "sched=credit",
        "smt=perhaps",
        "loglvl=loud",
        "console=pv",
        "iommu=fast",
        "dom0=pv",
        "reboot=now",
        "watchdog=-1",
        "maxcpus=x",
        "conring_size=1",
        "watchdog_timeout",
    ] {
        assert!(matches!(complaint(line), Problem::BadValue(_)), "{line}");
    }
    for line in ["vga=gfx-1024x768x32", "ucode=scan", "dom0=pf-fixup"] {
        assert!(matches!(complaint(line), Problem::NoEffect(_)), "{line}");
    }
    for line in ["xyz", "no-xyz", "DOM0_MEM=1G", "=", "=1", "\"", "no-"] {
        assert_eq!(complaint(line), Problem::Unknown, "{line}");
    }
}

#[test]
fn quotes_keep_words_together() {
    assert_eq!(clean("cpuid=\"a b\" smt=\"no\"").cpuid, b"a b");
    assert_eq!(
        clean("\"noreboot\" cpuid=\"unclosed x").cpuid,
        b"unclosed x"
    );
}

#[test]
fn the_rest_is_for_dom0() {
    let options = clean("noreboot -- console=hvc0  quiet \0");
    assert!(options.noreboot);
    assert_eq!(options.dom0_extra, b"console=hvc0  quiet \0".trim_ascii());
}

#[test]
fn complaints_name_the_option_and_stay_printable() {
    let (_, complaints) = parse(b"\xff\xfenoise=\x01\x80 dom0_mem=lots");
    let texts: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[0].contains("??noise"), "{texts:?}");
    assert!(
        texts[2].contains("dom0_mem=lots") && texts[2].contains("write sizes"),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .all(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
    );
}

#[test]
fn a_fatal_complaint_survives_noise() {
    let mut line = "a b c d e f g h ".repeat(100);
    line.push_str("dom0_mem=lots noreboot ");
    line.push_str(&"z ".repeat(1000));
    let (options, complaints) = parse(line.as_bytes());
    assert!(options.noreboot);
    assert_eq!(complaints.iter().count(), MAX_COMPLAINTS);
    assert_eq!(complaints.left_out(), 1801 - MAX_COMPLAINTS);
    assert_eq!(
        complaints.fatal().map(|complaint| complaint.name),
        Some(&b"dom0_mem"[..])
    );
}

proptest! {
    #[test]
    fn any_bytes_will_do(line in prop::collection::vec(any::<u8>(), 0..4096)) {
        let (_, complaints) = parse(&line);
        for complaint in complaints.iter() {
            let text = complaint.to_string();
            prop_assert!(text.len() < 400 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }

    /// Options between noise are found, and what they say is what was written.
    #[test]
    fn options_are_found_in_noise(noise in "[ a-z\\x00-\\x1f]{0,60}", mib in 32u64..4096, vcpus in 1u32..64) {
        let line = alloc::format!("{noise} dom0_mem={mib}M {noise} dom0_max_vcpus={vcpus} {noise}");
        let (options, _) = parse(line.as_bytes());
        prop_assert_eq!(options.dom0_mem.resolve(8 * GIB, 8 * GIB).unwrap().initial, mib * MIB);
        prop_assert_eq!(options.dom0_max_vcpus.resolve(1, 64), vcpus);
    }
}

#[test]
fn screen_input_and_faults() {
    let usual = clean("");
    assert!(!usual.vga_keep && !usual.debug_faults && usual.conswitch.is_none());
    assert!(clean("vga=keep").vga_keep && clean("vga=current,keep").vga_keep);
    assert!(clean("debug_faults").debug_faults);
    assert_eq!(usual.bootscrub, BootScrub::Idle);
    for (line, wanted) in [
        ("bootscrub=idle", BootScrub::Idle),
        ("bootscrub", BootScrub::Boot),
        ("bootscrub=no", BootScrub::Late),
        ("no-bootscrub", BootScrub::Late),
    ] {
        assert_eq!(clean(line).bootscrub, wanted, "{line}");
    }
    let options = clean("conswitch=bx");
    assert_eq!(
        (options.conswitch, options.conswitch_stay),
        (Some(b'b'), true)
    );
    assert!(!clean("conswitch=c").conswitch_stay);
    assert!(matches!(complaint("conswitch=abc"), Problem::BadValue(_)));
}
