//! CPUID leaves as data: capture from a CPU, export to and import from the ABI's format.

use x86_defs::cpuid::{Regs, Vendor, leaf};
use xen_abi::arch_x86::XenCpuidLeaf;

/// Rows kept of the basic range, 0 to 0x1f.
pub const BASIC_ROWS: usize = 0x20;
/// Rows kept of the extended range, 0x8000_0000 to 0x8000_0026.
pub const EXT_ROWS: usize = 0x27;
/// Sub-leaves kept of leaf 4.
pub const CACHE_ROWS: usize = 6;
/// Sub-leaves kept of leaf 7.
pub const FEATURE_ROWS: usize = 3;
/// Sub-leaves kept of leaf 0xb.
pub const TOPOLOGY_ROWS: usize = 2;
/// Sub-leaves kept of leaf 0xd: every state component that a CPU has so far, and room.
pub const XSTATE_ROWS: usize = 32;

/// `subleaf` of a leaf that has none, in the ABI's format.
pub const NO_SUBLEAF: u32 = 0xffff_ffff;

/// The leaves that a policy is made of. A leaf that is not kept reads as zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidTable {
    basic: [Regs; BASIC_ROWS],
    cache: [Regs; CACHE_ROWS],
    features: [Regs; FEATURE_ROWS],
    topology: [Regs; TOPOLOGY_ROWS],
    xstate: [Regs; XSTATE_ROWS],
    ext: [Regs; EXT_ROWS],
    /// `IA32_ARCH_CAPABILITIES`, which is a kind of leaf.
    pub arch_capabilities: u64,
}

/// A leaf that cannot be part of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLeaf {
    /// Its number.
    pub leaf: u32,
    /// Its sub-leaf.
    pub subleaf: u32,
}

impl Default for CpuidTable {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl CpuidTable {
    /// All zero.
    pub const EMPTY: Self = Self {
        basic: [Regs::ZERO; BASIC_ROWS],
        cache: [Regs::ZERO; CACHE_ROWS],
        features: [Regs::ZERO; FEATURE_ROWS],
        topology: [Regs::ZERO; TOPOLOGY_ROWS],
        xstate: [Regs::ZERO; XSTATE_ROWS],
        ext: [Regs::ZERO; EXT_ROWS],
        arch_capabilities: 0,
    };

    /// Asks a CPU (or anything that answers like one) for its leaves.
    pub fn capture(mut cpuid: impl FnMut(u32, u32) -> Regs, arch_capabilities: u64) -> Self {
        let mut table = Self {
            arch_capabilities,
            ..Self::EMPTY
        };
        let max_basic = cpuid(leaf::VENDOR, 0).eax;
        let max_ext = cpuid(leaf::EXT, 0).eax;
        for number in (0..BASIC_ROWS as u32).take_while(|n| *n <= max_basic) {
            let subleaves = match number {
                leaf::CACHE => CACHE_ROWS as u32,
                leaf::STRUCTURED => {
                    (cpuid(number, 0).eax.saturating_add(1)).min(FEATURE_ROWS as u32)
                }
                leaf::TOPOLOGY => TOPOLOGY_ROWS as u32,
                leaf::XSTATE => XSTATE_ROWS as u32,
                _ => 1,
            };
            for subleaf in 0..subleaves {
                if let Some(row) = table.row_mut(number, subleaf) {
                    *row = cpuid(number, subleaf);
                }
            }
        }
        if max_ext & 0xffff_0000 == leaf::EXT {
            for number in (leaf::EXT..leaf::EXT + EXT_ROWS as u32).take_while(|n| *n <= max_ext) {
                if let Some(row) = table.row_mut(number, 0) {
                    *row = cpuid(number, 0);
                }
            }
        }
        table
    }

    /// A leaf, zero if it is not kept.
    #[inline]
    #[must_use]
    pub fn get(&self, number: u32, subleaf: u32) -> Regs {
        let index = subleaf as usize;
        let row = match number {
            leaf::CACHE => self.cache.get(index),
            leaf::STRUCTURED => self.features.get(index),
            leaf::TOPOLOGY => self.topology.get(index),
            leaf::XSTATE => self.xstate.get(index),
            _ => return self.plain(number),
        };
        row.copied().unwrap_or(Regs::ZERO)
    }

