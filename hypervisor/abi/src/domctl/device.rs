//! Devices under `domctl`: interrupts, I/O permissions, assignment.

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::{EvtchnPort, Pirq};

abi_consts! {
    DEVICE_CONSTS: u32;
    XEN_DOMCTL_GSI_REVOKE = 0,
    XEN_DOMCTL_GSI_GRANT = 1,
    XEN_DOMCTL_GSI_ACTION_MASK = 0x1,

    XEN_DOMCTL_DEV_PCI = 0,
    XEN_DOMCTL_DEV_DT = 1,
    XEN_DOMCTL_DEV_RDM_RELAXED = 1,

    XEN_DOMCTL_VMSI_X86_DEST_ID_MASK = 0xff,
    XEN_DOMCTL_VMSI_X86_RH_MASK = 0x100,
    XEN_DOMCTL_VMSI_X86_DM_MASK = 0x200,
    XEN_DOMCTL_VMSI_X86_DELIV_MASK = 0x7000,
    XEN_DOMCTL_VMSI_X86_TRIG_MASK = 0x8000,
    XEN_DOMCTL_VMSI_X86_UNMASKED = 0x1_0000,

    DPCI_ADD_MAPPING = 1,
    DPCI_REMOVE_MAPPING = 0,

    XEN_DOMCTL_MEM_CACHEATTR_UC = 0,
    XEN_DOMCTL_MEM_CACHEATTR_WC = 1,
    XEN_DOMCTL_MEM_CACHEATTR_WT = 4,
    XEN_DOMCTL_MEM_CACHEATTR_WP = 5,
    XEN_DOMCTL_MEM_CACHEATTR_WB = 6,
    XEN_DOMCTL_MEM_CACHEATTR_UCM = 7,

    XEN_DOMCTL_DELETE_MEM_CACHEATTR = 0xffff_ffff,

    PT_IRQ_TYPE_PCI = 0,
    PT_IRQ_TYPE_ISA = 1,
    PT_IRQ_TYPE_MSI = 2,
    PT_IRQ_TYPE_MSI_TRANSLATE = 3,
    PT_IRQ_TYPE_SPI = 4,
}

abi_structs! {
    DEVICE_LAYOUTS:
    XenDomctlIrqPermission("struct xen_domctl_irq_permission") {
        pirq: Pirq,
        allow_access: u8,
        pad: [u8; 3],
    }
    XenDomctlGsiPermission("struct xen_domctl_gsi_permission") {
        gsi: u32,
        flags: u32,
    }
    XenDomctlIomemPermission("struct xen_domctl_iomem_permission") {
        first_mfn: u64,
        nr_mfns: u64,
        allow_access: u8,
        _fill0: [u8; 7],
    }
    XenDomctlIoportPermission("struct xen_domctl_ioport_permission") {
        first_port: EvtchnPort,
        nr_ports: u32,
        allow_access: u8,
        _fill0: [u8; 3],
    }
    XenDomctlAssignDevicePci("__typeof__(((struct xen_domctl_assign_device *)0)->u.pci)") {
        machine_sbdf: u32,
    }
    XenDomctlAssignDeviceDt("__typeof__(((struct xen_domctl_assign_device *)0)->u.dt)") {
        size: u32,
        _fill0: [u8; 4],
        path: Handle<u8>,
    }
    XenDomctlAssignDevice("struct xen_domctl_assign_device") {
        dev: u32,
        flags: u32,
        u: Union<[u64; 2]>,
    }
    XenDomctlGetDeviceGroup("struct xen_domctl_get_device_group") {
        machine_sbdf: u32,
        max_sdevs: u32,
        num_sdevs: u32,
        _fill0: [u8; 4],
        sdev_array: Handle<u32>,
    }
    XenDomctlBindPtIrqIsa("__typeof__(((struct xen_domctl_bind_pt_irq *)0)->u.isa)") {
        isa_irq: u8,
    }
    XenDomctlBindPtIrqPci("__typeof__(((struct xen_domctl_bind_pt_irq *)0)->u.pci)") {
        bus: u8,
        device: u8,
        intx: u8,
    }
    XenDomctlBindPtIrqMsi("__typeof__(((struct xen_domctl_bind_pt_irq *)0)->u.msi)") {
        gvec: u8,
        _fill0: [u8; 3],
        gflags: u32,
        gtable: u64,
    }
    XenDomctlBindPtIrqSpi("__typeof__(((struct xen_domctl_bind_pt_irq *)0)->u.spi)") {
        spi: u16,
    }
    XenDomctlBindPtIrq("struct xen_domctl_bind_pt_irq") {
        machine_irq: u32,
        irq_type: u32,
        u: Union<[u64; 2]>,
    }
    XenDomctlMemoryMapping("struct xen_domctl_memory_mapping") {
        first_gfn: u64,
        first_mfn: u64,
        nr_mfns: u64,
        add_mapping: u32,
        padding: u32,
    }
    XenDomctlIoportMapping("struct xen_domctl_ioport_mapping") {
        first_gport: EvtchnPort,
        first_mport: EvtchnPort,
        nr_ports: u32,
        add_mapping: u32,
    }
}
