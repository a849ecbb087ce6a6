//! From the host's leaves to a guest's.

use super::features::{ALL_GUESTS, COMMON_WITH_LEAF1, EMULATED, FeatureSet, HVM_GUESTS, OPT_IN};
use super::table::{CACHE_ROWS, CpuidTable, FEATURE_ROWS, XSTATE_ROWS};
use super::{GuestKind, Settings, xstate};
use x86_defs::cpuid::{Regs, feature as f, leaf};

/// Highest basic leaf that guests see: extended state. It is at least the topology leaf, which
/// belongs to the x2APIC.
const MAX_BASIC: u32 = leaf::XSTATE;
/// Highest extended leaf on Intel.
const MAX_EXT_INTEL: u32 = leaf::ADDRESS_SIZES;
/// Highest extended leaf on AMD.
const MAX_EXT_AMD: u32 = leaf::EXT_FEATURES_2;
/// Four-level paging, for guests and for their second stage.
const MAX_ADDRESS_BITS: u32 = 48;
/// ARAT: the APIC timer runs in every idle state; ours does.
const THERMAL_ARAT: u32 = 1 << 2;

/// Everything that a guest of this kind could be shown on this host.
#[must_use]
pub fn max_features(host: &CpuidTable, kind: GuestKind, hidden: &FeatureSet) -> FeatureSet {
    let mut allowed = ALL_GUESTS.or(&OPT_IN);
    let mut available = FeatureSet::from_table(host);
    available.set(f::HYPERVISOR, true);
    if kind != GuestKind::Pv {
        allowed = allowed.or(&HVM_GUESTS);
        available = available.or(&EMULATED);
    } else {
        allowed.set(f::TSC_DEADLINE, false);
    }
    // The toolstack decides on these; the hardware has no say.
    available.set(f::HTT, true);
    available.set(f::CMP_LEGACY, host.vendor().is_amd_like());
    available.set(f::ITSC, true);
    allowed.and(&available).without(hidden).closed()
}

/// What a guest of this kind is shown when its settings ask for nothing special.
#[must_use]
pub fn default_features(host: &CpuidTable, settings: &Settings) -> FeatureSet {
    let max = max_features(host, settings.kind, &settings.hidden);
    let mut set = max.without(&OPT_IN).or(&max.and(&settings.opt_in));
    set.set(f::HTT, settings.vcpus > 1);
    set.set(
        f::CMP_LEGACY,
        settings.vcpus > 1 && host.vendor().is_amd_like(),
    );
    set.set(
        f::ITSC,
        settings.has_reliable_tsc || (set.has(f::ITSC) && settings.opt_in.has(f::ITSC)),
    );
    set.without(&settings.hidden).closed()
}

/// Makes a consistent table for a guest of `wanted` (whose leaves may come from the host or from
/// the toolstack) with `features`.
#[must_use]
pub fn guest_table(
    host: &CpuidTable,
    wanted: &CpuidTable,
    features: &FeatureSet,
    settings: &Settings,
) -> CpuidTable {
    let mut table = wanted.clone();
    let is_amd = host.vendor().is_amd_like();
    // Vendor decides which hypercall instruction a guest uses: never anything but the host's.
    let vendor = host.plain(leaf::VENDOR);
    let max_basic = wanted
        .max_basic()
        .min(host.max_basic())
        .clamp(leaf::TOPOLOGY, MAX_BASIC);
    set(
        &mut table,
        leaf::VENDOR,
        Regs {
            eax: max_basic,
            ..vendor
        },
    );
    hide_leaves(&mut table, is_amd);
    features.write_to(&mut table);
    clamp_features_leaf(&mut table);
    identify(&mut table, settings.vcpus);
    caches(&mut table, settings.vcpus, is_amd);
    topology(&mut table, settings.vcpus, features.has(f::X2APIC));
    extended_state(&mut table, host, features);
    extended_range(&mut table, host, is_amd, settings);
    table
}

fn set(table: &mut CpuidTable, number: u32, regs: Regs) {
    if let Some(row) = table.row_mut(number, 0) {
        *row = regs;
    }
}

