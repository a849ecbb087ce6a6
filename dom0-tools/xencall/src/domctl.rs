//! Domain control: life cycle, limits, saved state, policy.

use std::mem::offset_of;

use xen_abi::arch_x86::{XenCpuidLeaf, XenMsrEntry};
use xen_abi::domctl::{
    XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_createdomain, XEN_DOMCTL_destroydomain,
    XEN_DOMCTL_get_cpu_policy, XEN_DOMCTL_get_paging_mempool_size, XEN_DOMCTL_getdomaininfo,
    XEN_DOMCTL_gethvmcontext, XEN_DOMCTL_gettscinfo, XEN_DOMCTL_iomem_permission,
    XEN_DOMCTL_ioport_permission, XEN_DOMCTL_max_mem, XEN_DOMCTL_pausedomain,
    XEN_DOMCTL_resumedomain, XEN_DOMCTL_sendtrigger, XEN_DOMCTL_set_address_size,
    XEN_DOMCTL_set_cpu_policy, XEN_DOMCTL_set_paging_mempool_size, XEN_DOMCTL_set_target,
    XEN_DOMCTL_set_virq_handler, XEN_DOMCTL_setdomainhandle, XEN_DOMCTL_sethvmcontext,
    XEN_DOMCTL_settimeoffset, XEN_DOMCTL_settscinfo, XEN_DOMCTL_unpausedomain, XEN_DOMINF_blocked,
    XEN_DOMINF_dying, XEN_DOMINF_hvm_guest, XEN_DOMINF_paused, XEN_DOMINF_running,
    XEN_DOMINF_shutdown, XEN_DOMINF_shutdownmask, XEN_DOMINF_shutdownshift, XenDomctl,
    XenDomctlAddressSize, XenDomctlCpuPolicy, XenDomctlCreatedomain, XenDomctlGetdomaininfo,
    XenDomctlHvmcontext, XenDomctlIomemPermission, XenDomctlIoportPermission, XenDomctlMaxMem,
    XenDomctlPagingMempool, XenDomctlSendtrigger, XenDomctlSetTarget, XenDomctlSetVirqHandler,
    XenDomctlSetdomainhandle, XenDomctlSettimeoffset, XenDomctlTscInfo,
};
use xen_abi::layout::{Handle, Union};
use xen_abi::xen::__HYPERVISOR_domctl;
use xen_abi::{DomId, Virq};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::error::{Errno, Result};
use crate::xen::{Call, Pointer, Xen};

/// What the hypervisor says of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo(pub XenDomctlGetdomaininfo);

impl DomainInfo {
    /// Its number.
    #[must_use]
    pub const fn domain(&self) -> DomId {
        self.0.domain
    }
    /// It is being destroyed.
    #[must_use]
    pub const fn is_dying(&self) -> bool {
        self.0.flags & XEN_DOMINF_dying != 0
    }
    /// It has shut down, whatever the reason.
    #[must_use]
    pub const fn is_shutdown(&self) -> bool {
        self.0.flags & XEN_DOMINF_shutdown != 0
    }
    /// The toolstack has paused it.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.0.flags & XEN_DOMINF_paused != 0
    }
    /// All its vCPUs wait.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.0.flags & XEN_DOMINF_blocked != 0
    }
    /// One of its vCPUs runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.0.flags & XEN_DOMINF_running != 0
    }
    /// HVM or PVH, not PV.
    #[must_use]
    pub const fn is_hvm(&self) -> bool {
        self.0.flags & XEN_DOMINF_hvm_guest != 0
    }
    /// Why it shut down (`SHUTDOWN_*`), if it has.
    #[must_use]
    pub const fn shutdown_reason(&self) -> Option<u32> {
        if self.is_shutdown() {
            Some((self.0.flags >> XEN_DOMINF_shutdownshift) & XEN_DOMINF_shutdownmask)
        } else {
            None
        }
    }
}

/// Offset of the pointer `$field` of the member `$member` in `struct xen_domctl`.
macro_rules! at {
    ($member:ident.$($field:tt)+) => {
        offset_of!(XenDomctl, u) + offset_of!($member, $($field)+)
    };
}
pub(crate) use at;

