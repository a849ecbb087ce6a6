//! The VMX instructions.
//!
//! UNSAFETY: inline assembly. VMREAD and VMWRITE act on the current VMCS, which the callers
//! have made theirs (`load`, or [`super::vmcs::Current`]); the fields that hold machine
//! addresses and host state are written only by `vmcs.rs`.
#![expect(unsafe_code, reason = "VMX instructions")]

use core::arch::asm;

/// Reads a field of the current VMCS.
#[inline]
#[must_use]
pub(super) fn vmread(field: u64) -> u64 {
    let val: u64;
    // SAFETY: no effect on memory; a field that does not exist leaves the register as it was.
    unsafe {
        asm!("vmread {val}, {field}", field = in(reg) field, val = out(reg) val, options(nostack));
    }
    val
}

/// Writes a field of the current VMCS.
#[inline]
pub(super) fn vmwrite(field: u64, val: u64) {
    // SAFETY: see the module's note.
    unsafe { asm!("vmwrite {}, {}", in(reg) field, in(reg) val, options(nostack)) }
}

macro_rules! on_region {
    ($(#[$doc:meta])* $name:ident, $insn:literal) => {
        $(#[$doc])*
        #[inline]
        pub(super) fn $name(region: u64) -> bool {
            let failed: u8;
            // SAFETY: the region is a frame that the backend allocated for this use.
            unsafe {
                asm!(concat!($insn, " qword ptr [{}]"), "setbe {}", in(reg) &raw const region,
                     out(reg_byte) failed, options(nostack));
            }
            failed == 0
        }
    };
}
on_region!(
    /// Makes a VMCS current.
    vmptrld, "vmptrld");
on_region!(
    /// Writes a VMCS back to memory and makes it not current, not launched.
    vmclear, "vmclear");
on_region!(
    /// Enters VMX operation.
    vmxon, "vmxon");

/// Leaves VMX operation.
pub(super) fn vmxoff() {
    // SAFETY: the caller is in VMX operation with no VMCS that it still needs.
    unsafe { asm!("vmxoff", options(nostack)) }
}

/// Invalidation types of INVEPT and INVVPID.
pub(super) mod scope {
    pub(crate) const SINGLE: u64 = 1;
    pub(crate) const ALL: u64 = 2;
}

/// Drops what is cached of nested translations.
#[inline]
pub(super) fn invept(kind: u64, eptp: u64) {
    let descriptor = [eptp, 0];
    // SAFETY: only drops cached translations.
    unsafe {
        asm!("invept {}, xmmword ptr [{}]", in(reg) kind, in(reg) &raw const descriptor, options(nostack));
    }
}

/// Drops what is cached of linear and combined translations.
#[inline]
pub(super) fn invvpid(kind: u64, vpid: u64) {
    let descriptor = [vpid, 0];
    // SAFETY: only drops cached translations.
    unsafe {
        asm!("invvpid {}, xmmword ptr [{}]", in(reg) kind, in(reg) &raw const descriptor, options(nostack));
    }
}

/// Descriptor-table registers and the selector of the task register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    pub(super) gdt: u64,
    pub(super) idt: u64,
    pub(super) tr: u16,
    pub(super) tss: u64,
    pub(super) cs: u16,
    pub(super) ss: u16,
}

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Reads this CPU's tables, and the base of its TSS from the GDT.
pub(super) fn tables() -> Tables {
    let mut gdt = TablePointer { limit: 0, base: 0 };
    let mut idt = TablePointer { limit: 0, base: 0 };
    let (tr, cs, ss): (u16, u16, u16);
    // SAFETY: SGDT and SIDT write ten bytes each into our variables.
    unsafe {
        asm!("sgdt [{}]", "sidt [{}]", in(reg) &raw mut gdt, in(reg) &raw mut idt,
             options(nostack, preserves_flags));
    }
    // SAFETY: reading selectors has no effect.
    unsafe {
        asm!("str {0:x}", "mov {1:x}, cs", "mov {2:x}, ss", out(reg) tr, out(reg) cs, out(reg) ss,
             options(nomem, nostack, preserves_flags));
    }
    let descriptor = (gdt.base + u64::from(tr & !7)) as *const [u64; 2];
    // SAFETY: TR is loaded, so it selects a 16-byte TSS descriptor of the GDT.
    let [low, high] = unsafe { descriptor.read_unaligned() };
    Tables {
        gdt: gdt.base,
        idt: idt.base,
        tr,
        tss: tss_base(low, high),
        cs,
        ss,
    }
}

/// Base address in a 64-bit TSS descriptor.
const fn tss_base(low: u64, high: u64) -> u64 {
    (low >> 16 & 0xff_ffff) | (low >> 56) << 24 | high << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tss_base_is_put_together() {
        assert_eq!(
            tss_base(
                0x8900_8b34_5678_0067 & !0xff00_0000_0000_0000 | 0x12 << 56,
                0xffff_82d0
            ),
            0xffff_82d0_1234_5678
        );
    }
}