/// Leaves whose subject guests do not have.
fn hide_leaves(table: &mut CpuidTable, is_amd: bool) {
    let hidden = [
        leaf::SERIAL,
        leaf::MONITOR,
        8,
        leaf::DCA,
        leaf::PMU,
        0xc,
        0xe,
        leaf::RDT_M,
        leaf::RDT_A,
        leaf::SGX,
        leaf::PROC_TRACE,
        leaf::TSC,
        leaf::FREQUENCY,
        leaf::AMX_TILE,
        leaf::AMX_TMUL,
        leaf::TOPOLOGY_2,
        leaf::SVM,
        leaf::IBS,
        leaf::LWP,
        leaf::CACHE_AMD,
        leaf::NODE,
        leaf::SEV,
        leaf::QOS,
        leaf::PERFMON_V2,
        leaf::TOPOLOGY_AMD,
    ];
    for number in hidden {
        set(table, number, Regs::ZERO);
    }
    for number in (leaf::SVM..=0x8000_0018)
        .chain(0x8000_0023..=0x8000_0025)
        .chain([0x8000_0009])
    {
        set(table, number, Regs::ZERO);
    }
    set(
        table,
        leaf::THERMAL,
        Regs {
            eax: THERMAL_ARAT,
            ..Regs::ZERO
        },
    );
    if is_amd {
        set(table, leaf::CACHE_DESCRIPTORS, Regs::ZERO);
    }
}

fn clamp_features_leaf(table: &mut CpuidTable) {
    // Sub-leaves end with the last one that says something.
    let mut last = 0;
    for subleaf in 1..FEATURE_ROWS as u32 {
        if let Some(row) = table.row_mut(leaf::STRUCTURED, subleaf) {
            if subleaf > 1 {
                *row = Regs {
                    edx: row.edx,
                    ..Regs::ZERO
                };
            }
            if *row != Regs::ZERO {
                last = subleaf;
            }
        }
    }
    if let Some(row) = table.row_mut(leaf::STRUCTURED, 0) {
        row.eax = last;
    }
}

/// Family and model; the dynamic parts of leaf 1 are left zero.
fn identify(table: &mut CpuidTable, vcpus: u32) {
    if let Some(row) = table.row_mut(leaf::FEATURES, 0) {
        row.eax &= 0x0fff_0fff;
        // APIC ids below twice the number of vCPUs are in use.
        let ids = vcpus.saturating_mul(2).min(255);
        row.ebx = row.ebx & 0xffff | ids << 16;
    }
}

/// Leaf 4: each vCPU is a core of its own (two APIC ids); the last level is shared by all.
fn caches(table: &mut CpuidTable, vcpus: u32, is_amd: bool) {
    for subleaf in 0..CACHE_ROWS as u32 {
        let Some(row) = table.row_mut(leaf::CACHE, subleaf) else {
            return;
        };
        if is_amd || row.eax & 0x1f == 0 {
            *row = Regs::ZERO;
            continue;
        }
        let cores = vcpus.saturating_sub(1).min(63);
        let level = row.eax >> 5 & 7;
        let sharing = if level >= 3 {
            vcpus.saturating_mul(2).saturating_sub(1).min(0xfff)
        } else {
            1
        };
        row.eax = row.eax & 0x3fff | sharing << 14 | cores << 26;
    }
}

/// Leaf 0xb: a level of single threads, then all cores in one package. EDX is dynamic.
fn topology(table: &mut CpuidTable, vcpus: u32, has_x2apic: bool) {
    const THREADS: u32 = 1;
    const CORES: u32 = 2;
    let ids = vcpus.max(1).saturating_mul(2);
    let package_shift = u32::BITS - (ids - 1).leading_zeros();
    let rows = [
        Regs::new(1, 1, THREADS << 8, 0),
        Regs::new(package_shift, vcpus.clamp(1, 0xffff), CORES << 8 | 1, 0),
    ];
    for (subleaf, row) in (0..).zip(rows) {
        if let Some(entry) = table.row_mut(leaf::TOPOLOGY, subleaf) {
            *entry = if has_x2apic { row } else { Regs::ZERO };
        }
    }
}

