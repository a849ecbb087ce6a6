//! `hvm_op` (34): parameters and callbacks of translated guests.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::Errno;
use xen_abi::hvm_op::*;
use xen_abi::hvm_params::*;

use super::{Ctx, OK, OpResult, ops};
use crate::access::{Granted, Hook, Target};
use crate::domain::Domain;
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
    if p.index >= HVM_NR_PARAMS {
        return Err(Errno::EINVAL);
    }
    if !may_set(c, d, p.index) {
        return Err(Errno::EPERM);
    }
    if p.index == HVM_PARAM_CALLBACK_IRQ {
        set_callback(d, p.value);
    }
    if let Some(slot) = d.params.lock().get_mut(p.index as usize) {
        *slot = p.value;
    }
    OK
}

/// Which parameters a guest may set on itself; the control domain may set all.
fn may_set<M: Machine>(c: &Ctx<'_, M>, d: &Arc<Domain<M>>, index: u32) -> bool {
    let is_own = Arc::ptr_eq(c.d, d);
    if c.d.is_privileged && !is_own {
        return true;
    }
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

fn set_callback<M: Machine>(d: &Domain<M>, value: u64) {
    let vector = match value >> 56 {
        t if t == u64::from(HVM_PARAM_CALLBACK_TYPE_VECTOR) && value & 0xff >= 16 => {
            value as u32 & 0xff
        }
        _ => 0,
    };
    d.callback_vector.store(vector, Ordering::Release);
}

fn get_param<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let mut p: XenHvmParam = c.read(a[0])?;
    let rd = c.domain(p.domid)?;
    let d = g.on(c.d, &rd)?;
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
    v.upcall_vector.store(s.vector, Ordering::Release);
    // An event that came before the vector was known must not be lost.
    if c.d.evtchn.upcall_pending(&c.hv.machine, v.id, false) {
        c.hv.upcall(c.d, v.id);
    }
    OK
}
