//! What a driver does with each kind of function.

use xen_abi::{Gfn, Gpa, Maddr};

use super::super::{
    Bar, BarKind, ConfigPorts, Ecam, Effects, MsiMessage, MsiSource, PciConfig, PortRead,
    PortWrite, Sbdf, Visibility, Vpci, Width,
};
use super::bus::Bus;
use super::{AHCI, ALL, BRIDGE, LPC, NIC, NVME, VIRTIO, machine};

fn read(v: &mut Vpci, bus: &Bus, sbdf: Sbdf, reg: u16, width: Width) -> u32 {
    v.config_read(bus, sbdf, reg, width).0
}

fn write(v: &mut Vpci, bus: &Bus, sbdf: Sbdf, reg: u16, width: Width, value: u32) {
    let effects = v.config_write(bus, sbdf, reg, width, value);
    assert!(effects.is_empty(), "{effects:?}");
}

fn scanned(bus: &Bus) -> Vpci {
    let mut v = Vpci::new();
    let mut effects = v.scan(bus, 0, 0..=1);
    effects.trap.sort();
    let tables = [0xfe800, 0xfebe0, 0x8000002, 0x8000003].map(Gfn);
    assert_eq!(
        effects,
        Effects {
            trap: tables.to_vec(),
            untrap: vec![]
        }
    );
    let all = std::collections::BTreeSet::from(ALL);
    assert!(v.functions().filter(|f| *f != LPC).eq(all));
    v
}

#[test]
fn everything_else_passes_through() {
    let bus = machine();
    let mut v = Vpci::new();
    assert_eq!(read(&mut v, &bus, NIC, 0, Width::Dword), 0x8086_10d3);
    assert_eq!(
        v.functions().count(),
        0,
        "looking for functions discovers none"
    );
    assert_eq!(
        read(&mut v, &bus, Sbdf::new(0, 5, 0, 0), 8, Width::Dword),
        u32::MAX
    );
    write(&mut v, &bus, BRIDGE, 0x3c, Width::Byte, 11);
    assert_eq!(read(&mut v, &bus, BRIDGE, 0x3c, Width::Byte), 11);
    assert_eq!(PciConfig::read(&bus, BRIDGE, 0x3c, Width::Byte), 11);
    assert_eq!(
        read(&mut v, &bus, BRIDGE, 0x3d, Width::Word),
        0xffff,
        "crosses a word"
    );
    assert_eq!(v.functions().collect::<Vec<_>>(), [BRIDGE]);
    assert_eq!(format!("{AHCI}"), "0000:00:1f.2");
}

#[test]
fn lazy_discovery_traps_the_table() {
    let bus = machine();
    let mut v = Vpci::new();
    let (_, effects) = v.config_read(&bus, VIRTIO, 0x10, Width::Dword);
    assert_eq!(effects.trap, [Gfn(0xfe800)]);
    assert!(v.claims(Gpa(0xfe80_0fff)) && !v.claims(Gpa(0xfe80_1000)));
}

#[test]
fn msi_is_virtual_and_the_function_holds_the_hosts_message() {
    let bus = machine();
    let mut v = scanned(&bus);
    let guest = MsiMessage {
        address: 0xfee0_1000,
        data: 0x4041,
    };
    write(&mut v, &bus, NIC, 0xd4, Width::Dword, 0xfee0_1000);
    write(&mut v, &bus, NIC, 0xd8, Width::Dword, 0);
    write(&mut v, &bus, NIC, 0xdc, Width::Word, 0x4041);
    assert!(bus.bound.borrow().is_empty());
    write(&mut v, &bus, NIC, 0xd2, Width::Word, 1);
    let source = MsiSource::Msi { log2_vectors: 0 };
    let (seen, host) = bus.bound.borrow()[&(NIC, source)];
    assert_eq!(seen, guest);
    assert_eq!(bus.live(), [(NIC, source, host)]);
    assert_eq!(read(&mut v, &bus, NIC, 0xd4, Width::Dword), 0xfee0_1000);
    assert_eq!(read(&mut v, &bus, NIC, 0xdc, Width::Word), 0x4041);
    assert_eq!(read(&mut v, &bus, NIC, 0xd2, Width::Word), 0x81);

    // Affinity: the message changes while enabled, by bytes for good measure.
    write(&mut v, &bus, NIC, 0xd5, Width::Byte, 0x20);
    let (seen, host) = bus.bound.borrow()[&(NIC, source)];
    assert_eq!(seen.address, 0xfee0_2000);
    assert_eq!(bus.live(), [(NIC, source, host)]);
    write(&mut v, &bus, NIC, 0xd2, Width::Word, 0);
    assert!(bus.bound.borrow().is_empty() && bus.live().is_empty());
}

