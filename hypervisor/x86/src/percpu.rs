//! The per-CPU block, reached through GS.

use alloc::boxed::Box;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Once;
use xen_abi::PcpuId;

use crate::cpu::{self, msr};

/// Most CPUs that the hypervisor drives.
pub const MAX_CPUS: usize = 256;

/// What one physical CPU owns. `self_ptr` and `id` are at offsets that assembly knows.
#[repr(C)]
pub struct PerCpu {
    self_ptr: Cell<*const PerCpu>,
    id: PcpuId,
    apic_id: u32,
    /// A kick that no interrupt window has consumed yet (debug aid and idle check).
    pub kicked: AtomicBool,
    /// Nesting of trap handlers, to recognise a fault in the fault path.
    pub trap_depth: AtomicU32,
    /// Interrupts taken, for the watchdog and the debug keys.
    pub irq_count: AtomicU64,
    /// When its timer interrupt came last, for the watchdog.
    pub heartbeat: AtomicU64,
    /// What other CPUs ask of it by NMI.
    pub nmi: crate::nmi::Mailbox,
}

// SAFETY: `self_ptr` is written once before the block is shared; everything else is atomic or immutable.
unsafe impl Sync for PerCpu {}
// SAFETY: as above.
unsafe impl Send for PerCpu {}

static BLOCKS: [Once<&'static PerCpu>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];
static ONLINE: AtomicU32 = AtomicU32::new(0);

/// Makes the block of the CPU that runs this and loads GS.
pub fn init(id: PcpuId, apic_id: u32) {
    let b: &'static PerCpu = Box::leak(Box::new(PerCpu {
        self_ptr: Cell::new(core::ptr::null()),
        id,
        apic_id,
        kicked: AtomicBool::new(false),
        trap_depth: AtomicU32::new(0),
        irq_count: AtomicU64::new(0),
        heartbeat: AtomicU64::new(0),
        nmi: crate::nmi::Mailbox::new(),
    }));
    b.self_ptr.set(b);
    cpu::wrmsr(msr::GS_BASE, core::ptr::from_ref(b) as u64);
    BLOCKS[id.0 as usize].call_once(|| b);
    ONLINE.fetch_add(1, Ordering::AcqRel);
}

/// The block of this CPU.
#[inline]
#[must_use]
pub fn this() -> &'static PerCpu {
    let p: *const PerCpu;
    // SAFETY: GS points to this CPU's block from `init` on; its first word is its own address.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) p, options(nostack, readonly, preserves_flags));
    }
    // SAFETY: leaked in `init`.
    unsafe { &*p }
}

/// Index of this CPU for the check of lock order; out of range before [`init`].
#[must_use]
pub fn lock_index() -> usize {
    if is_up() {
        this().id().0 as usize
    } else {
        usize::MAX
    }
}

/// Whether [`init`] ran on this CPU.
#[must_use]
pub fn is_up() -> bool {
    cpu::rdmsr(msr::GS_BASE) != 0
}

impl PerCpu {
    /// Dense index of the CPU.
    #[inline]
    #[must_use]
    pub fn id(&self) -> PcpuId {
        self.id
    }
    /// Its local APIC's id.
    #[inline]
    #[must_use]
    pub fn apic_id(&self) -> u32 {
        self.apic_id
    }
}

/// The block of another CPU.
#[must_use]
pub fn of(id: PcpuId) -> Option<&'static PerCpu> {
    BLOCKS.get(id.0 as usize).and_then(|b| b.get().copied())
}

/// CPUs that are up.
#[inline]
#[must_use]
pub fn online() -> u32 {
    ONLINE.load(Ordering::Acquire)
}