impl Xen {
    /// A domctl whose member of the union is `argument`, in and out. Pointers by their
    /// offsets in `struct xen_domctl`, see [`at`]. Gives what the hypercall returned.
    pub(crate) fn domctl<T: FromBytes + IntoBytes + Immutable>(
        &self,
        name: &'static str,
        cmd: u32,
        domain: DomId,
        argument: &mut T,
        pointers: &mut [Pointer<'_>],
    ) -> Result<(u32, DomId)> {
        let mut domctl = XenDomctl {
            cmd,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            domain,
            _pad: [0; 3],
            u: Union::new(argument),
        };
        let call = Call {
            name,
            number: __HYPERVISOR_domctl,
            command: None,
            domain: Some(domain),
        };
        let returned = self.call(call, &mut domctl, pointers)?;
        *argument = domctl.u.get();
        Ok((returned, domctl.domain))
    }

    /// A domctl that only takes something.
    pub(crate) fn domctl_set<T: FromBytes + IntoBytes + Immutable>(
        &self,
        name: &'static str,
        cmd: u32,
        domain: DomId,
        mut argument: T,
    ) -> Result<()> {
        self.domctl(name, cmd, domain, &mut argument, &mut [])
            .map(drop)
    }

    /// A domctl that only gives something.
    pub(crate) fn domctl_get<T: FromBytes + IntoBytes + Immutable>(
        &self,
        name: &'static str,
        cmd: u32,
        domain: DomId,
    ) -> Result<T> {
        let mut argument = T::new_zeroed();
        self.domctl(name, cmd, domain, &mut argument, &mut [])?;
        Ok(argument)
    }

    /// Makes a domain without memory and vCPUs, paused; `None` lets the hypervisor choose the
    /// number.
    ///
    /// # Errors
    /// `EEXIST` for a number that is taken, `EINVAL` for flags that do not go together, `ENOMEM`.
    pub fn create_domain(
        &self,
        domain: Option<DomId>,
        config: &XenDomctlCreatedomain,
    ) -> Result<DomId> {
        let wanted = domain.unwrap_or(DomId(0));
        let (_, made) = self.domctl(
            "XEN_DOMCTL_createdomain",
            XEN_DOMCTL_createdomain,
            wanted,
            &mut { *config },
            &mut [],
        )?;
        Ok(made)
    }

    /// Destroys a domain. The hypervisor does it in steps; this takes all of them.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn destroy_domain(&self, domain: DomId) -> Result<()> {
        loop {
            // Long work comes back as EAGAIN, or EINTR by a signal in between.
            let step = self.domctl_set(
                "XEN_DOMCTL_destroydomain",
                XEN_DOMCTL_destroydomain,
                domain,
                [0u8; 0],
            );
            match step {
                Err(error) if matches!(error.errno(), Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// Stops all vCPUs; counts.
    ///
    /// # Errors
    /// `ESRCH`; `EINVAL` for oneself.
    pub fn pause_domain(&self, domain: DomId) -> Result<()> {
        let name = "XEN_DOMCTL_pausedomain";
        self.domctl_set(name, XEN_DOMCTL_pausedomain, domain, [0u8; 0])
    }

    /// Takes one pause back.
    ///
    /// # Errors
    /// `ESRCH`; `EINVAL` when it is not paused.
    pub fn unpause_domain(&self, domain: DomId) -> Result<()> {
        let name = "XEN_DOMCTL_unpausedomain";
        self.domctl_set(name, XEN_DOMCTL_unpausedomain, domain, [0u8; 0])
    }

    /// Lets a domain that has shut down for suspension go on.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn resume_domain(&self, domain: DomId) -> Result<()> {
        let name = "XEN_DOMCTL_resumedomain";
        self.domctl_set(name, XEN_DOMCTL_resumedomain, domain, [0u8; 0])
    }

    /// The domain of that number, exactly.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn domain_info(&self, domain: DomId) -> Result<DomainInfo> {
        let name = "XEN_DOMCTL_getdomaininfo";
        let info: XenDomctlGetdomaininfo =
            self.domctl_get(name, XEN_DOMCTL_getdomaininfo, domain)?;
        if info.domain != domain {
            // Hypervisors before 4.12 gave the next one.
            return Err(crate::Error::new(name, Some(domain), Errno::SRCH));
        }
        Ok(DomainInfo(info))
    }

    /// Limit of memory, in KiB.
    ///
    /// # Errors
    /// `ESRCH`, `EINVAL`.
    pub fn set_max_memory(&self, domain: DomId, max_memkb: u64) -> Result<()> {
        let argument = XenDomctlMaxMem { max_memkb };
        self.domctl_set("XEN_DOMCTL_max_mem", XEN_DOMCTL_max_mem, domain, argument)
    }

    /// UUID of the domain.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn set_handle(&self, domain: DomId, handle: [u8; 16]) -> Result<()> {
        let argument = XenDomctlSetdomainhandle { handle };
        let name = "XEN_DOMCTL_setdomainhandle";
        self.domctl_set(name, XEN_DOMCTL_setdomainhandle, domain, argument)
    }

    /// Offset of its wall clock, in seconds.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn set_time_offset(&self, domain: DomId, time_offset_seconds: i64) -> Result<()> {
        let argument = XenDomctlSettimeoffset {
            time_offset_seconds,
        };
        let name = "XEN_DOMCTL_settimeoffset";
        self.domctl_set(name, XEN_DOMCTL_settimeoffset, domain, argument)
    }

