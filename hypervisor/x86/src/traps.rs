//! GDT, TSS, IDT, and the way from a trap to its handler.
//!
//! The hypervisor runs with interrupts off; they are let in at explicit windows
//! where no lock is held, so handlers may take any lock.  NMI, #DF and #MC have
//! stacks of their own (IST).  A fault inside the hypervisor is a bug: it is
//! reported and the machine stops, except for MSR probes (`try_rdmsr`).

use alloc::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

/// Registers at a trap, in the order in which the entry code pushes them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl TrapFrame {
    /// Words of a frame.
    pub const WORDS: usize = 22;

    /// The frame as plain words, in order.
    #[must_use]
    pub const fn words(&self) -> [u64; Self::WORDS] {
        [
            self.r15,
            self.r14,
            self.r13,
            self.r12,
            self.r11,
            self.r10,
            self.r9,
            self.r8,
            self.rdi,
            self.rsi,
            self.rbp,
            self.rbx,
            self.rdx,
            self.rcx,
            self.rax,
            self.vector,
            self.error,
            self.rip,
            self.cs,
            self.rflags,
            self.rsp,
            self.ss,
        ]
    }

    /// The inverse of [`Self::words`].
    #[must_use]
    pub const fn from_words(w: [u64; Self::WORDS]) -> Self {
        let [
            r15,
            r14,
            r13,
            r12,
            r11,
            r10,
            r9,
            r8,
            rdi,
            rsi,
            rbp,
            rbx,
            rdx,
            rcx,
            rax,
            vector,
            error,
            rip,
            cs,
            rflags,
            rsp,
            ss,
        ] = w;
        Self {
            r15,
            r14,
            r13,
            r12,
            r11,
            r10,
            r9,
            r8,
            rdi,
            rsi,
            rbp,
            rbx,
            rdx,
            rcx,
            rax,
            vector,
            error,
            rip,
            cs,
            rflags,
            rsp,
            ss,
        }
    }
}

impl core::fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(
            f,
            "RIP:    {:04x}:[<{:016x}>]  RFLAGS: {:016x}",
            self.cs, self.rip, self.rflags
        )?;
        let rows = [
            [("rax", self.rax), ("rbx", self.rbx), ("rcx", self.rcx)],
            [("rdx", self.rdx), ("rsi", self.rsi), ("rdi", self.rdi)],
            [("rbp", self.rbp), ("rsp", self.rsp), ("r8", self.r8)],
            [("r9", self.r9), ("r10", self.r10), ("r11", self.r11)],
            [("r12", self.r12), ("r13", self.r13), ("r14", self.r14)],
        ];
        for row in rows {
            for (i, (name, value)) in row.into_iter().enumerate() {
                let space = if i == 0 { "" } else { "   " };
                write!(f, "{space}{name:3}: {value:016x}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "r15: {:016x}   ss : {:016x}", self.r15, self.ss)
    }
}

/// What `radon` does with traps.
pub struct Handlers {
    /// External interrupt with vector >= 32; runs with interrupts off and no lock held.
    pub irq: fn(u8),
    /// Exception that nothing fixed up. Does not return.
    pub fatal: fn(&TrapFrame) -> !,
    /// NMI: returns when it was a known one.
    pub nmi: fn(&TrapFrame),
}

static HANDLERS: Once<Handlers> = Once::new();
static IDT: Once<&'static InterruptDescriptorTable> = Once::new();

// 256 stubs of 16 bytes; vectors that push no error code get a dummy.
core::arch::global_asm!(
    r#"
    .section .text.traps, "ax", @progbits
    .balign 16
    .global trap_stubs
trap_stubs:
    .set i, 0
    .rept 256
    .balign 16
    .if i == 8 || (i >= 10 && i <= 14) || i == 17 || i == 21 || i == 29 || i == 30
    push i
    jmp trap_common
    .else
    push 0
    push i
    jmp trap_common
    .endif
    .set i, i + 1
    .endr

    .balign 16
trap_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    mov rbp, rsp
    and rsp, -16
    call {dispatch}
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

    # u64 try_rdmsr_asm(u32 n, u64 *ok): a #GP at the RDMSR resumes at the fixup
    .global try_rdmsr_insn
    .global try_rdmsr_fixup
try_rdmsr_asm:
    mov ecx, edi
    mov qword ptr [rsi], 1
try_rdmsr_insn:
    rdmsr
    shl rdx, 32
    mov eax, eax
    or rax, rdx
    ret
try_rdmsr_fixup:
    mov qword ptr [rsi], 0
    xor eax, eax
    ret
try_wrmsr_asm:
    mov ecx, edi
    mov eax, esi
    shr rsi, 32
    mov r8, rdx
    mov edx, esi
    mov qword ptr [r8], 1
try_wrmsr_insn:
    wrmsr
    ret
try_wrmsr_fixup:
    mov qword ptr [r8], 0
    ret
"#,
    dispatch = sym trap_dispatch,
);

unsafe extern "C" {
    static trap_stubs: [u8; 4096];
    static try_rdmsr_insn: u8;
    static try_rdmsr_fixup: u8;
    static try_wrmsr_insn: u8;
    static try_wrmsr_fixup: u8;
    fn try_rdmsr_asm(n: u32, ok: *mut u64) -> u64;
    fn try_wrmsr_asm(n: u32, v: u64, ok: *mut u64);
}

/// Reads an MSR that may not exist.
#[must_use]
pub fn try_rdmsr(n: u32) -> Option<u64> {
    let mut ok = 0u64;
    // SAFETY: the #GP of an absent MSR is caught by `fixup`.
    let v = unsafe { try_rdmsr_asm(n, &raw mut ok) };
    (ok != 0).then_some(v)
}

/// Writes an MSR that may not exist or may refuse the value; false then.
pub fn try_wrmsr(n: u32, v: u64) -> bool {
    let mut ok = 0u64;
    // SAFETY: as `try_rdmsr`; callers write values that are theirs to write.
    unsafe { try_wrmsr_asm(n, v, &raw mut ok) };
    ok != 0
}

fn fixup(rip: u64) -> Option<u64> {
    let table = [
        (
            &raw const try_rdmsr_insn as u64,
            &raw const try_rdmsr_fixup as u64,
        ),
        (
            &raw const try_wrmsr_insn as u64,
            &raw const try_wrmsr_fixup as u64,
        ),
    ];
    table.iter().find(|(at, _)| *at == rip).map(|(_, to)| *to)
}

extern "C" fn trap_dispatch(f: &mut TrapFrame) {
    let vector = f.vector as u8;
    if vector >= 32 {
        crate::percpu::this()
            .irq_count
            .fetch_add(1, Ordering::Relaxed);
        if let Some(h) = HANDLERS.get() {
            (h.irq)(vector);
        }
        return;
    }
    if vector == 13
        && let Some(to) = fixup(f.rip)
    {
        f.rip = to;
        return;
    }
    match HANDLERS.get() {
        Some(h) if vector == 2 => (h.nmi)(f),
        Some(h) => (h.fatal)(f),
        None => crate::cpu::stop(),
    }
}

/// Sets what traps do. Once, before interrupts are let in.
pub fn set_handlers(h: Handlers) {
    HANDLERS.call_once(|| h);
}

/// IST slots.
const IST_NMI: u16 = 0;
const IST_DF: u16 = 1;
const IST_MC: u16 = 2;
const IST_DB: u16 = 3;

fn idt() -> &'static InterruptDescriptorTable {
    IDT.call_once(|| {
        let mut t = Box::new(InterruptDescriptorTable::new());
        let base = &raw const trap_stubs as u64;
        let at = |v: u64| VirtAddr::new(base + v * 16);
        // SAFETY: each stub handles its vector, with or without error code, and keeps all registers.
        unsafe {
            t.divide_error.set_handler_addr(at(0));
            t.debug.set_handler_addr(at(1)).set_stack_index(IST_DB);
            t.non_maskable_interrupt
                .set_handler_addr(at(2))
                .set_stack_index(IST_NMI);
            t.breakpoint.set_handler_addr(at(3));
            t.overflow.set_handler_addr(at(4));
            t.bound_range_exceeded.set_handler_addr(at(5));
            t.invalid_opcode.set_handler_addr(at(6));
            t.device_not_available.set_handler_addr(at(7));
            t.double_fault
                .set_handler_addr(at(8))
                .set_stack_index(IST_DF);
            t.invalid_tss.set_handler_addr(at(10));
            t.segment_not_present.set_handler_addr(at(11));
            t.stack_segment_fault.set_handler_addr(at(12));
            t.general_protection_fault.set_handler_addr(at(13));
            t.page_fault.set_handler_addr(at(14));
            t.x87_floating_point.set_handler_addr(at(16));
            t.alignment_check.set_handler_addr(at(17));
            t.machine_check
                .set_handler_addr(at(18))
                .set_stack_index(IST_MC);
            t.simd_floating_point.set_handler_addr(at(19));
            t.virtualization.set_handler_addr(at(20));
            t.cp_protection_exception.set_handler_addr(at(21));
            t.hv_injection_exception.set_handler_addr(at(28));
            t.vmm_communication_exception.set_handler_addr(at(29));
            t.security_exception.set_handler_addr(at(30));
            for v in 32u8..=255 {
                t[v].set_handler_addr(at(u64::from(v)));
            }
        }
        Box::leak(t)
    })
}

