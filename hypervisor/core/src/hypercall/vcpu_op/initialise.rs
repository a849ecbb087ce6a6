//! `VCPUOP_initialise`: a vCPU's first state, in 32-bit protected or in long mode.
//!
//! As in Xen, `struct vcpu_hvm_context` becomes the record that a saved vCPU is loaded from, and
//! is checked as one.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::Errno;
use xen_abi::hvm_save::HvmHwCpu;
use xen_abi::hvm_vcpu::{
    VCPU_HVM_MODE_32B, VCPU_HVM_MODE_64B, VcpuHvmContext, VcpuHvmX86_32, VcpuHvmX86_64,
};
use zerocopy::FromZeros;

use super::super::{Ctx, OK, OpResult};
use crate::access::{Granted, Hook};
use crate::domain::vcpu::attention;
use crate::hvm::cr::Limits;
use crate::hvm::save;
use crate::machine::Machine;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// DR6 and DR7 at reset.
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;
/// Attributes of what a context does not describe, as the record packs them.
const FLAT_CODE_64: u32 = 0xa9b;
const FLAT_DATA: u32 = 0xc93;
const BUSY_TSS: u32 = 0x8b;

pub(super) fn initialise<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Hook>,
    a: [u64; 3],
) -> OpResult {
    let v = super::target(c, a[0])?;
    let context: VcpuHvmContext = c.read(a[1])?;
    let record = record(&context)?;
    // Of several vCPUs that come here, one gets it. One that runs is never waited for: it could be
    // the caller, or wait for the caller.
    if Arc::ptr_eq(&v, c.v) || !v.is_down() || !v.initialised.hold_new() {
        return Err(Errno::EEXIST);
    }
    let hv = c.hv;
    let limits = Limits::of(c.d);
    let loaded = hv.with_state(&v, |hw| save::load(hv.machine.hvm(), hw, &record, &limits));
    let is_loaded = matches!(loaded, Some(Ok(())));
    if is_loaded {
        v.attention.fetch_or(attention::PDPTES, Ordering::SeqCst);
    }
    v.initialised.release(is_loaded);
    if !is_loaded {
        return Err(Errno::EINVAL);
    }
    OK
}

fn record(context: &VcpuHvmContext) -> Result<HvmHwCpu, Errno> {
    if context.pad != 0 {
        return Err(Errno::EINVAL);
    }
    let mut r = HvmHwCpu::new_zeroed();
    (r.dr6, r.dr7) = (DR6, DR7);
    match context.mode {
        VCPU_HVM_MODE_32B => protected(&mut r, &context.cpu_regs.get())?,
        VCPU_HVM_MODE_64B => long(&mut r, &context.cpu_regs.get())?,
        _ => return Err(Errno::EINVAL),
    }
    r.cr0 |= CR0_ET;
    Ok(r)
}

