//! A vCPU's registers as a save record (`struct hvm_hw_cpu`): how toolstacks start PVH domains,
//! and how saved domains come back.
//!
//! Segment attributes in the record are packed (type to P in bits 0-7, AVL to G in bits 8-11).  A record is
//! checked as far as the processor's entry into the guest depends on it; what is left makes the
//! guest crash, nobody else.
//!
//! Missing: DR0-DR3, which the backends keep to themselves, and an event that waits for injection.

use xen_abi::hvm_save::{HvmHwCpu, XEN_X86_FPU_INITIALISED};
use zerocopy::FromZeros;

use super::backend::{GuestRegs, HvmBackend, Reg, Seg, Segment};
use super::cr::Limits;
use super::msr::is_pat;

/// A record that no vCPU could have produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord;

const UNUSABLE: u32 = 1 << 16;
const PRESENT: u32 = 1 << 7;

/// Bits of RFLAGS that are not always 0.
const RFLAGS_KNOWN: u64 = 0x3f_7fd7;

const fn pack(ar: u32) -> u32 {
    if ar & UNUSABLE != 0 {
        0
    } else {
        ar & 0xff | ar >> 4 & 0xf00
    }
}

const fn unpack(packed: u32) -> u32 {
    let ar = packed & 0xff | (packed & 0xf00) << 4;
    if packed & PRESENT == 0 { UNUSABLE } else { ar }
}

const fn canonical(address: u64) -> bool {
    ((address << 16).cast_signed() >> 16).cast_unsigned() == address
}

/// The registers of a vCPU that is at rest.
pub fn save<B: HvmBackend>(hvm: &B, hw: &mut B::Vcpu, tsc: u64) -> HvmHwCpu {
    let mut r = HvmHwCpu::new_zeroed();
    for (to, from) in r.fpu_regs.iter_mut().zip(B::xsave_area(hw).iter()) {
        *to = *from;
    }
    r.flags = XEN_X86_FPU_INITIALISED;
    let g = *B::regs(hw);
    (r.rax, r.rbx, r.rcx, r.rdx) = (g.rax, g.rbx, g.rcx, g.rdx);
    (r.rbp, r.rsi, r.rdi, r.rsp) = (g.rbp, g.rsi, g.rdi, g.rsp);
    (r.r8, r.r9, r.r10, r.r11) = (g.r8, g.r9, g.r10, g.r11);
    (r.r12, r.r13, r.r14, r.r15) = (g.r12, g.r13, g.r14, g.r15);
    let get = |reg| hvm.get(hw, reg);
    (r.rip, r.rflags) = (get(Reg::Rip), get(Reg::Rflags));
    (r.cr0, r.cr2, r.cr3, r.cr4) = (get(Reg::Cr0), get(Reg::Cr2), get(Reg::Cr3), get(Reg::Cr4));
    (r.dr6, r.dr7) = (get(Reg::Dr6), get(Reg::Dr7));
    (r.sysenter_cs, r.sysenter_esp) = (get(Reg::SysenterCs), get(Reg::SysenterEsp));
    (r.sysenter_eip, r.shadow_gs) = (get(Reg::SysenterEip), get(Reg::KernelGsBase));
    (r.msr_lstar, r.msr_star) = (get(Reg::Lstar), get(Reg::Star));
    (r.msr_cstar, r.msr_syscall_mask) = (get(Reg::Cstar), get(Reg::Sfmask));
    (r.msr_efer, r.msr_tsc_aux) = (get(Reg::Efer), get(Reg::TscAux));
    r.tsc = tsc;
    let seg = |s| hvm.segment(hw, s);
    macro_rules! segments {
        ($($s:ident: $sel:ident $limit:ident $base:ident $ar:ident;)*) => {$({
            let s = seg(Seg::$s);
            (r.$sel, r.$limit, r.$base, r.$ar) = (s.sel.into(), s.limit, s.base, pack(s.ar));
        })*};
    }
    segments! {
        Cs: cs_sel cs_limit cs_base cs_arbytes;
        Ds: ds_sel ds_limit ds_base ds_arbytes;
        Es: es_sel es_limit es_base es_arbytes;
        Fs: fs_sel fs_limit fs_base fs_arbytes;
        Gs: gs_sel gs_limit gs_base gs_arbytes;
        Ss: ss_sel ss_limit ss_base ss_arbytes;
        Tr: tr_sel tr_limit tr_base tr_arbytes;
        Ldtr: ldtr_sel ldtr_limit ldtr_base ldtr_arbytes;
    }
    let (gdtr, idtr) = (seg(Seg::Gdtr), seg(Seg::Idtr));
    (r.gdtr_limit, r.gdtr_base) = (gdtr.limit, gdtr.base);
    (r.idtr_limit, r.idtr_base) = (idtr.limit, idtr.base);
    r
}