#[test]
fn multiple_message_count_is_clamped_and_mask_bits_pass() {
    let bus = machine();
    let mut v = scanned(&bus);
    assert_eq!(
        read(&mut v, &bus, AHCI, 0x82, Width::Word),
        0x180 | 3 << 1,
        "16 became 8"
    );
    write(&mut v, &bus, AHCI, 0x82, Width::Word, 5 << 4 | 1);
    assert_eq!(read(&mut v, &bus, AHCI, 0x82, Width::Word) >> 4 & 7, 3);
    let source = MsiSource::Msi { log2_vectors: 3 };
    assert!(bus.bound.borrow().contains_key(&(AHCI, source)));
    write(&mut v, &bus, AHCI, 0x90, Width::Dword, 0x55);
    assert_eq!(PciConfig::read(&bus, AHCI, 0x90, Width::Dword), 0x55);
    // Fewer vectors while enabled.
    write(&mut v, &bus, AHCI, 0x80, Width::Dword, (1 << 4 | 1) << 16);
    assert_eq!(bus.live()[0].1, MsiSource::Msi { log2_vectors: 1 });
    assert_eq!(bus.bound.borrow().len(), 1);
}

#[test]
fn thirty_two_bit_msi_has_its_data_earlier() {
    let bus = machine();
    let mut v = scanned(&bus);
    write(&mut v, &bus, BRIDGE, 0x64, Width::Dword, 0xfee0_0000);
    write(&mut v, &bus, BRIDGE, 0x68, Width::Word, 0x31);
    write(&mut v, &bus, BRIDGE, 0x62, Width::Word, 1);
    let (seen, host) = bus.bound.borrow()[&(BRIDGE, MsiSource::Msi { log2_vectors: 0 })];
    assert_eq!(
        seen,
        MsiMessage {
            address: 0xfee0_0000,
            data: 0x31
        }
    );
    assert_eq!(bus.live()[0].2, host);
}

#[test]
fn no_vectors_means_not_enabled() {
    let bus = machine();
    let mut v = scanned(&bus);
    *bus.fail.borrow_mut() = true;
    write(&mut v, &bus, NIC, 0xd2, Width::Word, 1);
    assert_eq!(read(&mut v, &bus, NIC, 0xd2, Width::Word) & 1, 0);
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0x8000);
    v.mmio_write(&bus, Gpa(0xfebe_000c), 4, 0);
    assert!(
        bus.live().is_empty(),
        "the entry stays masked in the function"
    );
    assert_eq!(
        v.mmio_read(&bus, Gpa(0xfebe_000c), 4),
        0,
        "not in the guest's view"
    );
}

/// Writes an entry as Linux does: mask, message, unmask.
fn set_entry(v: &mut Vpci, bus: &Bus, at: u64, message: MsiMessage) {
    v.mmio_write(bus, Gpa(at + 12), 4, 1);
    v.mmio_write(bus, Gpa(at), 4, message.address & 0xffff_ffff);
    v.mmio_write(bus, Gpa(at + 4), 4, message.address >> 32);
    v.mmio_write(bus, Gpa(at + 8), 4, message.data.into());
    v.mmio_write(bus, Gpa(at + 12), 4, 0);
}

