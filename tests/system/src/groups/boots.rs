//! Boots to userland in all variants, and the ways in which dom0 ends.

use anyhow::{Result, bail, ensure};
use harness::{Firmware, Machine, Report, plugin};

use crate::env::{Dom0, Env, Linux};
use crate::userland::Userland;

/// Seconds to userland on a machine of speed 1, several times what is needed.
pub(crate) const BOOT: u64 = 180;

/// Boots, checks identity, powers off.
fn full(
    env: &Env,
    report: &mut Report,
    group: &str,
    name: &str,
    machine: Machine,
    dom0: &Dom0,
    vcpus: u32,
) {
    let full_name = format!("{group}/{name}");
    let mut up = None;
    report.check(&format!("{full_name}/userland"), || {
        let boot = env.dom0(group, name, machine, dom0)?;
        let userland = Userland::boot(env, &boot, BOOT)?;
        let remark = format!("{:.1} s of wall time", userland.session.age().as_secs_f32());
        up = Some(userland);
        Ok(remark)
    });
    if let Some(mut userland) = up {
        userland.identity(report, &full_name, vcpus, env.native);
        if dom0.firmware.is_some() {
            // Linux names the console that it has found, or says that it has a dummy.
            report.check(&format!("{full_name}/screen"), || {
                let said = userland.run("dmesg | grep -i 'console: '; cat /proc/fb", 20)?;
                ensure!(
                    said.contains("VGA+") || said.contains("frame buffer"),
                    "{said}"
                );
                Ok(said.lines().last().unwrap_or_default().to_owned())
            });
        }
        userland.poweroff(report, &full_name);
    }
}

pub(crate) fn dom0(env: &Env, report: &mut Report) -> Result<()> {
    full(
        env,
        report,
        "dom0",
        "6.12",
        env.machine("qemu-svm")?,
        &Dom0::default(),
        2,
    );
    Ok(())
}

fn vcpus(env: &Env, report: &mut Report, group: &str, cases: &[(Linux, u32, u32)]) -> Result<()> {
    for &(linux, vcpus, cpus) in cases {
        let dom0 = Dom0 {
            linux,
            options: format!("dom0_max_vcpus={vcpus}"),
            ..Dom0::default()
        };
        let version = if linux == Linux::V6_12 { "6.12" } else { "6.1" };
        let name = format!("{version}-{vcpus}-vcpus-on-{cpus}");
        full(
            env,
            report,
            group,
            &name,
            env.machine("qemu-svm")?.cpus(cpus),
            &dom0,
            vcpus,
        );
    }
    Ok(())
}

pub(crate) fn vcpus_short(env: &Env, report: &mut Report) -> Result<()> {
    let cases = [
        (Linux::V6_12, 1, 1),
        (Linux::V6_12, 4, 2),
        (Linux::V6_1, 2, 2),
        (Linux::V6_1, 2, 1),
    ];
    vcpus(env, report, "vcpus", &cases)
}

pub(crate) fn vcpus_all(env: &Env, report: &mut Report) -> Result<()> {
    let mut cases = Vec::new();
    for linux in [Linux::V6_12, Linux::V6_1] {
        for cpus in [1, 2] {
            cases.extend([1, 2, 4].map(|vcpus| (linux, vcpus, cpus)));
        }
    }
    vcpus(env, report, "vcpus-all", &cases)
}

/// One of so many blocks of the hypervisor's code loses an interrupt that waits.
const LOSES_ONE_IN: u32 = 100;
/// Fewer lost ones say nothing.
const LEAST_LOST: u64 = 100;

/// An emulator that loses interrupts again and again. A hypervisor that trusts each stands still
/// before dom0 has its CPUs.
pub(crate) fn lost_interrupts(env: &Env, report: &mut Report) -> Result<()> {
    let layout = &env.layout;
    let plugin = plugin::compile(layout, "tests/system/plugin/lose.c", "lose")?;
    for (vcpus, cpus) in [(4, 1), (2, 2)] {
        let name = format!("{vcpus}-vcpus-on-{cpus}");
        let full_name = format!("lost-interrupts/{name}");
        let file = layout.build().join(format!("lost-{name}"));
        let dom0 = Dom0 {
            options: format!("dom0_max_vcpus={vcpus}"),
            ..Dom0::default()
        };
        let machine = env.machine("qemu-svm")?.cpus(cpus);
        let mut boot = env.dom0("lost-interrupts", &name, machine, &dom0)?;
        let told = format!("one={LOSES_ONE_IN},lost={}", file.display());
        boot.extra.extend(plugin::arguments(&plugin, &told));
        let mut up = None;
        report.check(&format!("{full_name}/userland"), || {
            up = Some(Userland::boot(env, &boot, BOOT)?);
            Ok("")
        });
        let Some(mut userland) = up else { continue };
        report.check(&format!("{full_name}/sleeps"), || {
            userland.agent("sleeps", 120)
        });
        userland.poweroff(report, &full_name);
        report.check(&format!("{full_name}/lost"), || {
            let lost = std::fs::metadata(&file)?.len();
            ensure!(lost >= LEAST_LOST, "only {lost} interrupts were lost");
            Ok(format!("{lost} interrupts"))
        });
    }
    Ok(())
}