/// Leaf 0xd: offsets and sizes are the hardware's, the components those of the features.
fn extended_state(table: &mut CpuidTable, host: &CpuidTable, features: &FeatureSet) {
    let supported = xstate::components(features);
    for subleaf in 2..XSTATE_ROWS as u32 {
        let is_offered = supported >> subleaf & 1 != 0;
        if let Some(row) = table.row_mut(leaf::XSTATE, subleaf) {
            *row = if is_offered {
                host.get(leaf::XSTATE, subleaf)
            } else {
                Regs::ZERO
            };
        }
    }
    let size = if supported == 0 {
        0
    } else {
        xstate::standard_size(table, supported)
    };
    set(
        table,
        leaf::XSTATE,
        Regs::new(supported as u32, 0, size, (supported >> 32) as u32),
    );
    if let Some(row) = table.row_mut(leaf::XSTATE, 1) {
        // EAX holds the features already; EBX is dynamic; no supervisor state is offered.
        *row = Regs {
            eax: row.eax,
            ..Regs::ZERO
        };
    }
}

fn extended_range(table: &mut CpuidTable, host: &CpuidTable, is_amd: bool, settings: &Settings) {
    let limit = if is_amd { MAX_EXT_AMD } else { MAX_EXT_INTEL };
    let max = table
        .max_ext()
        .unwrap_or(leaf::EXT)
        .min(host.max_ext().unwrap_or(leaf::EXT))
        .min(limit);
    let vendor = if is_amd {
        host.plain(leaf::EXT)
    } else {
        Regs::ZERO
    };
    set(table, leaf::EXT, Regs { eax: max, ..vendor });
    let leaf1 = table.plain(leaf::FEATURES);
    if let Some(row) = table.row_mut(leaf::EXT_FEATURES, 0) {
        row.edx &= !COMMON_WITH_LEAF1;
        if is_amd {
            row.eax = leaf1.eax;
            row.edx |= leaf1.edx & COMMON_WITH_LEAF1;
        } else {
            (row.eax, row.ebx) = (0, 0);
        }
    }
    if !is_amd {
        set(table, leaf::L1, Regs::ZERO);
        let l2 = table.plain(leaf::L2).ecx;
        set(
            table,
            leaf::L2,
            Regs {
                ecx: l2,
                ..Regs::ZERO
            },
        );
    }
    // Features only: no thermal, power or RAS interfaces.
    let power = table.plain(leaf::POWER).edx;
    set(
        table,
        leaf::POWER,
        Regs {
            edx: power,
            ..Regs::ZERO
        },
    );
    let host_bits = host.plain(leaf::ADDRESS_SIZES).eax & 0xff;
    if let Some(row) = table.row_mut(leaf::ADDRESS_SIZES, 0) {
        let limit = host_bits
            .max(36)
            .min(settings.max_phys_bits)
            .min(MAX_ADDRESS_BITS);
        // 32 bits is what long mode cannot go below; a leaf of zero means 36 (SDM volume 2, CPUID).
        let wanted = if row.eax & 0xff == 0 {
            36
        } else {
            (row.eax & 0xff).max(32)
        };
        let physical = wanted.min(limit);
        row.eax = MAX_ADDRESS_BITS << 8 | physical;
        row.ecx = if is_amd {
            amd_core_count(settings.vcpus)
        } else {
            0
        };
        row.edx = 0;
    }
    if let Some(row) = table.row_mut(leaf::EXT_FEATURES_2, 0) {
        (row.ebx, row.edx) = (0, 0);
    }
}

/// Leaf 0x8000_0008 ECX: number of cores, and how many bits of the APIC id name a core.
fn amd_core_count(vcpus: u32) -> u32 {
    let ids = vcpus.max(1).saturating_mul(2);
    let id_bits = (u32::BITS - (ids - 1).leading_zeros()).min(15);
    id_bits << 12 | vcpus.saturating_sub(1).min(0xff)
}
