//! dom0 misbehaves: an error for dom0, never a fault of the hypervisor.

use anyhow::{Result, ensure};
use harness::{Boot, Report};

use crate::env::{Dom0, Env};
use crate::groups::boots::BOOT;
use crate::userland::Userland;

fn attack(env: &Env, report: &mut Report, group: &str, boot: Boot) -> Result<()> {
    let mut up = None;
    report.check(&format!("{group}/userland"), || {
        up = Some(Userland::boot(env, &boot, BOOT)?);
        Ok("")
    });
    let Some(mut userland) = up else {
        return Ok(());
    };
    for what in ["cpuid", "msrs", "ports", "hypercalls"] {
        report.check(&format!("{group}/{what}"), || userland.agent(what, 200));
    }
    report.check(&format!("{group}/hypervisor-memory"), || {
        // The image lies at 2 MiB; dom0 reads nothing of it and harms nothing.
        for address in ["0x200000", "0x200ff8"] {
            let said = userland.run(
                &format!(
                    "devmem {address} 64 0x4141414141414141 2>&1; devmem {address} 64 2>&1 || true"
                ),
                30,
            )?;
            ensure!(
                !said.contains("0x4141414141414141"),
                "{address} keeps what dom0 wrote"
            );
        }
        Ok("")
    });
    report.check(&format!("{group}/still-there"), || {
        let version = userland.run(
            "cat /sys/hypervisor/version/major /sys/hypervisor/version/minor | tr '\\n' .",
            30,
        )?;
        ensure!(version.starts_with("4.20"), "version {version}");
        userland.agent("monotonic 2", 60)
    });
    userland.poweroff(report, group);
    Ok(())
}

pub(crate) fn svm(env: &Env, report: &mut Report) -> Result<()> {
    let boot = env.dom0("hostile", "6.12", env.machine("qemu-svm")?, &dom0())?;
    attack(env, report, "hostile", boot)
}

pub(crate) fn vmx(env: &Env, report: &mut Report) -> Result<()> {
    let dom0 = Dom0 {
        firmware: Some(harness::Firmware::Bios),
        ..dom0()
    };
    let boot = env.dom0("hostile-bochs", "6.12", env.machine("bochs-vmx")?, &dom0)?;
    attack(env, report, "hostile-bochs", boot)
}

fn dom0() -> Dom0 {
    Dom0 {
        arguments: "iomem=relaxed".to_owned(),
        ..Dom0::default()
    }
}
