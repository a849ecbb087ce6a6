//! The hypervisor's CPUID leaves (`public/arch-x86/cpuid.h`).

use crate::layout::abi_consts;

abi_consts! {
    CONSTS: u32;
    XEN_CPUID_FIRST_LEAF = 0x4000_0000,
    /// "XenV".
    XEN_CPUID_SIGNATURE_EBX = 0x566e_6558,
    /// "MMXe".
    XEN_CPUID_SIGNATURE_ECX = 0x6558_4d4d,
    /// "nVMM".
    XEN_CPUID_SIGNATURE_EDX = 0x4d4d_566e,
    /// Leaf 2 ECX.
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD = 1,
    /// Leaf 3.0 EAX.
    XEN_CPUID_TSC_EMULATED = 1,
    /// Leaf 3.0 EAX.
    XEN_CPUID_HOST_TSC_RELIABLE = 2,
    /// Leaf 3.0 EAX.
    XEN_CPUID_RDTSCP_INSTR_AVAIL = 4,
    XEN_CPUID_TSC_MODE_DEFAULT = 0,
    XEN_CPUID_TSC_MODE_ALWAYS_EMULATE = 1,
    XEN_CPUID_TSC_MODE_NEVER_EMULATE = 2,
    XEN_CPUID_TSC_MODE_PVRDTSCP = 3,

    /// Leaf 4 EAX: APIC register accesses do not exit.
    XEN_HVM_CPUID_APIC_ACCESS_VIRT = 1,
    /// Leaf 4 EAX: x2APIC MSR accesses do not exit.
    XEN_HVM_CPUID_X2APIC_VIRT = 2,
    /// Leaf 4 EAX: grant and foreign mappings work for DMA.
    XEN_HVM_CPUID_IOMMU_MAPPINGS = 4,
    /// Leaf 4 EAX: EBX is the vCPU's number.
    XEN_HVM_CPUID_VCPU_ID_PRESENT = 8,
    /// Leaf 4 EAX: ECX is the domid.
    XEN_HVM_CPUID_DOMID_PRESENT = 0x10,
    /// Leaf 4 EAX: 15-bit destinations in MSIs.
    XEN_HVM_CPUID_EXT_DEST_ID = 0x20,
    /// Leaf 4 EAX: `HVMOP_set_evtchn_upcall_vector` works.
    XEN_HVM_CPUID_UPCALL_VECTOR = 0x40,

    /// Leaf 5 EBX (PV).
    XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK = 0xff,
    XEN_CPUID_MAX_NUM_LEAVES = 5,
}