/// Selectors of this CPU's GDT that the backends need for host state.
#[derive(Clone, Copy, Debug)]
pub struct Selectors {
    /// 64-bit code.
    pub code: u16,
    /// Data.
    pub data: u16,
    /// Task state.
    pub tss: u16,
}

static SELECTORS: Once<Selectors> = Once::new();
static IST_PAGES: AtomicUsize = AtomicUsize::new(0);

/// The selectors; the same on every CPU.
#[must_use]
pub fn selectors() -> Selectors {
    SELECTORS.get().copied().unwrap_or(Selectors {
        code: 8,
        data: 16,
        tss: 24,
    })
}

/// Bytes of exception stacks made so far, for the memory account.
#[must_use]
pub fn ist_bytes() -> usize {
    IST_PAGES.load(Ordering::Relaxed)
}

/// Gives this CPU its own GDT and TSS, and the common IDT.
/// `stack` makes a guarded stack and returns its top.
pub fn init_cpu(mut stack: impl FnMut() -> u64) {
    let mut tss = Box::new(TaskStateSegment::new());
    for i in [IST_NMI, IST_DF, IST_MC, IST_DB] {
        tss.interrupt_stack_table[i as usize] = VirtAddr::new(stack());
        IST_PAGES.fetch_add(4096, Ordering::Relaxed);
    }
    let tss: &'static TaskStateSegment = Box::leak(tss);
    let mut gdt = Box::new(GlobalDescriptorTable::new());
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let ts = gdt.append(Descriptor::tss_segment(tss));
    let gdt: &'static GlobalDescriptorTable = Box::leak(gdt);
    gdt.load();
    // SAFETY: the descriptors just loaded are flat code, flat data and this CPU's TSS.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(SegmentSelector::NULL);
        ES::set_reg(SegmentSelector::NULL);
        load_tss(ts);
    }
    SELECTORS.call_once(|| Selectors {
        code: code.0,
        data: data.0,
        tss: ts.0,
    });
    idt().load();
}
