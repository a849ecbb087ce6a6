//! Hypercalls, by the instruction of whatever CPU this is.
// UNSAFETY: executes VMCALL or VMMCALL.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use xen_abi::hvm_vcpu::{VCPU_HVM_MODE_64B, VcpuHvmContext, VcpuHvmX86_64};
use xen_abi::memory::{
    XENMAPSPACE_grant_table, XENMAPSPACE_shared_info, XENMEM_add_to_physmap,
    XENMEM_populate_physmap, XenAddToPhysmap, XenMemoryReservation,
};
use xen_abi::vcpu::{VCPUOP_initialise, VCPUOP_up};
use xen_abi::xen::{
    __HYPERVISOR_console_io, __HYPERVISOR_memory_op, __HYPERVISOR_sched_op, __HYPERVISOR_vcpu_op,
};
use xen_abi::{DomId, Gfn, Handle, Union};

use crate::arch;

static IS_AMD: AtomicBool = AtomicBool::new(false);

/// Finds out which instruction makes hypercalls; the number of this domain.
pub(crate) fn init() -> DomId {
    // "Auth" of AuthenticAMD.
    IS_AMD.store(arch::cpuid(0)[1] == 0x6874_7541, Ordering::Relaxed);
    let base = (0x4000_0000u32..0x4001_0000)
        .step_by(0x100)
        .find(|&base| arch::cpuid(base)[1] == 0x566e_6558);
    let [.., ecx] = arch::cpuid(base.unwrap_or(0x4000_0000) + 4);
    DomId(ecx as u16)
}

/// Is this an AMD CPU, and so SVM?
pub(crate) fn is_amd() -> bool {
    IS_AMD.load(Ordering::Relaxed)
}

/// A hypercall.
pub(crate) fn call(number: u64, args: [u64; 5]) -> i64 {
    let [a, b, c, d, e] = args;
    let result: u64;
    // SAFETY: the hypervisor does no more than it was asked for: harm to this guest.
    unsafe {
        if is_amd() {
            asm!("vmmcall", inout("rax") number => result, inout("rdi") a => _, inout("rsi") b => _,
                inout("rdx") c => _, inout("r10") d => _, inout("r8") e => _);
        } else {
            asm!("vmcall", inout("rax") number => result, inout("rdi") a => _, inout("rsi") b => _,
                inout("rdx") c => _, inout("r10") d => _, inout("r8") e => _);
        }
    }
    result.cast_signed()
}

/// Writes to the hypervisor's console.
pub(crate) fn print(text: &str) {
    let args = [0, text.len() as u64, text.as_ptr() as u64, 0, 0];
    call(__HYPERVISOR_console_io.into(), args);
}

/// Ends the domain: 0 power off, 3 crash.
pub(crate) fn shutdown(reason: u32) -> ! {
    loop {
        let args = [2, (&raw const reason) as u64, 0, 0, 0];
        call(__HYPERVISOR_sched_op.into(), args);
    }
}

fn add_to_physmap(space: u32, gfn: u64) {
    let argument = XenAddToPhysmap {
        domid: DomId::SELF,
        size: 0,
        space,
        idx: 0,
        gpfn: Gfn(gfn),
    };
    let args = [
        XENMEM_add_to_physmap.into(),
        (&raw const argument) as u64,
        0,
        0,
        0,
    ];
    call(__HYPERVISOR_memory_op.into(), args);
}

/// Puts the pages that the game needs at their places.
pub(crate) fn place_pages() {
    add_to_physmap(XENMAPSPACE_grant_table, malice::TABLE);
    add_to_physmap(XENMAPSPACE_shared_info, malice::SHARED);
}

/// Puts memory where there is none any more, and where sequences have their arguments: calls on
/// nothing would all end in the same way.
pub(crate) fn repair(vcpu: usize) {
    for gfn in malice::arguments(vcpu as u32) {
        if !arch::is_hole(gfn) {
            continue;
        }
        let frame = gfn;
        let argument = XenMemoryReservation {
            extent_start: Handle::new((&raw const frame) as u64),
            nr_extents: 1,
            extent_order: 0,
            mem_flags: 0,
            domid: DomId::SELF,
            _fill0: [0; 6],
        };
        let at = (&raw const argument) as u64;
        let op = XENMEM_populate_physmap.into();
        call(__HYPERVISOR_memory_op.into(), [op, at, 0, 0, 0]);
    }
}

/// Starts the other vCPU.
pub(crate) fn start_other() {
    let (rip, rsp, cr3) = arch::other();
    let registers = VcpuHvmX86_64 {
        rax: 0,
        rcx: 0,
        rdx: 0,
        rbx: 0,
        rsp,
        rbp: 0,
        rsi: 0,
        rdi: 0,
        rip,
        rflags: 2,
        cr0: 0x8000_0011,
        cr3,
        cr4: 0x620,
        efer: 0x500,
    };
    let context = VcpuHvmContext {
        mode: VCPU_HVM_MODE_64B,
        pad: 0,
        cpu_regs: Union::new(&registers),
    };
    let number = __HYPERVISOR_vcpu_op.into();
    let at = (&raw const context) as u64;
    call(number, [VCPUOP_initialise.into(), 1, at, 0, 0]);
    up(1);
}

/// Brings a vCPU up, which it may be already.
pub(crate) fn up(vcpu: u64) {
    let number = __HYPERVISOR_vcpu_op.into();
    call(number, [VCPUOP_up.into(), vcpu, 0, 0, 0]);
}

/// Lets others run.
pub(crate) fn yields() {
    call(__HYPERVISOR_sched_op.into(), [0; 5]);
}
