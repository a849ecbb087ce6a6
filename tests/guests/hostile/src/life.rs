//! The guest's life: what its command line asks for, on both vCPUs.
// UNSAFETY: reads the start info; each vCPU has its sequence in a static of its own.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use malice::{Cast, Guest, Rng, Sequence};
use xen_abi::DomId;
use xen_abi::start_info::HvmStartInfo;
use xen_abi::xen::{__HYPERVISOR_multicall, __HYPERVISOR_sched_op};

use crate::counts::{PAGE, VCPUS};
use crate::{arch, exits, rings, xen};

/// Acts between two looks after timer, tables and the other vCPU.
const ACTS: u32 = 64;

/// Turns between two looks after its memory.
const REPAIR: u64 = 8;

/// Entries of a multicall that are believed to have been made.
const MANY: u64 = 64;

/// Calls of each vCPU.
static CALLS: AtomicU64 = AtomicU64::new(0);

struct Vcpu(usize);

impl Guest for Vcpu {
    fn poke(&mut self, at: u64, bytes: &[u8]) {
        arch::poke(at, bytes);
    }

    fn hypercall(&mut self, nr: u64, args: [u64; 5]) -> bool {
        PAGE.of[self.0].calls.fetch_add(1, Ordering::Relaxed);
        // What waits needs something that ends it.
        if nr == u64::from(__HYPERVISOR_sched_op) && matches!(args[0], 1 | 3) {
            arch::arm_timer();
        }
        let result = xen::call(nr, args);
        // Each entry is a call too, and all of them were made.
        if nr == u64::from(__HYPERVISOR_multicall) && result == 0 && args[1] <= MANY {
            let calls = &PAGE.of[self.0].calls;
            calls.fetch_add(args[1], Ordering::Relaxed);
        }
        true
    }

    fn exit(&mut self, mut rng: Rng) -> bool {
        let counts = &PAGE.of[self.0];
        if rng.once_in(6) {
            rings::spoil(&mut rng);
            return true;
        }
        counts.exits.fetch_add(1, Ordering::Relaxed);
        if !exits::exit(&mut rng) {
            counts.traps.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

/// One per vCPU.
struct Sequences([UnsafeCell<Option<Sequence<Vcpu>>>; VCPUS]);

// SAFETY: each vCPU uses its own element, after the first one has filled both.
unsafe impl Sync for Sequences {}

static SEQUENCES: Sequences = Sequences([const { UnsafeCell::new(None) }; VCPUS]);

/// The number behind `name` in the command line.
fn word(line: &[u8], name: &[u8]) -> u64 {
    let found = line
        .split(|&b| b == b' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix(b"="));
    found.unwrap_or_default().iter().fold(0, |n: u64, &digit| {
        n.wrapping_mul(10)
            .wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    })
}

/// The command line.
///
/// # Safety
/// `at` is the start info that the entry was given.
unsafe fn command_line(at: u64) -> &'static [u8] {
    // SAFETY: the caller's promise; the text ends with a zero.
    unsafe {
        let text = (*(at as *const HvmStartInfo)).cmdline_paddr as *const u8;
        let mut len = 0;
        while len < 1024 && text.add(len).read() != 0 {
            len += 1;
        }
        core::slice::from_raw_parts(text, len)
    }
}

#[unsafe(no_mangle)]
extern "C" fn main64(start_info: u64) -> ! {
    arch::init();
    let own = xen::init();
    // SAFETY: the entry passes what it was given.
    let line = unsafe { command_line(start_info) };
    let cast = Cast {
        own,
        hostile: [own, DomId(word(line, b"other") as u16)],
        victim: DomId(word(line, b"victim") as u16),
        frames: word(line, b"frames").max(4096),
    };
    CALLS.store(word(line, b"calls").max(1), Ordering::Relaxed);
    let seed = word(line, b"seed");
    for (number, slot) in SEQUENCES.0.iter().enumerate() {
        let rng = Rng::of_vcpu(seed, number as u32);
        let sequence = Sequence::new(Vcpu(number), cast, number as u32, rng);
        // SAFETY: only this vCPU runs yet.
        unsafe { *slot.get() = Some(sequence) };
    }
    xen::place_pages();
    arch::guarded(rings::connect);
    xen::start_other();
    live()
}

#[unsafe(no_mangle)]
extern "C" fn main_other() -> ! {
    live()
}

/// A few acts, or as many as go before one traps.
extern "C" fn act() {
    let slot = SEQUENCES.0[arch::number()].get();
    // SAFETY: the element is this vCPU's; a trap ends the only other borrow of it.
    let Some(sequence) = (unsafe { &mut *slot }) else {
        return;
    };
    for _ in 0..ACTS {
        arch::begin();
        sequence.step();
    }
}

extern "C" fn repair() {
    xen::repair(arch::number());
}

/// Acts until the number is reached.
fn live() -> ! {
    let number = arch::number();
    let (own, other) = (&PAGE.of[number], &PAGE.of[1 - number]);
    let calls = CALLS.load(Ordering::Relaxed);
    let (mut turns, mut seen) = (0u64, 0);
    loop {
        arch::load_tables();
        arch::guarded(arch::arm_timer);
        let mut pause = 16;
        if own.calls.load(Ordering::Relaxed) < calls {
            if !arch::guarded(act) {
                own.traps.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            own.is_done.store(1, Ordering::Relaxed);
            if other.is_done.load(Ordering::Relaxed) == 1 {
                xen::shutdown(0);
            }
            xen::yields();
            pause = 4096;
        }
        turns += 1;
        if turns % REPAIR == 0 {
            arch::guarded(repair);
        }
        // Does the other one still move?
        if turns % pause == 0 {
            let now = other.calls.load(Ordering::Relaxed);
            if now == seen && other.is_done.load(Ordering::Relaxed) == 0 {
                arch::guarded(arch::wake_other);
                xen::up(1 - number as u64);
            }
            seen = now;
        }
    }
}