/// What of a record the entry into the guest depends on.
fn check(r: &HvmHwCpu, limits: &Limits) -> Result<(), BadRecord> {
    let is_legal = limits.allow(r.cr0, r.cr3, r.cr4, r.msr_efer)
        && r.dr7 >> 32 == 0
        && [
            r.msr_lstar,
            r.msr_cstar,
            r.shadow_gs,
            r.sysenter_eip,
            r.sysenter_esp,
            r.fs_base,
            r.gs_base,
            r.tr_base,
            r.ldtr_base,
            r.gdtr_base,
            r.idtr_base,
        ]
        .into_iter()
        .all(canonical)
        && r.cs_arbytes & PRESENT != 0
        && r.tr_arbytes & PRESENT != 0;
    if is_legal { Ok(()) } else { Err(BadRecord) }
}

/// Gives a vCPU that is at rest these registers, within its domain's limits.
///
/// # Errors
/// [`BadRecord`]: nothing has changed.
pub fn load<B: HvmBackend>(
    hvm: &B,
    hw: &mut B::Vcpu,
    r: &HvmHwCpu,
    limits: &Limits,
) -> Result<(), BadRecord> {
    check(r, limits)?;
    if r.flags & XEN_X86_FPU_INITIALISED != 0 {
        for (to, from) in B::xsave_area(hw).iter_mut().zip(r.fpu_regs) {
            *to = from;
        }
    }
    *B::regs_mut(hw) = GuestRegs {
        rax: r.rax,
        rcx: r.rcx,
        rdx: r.rdx,
        rbx: r.rbx,
        rsp: r.rsp,
        rbp: r.rbp,
        rsi: r.rsi,
        rdi: r.rdi,
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
    };
    let segment = |sel: u32, limit, base, ar| Segment {
        sel: sel as u16,
        ar: unpack(ar),
        limit,
        base,
    };
    for (s, value) in [
        (
            Seg::Cs,
            segment(r.cs_sel, r.cs_limit, r.cs_base, r.cs_arbytes),
        ),
        (
            Seg::Ds,
            segment(r.ds_sel, r.ds_limit, r.ds_base, r.ds_arbytes),
        ),
        (
            Seg::Es,
            segment(r.es_sel, r.es_limit, r.es_base, r.es_arbytes),
        ),
        (
            Seg::Fs,
            segment(r.fs_sel, r.fs_limit, r.fs_base, r.fs_arbytes),
        ),
        (
            Seg::Gs,
            segment(r.gs_sel, r.gs_limit, r.gs_base, r.gs_arbytes),
        ),
        (
            Seg::Ss,
            segment(r.ss_sel, r.ss_limit, r.ss_base, r.ss_arbytes),
        ),
        (
            Seg::Tr,
            segment(r.tr_sel, r.tr_limit, r.tr_base, r.tr_arbytes),
        ),
        (
            Seg::Ldtr,
            segment(r.ldtr_sel, r.ldtr_limit, r.ldtr_base, r.ldtr_arbytes),
        ),
        (Seg::Gdtr, table(r.gdtr_limit, r.gdtr_base)),
        (Seg::Idtr, table(r.idtr_limit, r.idtr_base)),
    ] {
        hvm.set_segment(hw, s, value);
    }
    for (reg, value) in [
        (Reg::Efer, r.msr_efer),
        (Reg::Cr4, r.cr4),
        (Reg::Cr3, r.cr3),
        (Reg::Cr2, r.cr2),
        (Reg::Cr0, r.cr0),
        (Reg::Rip, r.rip),
        (Reg::Rflags, r.rflags & RFLAGS_KNOWN | 2),
        (Reg::Dr6, r.dr6 & 0xffff_ffff),
        (Reg::Dr7, r.dr7 | 0x400),
        (Reg::Star, r.msr_star),
        (Reg::Lstar, r.msr_lstar),
        (Reg::Cstar, r.msr_cstar),
        (Reg::Sfmask, r.msr_syscall_mask & 0xffff_ffff),
        (Reg::KernelGsBase, r.shadow_gs),
        (Reg::SysenterCs, r.sysenter_cs & 0xffff_ffff),
        (Reg::SysenterEsp, r.sysenter_esp),
        (Reg::SysenterEip, r.sysenter_eip),
        (Reg::TscAux, r.msr_tsc_aux & 0xffff_ffff),
    ] {
        hvm.set(hw, reg, value);
    }
    Ok(())
}

/// GDTR or IDTR.
const fn table(limit: u32, base: u64) -> Segment {
    Segment {
        sel: 0,
        ar: 0,
        limit: limit & 0xffff,
        base,
    }
}

/// Sets the PAT, if it is one.
///
/// # Errors
/// [`BadRecord`].
pub fn load_pat<B: HvmBackend>(hvm: &B, hw: &mut B::Vcpu, pat: u64) -> Result<(), BadRecord> {
    if !is_pat(pat) {
        return Err(BadRecord);
    }
    hvm.set(hw, Reg::Pat, pat);
    Ok(())
}