pub(crate) fn firmware(env: &Env, report: &mut Report) -> Result<()> {
    let cases = [
        ("bios-zstd", Firmware::Bios, Linux::V6_12),
        ("uefi-xz", Firmware::Uefi, Linux::V6_1),
    ];
    for (name, firmware, linux) in cases {
        let dom0 = Dom0 {
            linux,
            packed: true,
            firmware: Some(firmware),
            ..Dom0::default()
        };
        full(
            env,
            report,
            "firmware",
            name,
            env.machine("qemu-svm")?,
            &dom0,
            2,
        );
    }
    Ok(())
}

pub(crate) fn memory(env: &Env, report: &mut Report) -> Result<()> {
    // (name, machine MiB, options, dom0 MiB at least, at most)
    let cases = [
        ("512M", 512, "", 300, 512),
        ("6G", 6144, "", 5000, 6144),
        ("dom0-256M", 1024, "dom0_mem=256M", 150, 256),
    ];
    for (name, mib, options, least, most) in cases {
        if env.native && !options.is_empty() {
            continue;
        }
        let machine = env.machine("qemu-svm")?.memory(mib);
        let dom0 = Dom0 {
            options: options.to_owned(),
            ..Dom0::default()
        };
        report.check(&format!("memory/{name}"), || {
            let boot = env.dom0("memory", name, machine, &dom0)?;
            let mut userland = Userland::boot(env, &boot, BOOT)?;
            let text = userland.run("awk '/MemTotal/ {print $2}' /proc/meminfo", 20)?;
            let total = text.parse::<u32>()? / 1024;
            ensure!(
                (least..=most).contains(&total),
                "dom0 sees {total} MiB, expected {least} to {most}"
            );
            Ok(format!("dom0 sees {total} MiB"))
        });
    }
    Ok(())
}

pub(crate) fn endings(env: &Env, report: &mut Report) -> Result<()> {
    // `-no-reboot` turns a reset of the machine into the emulator's end.
    let cases = [
        ("reboot", "reboot -f", "", true),
        ("crash", "echo c >/proc/sysrq-trigger", "", true),
        (
            "crash-noreboot",
            "echo c >/proc/sysrq-trigger",
            "noreboot",
            false,
        ),
    ];
    for (name, command, options, ends) in cases {
        report.check(&format!("endings/{name}"), || {
            let dom0 = Dom0 {
                options: options.to_owned(),
                arguments: "panic=1".to_owned(),
                ..Dom0::default()
            };
            let boot = env.dom0("endings", name, env.machine("qemu-svm")?, &dom0)?;
            let mut userland = Userland::boot(env, &boot, BOOT)?;
            let session = &mut userland.session;
            session.console.send(&format!("{command}\n"))?;
            let line = if name == "reboot" {
                "ardware Dom0 shutdown: rebooting"
            } else {
                "ardware Dom0 crashed"
            };
            let timeout = session.machine().seconds(60);
            if let Err(error) = session.console.expect(&[line], timeout) {
                bail!("{error:#}\n{}", session.evidence());
            }
            // Longer than the five seconds after which a reset would come.
            let patience = if ends { 20 } else { 8 };
            match session.wait(session.machine().seconds(patience)) {
                Ok(_) if !ends => bail!("the machine did not stay\n{}", session.evidence()),
                Err(error) if ends => bail!("{error:#}\n{}", session.evidence()),
                _ => Ok(""),
            }
        });
    }
    Ok(())
}

fn bochs(env: &Env, report: &mut Report, group: &str, cpus: u32) -> Result<()> {
    let dom0 = Dom0 {
        firmware: Some(Firmware::Bios),
        ..Dom0::default()
    };
    full(
        env,
        report,
        group,
        "6.12",
        env.machine("bochs-vmx")?.cpus(cpus),
        &dom0,
        cpus,
    );
    Ok(())
}

pub(crate) fn bochs_one(env: &Env, report: &mut Report) -> Result<()> {
    bochs(env, report, "bochs", 1)
}

pub(crate) fn bochs_two(env: &Env, report: &mut Report) -> Result<()> {
    bochs(env, report, "bochs-smp", 2)
}
