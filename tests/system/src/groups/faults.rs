//! Faults of the hypervisor on purpose: each gives the full report and does what was asked then.

use anyhow::{Result, bail};
use harness::{Firmware, Machine, Report};

use super::debug_keys::{press, switch};
use crate::env::{Dom0, Env};
use crate::groups::boots::BOOT;
use crate::userland::Userland;

/// What follows the report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// A reset, which ends QEMU.
    Reset,
    /// `noreboot`: the machine stays.
    Stay,
}

struct Fault {
    name: &'static str,
    key: char,
    cpus: u32,
    /// CPU that reports.
    on: u32,
    /// Functions in the backtrace, in this order.
    calls: &'static [&'static str],
    /// What stands between the stars.
    says: &'static [&'static str],
    then: Then,
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "page-fault",
        key: '1',
        cpus: 2,
        on: 0,
        calls: &["provoke::page_fault+0x", "run_cpu+0x"],
        says: &[
            "FATAL PAGE FAULT",
            "[error_code=0002]",
            "linear address: ffff82c0fffff008",
        ],
        then: Then::Stay,
    },
    Fault {
        name: "stack-overflow",
        key: '2',
        cpus: 2,
        on: 0,
        calls: &["provoke::overflow+0x", "provoke::overflow+0x"],
        says: &["DOUBLE FAULT", "The stack overflowed"],
        then: Then::Reset,
    },
    Fault {
        name: "assertion",
        key: '3',
        cpus: 1,
        on: 0,
        calls: &["fail_assertion+0x", "run_cpu+0x"],
        says: &["an assertion failed", "debug/faults.rs:"],
        then: Then::Stay,
    },
    Fault {
        name: "hang",
        key: '4',
        cpus: 1,
        on: 0,
        calls: &["provoke::hang+0x", "run_cpu+0x"],
        says: &["NMI WATCHDOG"],
        then: Then::Reset,
    },
    Fault {
        name: "hang-other",
        key: '5',
        cpus: 2,
        on: 1,
        calls: &["provoke::hang+0x", "run_cpu+0x"],
        says: &["NMI WATCHDOG"],
        then: Then::Stay,
    },
];

fn provoke(env: &Env, group: &str, machine: Machine, dom0: Dom0, fault: &Fault) -> Result<String> {
    let stay = match fault.then {
        Then::Stay => " noreboot",
        Then::Reset => "",
    };
    let dom0 = Dom0 {
        options: format!("debug_faults watchdog watchdog_timeout=3{stay}"),
        ..dom0
    };
    let boot = env.dom0(group, fault.name, machine.cpus(fault.cpus), &dom0)?;
    let mut userland = Userland::boot(env, &boot, BOOT)?;
    // The CPU has a vCPU to run when it happens (of two, which one is Linux' choice).
    userland.run("(while :; do :; done &)", 30)?;
    let context = match fault.cpus {
        1 => "CONTEXT: hypervisor (d0v0)",
        _ => "CONTEXT: hypervisor (",
    };
    switch(&mut userland, "Xen")?;
    press(&mut userland, fault.key, &[])?;
    let session = &mut userland.session;
    let cpu = format!("CPU:    {}\n", fault.on);
    let panic = format!("Panic on CPU {}:", fault.on);
    let others = format!("Other CPUs stopped: {0} of {0}", fault.cpus - 1);
    let mut parts = vec!["----[ Radon", &cpu, context, "rsp: ", "cr3: "];
    parts.push("Xen call trace:");
    parts.extend(fault.calls);
    if fault.cpus > 1 {
        parts.extend([") stopped at:", "+0x", &others]);
    }
    parts.push(&panic);
    parts.extend(fault.says);
    parts.push(match fault.then {
        Then::Stay => "Manual reset required ('noreboot' specified)",
        Then::Reset => "Reboot in five seconds...",
    });
    let timeout = session.machine().seconds(60);
    for part in parts {
        if let Err(error) = session.console.expect(&[part], timeout) {
            bail!("{error:#}\n{}", session.evidence());
        }
    }
    let ended = session.wait(
        session
            .machine()
            .seconds(if stay.is_empty() { 60 } else { 7 }),
    );
    match (fault.then, ended) {
        (Then::Reset, Err(error)) => bail!("{error:#}\n{}", session.evidence()),
        (Then::Stay, Ok(_)) => bail!("the machine did not stay\n{}", session.evidence()),
        _ => Ok(String::new()),
    }
}

pub(crate) fn svm(env: &Env, report: &mut Report) -> Result<()> {
    for fault in FAULTS {
        report.check(&format!("faults/{}", fault.name), || {
            let machine = env.machine("qemu-svm")?;
            provoke(env, "faults", machine, Dom0::default(), fault)
        });
    }
    Ok(())
}

/// The double fault and the hang also on VMX, where NMIs leave the guest another way.
pub(crate) fn vmx(env: &Env, report: &mut Report) -> Result<()> {
    for fault in FAULTS
        .iter()
        .filter(|f| ["stack-overflow", "hang"].contains(&f.name))
    {
        report.check(&format!("faults-bochs/{}", fault.name), || {
            let dom0 = Dom0 {
                firmware: Some(Firmware::Bios),
                ..Dom0::default()
            };
            // Bochs goes on after a reset.
            let fault = Fault {
                then: Then::Stay,
                cpus: 1,
                ..*fault
            };
            provoke(env, "faults-bochs", env.machine("bochs-vmx")?, dom0, &fault)
        });
    }
    Ok(())
}
