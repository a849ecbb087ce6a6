//! What a machine starts: how the hypervisor gets into it, with which disks and
//! cards.

use std::path::PathBuf;

use crate::Machine;

/// Firmware of a machine that boots from its CD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS or Bochs' BIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// What is started.
#[derive(Clone, Debug)]
pub enum Start {
    /// The 32-bit copy by QEMU's Multiboot loader, modules with command lines.
    Direct {
        /// `build/radon32.elf`.
        image: PathBuf,
        /// The hypervisor's command line.
        options: String,
        /// Modules in order; a path must hold no comma or space.
        modules: Vec<(PathBuf, String)>,
    },
    /// An ISO by the firmware and GRUB.
    Iso {
        /// The image.
        iso: PathBuf,
        /// Who starts it.
        firmware: Firmware,
    },
    /// A Linux kernel without a hypervisor: what the checks are measured by.
    Native {
        /// bzImage or ELF with the PVH note.
        kernel: PathBuf,
        /// Its initramfs.
        initrd: PathBuf,
        /// Its command line.
        arguments: String,
    },
}

/// Where a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBus {
    /// NVMe controller.
    Nvme,
    /// The chipset's SATA controller.
    Ahci,
    /// virtio-blk on PCI.
    Virtio,
    /// Parallel ATA (Bochs).
    Ide,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Raw image; made sparse when `create` is set.
    pub path: PathBuf,
    /// Where it is attached.
    pub bus: DiskBus,
    /// Size of a new image in MiB; an existing image is used as it is and its
    /// changes are discarded.
    pub create: Option<u64>,
}

/// A network card on a user network of its own: card N gets 10.0.(2+N).0/24,
/// where address 2 is the loopback of the host.
#[derive(Clone, Debug)]
pub struct Card {
    /// QEMU's device name: `e1000e`, `virtio-net-pci`.
    pub model: String,
    /// Further properties of the device.
    pub properties: String,
}

/// A machine and all that it needs to start.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Names the log.
    pub name: String,
    /// The machine.
    pub machine: Machine,
    /// What is started.
    pub start: Start,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Changes to existing images are written to them.
    pub keep_disks: bool,
    /// Its cards.
    pub cards: Vec<Card>,
    /// Further emulator arguments.
    pub extra: Vec<String>,
    /// The command that repeats this boot, shown when a check fails.
    pub repeat: String,
}

impl Boot {
    /// A boot without disks and cards.
    pub fn new(name: &str, machine: Machine, start: Start) -> Self {
        Self {
            name: name.to_owned(),
            machine,
            start,
            disks: Vec::new(),
            keep_disks: false,
            cards: Vec::new(),
            extra: Vec::new(),
            repeat: String::new(),
        }
    }
}
