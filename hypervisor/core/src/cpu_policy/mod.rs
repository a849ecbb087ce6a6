//! What guests see of the CPU: CPUID policy as data.
//!
//! The host's leaves are captured once ([`CpuidTable::capture`]).  From them and a domain's
//! [`Settings`] a [`CpuPolicy`] is computed when the domain is built, or when the toolstack
//! replaces leaves; answering a CPUID exit is then a table look-up ([`CpuPolicy::cpuid`]) plus,
//! for a few leaves, bits of the vCPU's present state.
//!
//! - [`features`]: allow-lists by kind of guest and dependencies.  Unknown features are hidden.
//! - [`derive`]: everything else that a consistent table needs: hidden leaves, topology
//!   (one core per vCPU, APIC id = 2 * vCPU id, one package), caches, extended state.
//! - [`xstate`]: XCR0 rules and sizes.
//! - [`xen_leaves`]: 0x40000000 and up.
//!
//! Invariants: the vendor is always the host's (guests choose VMCALL or VMMCALL by it); maximum
//! leaves are within the table; features are within what [`derive::max_features`] allows.
//! Out-of-range leaves read as zero, as on AMD and in Xen.
//!
//! Missing: Viridian leaves, nested virtualisation, CPUID levelling by MSR for PV guests.

pub mod derive;
pub mod features;
pub mod table;
#[cfg(test)]
mod tests;
pub mod xen_leaves;
pub mod xstate;

pub use self::features::FeatureSet;
pub use self::table::{BadLeaf, CpuidTable, MAX_EXPORTED};
pub use self::xen_leaves::XenLeaves;

use crate::hvm::vlapic::apic_id;
use x86_defs::cpuid::{Regs, Vendor, feature as f, leaf, xen};
use xen_abi::VcpuId;
use xen_abi::arch_x86::XenCpuidLeaf;

/// `CR4.OSXSAVE`.
const CR4_OSXSAVE: u64 = 1 << 18;
/// `CR4.PKE`.
const CR4_PKE: u64 = 1 << 22;

/// Kinds of guests, by what they can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// Paravirtual MMU and CPU.
    Pv,
    /// Hardware-virtualised without emulated devices.
    Pvh,
    /// Hardware-virtualised with emulated devices.
    Hvm,
}

/// The vCPU's state that some leaves show. Asked only for those leaves.
pub trait CpuidContext {
    /// Which vCPU.
    fn vcpu(&self) -> VcpuId;
    /// CR4 as the guest sees it.
    fn cr4(&self) -> u64;
    /// XCR0.
    fn xcr0(&self) -> u64;
    /// `IA32_XSS`.
    fn xss(&self) -> u64;
    /// `IA32_APIC_BASE.EN`.
    fn is_apic_enabled(&self) -> bool;
    /// The vCPU executes 64-bit code.
    fn is_64bit(&self) -> bool;
}

/// What decides a domain's policy besides the host.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Kind of guest.
    pub kind: GuestKind,
    /// Number of vCPUs that it can have.
    pub vcpus: u32,
    /// Features of [`features::OPT_IN`] that it gets if the host has them.
    pub opt_in: FeatureSet,
    /// Features that it does not get: what the backend cannot give, and what the toolstack masks.
    pub hidden: FeatureSet,
    /// The guest's TSC never changes its rate and RDTSC does not exit: shown as invariant.
    pub has_reliable_tsc: bool,
    /// Widest guest-physical address that the second stage can map.
    pub max_phys_bits: u32,
    /// Hypervisor leaves.
    pub xen: XenLeaves,
}

impl Settings {
    /// For a domain of this kind with this many vCPUs: nothing opted in, nothing hidden.
    #[must_use]
    pub fn new(kind: GuestKind, vcpus: u32) -> Self {
        Self {
            kind,
            vcpus,
            opt_in: FeatureSet::EMPTY,
            hidden: FeatureSet::EMPTY,
            has_reliable_tsc: false,
            max_phys_bits: 48,
            xen: XenLeaves::default(),
        }
    }
}

/// What the guests of one domain see.
#[derive(Clone, Debug)]
pub struct CpuPolicy {
    table: CpuidTable,
    features: FeatureSet,
    settings: Settings,
    /// Highest basic leaf.
    max_basic: u32,
    /// Highest extended leaf, less 0x8000_0000.
    max_ext: u32,
    is_amd: bool,
}

/// Basic leaves that are not simply a row.
const SPECIAL_BASIC: u64 = 1 << leaf::FEATURES
    | 1 << leaf::CACHE
    | 1 << leaf::STRUCTURED
    | 1 << leaf::TOPOLOGY
    | 1 << leaf::XSTATE;

impl CpuPolicy {
    /// The default policy for `settings` on `host`.
    #[must_use]
    pub fn new(host: &CpuidTable, settings: &Settings) -> Self {
        let features = derive::default_features(host, settings);
        Self::build(host, host, features, settings)
    }

    fn build(
        host: &CpuidTable,
        wanted: &CpuidTable,
        features: FeatureSet,
        settings: &Settings,
    ) -> Self {
        let table = derive::guest_table(host, wanted, &features, settings);
        let mut settings = *settings;
        settings.xen.has_rdtscp = features.has(f::RDTSCP);
        Self {
            max_basic: table.max_basic(),
            max_ext: table.max_ext().map_or(0, |max| max ^ leaf::EXT),
            is_amd: host.vendor().is_amd_like(),
            table,
            features,
            settings,
        }
    }

