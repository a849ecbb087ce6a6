//! Tests on a fake bus with real-looking functions.

mod bus;
mod devices;
mod model;

use bus::Bus;

use super::Sbdf;

/// Intel e1000e: MSI with one vector, MSI-X with 5 in BAR 3.
const NIC: Sbdf = Sbdf::new(0, 0, 3, 0);
/// AHCI: MSI with 16 vectors and mask bits.
const AHCI: Sbdf = Sbdf::new(0, 0, 0x1f, 2);
/// virtio: MSI-X table in BAR 1 next to its pending bits, 64-bit BAR 4.
const VIRTIO: Sbdf = Sbdf::new(0, 1, 0, 0);
/// A PCI-to-PCI bridge with 32-bit MSI.
const BRIDGE: Sbdf = Sbdf::new(0, 0, 2, 0);
/// An NVMe drive: 64-bit BAR 0 above 4 GiB with table and registers in it.
const NVME: Sbdf = Sbdf::new(0, 1, 1, 0);
const ALL: [Sbdf; 5] = [NIC, AHCI, VIRTIO, BRIDGE, NVME];

/// The ISA bridge that makes AHCI's device one of many functions.
const LPC: Sbdf = Sbdf::new(0, 0, 0x1f, 0);

/// The machine of the tests.
fn machine() -> Bus {
    let mut bus = Bus::new(3);
    bus.add(NIC, 0x8086_10d3)
        .bar32(0, 0xfebc_0000, 0x2_0000)
        .bar32(3, 0xfebe_0000, 0x4000)
        .msi(0xd0, 0, true, false)
        .msix(0xa0, 5, 0x3, 0x2003);
    bus.add(LPC, 0x8086_2918).multi();
    bus.add(AHCI, 0x8086_2922)
        .bar32(5, 0xfebf_1000, 0x1000)
        .msi(0x80, 4, true, true);
    bus.add(VIRTIO, 0x1af4_1041)
        .bar32(1, 0xfe80_0000, 0x1000)
        .bar64(4, 0xfe00_0000, 0x4000)
        .msix(0x98, 3, 0x1, 0x801);
    bus.add(BRIDGE, 0x1b36_000c)
        .bridge()
        .bar64(0, 0xfea0_0000, 0x1000)
        .msi(0x60, 0, false, false);
    bus.add(NVME, 0x1b36_0010)
        .bar64(0, 0x80_0000_0000, 0x8000)
        .msix(0x40, 300, 0x2000, 0x4000);
    bus
}
