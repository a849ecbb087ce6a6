//! The seams between decisions and hardware.
//!
//! `radon-x86` implements them on the metal, [`crate::testing`] on the host.
//! All are used through generics, so a call on a hot path is a direct call.

use xen_abi::{Gsi, Maddr, Mfn, Ns, PcpuId, Vector};

/// Access to the contents of physical frames.
///
/// Guest frames can change under our hands at any time, so there are no
/// references into them: only atomic words and copies.  The caller holds a
/// reference on every frame that it names.  Words are naturally aligned
/// (implementations may panic otherwise); copies may have any alignment and
/// may cross frame boundaries of machine-contiguous memory.
/// Loads are `Acquire`, stores `Release`, read-modify-writes `AcqRel` or stronger.
pub trait FrameMem {
    /// Loads a byte.
    fn load8(&self, at: Maddr) -> u8;
    /// Stores a byte.
    fn store8(&self, at: Maddr, v: u8);
    /// Atomically swaps a byte, returns the old value.
    fn swap8(&self, at: Maddr, v: u8) -> u8;
    /// Loads 32 bits.
    fn load32(&self, at: Maddr) -> u32;
    /// Stores 32 bits.
    fn store32(&self, at: Maddr, v: u32);
    /// Compare and exchange; `Ok(old)` when it was equal and replaced, `Err(seen)` otherwise.
    fn cmpxchg32(&self, at: Maddr, old: u32, new: u32) -> Result<u32, u32>;
    /// Atomic OR, returns the old value.
    fn fetch_or32(&self, at: Maddr, v: u32) -> u32;
    /// Atomic AND, returns the old value.
    fn fetch_and32(&self, at: Maddr, v: u32) -> u32;
    /// Loads 64 bits.
    fn load64(&self, at: Maddr) -> u64;
    /// Stores 64 bits.
    fn store64(&self, at: Maddr, v: u64);
    /// Compare and exchange; `Ok(old)` when it was equal and replaced, `Err(seen)` otherwise.
    fn cmpxchg64(&self, at: Maddr, old: u64, new: u64) -> Result<u64, u64>;
    /// Atomic OR, returns the old value.
    fn fetch_or64(&self, at: Maddr, v: u64) -> u64;
    /// Atomic AND, returns the old value.
    fn fetch_and64(&self, at: Maddr, v: u64) -> u64;
    /// Copies out of memory.
    fn copy_from(&self, at: Maddr, to: &mut [u8]);
    /// Copies into memory.
    fn copy_to(&self, at: Maddr, from: &[u8]);
    /// Copies between two places that do not overlap.
    ///
    /// Implementations that can do so copy directly.
    fn copy(&self, to: Maddr, from: Maddr, len: usize) {
        let mut buffer = [0; 256];
        let mut done = 0;
        while done < len {
            let part = &mut buffer[..(len - done).min(256)];
            self.copy_from(Maddr(from.0 + done as u64), part);
            self.copy_to(Maddr(to.0 + done as u64), part);
            done += part.len();
        }
    }
    /// Fills a frame with zeros.
    fn zero_frame(&self, mfn: Mfn);
    /// Copies a whole frame.
    fn copy_frame(&self, to: Mfn, from: Mfn);
    /// Brings what the CPUs' caches hold of these bytes to memory, for devices that do not look
    /// into caches; later stores come after it. Nothing to do where nobody looks past them.
    #[inline]
    fn write_back(&self, at: Maddr, len: usize) {
        let _ = (at, len);
    }
}

/// The body of a [`FrameMem`] that hands every operation on, those with a default too: a machine
/// must not lose the short way that its memory has.
#[macro_export]
macro_rules! frame_mem_by {
    (|$machine:pat_param| $memory:expr) => {
        $crate::frame_mem_by! { @ |$machine| $memory;
            fn load8(at: ::xen_abi::Maddr) -> u8;
            fn store8(at: ::xen_abi::Maddr, v: u8);
            fn swap8(at: ::xen_abi::Maddr, v: u8) -> u8;
            fn load32(at: ::xen_abi::Maddr) -> u32;
            fn store32(at: ::xen_abi::Maddr, v: u32);
            fn cmpxchg32(at: ::xen_abi::Maddr, old: u32, new: u32) -> Result<u32, u32>;
            fn fetch_or32(at: ::xen_abi::Maddr, v: u32) -> u32;
            fn fetch_and32(at: ::xen_abi::Maddr, v: u32) -> u32;
            fn load64(at: ::xen_abi::Maddr) -> u64;
            fn store64(at: ::xen_abi::Maddr, v: u64);
            fn cmpxchg64(at: ::xen_abi::Maddr, old: u64, new: u64) -> Result<u64, u64>;
            fn fetch_or64(at: ::xen_abi::Maddr, v: u64) -> u64;
            fn fetch_and64(at: ::xen_abi::Maddr, v: u64) -> u64;
            fn copy_from(at: ::xen_abi::Maddr, to: &mut [u8]);
            fn copy_to(at: ::xen_abi::Maddr, from: &[u8]);
            fn copy(to: ::xen_abi::Maddr, from: ::xen_abi::Maddr, len: usize);
            fn zero_frame(mfn: ::xen_abi::Mfn);
            fn copy_frame(to: ::xen_abi::Mfn, from: ::xen_abi::Mfn);
            fn write_back(at: ::xen_abi::Maddr, len: usize);
        }
    };
    (@ |$machine:pat_param| $memory:expr;
        $(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        $(
            #[inline]
            fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                let $machine = self;
                ($memory).$name($($arg),*)
            }
        )*
    };
}

