//! A [`Boot`] as a QEMU command line.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::Machine;
use crate::boot::{Boot, DiskBus, Firmware, Start};

/// OVMF as Debian 12 and 13 install it.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The command of a test: the serial line is its input and output. `dir` holds
/// the files that belong to this boot only.
pub(crate) fn command(boot: &Boot, dir: &Path) -> Result<Command> {
    let mut command = machine(boot, dir)?;
    let monitor = dir.join("monitor");
    command.args(["-serial", "stdio", "-monitor"]);
    command.arg(format!("unix:{},server=on,wait=off", monitor.display()));
    Ok(command)
}

/// The command for a person: serial line and monitor share the terminal.
pub fn interactive(boot: &Boot, dir: &Path) -> Result<Command> {
    let mut command = machine(boot, dir)?;
    command.args(["-serial", "mon:stdio"]);
    Ok(command)
}

/// Where QEMU tells of resets and triple faults, beside the serial log.
pub(crate) const RESETS: &str = "resets.log";
/// What it says of one that is not a guest's.
pub(crate) const TRIPLE_FAULT: &str = "Triple fault";

fn machine(boot: &Boot, dir: &Path) -> Result<Command> {
    let machine = &boot.machine;
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", &machine.chipset, "-accel", &machine.accelerator]);
    command.args(["-cpu", &machine.cpu, "-m", &format!("{}M", machine.memory)]);
    command.args(["-smp", &machine.cpus.to_string()]);
    if let Some(device) = &machine.iommu {
        command.args(["-device", device]);
    }
    command.args([
        "-display",
        "none",
        "-no-reboot",
        "-nodefaults",
        "-vga",
        "std",
    ]);
    // A triple fault ends the emulator without a word elsewhere.
    command
        .args(["-d", "cpu_reset", "-D"])
        .arg(dir.join(RESETS));
    match &boot.start {
        Start::Direct {
            image,
            options,
            modules,
        } => {
            command.arg("-kernel").arg(image).args(["-append", options]);
            if !modules.is_empty() {
                command.arg("-initrd").arg(module_list(modules)?);
            }
        }
        Start::Native {
            kernel,
            initrd,
            arguments,
        } => {
            command
                .arg("-kernel")
                .arg(kernel)
                .arg("-initrd")
                .arg(initrd)
                .args(["-append", arguments]);
        }
        Start::Iso { iso, firmware } => {
            if *firmware == Firmware::Uefi {
                let vars = dir.join("ovmf-vars.fd");
                std::fs::copy(OVMF_VARS, &vars).context("no OVMF: run ./radon setup")?;
                command.arg("-drive").arg(format!(
                    "if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"
                ));
                command.arg("-drive").arg(format!(
                    "if=pflash,format=raw,unit=1,file={}",
                    vars.display()
                ));
            }
            command.arg("-cdrom").arg(iso);
        }
    }
    for (index, disk) in boot.disks.iter().enumerate() {
        let path = disk.path.display();
        let snapshot = if boot.keep_disks || disk.create.is_some() {
            ""
        } else {
            ",snapshot=on"
        };
        command.arg("-drive").arg(format!(
            "if=none,id=disk{index},format=raw,file={path}{snapshot}"
        ));
        let device = match disk.bus {
            DiskBus::Nvme => format!("nvme,drive=disk{index},serial=radon{index}"),
            DiskBus::Ahci => format!("ide-hd,drive=disk{index},serial=radon{index}"),
            DiskBus::Virtio => format!(
                "virtio-blk-pci,drive=disk{index},serial=radon{index}{}",
                behind_iommu(machine, "virtio")
            ),
            DiskBus::Ide => bail!("QEMU's q35 has no parallel ATA"),
        };
        command.args(["-device", &device]);
    }
    for (index, card) in boot.cards.iter().enumerate() {
        command.args([
            "-netdev",
            &format!("user,id=net{index},net=10.0.{}.0/24", index + 2),
        ]);
        let device = format!(
            "{},netdev=net{index},romfile={}{}",
            card.model,
            card.properties,
            behind_iommu(machine, &card.model)
        );
        command.args(["-device", &device]);
    }
    command.args(&boot.extra);
    Ok(command)
}

/// What makes a virtio device of QEMU's go through the IOMMU; others do so anyway.
fn behind_iommu(machine: &Machine, model: &str) -> &'static str {
    if machine.iommu.is_some() && model.starts_with("virtio") {
        ",iommu_platform=on,disable-legacy=on"
    } else {
        ""
    }
}

/// QEMU splits `-initrd` at commas and each part at its first space; a comma
/// in a command line is doubled.
fn module_list(modules: &[(std::path::PathBuf, String)]) -> Result<String> {
    let mut parts = Vec::new();
    for (path, arguments) in modules {
        let path = path.to_string_lossy();
        ensure!(
            !path.contains([' ', ',']),
            "QEMU cannot take the module path {path:?}"
        );
        let space = if arguments.is_empty() { "" } else { " " };
        parts.push(format!("{path}{space}{}", arguments.replace(',', ",,")));
    }
    Ok(parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_module_command_lines_are_doubled() {
        let list = module_list(&[
            ("k".into(), "console=hvc0,x a".into()),
            ("i".into(), String::new()),
        ])
        .unwrap();
        assert_eq!(list, "k console=hvc0,,x a,i");
        assert!(module_list(&[("a b".into(), String::new())]).is_err());
    }

    #[test]
    fn the_machine_and_its_devices_are_on_the_command_line() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .unwrap();
        let machine = Machine::load(top, "qemu-svm").unwrap().memory(512).cpus(1);
        let start = Start::Direct {
            image: "r.elf".into(),
            options: "console=com1".into(),
            modules: Vec::new(),
        };
        let mut boot = Boot::new("x", machine, start);
        boot.disks.push(crate::boot::Disk {
            path: "d.img".into(),
            bus: DiskBus::Nvme,
            create: None,
        });
        let text = boot_image::step::describe(&command(&boot, Path::new("/tmp")).unwrap());
        for part in [
            "-m 512M",
            "-smp 1",
            "+svm",
            "-kernel r.elf",
            "nvme,drive=disk0",
            "snapshot=on",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("-initrd") && !text.contains("iommu"));
        boot.machine.iommu = Some("intel-iommu,aw-bits=48".to_owned());
        boot.disks[0].bus = DiskBus::Virtio;
        let text = boot_image::step::describe(&command(&boot, Path::new("/tmp")).unwrap());
        assert!(text.contains("-device intel-iommu,aw-bits=48"), "{text}");
        assert!(text.contains("serial=radon0,iommu_platform=on"), "{text}");
    }
}
