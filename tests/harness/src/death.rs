//! A dead hypervisor's report in a few lines.
//!
//! The whole report stands in the serial log, but what remains of a test run elsewhere is often
//! cut short: so the cause comes first.

/// Lines of the report worth having, by how they begin.
const TELLING: [&str; 9] = [
    "CPU:", "CONTEXT:", "RIP:", "rax:", "rdx:", "rbp:", "r9 :", "r12:", "cr3:",
];
/// Calls of the backtrace that are shown.
const CALLS: usize = 12;

/// What the last report in `log` says: its last words, registers and calls. `None` when the
/// hypervisor did not die.
#[must_use]
pub(crate) fn summary(log: &str) -> Option<String> {
    let from = log.rfind("----[ Radon")?;
    let lines = || {
        log[from..]
            .lines()
            .map(|l| l.trim_start_matches("(XEN) ").trim())
    };
    let is_star = |l: &str| l.starts_with("****");
    let words: Vec<&str> = lines()
        .skip_while(|l| !l.starts_with("Panic on CPU"))
        .take_while(|l| !is_star(l))
        .collect();
    let calls = lines()
        .skip_while(|l| *l != "Xen call trace:")
        .skip(1)
        .take_while(|l| l.starts_with("[<"))
        .take(CALLS);
    let registers = lines().filter(|l| TELLING.iter().any(|t| l.starts_with(t)));
    let mut out = format!("the hypervisor died: {}", words.join(" "));
    for line in registers.take(TELLING.len()).chain(calls) {
        out.push_str("\n    ");
        out.push_str(line);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::summary;

    const LOG: &str = "# <5:0>
(XEN) 
(XEN) ----[ Radon 0.1.0  x86_64 ]----
(XEN) CPU:    0
(XEN) CONTEXT: hypervisor (d0v0)
(XEN) RIP:    0008:[<ffff82d0403093dc>]  RFLAGS: 0000000000000012
(XEN) rax: 0000000000000030   rbx: 0000000000000000   rcx: 0000000000000001
(XEN) cr3: 0000000001000000   cr2: 0000000000000000
(XEN) Xen call trace:
(XEN)    [<ffff82d0403093dc>] trap_dispatch+0xc/0x80
(XEN)    [<ffff82d040300000>] run+0x1/0x2
(XEN) 
(XEN) ****************************************
(XEN) Panic on CPU 0:
(XEN) FATAL PAGE FAULT
(XEN) [error_code=0000]
(XEN) ****************************************
(XEN) Reboot in five seconds...
";

    #[test]
    fn the_cause_comes_first() {
        let text = summary(LOG).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "the hypervisor died: Panic on CPU 0: FATAL PAGE FAULT [error_code=0000]"
        );
        assert!(
            lines.contains(&"    [<ffff82d040300000>] run+0x1/0x2"),
            "{text}"
        );
        assert!(lines.contains(&"    cr3: 0000000001000000   cr2: 0000000000000000"));
        assert!(!text.contains("Reboot"));
    }

    #[test]
    fn a_report_that_breaks_off_is_shown_as_far_as_it_goes() {
        let text = summary(&LOG[..LOG.find("rax").unwrap()]).unwrap();
        assert!(text.ends_with("RFLAGS: 0000000000000012"), "{text}");
    }

    #[test]
    fn a_machine_that_lives_has_no_summary() {
        assert_eq!(summary("(XEN) all is well"), None);
    }
}