fn protected(r: &mut HvmHwCpu, c: &VcpuHvmX86_32) -> Result<(), Errno> {
    if c.pad1 != 0 || c.pad2 != [0; 3] {
        return Err(Errno::EINVAL);
    }
    (r.rax, r.rcx) = (c.eax.into(), c.ecx.into());
    (r.rdx, r.rbx) = (c.edx.into(), c.ebx.into());
    (r.rsp, r.rbp) = (c.esp.into(), c.ebp.into());
    (r.rsi, r.rdi) = (c.esi.into(), c.edi.into());
    (r.rip, r.rflags) = (c.eip.into(), c.eflags.into());
    (r.cr0, r.cr3, r.cr4) = (c.cr0.into(), c.cr3.into(), c.cr4.into());
    r.msr_efer = c.efer;
    if r.cr0 & CR0_PE == 0 || r.msr_efer & (EFER_LME | EFER_LMA) != 0 {
        return Err(Errno::EINVAL);
    }
    macro_rules! segments {
        ($($base:ident $limit:ident $ar:ident: $from_base:ident $from_limit:ident $from_ar:ident $type:expr;)*) => {$(
            (r.$base, r.$limit) = (c.$from_base.into(), c.$from_limit);
            r.$ar = attributes(c.$from_ar, c.$from_limit, $type)?;
        )*};
    }
    segments! {
        cs_base cs_limit cs_arbytes: cs_base cs_limit cs_ar Kind::Code;
        ds_base ds_limit ds_arbytes: ds_base ds_limit ds_ar Kind::Data;
        ss_base ss_limit ss_arbytes: ss_base ss_limit ss_ar Kind::Stack;
        es_base es_limit es_arbytes: es_base es_limit es_ar Kind::Data;
        tr_base tr_limit tr_arbytes: tr_base tr_limit tr_ar Kind::Tss;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Data,
    Stack,
    Tss,
}

/// Checks a segment as far as entering the guest depends on it.
fn attributes(ar: u16, limit: u32, kind: Kind) -> Result<u32, Errno> {
    let ar = u32::from(ar);
    let (typ, is_code_or_data, is_present) = (ar & 0xf, ar & 0x10 != 0, ar & 0x80 != 0);
    if !is_present {
        // DS and ES need not be there.
        return if kind == Kind::Data {
            Ok(0)
        } else {
            Err(Errno::EINVAL)
        };
    }
    let is_code = typ & 8 != 0;
    let is_right = match kind {
        Kind::Code => is_code_or_data && is_code,
        Kind::Data => is_code_or_data && (!is_code || typ & 2 != 0),
        Kind::Stack => is_code_or_data && !is_code && typ & 2 != 0,
        Kind::Tss => !is_code_or_data && matches!(typ, 3 | 11),
    };
    // All run in ring 0, with what has been accessed marked so.
    let fits = limit & 0xfff == 0xfff || ar & 0x800 == 0;
    let fits = fits && (limit >> 20 == 0 || ar & 0x800 != 0);
    if ar & !0xdff != 0 || ar & 0x60 != 0 || !is_right || !fits {
        return Err(Errno::EINVAL);
    }
    Ok(if is_code_or_data { ar | 1 } else { ar })
}

fn long(r: &mut HvmHwCpu, c: &VcpuHvmX86_64) -> Result<(), Errno> {
    (r.rax, r.rcx, r.rdx, r.rbx) = (c.rax, c.rcx, c.rdx, c.rbx);
    (r.rsp, r.rbp, r.rsi, r.rdi) = (c.rsp, c.rbp, c.rsi, c.rdi);
    (r.rip, r.rflags) = (c.rip, c.rflags);
    (r.cr0, r.cr3, r.cr4, r.msr_efer) = (c.cr0, c.cr3, c.cr4, c.efer);
    let is_long = c.cr0 & (CR0_PE | CR0_PG) == CR0_PE | CR0_PG
        && c.cr4 & CR4_PAE != 0
        && c.efer & (EFER_LME | EFER_LMA) == EFER_LME | EFER_LMA;
    if !is_long {
        return Err(Errno::EINVAL);
    }
    (r.cs_limit, r.cs_arbytes) = (u32::MAX, FLAT_CODE_64);
    (r.ds_limit, r.ds_arbytes) = (u32::MAX, FLAT_DATA);
    (r.es_limit, r.es_arbytes) = (u32::MAX, FLAT_DATA);
    (r.ss_limit, r.ss_arbytes) = (u32::MAX, FLAT_DATA);
    (r.tr_limit, r.tr_arbytes) = (0x67, BUSY_TSS);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        assert_eq!(attributes(0xc9b, u32::MAX, Kind::Code), Ok(0xc9b));
        assert_eq!(attributes(0xc92, u32::MAX, Kind::Data), Ok(0xc93));
        assert_eq!(attributes(0, 0, Kind::Data), Ok(0));
        assert_eq!(attributes(0x8b, 0x67, Kind::Tss), Ok(0x8b));
        for (ar, limit, kind) in [
            (0, 0, Kind::Code),
            (0xc93, u32::MAX, Kind::Code),
            (0xc9b, u32::MAX, Kind::Stack),
            (0xc91, u32::MAX, Kind::Stack),
            (0xcfb, u32::MAX, Kind::Code),
            (0xc9b, 0x1000, Kind::Code),
            (0x49b, u32::MAX, Kind::Code),
            (0x89, 0x67, Kind::Tss),
            (0xac9b, u32::MAX, Kind::Code),
        ] {
            assert_eq!(attributes(ar, limit, kind), Err(Errno::EINVAL), "{ar:#x}");
        }
    }
}
