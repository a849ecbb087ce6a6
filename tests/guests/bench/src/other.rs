//! A second domain: a copy of this one, memory for memory, whose vCPU begins in [`other_main`].
//!
//! Both share one CPU, so that what one waits for in the other includes the switch. They meet in a
//! page of the other's, the mailbox, which this one maps.
// UNSAFETY: hands the hypervisor pointers; reads and writes pages that both domains see.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::{self, UPCALLS};
use crate::grants;
use crate::xen::{self, APART, DOMID_SELF, MEMORY_OP, Page, SCHED_OP, call};

const DOMCTL: u64 = 36;
const IMAGE: u64 = 0x100_0000;
const STACK: usize = 16 * 1024;

unsafe extern "C" {
    static __end: u8;
}

/// Words of the mailbox.
const STAMP: usize = 0;
const SHALL_YIELD: usize = 1;
const YIELDS: usize = 2;
const CLOCK: usize = 3;
static MAILBOX: Page = Page::new();

#[repr(C, align(16))]
struct Stack([u8; STACK]);
static mut OTHER_STACK: Stack = Stack([0; STACK]);

/// The port of this domain that the copy binds.
static PORT: AtomicU64 = AtomicU64::new(0);

#[repr(C)]
struct Domctl {
    command: u32,
    version: u32,
    domain: u16,
    pad: [u16; 3],
    body: [u32; 32],
}

/// A domctl; its result, and the domain's number as it came back.
fn domctl(command: u32, domain: u16, body: &[u32]) -> (i64, u16) {
    let mut op = Domctl {
        command,
        version: 0x17,
        domain,
        pad: [0; 3],
        body: [0; 32],
    };
    op.body[..body.len()].copy_from_slice(body);
    let result = call(DOMCTL, (&raw mut op) as u64, 0, 0);
    // SAFETY: the hypervisor wrote it behind the compiler's back.
    (result, unsafe { (&raw const op.domain).read_volatile() })
}

/// Puts a frame of the other domain in the window's place, where nothing is, or another one.
fn look_at(other: u16, frame: u64) -> i64 {
    look_away();
    #[repr(C)]
    struct Batch {
        domid: u16,
        space: u16,
        size: u16,
        foreign: u16,
        frames: u64,
        places: u64,
        errors: u64,
    }
    let place = APART.window.address() >> 12;
    let mut error = 0i32;
    let batch = Batch {
        domid: DOMID_SELF,
        space: 4, // frames of another domain
        size: 1,
        foreign: other,
        frames: (&raw const frame) as u64,
        places: (&raw const place) as u64,
        errors: (&raw mut error) as u64,
    };
    let result = call(MEMORY_OP, 23, (&raw const batch) as u64, 0);
    // SAFETY: the hypervisor wrote it behind the compiler's back.
    result | i64::from(unsafe { (&raw const error).read_volatile() })
}

/// Empties the window. Xen puts no frame of a domain in the place of another.
fn look_away() {
    #[repr(C)]
    struct Remove {
        domid: u16,
        place: u64,
    }
    let remove = Remove {
        domid: DOMID_SELF,
        place: APART.window.address() >> 12,
    };
    call(MEMORY_OP, 15, (&raw const remove) as u64, 0);
}

/// `struct hvm_hw_cpu`, with what comes in rows as arrays.
#[repr(C)]
struct Cpu {
    fpu: [u64; 64],
    registers: [u64; 16],
    rip: u64,
    rflags: u64,
    /// CR0, CR2, CR3, CR4.
    control: [u64; 4],
    debug: [u64; 6],
    /// CS, DS, ES, FS, GS, SS, TR, LDTR; limits and bases have IDTR and GDTR too.
    selectors: [u32; 8],
    limits: [u32; 10],
    bases: [u64; 10],
    attributes: [u32; 8],
    sysenter: [u64; 3],
    shadow_gs: u64,
    msrs: [u64; 5],
    efer: u64,
    tsc_aux: u64,
    tsc: u64,
    rest: [u32; 4],
}

#[repr(C)]
struct Stream {
    /// Type and instance, length, for the header.
    header_is: [u32; 2],
    header: [u32; 6],
    cpu_is: [u32; 2],
    cpu: Cpu,
    end: [u32; 2],
}

