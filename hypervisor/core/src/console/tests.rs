use super::*;
use log::LevelFilter;

fn at(ns: u64) -> When {
    When {
        now: Ns(ns),
        tsc: ns,
    }
}

fn dmesg(c: &Console) -> String {
    let (mut next, mut text, mut chunk) = (c.read_begin(false, 0), Vec::new(), [0; 100]);
    loop {
        let (n, after) = c.read(next, &mut chunk);
        if n == 0 {
            return String::from_utf8(text).unwrap();
        }
        text.extend(&chunk[..n]);
        next = after;
    }
}

fn log(c: &Console, level: Level, when: When, text: &str) -> String {
    let mut out: Vec<u8> = Vec::new();
    c.log(level, when, format_args!("{text}"), &mut |b| out.extend(b));
    String::from_utf8(out).unwrap()
}

fn guest(c: &Console, when: When, d: u16, bytes: &[u8]) -> String {
    let mut out: Vec<u8> = Vec::new();
    c.guest_write(when, DomId(d), bytes, &mut |b| out.extend(b));
    String::from_utf8(out).unwrap()
}

#[test]
fn every_line_has_its_prefix() {
    let c = Console::new();
    assert_eq!(log(&c, Level::Info, at(0), "one"), "(XEN) one\n");
    c.set_stamp(Stamp::Boot);
    let long = "x".repeat(1000);
    assert_eq!(
        log(
            &c,
            Level::Error,
            at(1_500_000_000),
            &format!("two\n\n{long}\n")
        ),
        format!("(XEN) [    1.500000] two\n(XEN) [    1.500000] \n(XEN) [    1.500000] {long}\n")
    );
    assert_eq!(log(&c, Level::Debug, at(0), "not shown"), "");
    assert!(dmesg(&c).starts_with("(XEN) one\n(XEN) [    1.500000] two\n"));
    assert!(c.take_news());
    assert!(!c.take_news());
}

#[test]
fn guests_are_tagged_limited_and_kept_apart() {
    let c = Console::new();
    // By default nobody sees it.
    assert_eq!(guest(&c, at(0), 1, b"hello\n"), "");
    c.levels.set_guest(LevelFilter::Off, LevelFilter::Trace);
    assert_eq!(guest(&c, at(0), 1, b"hel"), "");
    assert_eq!(guest(&c, at(0), 2, b"other\n"), "(d2) other\n");
    assert_eq!(guest(&c, at(0), 1, b"lo\x1b[2J\n"), "(d1) hello[2J\n");
    let flood = guest(&c, at(0), 1, &b"spam\n".repeat(1000));
    assert_eq!(flood.lines().count(), 9);
    // Another domain is not punished for it.
    assert_eq!(guest(&c, at(0), 3, b"calm\n"), "(d3) calm\n");
    assert_eq!(
        guest(&c, at(1_000_000_000), 1, b"later\n"),
        "(XEN) printk: 991 messages suppressed.\n(d1) later\n"
    );
    c.levels.set_guest(LevelFilter::Trace, LevelFilter::Trace);
    let all = guest(&c, at(1_000_000_000), 1, &b"spam\n".repeat(1000));
    assert_eq!(all.lines().count(), 1000);
}

#[test]
fn messages_that_guests_cause_are_limited_too() {
    let c = Console::new();
    let mut lines = 0;
    for _ in 0..100 {
        c.log_guest(
            DomId(1),
            Level::Warn,
            at(0),
            format_args!("d1 did it"),
            &mut |_| lines += 1,
        );
    }
    assert_eq!(lines, 10);
    c.log_guest(
        DomId(2),
        Level::Warn,
        at(0),
        format_args!("d2 did it"),
        &mut |_| lines += 1,
    );
    assert_eq!(lines, 11);
    c.log_guest(
        DomId(2),
        Level::Info,
        at(0),
        format_args!("hidden"),
        &mut |_| lines += 1,
    );
    assert_eq!(lines, 11);
}

#[test]
fn last_words_are_shown() {
    let c = Console::new();
    c.levels.set_guest(LevelFilter::Trace, LevelFilter::Trace);
    guest(&c, at(0), 1, b"aargh");
    let mut out: Vec<u8> = Vec::new();
    c.forget(at(0), DomId(1), &mut |b| out.extend(b));
    c.forget(at(0), DomId(1), &mut |b| out.extend(b));
    assert_eq!(out, b"(d1) aargh\n");
}

#[test]
fn dom0_writes_pass_unchanged() {
    let c = Console::new();
    let mut out: Vec<u8> = Vec::new();
    c.hardware_write(b"\x1b[1mlogin: ", &mut |b| out.extend(b));
    assert_eq!(out, b"\x1b[1mlogin: ");
    assert_eq!(dmesg(&c), "");
    c.keep_guests(true);
    c.hardware_write(b"x\n", &mut |_| ());
    assert_eq!(dmesg(&c), "x\n");
}

#[test]
fn an_emergency_waits_for_nobody() {
    let c = Console::new();
    c.set_stamp(Stamp::Date);
    let locked = c.inner.lock();
    let mut out: Vec<u8> = Vec::new();
    c.emergency(
        at(2_000_000_000),
        format_args!("Panic on CPU 0"),
        &mut |b| out.extend(b),
    );
    assert_eq!(out, b"(XEN) [    2.000000] Panic on CPU 0\n");
    drop(locked);
    c.emergency(at(0), format_args!("again"), &mut |_| ());
    assert_eq!(dmesg(&c), "(XEN) [    0.000000] again\n");
}

#[test]
fn switching_is_announced() {
    let c = Console::new();
    let mut out: Vec<u8> = Vec::new();
    c.set_focus(Focus::Dom0, at(0), &mut |b| out.extend(b));
    for _ in 0..3 {
        c.typed(1, at(0), &mut |b| out.extend(b));
    }
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "(XEN) *** Serial input to DOM0 (type 'CTRL-a' three times to switch input)\n\
         (XEN) *** Serial input to Xen (type 'CTRL-a' three times to switch input)\n"
    );
    let key = c.typed(b'h', at(0), &mut |_| ());
    assert!(matches!(
        key,
        Input::Bytes {
            to: Focus::Hypervisor,
            byte: b'h',
            ..
        }
    ));
}

#[test]
fn dmesg_clear_and_increment() {
    let c = Console::new();
    log(&c, Level::Info, at(0), "a");
    let mut buf = [0; 64];
    let (_, next) = c.read(c.read_begin(false, 0), &mut buf);
    log(&c, Level::Info, at(0), "b");
    let (n, _) = c.read(c.read_begin(true, next), &mut buf);
    assert_eq!(&buf[..n], b"(XEN) b\n");
    c.read_clear(next);
    assert_eq!(dmesg(&c), "(XEN) b\n");
    assert!(c.grow_ring(vec![0; 64 << 10].into()));
    assert_eq!(dmesg(&c), "(XEN) b\n");
}
