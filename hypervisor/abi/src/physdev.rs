//! Physical devices: PCI and interrupts of the hardware domain (`public/physdev.h`).

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::{DomId, Gfn, Pirq};

abi_consts! {
    CONSTS: u32;
    /// The guest has handled a pirq.
    PHYSDEVOP_eoi = 12,
    PHYSDEVOP_pirq_eoi_gmfn_v1 = 17,
    PHYSDEVOP_pirq_eoi_gmfn_v2 = 28,
    PHYSDEVOP_irq_status_query = 5,

    XENIRQSTAT_needs_eoi = 1,
    XENIRQSTAT_shared = 2,

    /// PV: I/O privilege of user mode.
    PHYSDEVOP_set_iopl = 6,
    /// PV: ports of user mode.
    PHYSDEVOP_set_iobitmap = 7,
    PHYSDEVOP_apic_read = 8,
    PHYSDEVOP_apic_write = 9,
    PHYSDEVOP_alloc_irq_vector = 10,
    PHYSDEVOP_free_irq_vector = 11,

    MAP_PIRQ_TYPE_MSI = 0,
    MAP_PIRQ_TYPE_GSI = 1,
    MAP_PIRQ_TYPE_UNKNOWN = 2,
    MAP_PIRQ_TYPE_MSI_SEG = 3,
    MAP_PIRQ_TYPE_MULTI_MSI = 4,

    /// A pirq for a pin or an MSI.
    PHYSDEVOP_map_pirq = 13,
    /// Frees it.
    PHYSDEVOP_unmap_pirq = 14,
    PHYSDEVOP_manage_pci_add = 15,
    PHYSDEVOP_manage_pci_remove = 16,
    PHYSDEVOP_restore_msi = 19,
    PHYSDEVOP_manage_pci_add_ext = 20,
    /// Trigger and polarity of a pin.
    PHYSDEVOP_setup_gsi = 21,
    PHYSDEVOP_get_free_pirq = 23,

    XEN_PCI_MMCFG_RESERVED = 1,

    /// The firmware reserves a configuration window.
    PHYSDEVOP_pci_mmcfg_reserved = 24,

    XEN_PCI_DEV_EXTFN = 1,
    XEN_PCI_DEV_VIRTFN = 2,
    XEN_PCI_DEV_PXM = 4,

    /// dom0 has found a function.
    PHYSDEVOP_pci_device_add = 25,
    /// It is gone.
    PHYSDEVOP_pci_device_remove = 26,
    PHYSDEVOP_restore_msi_ext = 27,
    PHYSDEVOP_prepare_msix = 30,
    PHYSDEVOP_release_msix = 31,
    /// It was reset.
    PHYSDEVOP_pci_device_reset = 32,

    PCI_DEVICE_RESET_COLD = 0,
    PCI_DEVICE_RESET_WARM = 1,
    PCI_DEVICE_RESET_HOT = 2,
    PCI_DEVICE_RESET_FLR = 3,
    PCI_DEVICE_RESET_MASK = 0x3,

    PHYSDEVOP_DBGP_RESET_PREPARE = 1,
    PHYSDEVOP_DBGP_RESET_DONE = 2,
    PHYSDEVOP_DBGP_BUS_UNKNOWN = 0,
    PHYSDEVOP_DBGP_BUS_PCI = 1,
    /// The EHCI debug port is about to be reset, or was.
    PHYSDEVOP_dbgp_op = 29,
    PHYSDEVOP_IRQ_UNMASK_NOTIFY = 0x4,
    PHYSDEVOP_pirq_eoi_gmfn = 28,
}

abi_structs! {
    LAYOUTS:
    PhysdevEoi("struct physdev_eoi") {
        irq: u32,
    }
    PhysdevPirqEoiGmfn("struct physdev_pirq_eoi_gmfn") {
        gmfn: Gfn,
    }
    PhysdevIrqStatusQuery("struct physdev_irq_status_query") {
        irq: u32,
        flags: u32,
    }
    PhysdevSetIopl("struct physdev_set_iopl") {
        iopl: u32,
    }
    PhysdevSetIobitmap("struct physdev_set_iobitmap") {
        bitmap: Handle<u8>,
        nr_ports: u32,
        _fill0: [u8; 4],
    }
    PhysdevApic("struct physdev_apic") {
        apic_physbase: u64,
        reg: u32,
        value: u32,
    }
    PhysdevIrq("struct physdev_irq") {
        irq: u32,
        vector: u32,
    }
    PhysdevMapPirq("struct physdev_map_pirq") {
        domid: DomId,
        _fill0: [u8; 2],
        r#type: i32,
        index: i32,
        pirq: i32,
        bus: i32,
        devfn: i32,
        entry_nr: i32,
        _fill1: [u8; 4],
        table_base: u64,
    }
    PhysdevUnmapPirq("struct physdev_unmap_pirq") {
        domid: DomId,
        _fill0: [u8; 2],
        pirq: i32,
    }
    PhysdevManagePci("struct physdev_manage_pci") {
        bus: u8,
        devfn: u8,
    }
    PhysdevRestoreMsi("struct physdev_restore_msi") {
        bus: u8,
        devfn: u8,
    }
    PhysdevManagePciExtPhysfn("__typeof__(((struct physdev_manage_pci_ext *)0)->physfn)") {
        bus: u8,
        devfn: u8,
    }
    PhysdevManagePciExt("struct physdev_manage_pci_ext") {
        bus: u8,
        devfn: u8,
        _fill0: [u8; 2],
        is_extfn: u32,
        is_virtfn: u32,
        physfn: PhysdevManagePciExtPhysfn,
        _fill1: [u8; 2],
    }
    PhysdevOp("struct physdev_op") {
        cmd: u32,
        _fill0: [u8; 4],
        u: Union<[u64; 2]>,
    }
    PhysdevSetupGsi("struct physdev_setup_gsi") {
        gsi: i32,
        triggering: u8,
        polarity: u8,
        _fill0: [u8; 2],
    }
    PhysdevGetFreePirq("struct physdev_get_free_pirq") {
        r#type: i32,
        pirq: Pirq,
    }
    PhysdevPciMmcfgReserved("struct physdev_pci_mmcfg_reserved") {
        address: u64,
        segment: u16,
        start_bus: u8,
        end_bus: u8,
        flags: u32,
    }
    PhysdevPciDeviceAddPhysfn("__typeof__(((struct physdev_pci_device_add *)0)->physfn)") {
        bus: u8,
        devfn: u8,
    }
    PhysdevPciDeviceAdd("struct physdev_pci_device_add") {
        seg: u16,
        bus: u8,
        devfn: u8,
        flags: u32,
        physfn: PhysdevPciDeviceAddPhysfn,
        _fill0: [u8; 2],
        // flexible array optarr: [u32; 1]
    }
    PhysdevPciDevice("struct physdev_pci_device") {
        seg: u16,
        bus: u8,
        devfn: u8,
    }
    PciDeviceReset("struct pci_device_reset") {
        dev: PhysdevPciDevice,
        flags: u32,
    }
    PhysdevDbgpOp("struct physdev_dbgp_op") {
        op: u8,
        bus: u8,
        u: Union<[u16; 2]>,
    }
}
