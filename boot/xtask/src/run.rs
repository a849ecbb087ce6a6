//! `run`: dom0's shell on the terminal.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use boot_image::host::{Facts, choose};
use boot_image::kernel::Kernel;
use boot_image::{Layout, dom0, grub, initrd, step};
use harness::{Boot, Card, Disk, DiskBus, Emulator, Firmware, Machine, Start};

/// What the user asked for.
#[derive(Debug, Default)]
struct Wishes {
    machine: Option<String>,
    uefi: bool,
    packed: bool,
    keep: bool,
    print: bool,
    native: bool,
    options: Vec<String>,
}

fn parse(arguments: &[String]) -> Result<Wishes> {
    let mut wishes = Wishes::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--machine" => {
                wishes.machine = Some(words.next().context("--machine needs a name")?.clone())
            }
            "--uefi" => wishes.uefi = true,
            "--packed" => wishes.packed = true,
            "--keep" => wishes.keep = true,
            "--native" => wishes.native = true,
            "--print" => wishes.print = true,
            "--" => {
                wishes.options = words.cloned().collect();
                break;
            }
            _ => bail!("run does not know '{word}'"),
        }
    }
    Ok(wishes)
}

/// The hypervisor's options. Half of the machine (`memory` in MiB) is for guests, if not told
/// otherwise: what dom0 has at its start it keeps.
fn options(wished: &[String], memory: u32) -> String {
    let mut options = vec!["console=com1".to_owned()];
    if !wished.iter().any(|word| word.starts_with("dom0_mem=")) {
        options.push(format!("dom0_mem={}M", memory / 2));
    }
    options.extend_from_slice(wished);
    options.join(" ")
}

/// Builds what is missing, says what was picked, and hands the terminal over.
pub(crate) fn run(layout: &Layout, arguments: &[String]) -> Result<()> {
    let start = Instant::now();
    let wishes = parse(arguments)?;
    let name = match &wishes.machine {
        Some(name) => name.clone(),
        None => {
            let (backend, why) = choose(&Facts::read());
            step::say(&format!("machine {}: {why}", backend.machine()));
            backend.machine().to_owned()
        }
    };
    if !wishes.native {
        crate::build::image(layout)?;
    }
    let machine = Machine::load(layout.top(), &name)?;
    if machine.emulator != Emulator::Qemu {
        bail!(
            "'run' needs a terminal on the serial line: choose a QEMU machine; Bochs runs in './radon test bochs'"
        );
    }
    let kernel = Kernel::fetch(layout, "6.12")?;
    let root = dom0::root_disk(layout, &kernel)?;
    crate::build::tools(layout)?;
    let initrd = initrd::dom0(layout, &kernel)?;
    let image = if wishes.packed {
        kernel.vmlinuz()
    } else {
        kernel.vmlinux()
    };
    let modules = vec![(image, "console=hvc0".to_owned()), (initrd, String::new())];
    let options = options(&wishes.options, machine.memory);
    let begin = if wishes.native {
        let (kernel, initrd) = (modules[0].0.clone(), modules[1].0.clone());
        Start::Native {
            kernel,
            initrd,
            arguments: "console=ttyS0".to_owned(),
        }
    } else if wishes.uefi {
        let iso = layout.build().join("run.iso");
        let entry = grub::Entry {
            loads: grub::Loads::Radon,
            title: "dom0".into(),
            options,
            modules,
            commands: Vec::new(),
        };
        grub::make_iso(layout, &iso, &[entry])?;
        Start::Iso {
            iso,
            firmware: Firmware::Uefi,
        }
    } else {
        Start::Direct {
            image: layout.radon32_elf(),
            options,
            modules,
        }
    };
    let mut boot = Boot::new("run", machine, begin);
    boot.disks.push(Disk {
        path: root,
        bus: DiskBus::Virtio,
        create: None,
    });
    boot.keep_disks = wishes.keep;
    boot.cards.push(Card {
        model: "virtio-net-pci".into(),
        properties: String::new(),
    });
    let dir = layout.build().join("logs/run");
    std::fs::create_dir_all(&dir)?;
    let mut command: Command = harness::interactive(&boot, &dir)?;
    step::say(&step::describe(&command));
    if wishes.print {
        return Ok(());
    }
    step::say(&format!(
        "starting after {:.0} s; Ctrl-A X ends the emulator, Ctrl-A C is its monitor{}",
        start.elapsed().as_secs_f32(),
        if wishes.keep {
            ""
        } else {
            "; changes to dom0's disk are discarded (--keep keeps them)"
        }
    ));
    command.stdin(Stdio::inherit());
    step::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::options;

    #[test]
    fn half_of_the_machine_is_for_guests() {
        assert_eq!(options(&[], 2048), "console=com1 dom0_mem=1024M");
        let wished = ["loglvl=all".to_owned(), "dom0_mem=512M".to_owned()];
        assert_eq!(
            options(&wished, 2048),
            "console=com1 loglvl=all dom0_mem=512M"
        );
    }
}
