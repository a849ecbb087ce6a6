//! A machine whose devices remember what was asked of them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{FakeHvm, FakeMem, FakeUnit};
use crate::machine::{Clock, Cpus, Fault, FrameMem, Machine, PinSetup, Platform};
use crate::sync::{Lock, Rank};
use xen_abi::{Gsi, Maddr, Ns, PcpuId, Vector};

/// Memory, a clock that tests move, and a record of the rest.
pub struct FakeMachine {
    mem: FakeMem,
    hvm: FakeHvm,
    now: AtomicU64,
    cpus: u32,
    /// CPUs that were kicked.
    pub kicks: Lock<Vec<u32>>,
    /// Writes to device memory.
    pub mmio: Lock<Vec<(u64, u64)>>,
    /// Command MSRs that were written.
    pub msrs: Lock<Vec<(u32, u64)>>,
}

/// No list grows beyond this: nobody looks at more.
const REMEMBERED: usize = 64;

fn remember<T>(list: &Lock<Vec<T>>, item: T) {
    let mut list = list.lock();
    if list.len() < REMEMBERED {
        list.push(item);
    }
}

impl FakeMachine {
    /// A machine of one CPU with this memory at time 0.
    #[must_use]
    pub fn new(mem: FakeMem) -> Self {
        Self::with_cpus(mem, 1)
    }

    /// A machine of several CPUs. Code that asks runs on the first.
    #[must_use]
    pub fn with_cpus(mem: FakeMem, cpus: u32) -> Self {
        let list = || Lock::new(Rank::Leaf, Vec::new());
        Self {
            mem,
            hvm: FakeHvm,
            now: AtomicU64::new(0),
            cpus,
            kicks: list(),
            mmio: Lock::new(Rank::Leaf, Vec::new()),
            msrs: Lock::new(Rank::Leaf, Vec::new()),
        }
    }

    /// Lets time pass.
    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::Relaxed);
    }
}

impl FrameMem for FakeMachine {
    crate::frame_mem_by!(|machine| machine.mem);
}

impl Clock for FakeMachine {
    fn now(&self) -> Ns {
        Ns(self.now.load(Ordering::Relaxed))
    }
    fn tsc(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn set_deadline(&self, _: Option<Ns>) {}
}

impl Cpus for FakeMachine {
    fn this_cpu(&self) -> PcpuId {
        PcpuId(0)
    }
    fn cpu_count(&self) -> u32 {
        self.cpus
    }
    fn kick(&self, cpu: PcpuId) {
        remember(&self.kicks, cpu.0);
    }
    fn kick_and_wait(&self, cpu: PcpuId) {
        self.kick(cpu);
    }
}

impl Platform for FakeMachine {
    fn bind_gsi(&self, _: Gsi, _: PinSetup, _: PcpuId) -> bool {
        true
    }
    fn mask_gsi(&self, _: Gsi, _: bool) {}
    fn msi_message(&self, _: Vector, _: PcpuId) -> (u64, u32) {
        (0, 0)
    }
    fn port_in(&self, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&self, _: u16, _: u8, _: u32) {}
    fn mmio_read(&self, _: Maddr, _: u8) -> u64 {
        u64::MAX
    }
    fn mmio_write(&self, at: Maddr, _: u8, val: u64) {
        remember(&self.mmio, (at.0, val));
    }
    fn console_write(&self, _: &[u8]) {}
    fn console_read(&self) -> Option<u8> {
        None
    }
    fn write_msr(&self, msr: u32, val: u64) {
        remember(&self.msrs, (msr, val));
    }
    fn idle(&self) {}
    fn irq_window(&self) {
        crate::sync::assert_none_held();
    }
    fn dump_cpu(&self, _: PcpuId, _: &mut dyn core::fmt::Write) -> core::fmt::Result {
        Ok(())
    }
    fn dump_pins(&self, _: &mut dyn core::fmt::Write) -> core::fmt::Result {
        Ok(())
    }
    fn heartbeat(&self) {}
    fn provoke(&self, fault: Fault) -> ! {
        panic!("{fault:?} was asked for")
    }
    fn reboot(&self) -> ! {
        panic!("the machine was rebooted")
    }
    fn stop(&self) -> ! {
        panic!("the machine was stopped")
    }
    fn power_off(&self) -> ! {
        panic!("the machine was switched off")
    }
}

impl Machine for FakeMachine {
    type Hvm = FakeHvm;
    fn hvm(&self) -> &FakeHvm {
        &self.hvm
    }
    type Remapper = Arc<FakeUnit>;
}
