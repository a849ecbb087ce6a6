//! Where dom0's first vCPU begins.

use crate::hvm::backend::{GuestRegs, HvmBackend, Reg, Seg, Segment};

/// The register state of a PVH boot (docs/misc/pvh).
pub(super) fn start_state<B: HvmBackend>(hvm: &B, hw: &mut B::Vcpu, entry: u64, info: u64) {
    let flat = |ar| Segment {
        sel: 0,
        ar,
        limit: u32::MAX,
        base: 0,
    };
    hvm.set_segment(
        hw,
        Seg::Cs,
        Segment {
            sel: 8,
            ..flat(0xc09b)
        },
    );
    for s in [Seg::Ds, Seg::Es, Seg::Ss, Seg::Fs, Seg::Gs] {
        hvm.set_segment(
            hw,
            s,
            Segment {
                sel: 16,
                ..flat(0xc093)
            },
        );
    }
    hvm.set_segment(
        hw,
        Seg::Tr,
        Segment {
            sel: 0,
            ar: 0x8b,
            limit: 0x67,
            base: 0,
        },
    );
    hvm.set_segment(
        hw,
        Seg::Ldtr,
        Segment {
            sel: 0,
            ar: 0x1_0000,
            limit: 0,
            base: 0,
        },
    );
    hvm.set_segment(hw, Seg::Gdtr, Segment::default());
    hvm.set_segment(hw, Seg::Idtr, Segment::default());
    hvm.set(hw, Reg::Cr4, 0);
    hvm.set(hw, Reg::Efer, 0);
    hvm.set(hw, Reg::Cr0, 0x11);
    hvm.set(hw, Reg::Rflags, 2);
    hvm.set(hw, Reg::Rip, entry);
    *B::regs_mut(hw) = GuestRegs {
        rbx: info,
        ..Default::default()
    };
}