/// The time base.
pub trait Clock {
    /// Nanoseconds since the hypervisor started; same on all CPUs, never goes back.
    fn now(&self) -> Ns;
    /// The raw time-stamp counter.
    fn tsc(&self) -> u64;
    /// Arms this CPU's one-shot timer; `None` disarms. A deadline in the past fires at once.
    fn set_deadline(&self, deadline: Option<Ns>);
}

/// Physical CPUs as the rest of the hypervisor sees them.
pub trait Cpus {
    /// The CPU that runs this code.
    fn this_cpu(&self) -> PcpuId;
    /// Number of CPUs that are online; ids are `0..n`.
    fn cpu_count(&self) -> u32;
    /// Makes `cpu` leave its guest or its idle sleep and look at its work again.
    fn kick(&self, cpu: PcpuId);
    /// As [`Cpus::kick`], and waits until `cpu` has left its guest. Lets interrupts in; the caller holds no lock.
    fn kick_and_wait(&self, cpu: PcpuId);
}

/// Where frames for the hypervisor's own structures come from (page tables, VMCS, bitmaps).
pub trait FrameSource {
    /// Allocates 2^`order` contiguous, zeroed, naturally aligned frames.
    fn alloc_frames(&self, order: u8) -> Option<Mfn>;
    /// Gives back what [`FrameSource::alloc_frames`] returned.
    fn free_frames(&self, mfn: Mfn, order: u8);
}

/// What a device interrupt pin looks like to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinSetup {
    /// Host vector that it raises.
    pub vector: Vector,
    /// Level-triggered.
    pub is_level: bool,
    /// Active low.
    pub is_low: bool,
}

/// Ways to break the hypervisor on purpose, to see what it reports (`debug_faults`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write to an address that is not mapped.
    Page,
    /// Endless recursion, into the guard page of the stack.
    Stack,
    /// A loop with interrupts off.
    Hang,
}

/// Devices that the hypervisor keeps: interrupt controllers, ports that it forwards, the console.
pub trait Platform {
    /// Routes a pin of the physical IO-APICs to `cpu` and unmasks it; false when there is no such pin.
    fn bind_gsi(&self, gsi: Gsi, pin: PinSetup, cpu: PcpuId) -> bool;
    /// Masks or unmasks a pin.
    fn mask_gsi(&self, gsi: Gsi, mask: bool);
    /// Address and data that make a device raise `vector` on `cpu`.
    fn msi_message(&self, vector: Vector, cpu: PcpuId) -> (u64, u32);
    /// Reads a port of 1, 2 or 4 bytes for dom0.
    fn port_in(&self, port: u16, size: u8) -> u32;
    /// Writes a port for dom0.
    fn port_out(&self, port: u16, size: u8, val: u32);
    /// Reads device memory of 1, 2, 4 or 8 bytes.
    fn mmio_read(&self, at: Maddr, size: u8) -> u64;
    /// Writes device memory.
    fn mmio_write(&self, at: Maddr, size: u8, val: u64);
    /// Bytes for the console.
    fn console_write(&self, bytes: &[u8]);
    /// Takes a byte that arrived on the console's line.
    fn console_read(&self) -> Option<u8>;
    /// Writes a command MSR that the policy has checked.
    fn write_msr(&self, msr: u32, val: u64);
    /// Sleeps until an interrupt; interrupts are off before and after.
    fn idle(&self);
    /// Lets pending interrupts in.
    fn irq_window(&self);
    /// Writes where a CPU is in the hypervisor, which may be stuck there, and its registers.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    fn dump_cpu(&self, cpu: PcpuId, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
    /// Writes the entries of the physical IO-APICs.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    fn dump_pins(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
    /// Tells the watchdog that this CPU is alive.
    fn heartbeat(&self);
    /// Breaks the hypervisor on this CPU, on purpose.
    fn provoke(&self, fault: Fault) -> !;
    /// Resets the machine.
    fn reboot(&self) -> !;
    /// Stops all CPUs for good.
    fn stop(&self) -> !;
    /// Switches the machine off, or stops when that fails.
    fn power_off(&self) -> !;
}

/// Everything that the core asks of the hardware.
pub trait Machine: FrameMem + Clock + Cpus + Platform + Send + Sync + 'static {
    /// Virtualisation backend.
    type Hvm: crate::hvm::backend::HvmBackend;
    /// The backend.
    fn hvm(&self) -> &Self::Hvm;
    /// The registers of a remapping unit.
    type Remapper: crate::iommu::Registers;
}
