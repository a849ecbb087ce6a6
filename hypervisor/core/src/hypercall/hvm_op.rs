//! `hvm_op` (34): parameters and callbacks of translated guests.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::Errno;
use xen_abi::hvm_op::*;
use xen_abi::hvm_params::*;
use xen_abi::sched::SHUTDOWN_MAX;

use super::{Ctx, OK, OpResult, ops};
use crate::access::{Granted, Hook, Target};
use crate::domain::Domain;
use crate::domain::vcpu::attention;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

ops! { "hvm_op":
    HVMOP_set_param = Target => set_param;
    HVMOP_get_param = Target => get_param;
    HVMOP_flush_tlbs = Hook => flush_tlbs;
    HVMOP_pagetable_dying = missing;
    HVMOP_get_time = Hook => get_time;
    HVMOP_get_mem_type = missing;
    HVMOP_altp2m = missing;
    HVMOP_set_evtchn_upcall_vector = Hook => set_upcall_vector;
    HVMOP_guest_request_vm_event = missing;
}

fn set_param<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let p: XenHvmParam = c.read(a[0])?;
    let rd = c.domain(p.domid)?;
    let d = g.on(c.d, &rd)?;
    if p.index >= HVM_NR_PARAMS || is_deprecated(p.index) {
        return Err(Errno::EINVAL);
    }
    if p.index == HVM_PARAM_ALTP2M {
        return Err(Errno::EEXIST);
    }
    if Arc::ptr_eq(c.d, d) && !is_guests(p.index) {
        return Err(Errno::EPERM);
    }
    check_value(p.index, p.value)?;
    let mut params = d.params.lock();
    let slot = params.get_mut(p.index as usize).ok_or(Errno::EINVAL)?;
    if is_set_once(p.index) && *slot != 0 && *slot != p.value {
        return Err(Errno::EEXIST);
    }
    *slot = p.value;
    drop(params);
    if p.index == HVM_PARAM_CALLBACK_IRQ {
        set_callback(c.hv, d, p.value);
    }
    OK
}

/// Parameters that a guest may set on itself; the control domain may set all.
const fn is_guests(index: u32) -> bool {
    matches!(
        index,
        HVM_PARAM_CALLBACK_IRQ
            | HVM_PARAM_VM86_TSS
            | HVM_PARAM_VM86_TSS_SIZED
            | HVM_PARAM_ACPI_IOPORTS_LOCATION
            | HVM_PARAM_VM_GENERATION_ID_ADDR
            | HVM_PARAM_STORE_EVTCHN
            | HVM_PARAM_CONSOLE_EVTCHN
            | HVM_PARAM_X87_FIP_WIDTH
    )
}

/// Those that a guest may read besides.
const fn is_readable(index: u32) -> bool {
    is_guests(index)
        || matches!(
            index,
            HVM_PARAM_STORE_PFN | HVM_PARAM_CONSOLE_PFN | HVM_PARAM_ALTP2M
        )
}

/// Numbers that once were parameters.
const fn is_deprecated(index: u32) -> bool {
    matches!(
        index,
        HVM_PARAM_PAE_ENABLED
            | HVM_PARAM_DM_DOMAIN
            | HVM_PARAM_MEMORY_EVENT_CR0
            | HVM_PARAM_MEMORY_EVENT_CR3
            | HVM_PARAM_MEMORY_EVENT_CR4
            | HVM_PARAM_MEMORY_EVENT_INT3
            | HVM_PARAM_NESTEDHVM
            | HVM_PARAM_MEMORY_EVENT_SINGLE_STEP
            | HVM_PARAM_BUFIOREQ_EVTCHN
            | HVM_PARAM_MEMORY_EVENT_MSR
    )
}

const fn is_set_once(index: u32) -> bool {
    matches!(
        index,
        HVM_PARAM_VIRIDIAN
            | HVM_PARAM_IOREQ_PFN
            | HVM_PARAM_BUFIOREQ_PFN
            | HVM_PARAM_IOREQ_SERVER_PFN
            | HVM_PARAM_NR_IOREQ_SERVER_PAGES
            | HVM_PARAM_MCA_CAP
    )
}

fn check_value(index: u32, value: u64) -> Result<(), Errno> {
    let is_valid = match index {
        HVM_PARAM_TIMER_MODE => value <= u64::from(HVMPTM_one_missed_tick_pending),
        HVM_PARAM_ACPI_IOPORTS_LOCATION => value <= 1,
        HVM_PARAM_X87_FIP_WIDTH => matches!(value, 0 | 4 | 8),
        HVM_PARAM_TRIPLE_FAULT_REASON => value <= u64::from(SHUTDOWN_MAX),
        // Viridian leaves are not there, nor local machine checks.
        HVM_PARAM_VIRIDIAN | HVM_PARAM_MCA_CAP => value == 0,
        _ => true,
    };
    if is_valid { Ok(()) } else { Err(Errno::EINVAL) }
}

fn set_callback<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, value: u64) {
    let vector = match value >> 56 {
        t if t == u64::from(HVM_PARAM_CALLBACK_TYPE_VECTOR) && value & 0xff >= 16 => {
            value as u32 & 0xff
        }
        _ => 0,
    };
    // In order before the look at what is pending: who raises that finds the vector, or is found.
    d.callback_vector.store(vector, Ordering::SeqCst);
    if vector == 0 {
        return;
    }
    // An event that came before the vector was known must not be lost.
    for v in d.each_vcpu() {
        let has_own = v.upcall_vector.load(Ordering::Relaxed) != 0;
        if !has_own && d.evtchn.upcall_pending(&hv.machine, v.id, false) {
            v.notify(hv, attention::UPCALL);
        }
    }
}

fn get_param<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let mut p: XenHvmParam = c.read(a[0])?;
    let rd = c.domain(p.domid)?;
    let d = g.on(c.d, &rd)?;
    if p.index >= HVM_NR_PARAMS || is_deprecated(p.index) {
        return Err(Errno::EINVAL);
    }
    if Arc::ptr_eq(c.d, d) && !is_readable(p.index) {
        return Err(Errno::EPERM);
    }
    p.value = *d.params.lock().get(p.index as usize).ok_or(Errno::EINVAL)?;
    c.write(a[0], &p)?;
    OK
}

fn flush_tlbs<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    if a[0] != 0 {
        return Err(Errno::EINVAL);
    }
    c.hv.flush_stage2(c.d);
    OK
}

fn get_time<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let now = c.hv.now().0;
    c.write(a[0], &now)?;
    OK
}

fn set_upcall_vector<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let s: XenHvmEvtchnUpcallVector = c.read(a[0])?;
    if s.vector < 16 {
        return Err(Errno::EINVAL);
    }
    let v = c.d.vcpu(s.vcpu).ok_or(Errno::ENOENT)?;
    v.upcall_vector.store(s.vector, Ordering::SeqCst);
    // An event that came before the vector was known must not be lost.
    if c.d.evtchn.upcall_pending(&c.hv.machine, v.id, false) {
        c.hv.upcall(c.d, v.id);
    }
    OK
}