    /// Replaces leaves by the toolstack's. What it asks for beyond the maximum is taken away
    /// silently, as in Xen; an impossible leaf is refused and changes nothing.
    pub fn import(&mut self, host: &CpuidTable, entries: &[XenCpuidLeaf]) -> Result<(), BadLeaf> {
        let mut wanted = self.table.clone();
        for entry in entries {
            wanted.import(entry)?;
        }
        let max = derive::max_features(host, self.settings.kind, &self.settings.hidden);
        let mut features = FeatureSet::from_table(&wanted).and(&max);
        features.set(f::HYPERVISOR, true);
        *self = Self::build(host, &wanted, features.closed(), &self.settings);
        Ok(())
    }

    /// All leaves but the hypervisor's, for `get_cpu_policy`.
    pub fn export(&self, emit: impl FnMut(XenCpuidLeaf)) {
        self.table.export(emit);
    }

    /// The features.
    #[inline]
    #[must_use]
    pub const fn features(&self) -> &FeatureSet {
        &self.features
    }

    /// Whether the guest has a feature.
    #[inline]
    #[must_use]
    pub const fn has(&self, feature: x86_defs::cpuid::Feature) -> bool {
        self.features.has(feature)
    }

    /// What the policy was made for.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The hypervisor leaves, to change what time or migration changes.
    pub const fn xen_leaves_mut(&mut self) -> &mut XenLeaves {
        &mut self.settings.xen
    }

    /// Maker of the CPU.
    #[must_use]
    pub const fn vendor(&self) -> Vendor {
        self.table.vendor()
    }

    /// AMD's architecture where it differs from Intel's.
    #[inline]
    #[must_use]
    pub const fn is_amd(&self) -> bool {
        self.is_amd
    }

    /// Bits that XCR0 can have.
    #[must_use]
    pub const fn xcr0_mask(&self) -> u64 {
        xstate::components(&self.features)
    }

    /// Width of guest-physical addresses.
    #[must_use]
    pub fn phys_bits(&self) -> u32 {
        self.table.plain(leaf::ADDRESS_SIZES).eax & 0xff
    }

    /// `IA32_ARCH_CAPABILITIES`; `None` if the guest does not have it.
    #[must_use]
    pub const fn arch_capabilities(&self) -> Option<u64> {
        if self.features.has(f::ARCH_CAPS) {
            Some(self.table.arch_capabilities)
        } else {
            None
        }
    }

    /// Answers CPUID.
    #[inline]
    #[must_use]
    pub fn cpuid(&self, number: u32, subleaf: u32, ctx: &impl CpuidContext) -> Regs {
        if number <= self.max_basic {
            if SPECIAL_BASIC >> (number & 63) & 1 == 0 {
                return self.table.plain(number);
            }
            return self.special_basic(number, subleaf, ctx);
        }
        if number ^ leaf::EXT <= self.max_ext {
            let row = self.table.plain(number);
            return if number == leaf::EXT_FEATURES {
                self.ext_features(row, ctx)
            } else {
                row
            };
        }
        let index = number.wrapping_sub(self.settings.xen.base);
        if index <= xen::MAX_LEAVES {
            let xen = &self.settings.xen;
            return xen
                .get(index, subleaf, self.settings.kind, ctx)
                .unwrap_or(Regs::ZERO);
        }
        Regs::ZERO
    }

    fn special_basic(&self, number: u32, subleaf: u32, ctx: &impl CpuidContext) -> Regs {
        let mut row = self.table.get(number, subleaf);
        match number {
            leaf::FEATURES => {
                row.ebx |= apic_id(ctx.vcpu()) << 24;
                if ctx.cr4() & CR4_OSXSAVE != 0 {
                    row.ecx |= f::OSXSAVE.mask();
                }
                if !ctx.is_apic_enabled() {
                    row.edx &= !f::APIC.mask();
                }
            }
            leaf::STRUCTURED if subleaf == 0 && ctx.cr4() & CR4_PKE != 0 => {
                row.ecx |= f::OSPKE.mask();
            }
            leaf::TOPOLOGY if self.features.has(f::X2APIC) => {
                // Levels beyond the last are invalid ones, still with level number and id.
                row.ecx |= subleaf & 0xff;
                row.edx = apic_id(ctx.vcpu());
            }
            leaf::XSTATE if self.features.has(f::XSAVE) => match subleaf {
                0 => row.ebx = xstate::standard_size(&self.table, ctx.xcr0()),
                1 if self.features.has(f::XSAVEC) || self.features.has(f::XSAVES) => {
                    row.ebx = xstate::compacted_size(&self.table, ctx.xcr0() | ctx.xss());
                }
                _ => {}
            },
            _ => {}
        }
        row
    }

    fn ext_features(&self, mut row: Regs, ctx: &impl CpuidContext) -> Regs {
        if self.is_amd {
            if !ctx.is_apic_enabled() {
                row.edx &= !f::APIC.mask();
            }
        } else if !ctx.is_64bit() {
            row.edx &= !f::SYSCALL.mask();
        }
        row
    }
}