#[test]
fn msix_entries_are_virtual() {
    let bus = machine();
    let mut v = scanned(&bus);
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0xc000);
    let guest = MsiMessage {
        address: 0xfee0_3000,
        data: 0x51,
    };
    set_entry(&mut v, &bus, 0xfebe_0020, guest);
    assert!(bus.live().is_empty(), "function masked");
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0x8000);
    let source = MsiSource::Msix { entry: 2 };
    let (seen, host) = bus.bound.borrow()[&(NIC, source)];
    assert_eq!(seen, guest);
    assert_eq!(bus.live(), [(NIC, source, host)]);
    assert_eq!(v.mmio_read(&bus, Gpa(0xfebe_0020), 8), 0xfee0_3000);
    assert_eq!(v.mmio_read(&bus, Gpa(0xfebe_0028), 8), 0x51);
    assert_eq!(v.mmio_read(&bus, Gpa(0xfebe_0020), 2), u64::MAX);
    // Masked, changed, unmasked: bound to the new message.
    let moved = MsiMessage {
        address: 0xfee0_7000,
        data: 0x52,
    };
    v.mmio_write(&bus, Gpa(0xfebe_002c), 4, 1);
    assert!(bus.live().is_empty());
    v.mmio_write(&bus, Gpa(0xfebe_0020), 8, moved.address);
    v.mmio_write(&bus, Gpa(0xfebe_0028), 8, moved.data.into());
    assert_eq!(bus.bound.borrow()[&(NIC, source)].0, moved);
    // The rest of the page is the device's.
    v.mmio_write(&bus, Gpa(0xfebe_0200), 4, 77);
    assert_eq!(v.mmio_read(&bus, Gpa(0xfebe_0200), 4), 77);
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0);
    assert!(bus.bound.borrow().is_empty());
}

#[test]
fn disabled_and_enabled_again_keeps_what_the_guest_wrote() {
    let bus = machine();
    let mut v = scanned(&bus);
    let guest = MsiMessage {
        address: 0xfee0_3000,
        data: 0x51,
    };
    let at = 0x80_0000_2000 + 299 * 16;
    set_entry(&mut v, &bus, at, guest);
    assert!(bus.bound.borrow().is_empty(), "not enabled yet");
    for _ in 0..2 {
        write(&mut v, &bus, NVME, 0x42, Width::Word, 0x8000);
        assert_eq!(bus.live().len(), 1);
        assert_eq!(
            bus.bound.borrow()[&(NVME, MsiSource::Msix { entry: 299 })].0,
            guest
        );
        write(&mut v, &bus, NVME, 0x42, Width::Word, 0);
        assert!(bus.bound.borrow().is_empty());
    }
}

#[test]
fn a_moved_bar_takes_its_trap_along() {
    let bus = machine();
    let mut v = scanned(&bus);
    // Sizing: decode off, all ones, read, restore, decode on. The trap stays.
    write(&mut v, &bus, NIC, 4, Width::Word, 0);
    write(&mut v, &bus, NIC, 0x1c, Width::Dword, u32::MAX);
    assert_eq!(read(&mut v, &bus, NIC, 0x1c, Width::Dword), 0xffff_c000);
    write(&mut v, &bus, NIC, 0x1c, Width::Dword, 0xfebe_0000);
    write(&mut v, &bus, NIC, 4, Width::Word, 2);
    assert!(v.is_trapped(Gfn(0xfebe0)));
    // Sizing with decode on traps nothing odd either.
    write(&mut v, &bus, NIC, 0x1c, Width::Dword, u32::MAX);
    write(&mut v, &bus, NIC, 0x1c, Width::Dword, 0xfebe_0000);
    // Moved.
    write(&mut v, &bus, NIC, 4, Width::Word, 0);
    write(&mut v, &bus, NIC, 0x1c, Width::Dword, 0xfed0_0000);
    let effects = v.config_write(&bus, NIC, 4, Width::Word, 2);
    assert_eq!(effects.trap, [Gfn(0xfed00)]);
    assert_eq!(effects.untrap, [Gfn(0xfebe0)]);
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0x8000);
    set_entry(
        &mut v,
        &bus,
        0xfed0_0000,
        MsiMessage {
            address: 0xfee0_0000,
            data: 0x60,
        },
    );
    assert_eq!(bus.live().len(), 1);
    // The upper half of a 64-bit BAR is sized with decode on as well.
    let sizing = v.config_write(&bus, NVME, 0x14, Width::Dword, u32::MAX);
    assert!(sizing.is_empty(), "{sizing:?}");
    write(&mut v, &bus, NVME, 0x14, Width::Dword, 0x80);
    // It moves in two halves.
    let low = v.config_write(&bus, NVME, 0x10, Width::Dword, 0x1000_0000);
    assert_eq!((low.trap.len(), low.untrap.len()), (2, 2));
    let high = v.config_write(&bus, NVME, 0x14, Width::Dword, 0x81);
    assert_eq!(high.trap, [Gfn(0x8110002), Gfn(0x8110003)]);
    assert_eq!(high.untrap, [Gfn(0x8010002), Gfn(0x8010003)]);
}

