//! `physdev_op` (33): what dom0 tells about devices.

use xen_abi::Errno;
use xen_abi::physdev::*;

use super::{Ctx, OK, OpResult, ops};
use crate::access::{Granted, Priv};
use crate::machine::Machine;

ops! { "physdev_op":
    PHYSDEVOP_eoi = missing;
    PHYSDEVOP_irq_status_query = missing;
    PHYSDEVOP_map_pirq = missing;
    PHYSDEVOP_unmap_pirq = missing;
    PHYSDEVOP_setup_gsi = missing;
    PHYSDEVOP_get_free_pirq = missing;
    PHYSDEVOP_pci_mmcfg_reserved = Priv => pci_mmcfg_reserved;
    PHYSDEVOP_pci_device_add = Priv => pci_device_add;
    PHYSDEVOP_pci_device_remove = Priv => pci_device_remove;
    PHYSDEVOP_dbgp_op = missing;
}

fn pci_device_add<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let p: PhysdevPciDeviceAdd = c.read(a[0])?;
    let hw = c.d.hardware.as_ref().ok_or(Errno::ENODEV)?;
    hw.device_added(c.hv, p.seg, p.bus, p.devfn);
    OK
}

fn pci_device_remove<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let _: PhysdevPciDevice = c.read(a[0])?;
    OK
}

/// The windows are known from the MCFG table; a window that it lacks is refused.
fn pci_mmcfg_reserved<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let p: PhysdevPciMmcfgReserved = c.read(a[0])?;
    let hw = c.d.hardware.as_ref().ok_or(Errno::ENODEV)?;
    if hw.has_ecam(p.address, p.segment) {
        OK
    } else {
        Err(Errno::ENODEV)
    }
}
