//! Control registers: what guests may set, and the moves that exit.

use core::sync::atomic::Ordering;

use x86_defs::cpuid::{Feature, feature as f};
use xen_abi::Gpa;

use super::backend::{HvmBackend, Reg, Seg};
use super::exit::GP;
use crate::cpu_policy::FeatureSet;
use crate::domain::vcpu::attention;
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// General register by its encoding.
pub(crate) fn gpr<B: HvmBackend>(hw: &mut B::Vcpu, n: u8) -> &mut u64 {
    let r = B::regs_mut(hw);
    match n {
        0 => &mut r.rax,
        1 => &mut r.rcx,
        2 => &mut r.rdx,
        3 => &mut r.rbx,
        4 => &mut r.rsp,
        5 => &mut r.rbp,
        6 => &mut r.rsi,
        7 => &mut r.rdi,
        8 => &mut r.r8,
        9 => &mut r.r9,
        10 => &mut r.r10,
        11 => &mut r.r11,
        12 => &mut r.r12,
        13 => &mut r.r13,
        14 => &mut r.r14,
        _ => &mut r.r15,
    }
}

/// Its value.
pub(crate) fn gpr_value<B: HvmBackend>(hw: &B::Vcpu, n: u8) -> u64 {
    let r = B::regs(hw);
    [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ][usize::from(n & 15)]
}

/// CR4 bits that guests may have: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR,
/// OSXMMEXCPT, UMIP, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE; each if its feature is there
/// ([`cr4_bits`]).
const CR4_KNOWN: u64 = 0x0077_0fff;
/// CR4 bits that no guest may set, because no policy shows what they turn on, or because their
/// state is not switched: LA57, VMXE, SMXE, CET, PKS, UINTR, LAM and what comes later.
pub const CR4_DENIED: u64 = !CR4_KNOWN;

/// Bits of CR4 that come with a feature. Not every CPU with hardware virtualisation has these.
const CR4_FEATURES: [(u64, Feature); 8] = [
    (0b11, f::VME),
    (1 << 11, f::UMIP),
    (1 << 16, f::FSGSBASE),
    (CR4_PCIDE, f::PCID),
    (1 << 18, f::XSAVE),
    (1 << 20, f::SMEP),
    (1 << 21, f::SMAP),
    (1 << 22, f::PKU),
];

/// Bits of CR4 that a guest with these features may set. Where the move exits, nobody but us
/// refuses the others: the next entry would fail.
pub(crate) fn cr4_bits(features: &FeatureSet) -> u64 {
    CR4_FEATURES
        .iter()
        .filter(|&&(_, feature)| !features.has(feature))
        .fold(CR4_KNOWN, |bits, (bit, _)| bits & !bit)
}

/// PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG.
const CR0_KNOWN: u64 = 0xe005_003f;
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const EFER_SCE: u64 = 1;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const EFER_FFXSR: u64 = 1 << 14;
/// CR3: keep the PCID's translations.
const CR3_NOFLUSH: u64 = 1 << 63;

/// What the legality of a control register depends on.
#[derive(Clone, Copy, Debug)]
struct Now {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    /// CS.L in long mode.
    is_64bit: bool,
}

impl Now {
    /// MOV to CR0 (SDM volume 2, "MOV - Move to/from Control Registers").
    const fn may_set_cr0(&self, val: u64) -> bool {
        let (pe, pg) = (val & CR0_PE != 0, val & CR0_PG != 0);
        let enters_paging = pg && self.cr0 & CR0_PG == 0;
        val >> 32 == 0
            && (pe || !pg)
            && (val & CR0_NW == 0 || val & CR0_CD != 0)
            && !(enters_paging
                && self.efer & EFER_LME != 0
                && (self.cr4 & CR4_PAE == 0 || self.is_64bit))
            && (pg || !self.is_64bit && self.cr4 & CR4_PCIDE == 0)
    }

    /// MOV to CR3, for `bits` of physical address.
    const fn may_set_cr3(&self, val: u64, bits: u32) -> bool {
        let val = if self.cr4 & CR4_PCIDE != 0 {
            val & !CR3_NOFLUSH
        } else {
            val
        };
        self.efer & EFER_LMA == 0 || val >> bits == 0
    }

