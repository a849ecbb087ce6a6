//! A [`Boot`] as a Bochs configuration.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::boot::{Boot, DiskBus, Firmware, Start};

const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGABIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// Writes the configuration into `dir` and builds the command. The serial line
/// is a connection that Bochs makes to `port` on the loopback.
pub(crate) fn command(boot: &Boot, program: &Path, dir: &Path, port: u16) -> Result<Command> {
    let text = config(boot, dir, port)?;
    let path = dir.join("bochsrc");
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    let mut command = Command::new(program);
    command.arg("-q").arg("-f").arg(&path);
    Ok(command)
}

fn config(boot: &Boot, dir: &Path, port: u16) -> Result<String> {
    let machine = &boot.machine;
    let Start::Iso {
        iso,
        firmware: Firmware::Bios,
    } = &boot.start
    else {
        bail!("Bochs starts ISO images by its BIOS only");
    };
    if !boot.cards.is_empty() {
        bail!("no card of Bochs' is described yet");
    }
    let mut lines = vec![
        "display_library: nogui".to_owned(),
        format!("memory: guest={0}, host={0}", machine.memory),
        format!("romimage: file={BIOS}"),
        format!("vgaromimage: file={VGABIOS}"),
        format!(
            "cpu: model={}, count={}, ips={}, reset_on_triple_fault=0, ignore_bad_msrs=1",
            machine.cpu, machine.cpus, machine.ips
        ),
        format!(
            "ata0-master: type=cdrom, path={}, status=inserted",
            iso.display()
        ),
        "boot: cdrom".to_owned(),
        format!("com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}"),
        "clock: sync=none".to_owned(),
        format!("log: {}", dir.join("bochs.log").display()),
        "panic: action=fatal".to_owned(),
        "error: action=ignore".to_owned(),
        "info: action=ignore".to_owned(),
    ];
    match &boot.disks[..] {
        [] => {}
        [disk] if disk.bus == DiskBus::Ide => {
            lines.push("ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15".to_owned());
            lines.push(format!(
                "ata1-master: type=disk, mode=flat, path={}",
                disk.path.display()
            ));
        }
        _ => bail!("Bochs has one parallel ATA disk for us and no other"),
    }
    lines.extend(boot.extra.iter().cloned());
    lines.push(String::new());
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn the_configuration_names_the_cd_and_the_serial_port() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .unwrap();
        let machine = Machine::load(top, "bochs-vmx").unwrap().cpus(2);
        let start = Start::Iso {
            iso: "r.iso".into(),
            firmware: Firmware::Bios,
        };
        let text = config(
            &Boot::new("x", machine.clone(), start),
            Path::new("/tmp"),
            4711,
        )
        .unwrap();
        assert!(text.contains("count=2"));
        assert!(text.contains("path=r.iso"));
        assert!(text.contains("dev=127.0.0.1:4711"));
        let uefi = Start::Iso {
            iso: "r.iso".into(),
            firmware: Firmware::Uefi,
        };
        assert!(config(&Boot::new("x", machine, uefi), Path::new("/tmp"), 1).is_err());
    }
}
