//! `vcpu_info`: where it lies, moving it, and the upcall flags in it.

use xen_abi::{Errno, Maddr, VcpuId};

use super::layout::{InfoWidth, VCPU_INFO_SIZE, upcall_mask, upcall_pending};
use super::table::{EvtchnTable, Raise};
use crate::machine::FrameMem;

impl EvtchnTable {
    /// Where a vCPU's `vcpu_info` lies now.
    pub fn vcpu_info(&self, vcpu: VcpuId) -> Option<Maddr> {
        self.lock().info(vcpu)
    }

    /// Whether `evtchn_upcall_pending` is set, and not masked if `masks` (PV guests).
    pub fn upcall_pending<M: FrameMem>(&self, mem: &M, vcpu: VcpuId, masks: bool) -> bool {
        self.vcpu_info(vcpu).is_some_and(|info| {
            mem.load8(upcall_pending(info)) != 0 && !(masks && mem.load8(upcall_mask(info)) != 0)
        })
    }

    /// Moves a vCPU's `vcpu_info` (`VCPUOP_register_vcpu_info`).
    ///
    /// The caller has checked that none was registered before, that the block
    /// lies within one page with natural alignment, and holds a reference; it
    /// also paused the vCPU if it is not the caller's.  Contents are copied,
    /// then everything is marked pending so that no event gets lost on the
    /// way; the guest copes with the spurious one.  Time fields of the new
    /// block are the caller's to refresh.
    pub fn set_vcpu_info<M: FrameMem>(
        &self,
        mem: &M,
        vcpu: VcpuId,
        new: Maddr,
    ) -> Result<Raise, Errno> {
        let mut t = self.lock();
        let width = t.two_level.width;
        let v = t.vcpus.get_mut(vcpu.0 as usize).ok_or(Errno::ENOENT)?;
        let mut contents = [0u8; VCPU_INFO_SIZE as usize];
        match v.info {
            Some(old) => mem.copy_from(old, &mut contents),
            // Upcalls start masked where masking counts.
            None => contents[1] = 1,
        }
        mem.copy_to(new, &contents);
        v.info = Some(new);
        match width {
            InfoWidth::W32 => mem.store32(Maddr(new.0 + 4), u32::MAX),
            InfoWidth::W64 => mem.store64(Maddr(new.0 + 8), u64::MAX),
        }
        Ok(Raise {
            upcall: t.mark_upcall(mem, vcpu),
            wakeups: false,
        })
    }

    /// Puts a vCPU's `vcpu_info` back into `shared_info` when the domain is reset.
    ///
    /// Returns the block that was in use if it was a registered one, whose
    /// reference the caller drops.
    pub fn reset_vcpu_info(&self, vcpu: VcpuId) -> Option<Maddr> {
        let mut t = self.lock();
        let legacy = (vcpu.0 < super::layout::LEGACY_MAX_VCPUS)
            .then(|| Maddr(t.two_level.shared_info.0 + VCPU_INFO_SIZE * u64::from(vcpu.0)));
        let v = t.vcpus.get_mut(vcpu.0 as usize)?;
        let old = core::mem::replace(&mut v.info, legacy);
        old.filter(|_| old != legacy)
    }
}
