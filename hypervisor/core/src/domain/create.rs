//! Domains and vCPUs come into being.

use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};

use spin::Once;
use xen_abi::{DomId, Errno, VcpuId};

use super::{Domain, DomainPolicy, RUNNING, Stage, Tsc, Vcpu, no_params};
use crate::cpu_policy::{CpuPolicy, GuestKind, Settings};
use crate::evtchn::EvtchnTable;
use crate::grant::{self, GrantTable};
use crate::hvm::backend::HvmBackend;
use crate::hvm::vioapic::Vioapics;
use crate::hvm::vlapic::Vlapic;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::mm::XenFrames;
use crate::p2m::P2m;
use crate::sched::{CpuMask, GroupId, Params, Scheduler, UnitId};
use crate::sync::{Lock, Rank};

/// Most vCPUs of a domain.
pub const MAX_VCPUS: u32 = 128;

/// What an unprivileged PVH domain is made with (`xen_domctl_createdomain`).
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Its number: free, and not 0.
    pub id: DomId,
    /// `xen_domain_handle_t`.
    pub handle: [u8; 16],
    /// vCPUs that it can have.
    pub max_vcpus: u32,
    /// Highest event-channel port.
    pub max_evtchn_port: u32,
    /// Limits of its grants.
    pub grants: grant::Config,
    /// It runs the xenstore daemon.
    pub is_xenstore: bool,
}

/// The policy that a PVH domain begins with.
pub(crate) fn default_policy<M: Machine>(hv: &Hypervisor<M>, id: DomId, vcpus: u32) -> CpuPolicy {
    let mut settings = Settings::new(GuestKind::Pvh, vcpus);
    settings.has_reliable_tsc = true;
    settings.xen.domid = id;
    settings.xen.is_host_tsc_reliable = true;
    let khz = u32::try_from(hv.clock.hz() / 1000).unwrap_or(u32::MAX);
    (settings.xen.guest_khz, settings.xen.host_khz) = (khz, khz);
    // Without hardware APIC virtualisation the callback vector saves an EOI exit per event.
    settings.xen.hvm_features = xen_abi::cpuid::XEN_HVM_CPUID_IOMMU_MAPPINGS;
    CpuPolicy::new(&hv.host_cpuid, &settings)
}

/// Parts of a domain that hold frames; dropped together when one of them cannot be had.
struct Parts<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    id: DomId,
    p2m: Option<super::P2mOf<M>>,
    hw: Option<super::HwDomain<M>>,
    shared_info: Option<xen_abi::Mfn>,
    group: Option<GroupId>,
}