    /// An NMI, a reset, ... (`XEN_DOMCTL_SENDTRIGGER_*`) on a vCPU.
    ///
    /// # Errors
    /// `ESRCH`, `ENOSYS` for one that this kind of domain does not have.
    pub fn send_trigger(&self, domain: DomId, argument: XenDomctlSendtrigger) -> Result<()> {
        let name = "XEN_DOMCTL_sendtrigger";
        self.domctl_set(name, XEN_DOMCTL_sendtrigger, domain, argument)
    }

    /// Pages for the nested page tables (and shadow tables), in bytes.
    ///
    /// # Errors
    /// `EINVAL` when not whole pages, `ENOMEM`.
    pub fn set_paging_mempool_size(&self, domain: DomId, size: u64) -> Result<()> {
        let name = "XEN_DOMCTL_set_paging_mempool_size";
        loop {
            let argument = XenDomctlPagingMempool { size };
            match self.domctl_set(name, XEN_DOMCTL_set_paging_mempool_size, domain, argument) {
                Err(error) if matches!(error.errno(), Errno::INTR | Errno::AGAIN) => {}
                done => return done,
            }
        }
    }

    /// The same, as it is.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn paging_mempool_size(&self, domain: DomId) -> Result<u64> {
        let name = "XEN_DOMCTL_get_paging_mempool_size";
        let argument: XenDomctlPagingMempool =
            self.domctl_get(name, XEN_DOMCTL_get_paging_mempool_size, domain)?;
        Ok(argument.size)
    }

    /// Width of a PV guest's addresses: 32 or 64.
    ///
    /// # Errors
    /// `EACCES` once it has memory.
    pub fn set_address_size(&self, domain: DomId, size: u32) -> Result<()> {
        let argument = XenDomctlAddressSize { size };
        let name = "XEN_DOMCTL_set_address_size";
        self.domctl_set(name, XEN_DOMCTL_set_address_size, domain, argument)
    }

    /// Who gets a global virq from now on.
    ///
    /// # Errors
    /// `EINVAL` for one that is not global.
    pub fn set_virq_handler(&self, domain: DomId, virq: Virq) -> Result<()> {
        let argument = XenDomctlSetVirqHandler { virq };
        let name = "XEN_DOMCTL_set_virq_handler";
        self.domctl_set(name, XEN_DOMCTL_set_virq_handler, domain, argument)
    }

    /// `domain` may act on `target` as dom0 does (a stub domain).
    ///
    /// # Errors
    /// `EINVAL` when it has one already.
    pub fn set_target(&self, domain: DomId, target: DomId) -> Result<()> {
        let argument = XenDomctlSetTarget { target };
        let name = "XEN_DOMCTL_set_target";
        self.domctl_set(name, XEN_DOMCTL_set_target, domain, argument)
    }

    /// How guests see the TSC.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn set_tsc_info(&self, domain: DomId, argument: XenDomctlTscInfo) -> Result<()> {
        let name = "XEN_DOMCTL_settscinfo";
        self.domctl_set(name, XEN_DOMCTL_settscinfo, domain, argument)
    }

    /// The same, as it is.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn tsc_info(&self, domain: DomId) -> Result<XenDomctlTscInfo> {
        self.domctl_get("XEN_DOMCTL_gettscinfo", XEN_DOMCTL_gettscinfo, domain)
    }

    /// Machine state of an HVM domain as records of `hvm_save`.
    ///
    /// # Errors
    /// `ENOSPC` when it does not fit into the size that the hypervisor named first.
    pub fn hvm_context(&self, domain: DomId) -> Result<Vec<u8>> {
        let name = "XEN_DOMCTL_gethvmcontext";
        let mut argument = XenDomctlHvmcontext::new_zeroed();
        self.domctl(
            name,
            XEN_DOMCTL_gethvmcontext,
            domain,
            &mut argument,
            &mut [],
        )?;
        let mut records = vec![0; argument.size as usize];
        let mut pointers = [Pointer::written(
            at!(XenDomctlHvmcontext.buffer),
            &mut records,
        )];
        self.domctl(
            name,
            XEN_DOMCTL_gethvmcontext,
            domain,
            &mut argument,
            &mut pointers,
        )?;
        records.truncate(argument.size as usize);
        Ok(records)
    }

    /// Loads such records.
    ///
    /// # Errors
    /// `EINVAL` for records that do not make sense.
    pub fn set_hvm_context(&self, domain: DomId, records: &[u8]) -> Result<()> {
        let name = "XEN_DOMCTL_sethvmcontext";
        let size = u32::try_from(records.len())
            .map_err(|_| crate::Error::new(name, Some(domain), Errno::TOOBIG))?;
        let mut argument = XenDomctlHvmcontext {
            size,
            ..FromZeros::new_zeroed()
        };
        let mut pointers = [Pointer::read(at!(XenDomctlHvmcontext.buffer), records)];
        let cmd = XEN_DOMCTL_sethvmcontext;
        self.domctl(name, cmd, domain, &mut argument, &mut pointers)
            .map(drop)
    }

    /// CPUID leaves and MSRs that a domain sees.
    ///
    /// # Errors
    /// `ENOBUFS` when there are more than the hypervisor says.
    pub fn cpu_policy(&self, domain: DomId) -> Result<(Vec<XenCpuidLeaf>, Vec<XenMsrEntry>)> {
        let name = "XEN_DOMCTL_get_cpu_policy";
        let cmd = XEN_DOMCTL_get_cpu_policy;
        // With null pointers the hypervisor tells how many there can be.
        let mut argument = XenDomctlCpuPolicy::new_zeroed();
        self.domctl(name, cmd, domain, &mut argument, &mut [])?;
        let mut leaves = vec![XenCpuidLeaf::new_zeroed(); argument.nr_leaves as usize];
        let mut msrs = vec![XenMsrEntry::new_zeroed(); argument.nr_msrs as usize];
        let mut pointers = [
            Pointer::written(at!(XenDomctlCpuPolicy.leaves), leaves.as_mut_bytes()),
            Pointer::written(at!(XenDomctlCpuPolicy.msrs), msrs.as_mut_bytes()),
        ];
        self.domctl(name, cmd, domain, &mut argument, &mut pointers)?;
        leaves.truncate(argument.nr_leaves as usize);
        msrs.truncate(argument.nr_msrs as usize);
        Ok((leaves, msrs))
    }

    /// Changes leaves and MSRs of a domain that has not run yet.
    ///
    /// # Errors
    /// `EINVAL` for a value that the host cannot offer.
    pub fn set_cpu_policy(
        &self,
        domain: DomId,
        leaves: &[XenCpuidLeaf],
        msrs: &[XenMsrEntry],
    ) -> Result<()> {
        let name = "XEN_DOMCTL_set_cpu_policy";
        let count = |len: usize| {
            u32::try_from(len).map_err(|_| crate::Error::new(name, Some(domain), Errno::TOOBIG))
        };
        let mut argument = XenDomctlCpuPolicy {
            nr_leaves: count(leaves.len())?,
            nr_msrs: count(msrs.len())?,
            leaves: Handle::NULL,
            msrs: Handle::NULL,
            ..FromZeros::new_zeroed()
        };
        let mut pointers = [
            Pointer::read(at!(XenDomctlCpuPolicy.leaves), leaves.as_bytes()),
            Pointer::read(at!(XenDomctlCpuPolicy.msrs), msrs.as_bytes()),
        ];
        let cmd = XEN_DOMCTL_set_cpu_policy;
        self.domctl(name, cmd, domain, &mut argument, &mut pointers)
            .map(drop)
    }

    /// Lets a domain use frames of device memory, or takes that back.
    ///
    /// # Errors
    /// `EPERM` for frames that dom0 itself may not use.
    pub fn iomem_permission(
        &self,
        domain: DomId,
        argument: XenDomctlIomemPermission,
    ) -> Result<()> {
        let name = "XEN_DOMCTL_iomem_permission";
        self.domctl_set(name, XEN_DOMCTL_iomem_permission, domain, argument)
    }

    /// Lets a domain use I/O ports, or takes that back.
    ///
    /// # Errors
    /// `EPERM` for ports that dom0 itself may not use.
    pub fn ioport_permission(
        &self,
        domain: DomId,
        argument: XenDomctlIoportPermission,
    ) -> Result<()> {
        let name = "XEN_DOMCTL_ioport_permission";
        self.domctl_set(name, XEN_DOMCTL_ioport_permission, domain, argument)
    }
}