#[test]
fn msix_needs_a_table_that_decodes() {
    let bus = machine();
    let mut v = scanned(&bus);
    write(&mut v, &bus, NIC, 4, Width::Word, 0);
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0x8000);
    assert_eq!(read(&mut v, &bus, NIC, 0xa2, Width::Word) & 0x8000, 0);
}

#[test]
fn entries_written_while_decoding_was_off_take_effect_later() {
    let bus = machine();
    let mut v = scanned(&bus);
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0x8000);
    set_entry(
        &mut v,
        &bus,
        0xfebe_0000,
        MsiMessage {
            address: 0xfee0_0000,
            data: 0x60,
        },
    );
    bus.reset(NIC);
    assert!(bus.live().is_empty());
    write(&mut v, &bus, NIC, 0x1c, Width::Dword, 0xfebe_0000);
    write(&mut v, &bus, NIC, 4, Width::Word, 2);
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0x8000);
    let (_, host) = bus.bound.borrow()[&(NIC, MsiSource::Msix { entry: 0 })];
    assert_eq!(bus.live(), [(NIC, MsiSource::Msix { entry: 0 }, host)]);
}

#[test]
fn hidden_and_read_only_functions() {
    let bus = machine();
    let mut v = Vpci::new();
    v.restrict(AHCI, Visibility::Hidden);
    v.restrict(NIC, Visibility::ReadOnly);
    assert_eq!(read(&mut v, &bus, AHCI, 0, Width::Dword), u32::MAX);
    assert_eq!(read(&mut v, &bus, AHCI, 4, Width::Byte), 0xff);
    for sbdf in [AHCI, NIC] {
        let before = PciConfig::read(&bus, sbdf, 4, Width::Dword);
        let _ = v.config_write(&bus, sbdf, 4, Width::Word, 0x547);
        assert_eq!(PciConfig::read(&bus, sbdf, 4, Width::Dword), before);
    }
    assert_eq!(read(&mut v, &bus, NIC, 0, Width::Dword), 0x8086_10d3);
}

#[test]
fn removed_functions_leave_nothing_behind() {
    let bus = machine();
    let mut v = scanned(&bus);
    write(&mut v, &bus, NIC, 0xa2, Width::Word, 0x8000);
    set_entry(
        &mut v,
        &bus,
        0xfebe_0000,
        MsiMessage {
            address: 0xfee0_0000,
            data: 0x60,
        },
    );
    write(&mut v, &bus, AHCI, 0x82, Width::Word, 1);
    v.quiesce(&bus, AHCI);
    assert_eq!(bus.live().len(), 1);
    let effects = v.remove(&bus, NIC);
    assert_eq!(effects.untrap, [Gfn(0xfebe0)]);
    assert!(bus.bound.borrow().is_empty());
    assert!(v.remove(&bus, NIC).is_empty());
}