/// This CPU's state, but for where it executes.
fn cpu() -> Cpu {
    let mut tables = [[0u8; 16]; 2];
    let (cr0, cr3, cr4): (u64, u64, u64);
    // SAFETY: reads control registers and stores two table registers into 10 bytes each.
    unsafe {
        asm!("mov {0}, cr0", "mov {1}, cr3", "mov {2}, cr4", "sidt [{3}]", "sgdt [{4}]",
            out(reg) cr0, out(reg) cr3, out(reg) cr4,
            in(reg) tables[0].as_mut_ptr(), in(reg) tables[1].as_mut_ptr());
    }
    let base = |table: &[u8; 16]| {
        let bytes = table[2..].first_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(bytes)
    };
    let mut registers = [0; 16];
    // Behind a call the stack is 8 below a multiple of 16.
    registers[7] = (&raw const OTHER_STACK) as u64 + STACK as u64 - 8;
    let mut bases = [0; 10];
    (bases[8], bases[9]) = (base(&tables[0]), base(&tables[1]));
    Cpu {
        fpu: [0; 64],
        registers,
        rip: other_main as *const () as u64,
        rflags: 2,
        control: [cr0, 0, cr3, cr4],
        debug: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
        selectors: [8, 16, 16, 0, 0, 16, 0, 0],
        limits: [!0, !0, !0, !0, !0, !0, 0x67, 0, 4095, 23],
        bases,
        // Code of 64 bits, data, a busy task segment.
        attributes: [0xa9b, 0xc93, 0xc93, 0xc93, 0xc93, 0xc93, 0x8b, 0],
        sysenter: [0; 3],
        shadow_gs: 0,
        msrs: [0; 5],
        efer: arch::rdmsr(0xc000_0080),
        tsc_aux: 0,
        tsc: 0,
        rest: [0; 4],
    }
}

/// Makes the copy and lets it run; its number, or the step that failed and what it answered.
fn create() -> Result<u16, (&'static str, i64)> {
    let done = |step, result: i64, wanted: i64| {
        if result == wanted {
            Ok(())
        } else {
            Err((step, result))
        }
    };
    let mut config = [0u32; 17];
    config[5] = 3; // HVM with nested paging
    config[7] = 1; // vCPUs
    config[8] = 1023; // ports
    (config[9], config[10], config[11]) = (4, !0, 1); // grants of version 1
    config[15] = 1; // a local APIC
    let (made, other) = domctl(1, 0xffff, &config);
    done("createdomain", made, 0)?;
    let with = |command, body: &[u32]| domctl(command, other, body).0;
    done("max_vcpus", with(15, &[1]), 0)?;
    done("max_mem", with(11, &[4096, 0]), 0)?;
    // RDTSC without exits, where they are a matter of choice.
    done("settscinfo", with(60, &[2, 0, 0, 0, 0, 0]), 0)?;
    // Where the hypervisor takes the nested tables from a pool of the domain's.
    done("mempool", with(86, &[1 << 20, 0]), 0)?;
    let port = xen::alloc_unbound(other);
    PORT.store(port.into(), Ordering::SeqCst);
    xen::mask(port, false);
    let end = &raw const __end as u64;
    done("window given back", grants::give_back(&APART.window), 1)?;
    for frame in IMAGE >> 12..end.div_ceil(4096) {
        done("populate", grants::populate(frame, other), 1)?;
        done("window", look_at(other, frame), 0)?;
        let from = (frame << 12) as *const u64;
        for (i, word) in APART.window.0.iter().enumerate() {
            // SAFETY: a page of this image, which nobody else writes.
            word.store(unsafe { from.add(i).read_volatile() }, Ordering::SeqCst);
        }
    }
    let cpu = cpu();
    let stream = Stream {
        header_is: [1, 24],
        header: [0x5438_1286, 1, 0, 0, 0, 0],
        cpu_is: [2, size_of::<Cpu>() as u32],
        cpu,
        end: [0; 2],
    };
    let at = (&raw const stream) as u64;
    let loaded = with(
        34,
        &[size_of::<Stream>() as u32, 0, at as u32, (at >> 32) as u32],
    );
    done("sethvmcontext", loaded, 0)?;
    done("mailbox", look_at(other, MAILBOX.address() >> 12), 0)?;
    done("unpause", with(4, &[]), 0)?;
    Ok(other)
}