impl<M: Machine> Drop for Parts<'_, M> {
    fn drop(&mut self) {
        let src: XenFrames<'_, M> = self.hv.mm.xen(&self.hv.machine);
        if let Some(hw) = self.hw.take() {
            self.hv.machine.hvm().free_domain(hw, &src);
        }
        if let Some(p2m) = self.p2m.take() {
            p2m.free(&src);
        }
        if let Some(mfn) = self.shared_info.take() {
            let _ = self.hv.mm.put_shared(mfn, self.id);
        }
        if let Some(group) = self.group.take() {
            self.hv.sched.remove_group(group);
            self.hv.group_ids.put(group.0);
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Makes an unprivileged domain without vCPUs and memory, paused once by the toolstack.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL`, `EEXIST`, `ENOSPC`.
    pub fn create_domain(&self, config: Config) -> Result<Arc<Domain<M>>, Errno> {
        if config.max_vcpus == 0 || config.max_vcpus > MAX_VCPUS {
            return Err(Errno::EINVAL);
        }
        let id = config.id;
        let src = self.mm.xen(&self.machine);
        let mut parts = Parts {
            hv: self,
            id,
            p2m: Some(P2m::new(&src, id, self.leaf_limit)?),
            hw: None,
            shared_info: None,
            group: None,
        };
        let root = parts.p2m.as_ref().map(P2m::root).ok_or(Errno::ENOMEM)?;
        let hw = self.machine.hvm().new_domain(&src, root);
        parts.hw = Some(hw.ok_or(Errno::ENOMEM)?);
        let shared_info = self.mm.alloc_shared(&self.machine, id)?;
        parts.shared_info = Some(shared_info);
        let group = GroupId(self.group_ids.take().ok_or(Errno::ENOSPC)?);
        parts.group = Some(group);
        self.sched.insert_group(group, Params::default())?;
        let evtchn = EvtchnTable::new(
            id,
            config.max_vcpus,
            shared_info.maddr(),
            config.max_evtchn_port,
            0,
        )?;
        let policy = DomainPolicy::new(default_policy(self, id, config.max_vcpus));
        let vcpus: Box<[Once<Arc<Vcpu<M>>>]> = (0..config.max_vcpus).map(|_| Once::new()).collect();
        let grant = GrantTable::new(&self.machine, self.mm, id, config.grants)?;
        let (Some(p2m), Some(hw)) = (parts.p2m.take(), parts.hw.take()) else {
            grant.set_dying();
            let _ = grant.free_frames(self.mm);
            return Err(Errno::ENOMEM);
        };
        (parts.shared_info, parts.group) = (None, None);
        let d = Arc::new(Domain {
            id,
            is_privileged: false,
            is_hardware: false,
            is_direct_mapped: false,
            vcpus,
            p2m,
            hw,
            evtchn,
            policy,
            ioapics: Vioapics::new(alloc::vec::Vec::new()),
            shared_info,
            params: no_params(),
            callback_vector: AtomicU32::new(0),
            vm_assist: AtomicU64::new(0),
            shutdown: AtomicU32::new(RUNNING),
            is_dying: AtomicBool::new(false),
            memory_map: Lock::new(Rank::Leaf, alloc::vec::Vec::new()),
            grant,
            group,
            is_xenstore: config.is_xenstore,
            pauses: AtomicU32::new(1),
            controller_pauses: AtomicU32::new(1),
            is_busy: AtomicBool::new(false),
            stage: Lock::new(Rank::Leaf, Stage::Alive),
            tsc: Lock::new(Rank::Leaf, Tsc::default()),
            time_offset: AtomicI64::new(0),
            paging_pool: AtomicU64::new(0),
            shutdown_code: AtomicU32::new(RUNNING),
            watchdogs: crate::domain::watchdog::Watchdogs::default(),
            handle: Lock::new(Rank::Leaf, config.handle),
            hardware: None,
        });
        intercepts(self, &d);
        if let Err(e) = self.domains.insert(d.clone()) {
            // Somebody was faster with this number: unmake it without its ever having been seen.
            *d.stage.lock() = Stage::Dead;
            d.grant.set_dying();
            d.evtchn.set_dying();
            let _ = d.grant.free_frames(self.mm);
            self.discard(d);
            return Err(e);
        }
        // Whoever sets the time either sees the domain in the table, or was before this.
        self.publish_wallclock(&d);
        Ok(d)
    }

    /// Makes a vCPU, down and with the domain's pauses.
    ///
    /// # Errors
    /// `EEXIST` when it is there, `EINVAL` beyond the domain's limit, `ENOMEM`, `ENOSPC`.
    pub fn create_vcpu(&self, d: &Arc<Domain<M>>, id: VcpuId) -> Result<(), Errno> {
        let slot = d.vcpus.get(id.0 as usize).ok_or(Errno::EINVAL)?;
        if slot.get().is_some() {
            return Err(Errno::EEXIST);
        }
        let src = self.mm.xen(&self.machine);
        let hvm = self.machine.hvm();
        let mut hw = hvm.new_vcpu(&src, &d.hw).ok_or(Errno::ENOMEM)?;
        crate::hvm::intr::reset_state(hvm, &mut hw);
        let Some(unit) = self.unit_ids.take().map(UnitId) else {
            hvm.free_vcpu(hw, &src);
            return Err(Errno::ENOSPC);
        };
        let all = &CpuMask::ALL;
        let known = self
            .timers
            .register(unit)
            .then_some(())
            .ok_or(Errno::ENOSPC);
        let known =
            known.and_then(|()| self.sched.insert_unit(unit, d.group, all, all, self.now()));
        if let Err(e) = known {
            hvm.free_vcpu(hw, &src);
            self.unit_ids.put(unit.0);
            return Err(e);
        }
        let weak: Weak<Domain<M>> = Arc::downgrade(d);
        let lapic = Vlapic::new(id, false);
        let v = Arc::new(Vcpu::new(&weak, d.id, id, unit, lapic, Box::new(hw)));
        v.pause_count
            .store(d.pauses.load(Ordering::SeqCst), Ordering::SeqCst);
        if id.0 < xen_abi::arch_x86::XEN_LEGACY_MAX_VCPUS {
            // Until the guest registers its own, vcpu_info lies in shared_info.
            v.info.store(
                d.shared_info.maddr().0 + 64 * u64::from(id.0),
                Ordering::Release,
            );
            self.publish_time(d, &v);
        }
        self.add_unit(&v);
        slot.call_once(|| v);
        Ok(())
    }
}

/// Opens the MSRs that are switched with a vCPU; all else of an unprivileged domain traps.
pub(crate) fn intercepts<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>) {
    for (msr, trap) in crate::hvm::msr::pass_through(d.policy.features()) {
        hv.machine.hvm().trap_msr(&d.hw, msr, trap);
    }
}

/// Closes them, before another policy comes into force.
pub(crate) fn close_msrs<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>) {
    use crate::hvm::backend::Trap;
    let (read, write) = (true, true);
    for (msr, _) in crate::hvm::msr::pass_through(d.policy.features()) {
        hv.machine.hvm().trap_msr(&d.hw, msr, Trap { read, write });
    }
}
