//! `vcpu_time_info` and the wall clock: what guests read to tell the time.
//!
//! Layouts are those of `public/xen.h`.  Both are read without a lock: the writer
//! makes the version odd, writes, and makes it even again; the reader retries while
//! the version is odd or has changed.  The version is read back from the guest's
//! page, because a guest that registers another `vcpu_info` takes its content along;
//! one that scribbles over it confuses only itself.
//!
//! All stores of [`FrameMem`] are releases, so they reach the reader in program order.

use super::scale::{TscClock, TscScale};
use crate::machine::FrameMem;
use xen_abi::{Maddr, Ns};

/// Offset of `vcpu_time_info` in a 64-bit (and 32-bit HVM) `vcpu_info`.
pub const VCPU_INFO_TIME: u64 = 32;
/// Size of `vcpu_time_info`.
pub const VCPU_TIME_INFO_SIZE: u64 = 32;
/// `XEN_PVCLOCK_TSC_STABLE_BIT`: time stamps are comparable between vCPUs.
pub const PVCLOCK_TSC_STABLE: u8 = 1 << 0;

/// The values of a `vcpu_time_info`, without its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuTime {
    /// Guest TSC at `system_time`.
    pub tsc_timestamp: u64,
    /// System time at `tsc_timestamp`.
    pub system_time: Ns,
    /// Guest ticks to nanoseconds.
    pub scale: TscScale,
    /// `PVCLOCK_*` bits.
    pub flags: u8,
}

impl VcpuTime {
    /// For a guest whose TSC runs at the host's rate, shifted by `tsc_offset`
    /// (guest = host + offset, wrapping as the hardware's offset does).
    ///
    /// With a constant TSC this never needs an update, since the whole of a 64-bit
    /// tick count can be scaled.
    #[must_use]
    pub fn with_offset(clock: &TscClock, tsc_offset: u64) -> Self {
        Self {
            tsc_timestamp: clock.base_tsc().wrapping_add(tsc_offset),
            system_time: Ns(0),
            scale: clock.scale(),
            flags: PVCLOCK_TSC_STABLE,
        }
    }

    /// What the guest computes at `guest_tsc`.
    #[must_use]
    pub fn read(&self, guest_tsc: u64) -> Ns {
        let ticks = guest_tsc.wrapping_sub(self.tsc_timestamp);
        Ns(self.system_time.0.wrapping_add(self.scale.to_ns(ticks)))
    }

    /// Writes the 32 bytes at `at` (8-byte aligned, within one frame).
    pub fn publish(&self, mem: &impl FrameMem, at: Maddr) {
        let version = begin(mem, at);
        mem.store64(add(at, 8), self.tsc_timestamp);
        mem.store64(add(at, 16), self.system_time.0);
        mem.store32(add(at, 24), self.scale.mul);
        let [shift] = self.scale.shift.to_le_bytes();
        mem.store32(add(at, 28), u32::from(shift) | u32::from(self.flags) << 8);
        end(mem, at, version);
    }
}

/// Wall clock: UTC at system time 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Seconds since 1970.
    pub sec: u64,
    /// Nanoseconds, below 10^9.
    pub nsec: u32,
}

/// Which of the two layouts of `shared_info` a domain uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SharedInfoLayout {
    /// `wc_*` at 0xc00.
    Bits64,
    /// `wc_*` at 0x900, upper seconds in the architecture part.
    Bits32,
}

impl WallClock {
    /// From a `XENPF_settime64` (`secs`, `nsecs` at `system_time`).
    ///
    /// `None` when it would lie before 1970 at system time 0 or `nsecs` is not below 10^9.
    #[must_use]
    pub fn from_settime(secs: u64, nsecs: u32, system_time: Ns) -> Option<Self> {
        if nsecs >= 1_000_000_000 {
            return None;
        }
        let then = u128::from(secs) * 1_000_000_000 + u128::from(nsecs);
        let base = then.checked_sub(u128::from(system_time.0))?;
        Some(Self {
            sec: u64::try_from(base / 1_000_000_000).ok()?,
            nsec: (base % 1_000_000_000) as u32,
        })
    }

    /// UTC at `system_time`, as seconds and nanoseconds.
    #[must_use]
    pub fn at(&self, system_time: Ns) -> (u64, u32) {
        let ns = u64::from(self.nsec) + system_time.0 % 1_000_000_000;
        let sec = self
            .sec
            .wrapping_add(system_time.0 / 1_000_000_000)
            .wrapping_add(ns / 1_000_000_000);
        (sec, (ns % 1_000_000_000) as u32)
    }

    /// Writes `wc_version`, `wc_sec`, `wc_nsec` and the upper seconds into the
    /// `shared_info` page that starts at `shared_info`; with a domain's own time
    /// offset (`XEN_DOMCTL_settimeoffset`) in seconds.
    pub fn publish(
        &self,
        mem: &impl FrameMem,
        shared_info: Maddr,
        layout: SharedInfoLayout,
        offset_seconds: i64,
    ) {
        let (wc, sec_hi) = match layout {
            SharedInfoLayout::Bits64 => (add(shared_info, 0xc00), add(shared_info, 0xc0c)),
            SharedInfoLayout::Bits32 => (add(shared_info, 0x900), add(shared_info, 0x924)),
        };
        let sec = self.sec.wrapping_add_signed(offset_seconds);
        let version = begin(mem, wc);
        mem.store32(add(wc, 4), sec as u32);
        mem.store32(add(wc, 8), self.nsec);
        mem.store32(sec_hi, (sec >> 32) as u32);
        end(mem, wc, version);
    }
}

fn add(at: Maddr, offset: u64) -> Maddr {
    Maddr(at.0 + offset)
}

/// Makes the version odd; returns the odd value.
fn begin(mem: &impl FrameMem, at: Maddr) -> u32 {
    let odd = mem.load32(at).wrapping_add(1) | 1;
    mem.store32(at, odd);
    odd
}

fn end(mem: &impl FrameMem, at: Maddr, odd: u32) {
    mem.store32(at, odd.wrapping_add(1));
}

#[cfg(test)]
#[path = "pvclock_tests.rs"]
mod tests;
