//! `domctl` (36): the toolstack and single domains.
//!
//! One structure comes in, is changed, and goes back where the operation returns something. Its
//! interface version must be 4.20's, else `EACCES`. An operation that changes a domain has the
//! domain to itself ([`Control`]); who comes second executes the hypercall again.
//!
//! What passes devices through, and what only PV domains have, is missing or refused.

use alloc::sync::Arc;

use xen_abi::Errno;
use xen_abi::domctl::*;

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Priv};
use crate::domain::Domain;
use crate::domain::life::Control;
use crate::machine::Machine;

mod bitmap;
mod context;
mod info;
mod life;
mod policy;
mod vcpu;

pub(super) use bitmap::{read_bitmap, write_bitmap};
pub(super) use info::describe;
pub(super) use policy::{Buffers, copy_policy};

ops! { "domctl" (&mut Op):
    XEN_DOMCTL_createdomain = Priv => life::createdomain;
    XEN_DOMCTL_destroydomain = Priv => life::destroydomain;
    XEN_DOMCTL_pausedomain = Priv => life::pausedomain;
    XEN_DOMCTL_unpausedomain = Priv => life::unpausedomain;
    XEN_DOMCTL_getdomaininfo = XsPriv => info::getdomaininfo;
    XEN_DOMCTL_setvcpuaffinity = Priv => vcpu::setvcpuaffinity;
    XEN_DOMCTL_shadow_op = Priv => unsupported;
    XEN_DOMCTL_max_mem = Priv => life::max_mem;
    XEN_DOMCTL_setvcpucontext = Priv => context::setvcpucontext;
    XEN_DOMCTL_getvcpucontext = Priv => context::getvcpucontext;
    XEN_DOMCTL_getvcpuinfo = Priv => vcpu::getvcpuinfo;
    XEN_DOMCTL_max_vcpus = Priv => life::max_vcpus;
    XEN_DOMCTL_scheduler_op = Priv => vcpu::scheduler_op;
    XEN_DOMCTL_setdomainhandle = Priv => life::setdomainhandle;
    XEN_DOMCTL_setdebugging = missing;
    XEN_DOMCTL_irq_permission = Priv => life::permission;
    XEN_DOMCTL_iomem_permission = Priv => life::permission;
    XEN_DOMCTL_ioport_permission = Priv => life::permission;
    XEN_DOMCTL_hypercall_init = missing;
    XEN_DOMCTL_settimeoffset = Priv => life::settimeoffset;
    XEN_DOMCTL_getvcpuaffinity = Priv => vcpu::getvcpuaffinity;
    XEN_DOMCTL_resumedomain = Priv => life::resumedomain;
    XEN_DOMCTL_sendtrigger = Priv => life::sendtrigger;
    XEN_DOMCTL_subscribe = missing;
    XEN_DOMCTL_gethvmcontext = Priv => context::gethvmcontext;
    XEN_DOMCTL_sethvmcontext = Priv => context::sethvmcontext;
    XEN_DOMCTL_set_address_size = missing;
    XEN_DOMCTL_get_address_size = Priv => info::get_address_size;
    XEN_DOMCTL_assign_device = missing;
    XEN_DOMCTL_bind_pt_irq = missing;
    XEN_DOMCTL_memory_mapping = missing;
    XEN_DOMCTL_ioport_mapping = missing;
    XEN_DOMCTL_test_assign_device = missing;
    XEN_DOMCTL_set_target = missing;
    XEN_DOMCTL_deassign_device = missing;
    XEN_DOMCTL_unbind_pt_irq = missing;
    XEN_DOMCTL_get_device_group = missing;
    XEN_DOMCTL_debug_op = missing;
    XEN_DOMCTL_gethvmcontext_partial = Priv => context::gethvmcontext_partial;
    XEN_DOMCTL_vm_event_op = missing;
    XEN_DOMCTL_mem_sharing_op = missing;
    XEN_DOMCTL_gettscinfo = Priv => life::gettscinfo;
    XEN_DOMCTL_settscinfo = Priv => life::settscinfo;
    XEN_DOMCTL_getpageframeinfo3 = Priv => info::getpageframeinfo3;
    XEN_DOMCTL_set_access_required = Priv => unsupported;
    XEN_DOMCTL_set_virq_handler = missing;
    XEN_DOMCTL_setnodeaffinity = Priv => vcpu::setnodeaffinity;
    XEN_DOMCTL_getnodeaffinity = Priv => vcpu::getnodeaffinity;
    XEN_DOMCTL_setvnumainfo = missing;
    XEN_DOMCTL_monitor_op = missing;
    XEN_DOMCTL_soft_reset = missing;
    XEN_DOMCTL_get_cpu_policy = Priv => policy::get_cpu_policy;
    XEN_DOMCTL_set_cpu_policy = Priv => policy::set_cpu_policy;
    XEN_DOMCTL_vmtrace_op = Priv => unsupported;
    XEN_DOMCTL_get_paging_mempool_size = Priv => life::get_paging_mempool_size;
    XEN_DOMCTL_set_paging_mempool_size = Priv => life::set_paging_mempool_size;
    XEN_DOMCTL_gsi_permission = Priv => life::permission;
    XEN_DOMCTL_set_llc_colors = Priv => unsupported;
}

/// An operation on its way.
pub(super) struct Op {
    /// What came in, and what goes back.
    body: XenDomctl,
    /// It goes back.
    is_changed: bool,
}

impl Op {
    /// Success, with the changed structure.
    fn reply(&mut self) -> OpResult {
        self.is_changed = true;
        OK
    }
}

/// Runs one operation: the structure at `at`.
pub(super) fn run<M: Machine>(c: &mut Ctx<'_, M>, at: u64) -> OpResult {
    let body: XenDomctl = c.read(at)?;
    if body.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    c.hv.reap();
    let mut op = Op {
        body,
        is_changed: false,
    };
    let alone = match body.cmd {
        XEN_DOMCTL_createdomain | XEN_DOMCTL_getdomaininfo | XEN_DOMCTL_getvcpuinfo => None,
        _ => c.hv.resolve(c.d, body.domain),
    };
    let control = alone.as_deref().map(Control::take);
    if matches!(control, Some(None)) {
        return Ok(Flow::Again);
    }
    let result = dispatch(c, body.cmd.into(), &mut op);
    drop(control);
    drop(alone);
    // What this destroyed.
    c.hv.reap();
    if op.is_changed {
        c.write(at, &op.body)?;
    }
    result
}

/// The domain that the structure names.
fn domain<M: Machine>(c: &Ctx<'_, M>, op: &Op) -> Result<Arc<Domain<M>>, Errno> {
    c.domain(op.body.domain)
}

/// The domain, which is neither the caller nor dying.
fn other<M: Machine>(c: &Ctx<'_, M>, op: &Op) -> Result<Arc<Domain<M>>, Errno> {
    let d = domain(c, op)?;
    if Arc::ptr_eq(&d, c.d) || d.is_stopped_for_good() {
        return Err(Errno::EINVAL);
    }
    Ok(d)
}

/// Refusals that consumers tell from an unknown operation.
fn unsupported<M: Machine>(_: &mut Ctx<'_, M>, _: Granted<Priv>, _: &mut Op) -> OpResult {
    Err(Errno::EOPNOTSUPP)
}