    /// MOV to CR4, of which the guest may have `bits`.
    const fn may_set_cr4(&self, val: u64, bits: u64) -> bool {
        let is_long = self.efer & EFER_LMA != 0;
        let sets_pcide = val & CR4_PCIDE != 0 && self.cr4 & CR4_PCIDE == 0;
        val & !bits == 0
            && (val & CR4_PAE != 0 || !is_long)
            && !(sets_pcide && (!is_long || self.cr3 & 0xfff != 0))
    }

    /// Paging with page-directory pointers: PAE, not long mode.
    const fn has_pdptes(&self) -> bool {
        self.cr0 & CR0_PG != 0 && self.cr4 & CR4_PAE != 0 && self.efer & EFER_LMA == 0
    }
}

fn now<B: HvmBackend>(hvm: &B, hw: &B::Vcpu) -> Now {
    let efer = hvm.get(hw, Reg::Efer);
    Now {
        cr0: hvm.get(hw, Reg::Cr0),
        cr3: hvm.get(hw, Reg::Cr3),
        cr4: hvm.get(hw, Reg::Cr4),
        efer,
        is_64bit: efer & EFER_LMA != 0 && hvm.segment(hw, Seg::Cs).ar & 1 << 13 != 0,
    }
}

/// What a domain's vCPUs may have in control registers, whoever sets them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    cr4: u64,
    efer: u64,
    address_bits: u32,
}

impl Limits {
    /// Those of a domain.
    pub fn of<M: Machine>(d: &Domain<M>) -> Self {
        Self::new(d.policy.features(), address_bits(d))
    }

    fn new(features: &FeatureSet, address_bits: u32) -> Self {
        let optional = [(EFER_NXE, f::NX), (EFER_FFXSR, f::FFXSR)];
        let efer = optional
            .iter()
            .filter(|&&(_, feature)| features.has(feature))
            .fold(EFER_SCE | EFER_LME | EFER_LMA, |bits, (bit, _)| bits | bit);
        Self {
            cr4: cr4_bits(features),
            efer,
            address_bits,
        }
    }

    /// What the entry into the guest depends on, for registers that are set together.
    pub(super) fn allow(&self, cr0: u64, cr3: u64, cr4: u64, efer: u64) -> bool {
        let (pe, pg) = (cr0 & CR0_PE != 0, cr0 & CR0_PG != 0);
        let is_long = efer & EFER_LME != 0 && pg;
        cr0 & !CR0_KNOWN == 0
            && (pe || !pg)
            && (cr0 & CR0_NW == 0 || cr0 & CR0_CD != 0)
            && cr4 & !self.cr4 == 0
            && efer & !self.efer == 0
            && (efer & EFER_LMA != 0) == is_long
            && (!is_long || cr4 & CR4_PAE != 0)
            && (is_long || cr4 & CR4_PCIDE == 0)
            && cr3 >> self.address_bits == 0
    }
}

/// Width of physical addresses. A policy may say what no CPU does.
fn address_bits<M: Machine>(d: &Domain<M>) -> u32 {
    match d.policy.phys_bits() {
        bits @ 32..=52 => bits,
        _ => 52,
    }
}

