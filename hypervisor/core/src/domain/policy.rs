//! A domain's CPU policy, which its vCPUs read at every CPUID exit without a lock.

use crate::sync::atomic::{AtomicUsize, Ordering};
use alloc::boxed::Box;
use core::ops::Deref;

use spin::Once;
use xen_abi::Errno;

use crate::cpu_policy::CpuPolicy;

/// How often the toolstack may replace the policy: once when it builds a domain, once when it
/// restores one, and some more.
const REPLACEMENTS: usize = 7;

/// The policy in force, and those that it replaced, which readers may still look at.
pub struct DomainPolicy {
    first: CpuPolicy,
    later: [Once<Box<CpuPolicy>>; REPLACEMENTS],
    /// Number of replacements.
    current: AtomicUsize,
}

impl DomainPolicy {
    /// The policy that a domain begins with.
    #[must_use]
    pub const fn new(first: CpuPolicy) -> Self {
        Self {
            first,
            later: [const { Once::new() }; REPLACEMENTS],
            current: AtomicUsize::new(0),
        }
    }

    /// Replaces the policy. The domain does not run, and one caller at a time does this.
    ///
    /// # Errors
    /// `E2BIG` when it was replaced too often.
    pub fn replace(&self, policy: CpuPolicy) -> Result<(), Errno> {
        let at = self.current.load(Ordering::Relaxed);
        let slot = self.later.get(at).ok_or(Errno::E2BIG)?;
        slot.call_once(|| Box::new(policy));
        self.current.store(at + 1, Ordering::Release);
        Ok(())
    }
}

impl Deref for DomainPolicy {
    type Target = CpuPolicy;
    #[inline]
    fn deref(&self) -> &CpuPolicy {
        let at = self.current.load(Ordering::Acquire);
        at.checked_sub(1)
            .and_then(|i| self.later.get(i))
            .and_then(Once::get)
            .map_or(&self.first, |p| p)
    }
}
