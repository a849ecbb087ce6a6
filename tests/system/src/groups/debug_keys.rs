//! Three Ctrl-A and the debug keys: what each answers, and that dom0 goes on afterwards.

use anyhow::{Result, bail, ensure};
use harness::{Boot, Report};

use crate::env::{Dom0, Env};
use crate::groups::boots::BOOT;
use crate::userland::Userland;

/// What switches the input.
pub(super) const SWITCH: &str = "\x01\x01\x01";

/// A key and what its answer holds, in this order.
type Key = (char, &'static [&'static str]);

const KEYS: &[Key] = &[
    (
        'h',
        &[
            "key 'd' (ascii '64') => dump registers",
            "key 'z' (ascii '7a')",
        ],
    ),
    (
        'd',
        &[
            "Host state of CPU0",
            "RIP:",
            "rax: ",
            "radon",
            "Host state of CPU1",
            "RIP:",
            "on CPU0",
            "rip ",
            "cr3 ",
            "on CPU1",
            "rip ",
        ],
    ),
    ('0', &["*** d0v", "rip ", "cr3 "]),
    (
        'q',
        &[
            "Domain 0: privileged hardware direct-mapped",
            "pages ",
            "vCPU0 ",
            "vCPU1 ",
        ],
    ),
    ('r', &["credit2", "run queue 0", "CPU0: ", "CPU1: "]),
    ('e', &["d0: ", "virq 0", "virq 2"]),
    ('g', &["d0: ", "grant table"]),
    (
        'm',
        &[
            "Physical memory:",
            "free",
            "to be zeroed: parts of 0 blocks",
            "hypervisor: ",
            "d0: ",
        ],
    ),
    ('i', &["Interrupts of devices:", "GSI "]),
    ('M', &["Message-signalled interrupts:"]),
    ('z', &["IO-APIC ", "pin  4: vector 0xf0"]),
    ('a', &["CPU0: first ", "CPU1: first "]),
    ('t', &["System time ", " kHz"]),
    ('+', &["standard log level: "]),
    ('-', &["standard log level: "]),
    ('G', &["guest levels"]),
    ('G', &["standard levels"]),
    (
        'w',
        &["Command line: console=com1", "End of the ring buffer"],
    ),
    ('*', &["[0: ", "[e: ", "virq 0", "[z: ", "IO-APIC "]),
];

/// Presses a key and waits for its answer.
pub(super) fn press(userland: &mut Userland, key: char, answer: &[&str]) -> Result<String> {
    let session = &mut userland.session;
    let timeout = session.machine().seconds(30);
    session.console.send(&key.to_string())?;
    let pressed = format!("'{key}' pressed -> ");
    for part in [pressed.as_str()].iter().chain(answer) {
        if let Err(error) = session.console.expect(&[part], timeout) {
            bail!("{error:#}\n{}", session.evidence());
        }
    }
    Ok(String::new())
}

/// Gives the input to the hypervisor or back to dom0.
pub(super) fn switch(userland: &mut Userland, to: &str) -> Result<String> {
    let session = &mut userland.session;
    let timeout = session.machine().seconds(30);
    session.console.send(SWITCH)?;
    let said = format!("*** Serial input to {to} (type 'CTRL-a' three times to switch input)");
    if let Err(error) = session.console.expect(&[&said], timeout) {
        bail!("{error:#}\n{}", session.evidence());
    }
    Ok(String::new())
}

fn keys(env: &Env, report: &mut Report, group: &str, boot: Boot, structure: &str) -> Result<()> {
    let mut up = None;
    report.check(&format!("{group}/userland"), || {
        up = Some(Userland::boot(env, &boot, BOOT)?);
        Ok("")
    });
    let Some(mut userland) = up else {
        return Ok(());
    };
    report.check(&format!("{group}/switch"), || switch(&mut userland, "Xen"));
    for (key, answer) in KEYS {
        report.check(&format!("{group}/{key}"), || {
            press(&mut userland, *key, answer)
        });
    }
    report.check(&format!("{group}/v"), || {
        press(&mut userland, 'v', &[structure, "rip 0x", "cr3 0x"])
    });
    report.check(&format!("{group}/no-faults"), || {
        // Without `debug_faults` the digits are no keys.
        userland.session.console.send("12345")?;
        press(&mut userland, 't', &["System time "])
    });
    report.check(&format!("{group}/back"), || {
        switch(&mut userland, "DOM0")?;
        // What was typed at the hypervisor did not reach the shell, and two Ctrl-A do.
        let said = userland.run("echo he''llo", 30)?;
        ensure!(said.ends_with("hello"), "{said}");
        userland
            .session
            .console
            .send("head -c 2 | od -An -tx1\n\x01\x01\x04")?;
        let timeout = userland.session.machine().seconds(30);
        userland.session.console.expect(&["01 01"], timeout)?;
        userland.run("true", 30)
    });
    report.check(&format!("{group}/R"), || {
        switch(&mut userland, "Xen")?;
        press(&mut userland, 'R', &["rebooting machine"])?;
        let timeout = userland.session.machine().seconds(30);
        if let Err(error) = userland.session.wait(timeout) {
            bail!("{error:#}\n{}", userland.session.evidence());
        }
        Ok("")
    });
    Ok(())
}

pub(crate) fn svm(env: &Env, report: &mut Report) -> Result<()> {
    let boot = env.dom0(
        "debug-keys",
        "6.12",
        env.machine("qemu-svm")?.cpus(2),
        &Dom0::default(),
    )?;
    keys(env, report, "debug-keys", boot, "VMCB ")
}
