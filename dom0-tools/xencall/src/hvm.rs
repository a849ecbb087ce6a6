//! Parameters of HVM and PVH domains; event channels and shutdown on behalf of others.

use xen_abi::event_channel::{
    EVTCHNOP_alloc_unbound, EVTCHNOP_reset, EVTCHNOP_status, EvtchnAllocUnbound, EvtchnReset,
    EvtchnStatus,
};
use xen_abi::hvm_op::{HVMOP_get_param, HVMOP_set_param, XenHvmParam};
use xen_abi::sched::{
    SCHEDOP_remote_shutdown, SCHEDOP_watchdog, SchedRemoteShutdown, SchedWatchdog,
};
use xen_abi::xen::{__HYPERVISOR_event_channel_op, __HYPERVISOR_hvm_op, __HYPERVISOR_sched_op};
use xen_abi::{DomId, EvtchnPort};
use zerocopy::FromZeros;

use crate::error::Result;
use crate::xen::{Call, Xen};

const fn call(name: &'static str, number: u32, command: u32, domain: DomId) -> Call {
    Call {
        name,
        number,
        command: Some(command as u64),
        domain: Some(domain),
    }
}

impl Xen {
    /// Parameter `index` (`HVM_PARAM_*`).
    ///
    /// # Errors
    /// `EINVAL` for one that is none, `EPERM`.
    pub fn hvm_param(&self, domain: DomId, index: u32) -> Result<u64> {
        let mut argument = XenHvmParam {
            domid: domain,
            pad: 0,
            index,
            value: 0,
        };
        let call = call(
            "HVMOP_get_param",
            __HYPERVISOR_hvm_op,
            HVMOP_get_param,
            domain,
        );
        self.call(call, &mut argument, &mut [])?;
        Ok(argument.value)
    }

    /// Sets it.
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`; `EEXIST` for one that is set once.
    pub fn set_hvm_param(&self, domain: DomId, index: u32, value: u64) -> Result<()> {
        let mut argument = XenHvmParam {
            domid: domain,
            pad: 0,
            index,
            value,
        };
        let call = call(
            "HVMOP_set_param",
            __HYPERVISOR_hvm_op,
            HVMOP_set_param,
            domain,
        );
        self.call(call, &mut argument, &mut []).map(drop)
    }

    /// A port of `domain` that `remote` may connect to.
    ///
    /// # Errors
    /// `ENOSPC` when it has no port left.
    pub fn evtchn_alloc_unbound(&self, domain: DomId, remote: DomId) -> Result<EvtchnPort> {
        let mut argument = EvtchnAllocUnbound {
            dom: domain,
            remote_dom: remote,
            port: EvtchnPort(0),
        };
        let (number, command) = (__HYPERVISOR_event_channel_op, EVTCHNOP_alloc_unbound);
        let call = call("EVTCHNOP_alloc_unbound", number, command, domain);
        self.call(call, &mut argument, &mut [])?;
        Ok(argument.port)
    }

    /// What a port is.
    ///
    /// # Errors
    /// `EINVAL` beyond the domain's ports.
    pub fn evtchn_status(&self, domain: DomId, port: EvtchnPort) -> Result<EvtchnStatus> {
        let mut argument = EvtchnStatus {
            dom: domain,
            port,
            ..FromZeros::new_zeroed()
        };
        let (number, command) = (__HYPERVISOR_event_channel_op, EVTCHNOP_status);
        let call = call("EVTCHNOP_status", number, command, domain);
        self.call(call, &mut argument, &mut [])?;
        Ok(argument)
    }

    /// Closes all ports of a domain.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn evtchn_reset(&self, domain: DomId) -> Result<()> {
        let mut argument = EvtchnReset { dom: domain };
        let (number, command) = (__HYPERVISOR_event_channel_op, EVTCHNOP_reset);
        let call = call("EVTCHNOP_reset", number, command, domain);
        self.call(call, &mut argument, &mut []).map(drop)
    }

    /// Shuts a domain down from outside, with a reason (`SHUTDOWN_*`).
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn remote_shutdown(&self, domain: DomId, reason: u32) -> Result<()> {
        let mut argument = SchedRemoteShutdown {
            domain_id: domain,
            _fill0: [0; 2],
            reason,
        };
        let (number, command) = (__HYPERVISOR_sched_op, SCHEDOP_remote_shutdown);
        let call = call("SCHEDOP_remote_shutdown", number, command, domain);
        self.call(call, &mut argument, &mut []).map(drop)
    }

    /// Arms watchdog `id` of dom0 (0 takes a new one) for `timeout` seconds; 0 seconds disarms it.
    /// Gives its id.
    ///
    /// # Errors
    /// `EEXIST` when all are taken.
    pub fn watchdog(&self, id: u32, timeout: u32) -> Result<u32> {
        let mut argument = SchedWatchdog { id, timeout };
        let (number, command) = (__HYPERVISOR_sched_op, SCHEDOP_watchdog);
        let call = call("SCHEDOP_watchdog", number, command, DomId::SELF);
        self.call(call, &mut argument, &mut [])
    }
}