    /// A leaf without sub-leaves, zero if it is not kept.
    #[inline]
    #[must_use]
    pub fn plain(&self, number: u32) -> Regs {
        let row = if number >> 31 == 0 {
            self.basic.get(number as usize)
        } else {
            self.ext.get((number ^ leaf::EXT) as usize)
        };
        row.copied().unwrap_or(Regs::ZERO)
    }

    /// A leaf to change.
    pub fn row_mut(&mut self, number: u32, subleaf: u32) -> Option<&mut Regs> {
        let index = subleaf as usize;
        match number {
            leaf::CACHE => self.cache.get_mut(index),
            leaf::STRUCTURED => self.features.get_mut(index),
            leaf::TOPOLOGY => self.topology.get_mut(index),
            leaf::XSTATE => self.xstate.get_mut(index),
            _ if number >> 31 == 0 => self.basic.get_mut(number as usize),
            _ => self.ext.get_mut((number ^ leaf::EXT) as usize),
        }
    }

    /// Maker of the CPU.
    #[must_use]
    pub const fn vendor(&self) -> Vendor {
        Vendor::of(self.basic[0])
    }

    /// Highest basic leaf, bounded by what is kept.
    #[inline]
    #[must_use]
    pub fn max_basic(&self) -> u32 {
        self.basic[0].eax.min(BASIC_ROWS as u32 - 1)
    }

    /// Highest extended leaf, bounded by what is kept; `None` if there is none.
    #[inline]
    #[must_use]
    pub fn max_ext(&self) -> Option<u32> {
        let max = self.ext[0].eax;
        (max >= leaf::EXT).then(|| max.min(leaf::EXT + EXT_ROWS as u32 - 1))
    }

    /// All leaves in the order and format of `xen_cpuid_leaf_t` (domctl and sysctl `get_cpu_policy`).
    pub fn export(&self, mut emit: impl FnMut(XenCpuidLeaf)) {
        let mut put = |number, subleaf, regs: Regs| {
            emit(XenCpuidLeaf {
                leaf: number,
                subleaf,
                a: regs.eax,
                b: regs.ebx,
                c: regs.ecx,
                d: regs.edx,
            });
        };
        for number in 0..=self.max_basic() {
            let rows: &[Regs] = match number {
                leaf::CACHE => &self.cache,
                leaf::STRUCTURED => {
                    let last = (self.features[0].eax as usize).min(FEATURE_ROWS - 1);
                    &self.features[..=last]
                }
                leaf::TOPOLOGY => &self.topology,
                leaf::XSTATE => &self.xstate,
                _ => {
                    put(number, NO_SUBLEAF, self.plain(number));
                    continue;
                }
            };
            for (subleaf, row) in (0..).zip(rows) {
                put(number, subleaf, *row);
            }
        }
        if let Some(max) = self.max_ext() {
            for number in leaf::EXT..=max {
                put(number, NO_SUBLEAF, self.plain(number));
            }
        }
    }

    /// Takes over one leaf in the ABI's format. Hypervisor leaves are accepted and ignored:
    /// they are computed. The result is not to be trusted before it was limited to a policy.
    pub fn import(&mut self, entry: &XenCpuidLeaf) -> Result<(), BadLeaf> {
        let bad = BadLeaf {
            leaf: entry.leaf,
            subleaf: entry.subleaf,
        };
        if matches!(entry.leaf, 0x4000_0000..=0x4000_01ff) {
            return if entry.subleaf == NO_SUBLEAF {
                Ok(())
            } else {
                Err(bad)
            };
        }
        let has_subleaves = matches!(
            entry.leaf,
            leaf::CACHE | leaf::STRUCTURED | leaf::TOPOLOGY | leaf::XSTATE
        );
        if has_subleaves == (entry.subleaf == NO_SUBLEAF) {
            return Err(bad);
        }
        let row = self.row_mut(entry.leaf, entry.subleaf).ok_or(bad)?;
        *row = Regs::new(entry.a, entry.b, entry.c, entry.d);
        Ok(())
    }
}

/// Most leaves that [`CpuidTable::export`] emits.
pub const MAX_EXPORTED: usize =
    BASIC_ROWS - 4 + CACHE_ROWS + FEATURE_ROWS + TOPOLOGY_ROWS + XSTATE_ROWS + EXT_ROWS;