#[test]
fn bars_are_reported() {
    let bus = machine();
    let v = scanned(&bus);
    let mut bars = Vec::new();
    v.for_each_bar(&bus, NVME, |bar| bars.push(bar));
    let set = Bar {
        index: 0,
        kind: BarKind::Memory,
        base: Some(0x80_0000_0000),
    };
    assert_eq!(bars[0], set);
    assert!(bars[1..].iter().all(|b| b.base.is_none()) && bars.len() == 5);
}

#[test]
fn ports_latch_and_address() {
    let bus = machine();
    let (mut v, mut ports) = (scanned(&bus), ConfigPorts::new());
    let out = |ports: &mut ConfigPorts, v: &mut Vpci, port, width, value| {
        ports.write(v, &bus, port, width, value)
    };
    let done = || PortWrite::Done(Effects::default());
    // Data ports reach nothing while the latch is off.
    assert_eq!(
        ports.read(&mut v, &bus, 0xcfc, Width::Word).0,
        PortRead::Value(0xffff)
    );
    let latch = 0x8000_0000 | u32::from(AHCI.bdf()) << 8;
    assert_eq!(
        out(&mut ports, &mut v, 0xcf8, Width::Dword, latch | 3),
        done()
    );
    assert_eq!(
        ports.read(&mut v, &bus, 0xcf8, Width::Dword).0,
        PortRead::Value(latch | 3)
    );
    assert_eq!(
        ports.read(&mut v, &bus, 0xcfc, Width::Dword).0,
        PortRead::Value(0x8086_2922)
    );
    assert_eq!(
        ports.read(&mut v, &bus, 0xcfe, Width::Word).0,
        PortRead::Value(0x8086)
    );
    assert_eq!(
        ports.read(&mut v, &bus, 0xcfe, Width::Dword).0,
        PortRead::Value(u32::MAX)
    );
    // 0xcf9 is the reset register of the chipset.
    assert_eq!(
        out(&mut ports, &mut v, 0xcf9, Width::Byte, 6),
        PortWrite::PassThrough
    );
    assert_eq!(
        ports.read(&mut v, &bus, 0xcf8, Width::Word).0,
        PortRead::PassThrough
    );
    assert_eq!(
        out(&mut ports, &mut v, 0xcf8, Width::Dword, latch | 0x80),
        done()
    );
    assert_eq!(out(&mut ports, &mut v, 0xcfe, Width::Word, 1), done());
    assert_eq!(bus.live()[0].0, AHCI);
}

#[test]
fn ecam_windows_decode() {
    let bus = machine();
    let mut v = scanned(&bus);
    let ecam = Ecam {
        base: Maddr(0xb000_0000),
        segment: 0,
        first_bus: 1,
        last_bus: 3,
    };
    assert_eq!(ecam.range(), 0xb010_0000..0xb040_0000);
    assert_eq!(ecam.decode(Gpa(0xb000_0000)), None);
    assert_eq!(ecam.decode(Gpa(0xb010_8abc)), Some((NVME, 0xabc)));
    assert_eq!(ecam.read(&mut v, &bus, Gpa(0xb010_8000), 4).0, 0x1b36_0010);
    assert_eq!(
        ecam.read(&mut v, &bus, Gpa(0xb010_8010), 8).0,
        0x80_0000_0004
    );
    assert_eq!(ecam.read(&mut v, &bus, Gpa(0xb010_8014), 8).0, u64::MAX);
    assert_eq!(ecam.read(&mut v, &bus, Gpa(0xb010_8002), 4).0, 0xffff_ffff);
    let moved = ecam.write(&mut v, &bus, Gpa(0xb010_8010), 8, 0x82_0000_0000);
    assert_eq!(moved.trap, [Gfn(0x8200002), Gfn(0x8200003)]);
    assert_eq!(moved.untrap, [Gfn(0x8000002), Gfn(0x8000003)]);
    let _ = ecam.write(&mut v, &bus, Gpa(0xb010_8042), 2, 0x8000);
    assert_eq!(PciConfig::read(&bus, NVME, 0x42, Width::Word), 0x8000 | 299);
}