/// Executes the move that the exit describes. Few come here: guests own nearly all bits of the
/// registers that they may change.
#[cold]
pub(crate) fn access<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    v: &Vcpu<M>,
    hw: &mut HwVcpu<M>,
    cr: u8,
    reg: u8,
    write: bool,
) {
    let hvm = hv.machine.hvm();
    let Some(next) = hvm.next_rip(hw) else {
        hvm.inject(hw, GP);
        return;
    };
    if !write {
        let val = match cr {
            0 => hvm.get(hw, Reg::Cr0),
            3 => hvm.get(hw, Reg::Cr3),
            4 => hvm.get(hw, Reg::Cr4),
            _ => u64::from(hvm.cr8(hw)),
        };
        *gpr::<M::Hvm>(hw, reg) = val;
        hvm.retire(hw, next);
        return;
    }
    let val = *gpr::<M::Hvm>(hw, reg);
    let old = now(hvm, hw);
    let is_legal = match cr {
        0 => old.may_set_cr0(val),
        3 => old.may_set_cr3(val, address_bits(d)),
        4 => old.may_set_cr4(val, cr4_bits(d.policy.features())),
        8 => val <= 15,
        _ => return hvm.inject(hw, super::exit::UD),
    };
    if !is_legal {
        return hvm.inject(hw, GP);
    }
    match cr {
        0 => set_cr0(hvm, hw, val),
        3 if old.cr4 & CR4_PCIDE != 0 => hvm.set(hw, Reg::Cr3, val & !CR3_NOFLUSH),
        3 => hvm.set(hw, Reg::Cr3, val),
        4 => hvm.set(hw, Reg::Cr4, val),
        _ => {
            hvm.set_cr8(hw, val as u8);
            v.lapic.set_tpr((val as u8) << 4);
            if v.lapic.highest_requested().is_some() {
                v.attention.fetch_or(attention::LAPIC, Ordering::SeqCst);
            }
        }
    }
    if cr != 8 && now(hvm, hw).has_pdptes() {
        v.attention.fetch_or(attention::PDPTES, Ordering::SeqCst);
    }
    hvm.retire(hw, next);
}

/// CR0 with its effect on long mode: LMA follows LME and PG.
fn set_cr0<B: HvmBackend>(hvm: &B, hw: &mut B::Vcpu, val: u64) {
    let efer = hvm.get(hw, Reg::Efer);
    let lma = if val & CR0_PG != 0 && efer & EFER_LME != 0 {
        EFER_LMA
    } else {
        0
    };
    hvm.set(hw, Reg::Efer, efer & !EFER_LMA | lma);
    hvm.set(hw, Reg::Cr0, val | CR0_ET);
}

/// Reads the page-directory pointers of PAE paging again, as loading CR3 does. What is not
/// readable, or has reserved bits, is not present: the guest finds out.
#[cold]
pub(crate) fn reload_pdptes<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, hw: &mut HwVcpu<M>) {
    let hvm = hv.machine.hvm();
    let state = now(hvm, hw);
    if !state.has_pdptes() {
        return;
    }
    let mut bytes = [0u8; 32];
    let at = Gpa(state.cr3 & 0xffff_ffe0);
    let is_read = super::memory::physical(hv, d)
        .read_gpa(at, &mut bytes)
        .is_ok();
    let mut entries = [0u64; 4];
    if is_read {
        for (entry, raw) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = raw.try_into().map_or(0, u64::from_le_bytes);
        }
    }
    hvm.set_pdptes(hw, valid_pdptes(entries, address_bits(d)));
}