/// Waits until an event came after `before`.
#[inline(always)]
fn wait(before: u64) {
    while UPCALLS.load(Ordering::Relaxed) == before {
        arch::sti_hlt();
        arch::cli();
    }
}

fn say(name: &str, count: u64) {
    xen::print("bench: ");
    xen::print(name);
    xen::print(" ");
    xen::print_number(count);
}

/// Makes the other domain and measures.
pub(crate) fn measure(times: usize) {
    let came = UPCALLS.load(Ordering::Relaxed);
    let other = match create() {
        Ok(other) => other,
        Err((step, result)) => {
            xen::print("bench: no second domain: ");
            xen::print(step);
            xen::print(" failed, minus ");
            xen::print_number(result.unsigned_abs());
            return;
        }
    };
    wait(came);
    let port = PORT.load(Ordering::SeqCst) as u32;
    let mailbox = |word: usize| &APART.window.0[word];
    // The domains' TSCs need not be equal; their system times are.
    let other_clock = [0, 1, 2].map(|word| mailbox(CLOCK + word).load(Ordering::SeqCst));
    let (mut there, mut back, mut yields) = (u64::MAX, u64::MAX, u64::MAX);
    for _ in 0..times {
        let before = UPCALLS.load(Ordering::Relaxed);
        let start = arch::tsc();
        xen::send(port);
        wait(before);
        let end = arch::tsc();
        let arrived = mailbox(STAMP).load(Ordering::SeqCst);
        let arrived = xen::time_at(other_clock, arrived);
        let clock = xen::clock();
        there = there.min(xen::ticks(clock, arrived - xen::time_at(clock, start)));
        back = back.min(end - start);
    }
    let empty = crate::measure::nothing();
    say("event-to-other-domain", there - empty);
    say("event-there-and-back", back - empty);
    mailbox(SHALL_YIELD).store(1, Ordering::SeqCst);
    xen::send(port);
    for _ in 0..times * 4 {
        let before = mailbox(YIELDS).load(Ordering::SeqCst);
        let start = arch::tsc();
        call(SCHED_OP, 0, 0, 0);
        let end = arch::tsc();
        // Once around, and no more.
        if mailbox(YIELDS).load(Ordering::SeqCst) == before + 1 {
            yields = yields.min(end - start);
        }
    }
    mailbox(SHALL_YIELD).store(0, Ordering::SeqCst);
    if yields == u64::MAX {
        xen::print("bench: no yields\n");
    } else {
        say("yield-there-and-back", yields - empty);
    }
    for len in [64, 4096] {
        if grants::copy(other, len) == 0 {
            let name = if len == 64 {
                "other-copy-64"
            } else {
                "other-copy-4096"
            };
            crate::measure::report(name, || {
                core::hint::black_box(grants::copy(other, len));
            });
        }
    }
    if grants::map_and_unmap(other) {
        crate::measure::report("other-map-unmap", || {
            core::hint::black_box(grants::map_and_unmap(other));
        });
    }
}

/// Where the copy begins: answers each event with one, or yields as long as it is told to.
extern "C" fn other_main() -> ! {
    // The other side of the port, by its number in the memory that was copied.
    xen::enable_events();
    let port = xen::bind_interdomain(0, PORT.load(Ordering::SeqCst) as u32);
    xen::mask(port, false);
    grants::offer();
    for (word, value) in xen::clock().into_iter().enumerate() {
        MAILBOX.0[CLOCK + word].store(value, Ordering::SeqCst);
    }
    // Binding leaves an event pending, so that none is lost.
    loop {
        xen::send(port);
        let before = UPCALLS.load(Ordering::Relaxed);
        wait(before);
        MAILBOX.0[STAMP].store(arch::tsc(), Ordering::SeqCst);
        while MAILBOX.0[SHALL_YIELD].load(Ordering::SeqCst) != 0 {
            MAILBOX.0[YIELDS].fetch_add(1, Ordering::SeqCst);
            call(SCHED_OP, 0, 0, 0);
        }
    }
}

const _: () = assert!(size_of::<Cpu>() == 1032);