/// The entries that a CPU would take (SDM volume 3, 5.4.1).
fn valid_pdptes(entries: [u64; 4], bits: u32) -> [u64; 4] {
    /// Bits 1, 2 and 5 to 8.
    const RESERVED: u64 = 0x1e6;
    entries.map(|e| {
        let is_good = e & 1 != 0 && e & RESERVED == 0 && e >> bits == 0;
        if is_good { e } else { 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Now = Now {
        cr0: CR0_PG | CR0_PE | CR0_ET,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA,
        is_64bit: true,
    };
    const FLAT: Now = Now {
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        is_64bit: false,
    };

    #[test]
    fn cr0() {
        assert!(LONG.may_set_cr0(CR0_PG | CR0_PE));
        for bad in [
            1 << 32 | CR0_PG | CR0_PE,
            CR0_PG,
            CR0_PG | CR0_PE | CR0_NW,
            CR0_PE,
        ] {
            assert!(!LONG.may_set_cr0(bad), "{bad:#x}");
        }
        assert!(FLAT.may_set_cr0(CR0_PE | CR0_PG));
        let mut entering = FLAT;
        entering.efer = EFER_LME;
        assert!(
            !entering.may_set_cr0(CR0_PE | CR0_PG),
            "long mode needs PAE"
        );
        entering.cr4 = CR4_PAE;
        assert!(entering.may_set_cr0(CR0_PE | CR0_PG));
    }

    #[test]
    fn cr4() {
        assert!(LONG.may_set_cr4(CR4_PAE | 1 << 20 | 1 << 21, CR4_KNOWN));
        assert!(!LONG.may_set_cr4(0, CR4_KNOWN), "PAE stays in long mode");
        assert!(FLAT.may_set_cr4(0, CR4_KNOWN));
        assert!(
            !FLAT.may_set_cr4(CR4_PCIDE, CR4_KNOWN),
            "PCIDs need long mode"
        );
        assert!(LONG.may_set_cr4(CR4_PAE | CR4_PCIDE, CR4_KNOWN));
        let mut odd = LONG;
        odd.cr3 = 0x1001;
        assert!(!odd.may_set_cr4(CR4_PAE | CR4_PCIDE, CR4_KNOWN));
        // LA57, VMXE, SMXE, CET, PKS, UINTR, LAM, FRED and what is reserved.
        for bit in [12, 13, 14, 15, 19, 23, 24, 25, 28, 32, 63] {
            assert!(
                !LONG.may_set_cr4(CR4_PAE | 1 << bit, CR4_KNOWN),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn cr4_bits_come_with_features() {
        let mut features = FeatureSet::EMPTY;
        let none = cr4_bits(&features);
        assert!(LONG.may_set_cr4(CR4_PAE, none));
        for bit in [0, 1, 11, 16, 17, 18, 20, 21, 22] {
            assert!(!LONG.may_set_cr4(CR4_PAE | 1 << bit, none), "bit {bit}");
        }
        features.set(f::SMEP, true);
        let smep = cr4_bits(&features);
        assert!(LONG.may_set_cr4(CR4_PAE | 1 << 20, smep));
        assert!(!LONG.may_set_cr4(CR4_PAE | 1 << 21, smep));
    }

    #[test]
    fn registers_that_are_set_together() {
        let (cr0, cr4, efer) = (CR0_PE | CR0_PG, CR4_PAE, EFER_LME | EFER_LMA);
        let limits = Limits::new(&FeatureSet::EMPTY, 40);
        assert!(limits.allow(cr0, 0x1000, cr4, efer));
        assert!(limits.allow(CR0_PE | CR0_ET, 0, 0, 0));
        for (cr0, cr3, cr4, efer) in [
            (cr0 | CR0_NW, 0, cr4, efer),
            (cr0 | 1 << 32, 0, cr4, efer),
            (CR0_PG, 0, cr4, 0),
            (cr0, 1 << 40, cr4, efer),
            (cr0, 0, cr4 | 1 << 20, efer),
            (cr0, 0, 0, efer),
            (cr0, 0, cr4, EFER_LME),
            (CR0_PE, 0, cr4, EFER_LMA),
            (cr0, 0, cr4, efer | EFER_NXE),
            (cr0, 0, cr4, efer | EFER_FFXSR),
            (cr0, 0, cr4, efer | 1 << 12),
        ] {
            assert!(
                !limits.allow(cr0, cr3, cr4, efer),
                "{cr0:#x} {cr3:#x} {cr4:#x} {efer:#x}"
            );
        }
        let mut features = FeatureSet::EMPTY;
        features.set(f::NX, true);
        assert!(Limits::new(&features, 40).allow(cr0, 0, cr4, efer | EFER_NXE));
    }

    #[test]
    fn cr3() {
        assert!(LONG.may_set_cr3(0x1_2345_6000, 39));
        assert!(!LONG.may_set_cr3(1 << 39, 39));
        assert!(!LONG.may_set_cr3(CR3_NOFLUSH, 39));
        let mut pcid = LONG;
        pcid.cr4 |= CR4_PCIDE;
        assert!(pcid.may_set_cr3(CR3_NOFLUSH | 5, 39));
        assert!(FLAT.may_set_cr3(!0, 39), "upper bits are ignored");
    }

    #[test]
    fn page_directory_pointers() {
        let mut pae = FLAT;
        (pae.cr0, pae.cr4) = (CR0_PE | CR0_PG, CR4_PAE);
        assert!(pae.has_pdptes() && !LONG.has_pdptes() && !FLAT.has_pdptes());
        assert_eq!(
            valid_pdptes([0x1001, 0x2003, 0x3000, 1 << 40 | 1], 40),
            [0x1001, 0, 0, 0]
        );
        assert_eq!(valid_pdptes([0xe19, 0, 0, 0], 40)[0], 0xe19);
    }
}
