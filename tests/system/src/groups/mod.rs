//! The list of groups.

mod boots;
mod command;
mod cpu_models;
mod debian_tools;
mod debug_keys;
mod devices;
mod domu;
mod faults;
mod hostile;
mod refusals;
mod scheduling;
mod screen;
mod systemd;
mod time;

use anyhow::Result;
use harness::Report;

use crate::env::Env;

/// When a group runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// In the test command.
    Short,
    /// In the long suite only.
    Long,
}

impl Suite {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Short => "test",
            Self::Long => "long",
        }
    }
}

/// A named family of checks.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) suite: Suite,
    /// Makes sense without a hypervisor.
    pub(crate) native: bool,
    pub(crate) run: fn(&Env, &mut Report) -> Result<()>,
}

const fn short(
    name: &'static str,
    about: &'static str,
    run: fn(&Env, &mut Report) -> Result<()>,
) -> Group {
    Group {
        name,
        about,
        suite: Suite::Short,
        native: false,
        run,
    }
}

const fn long(
    name: &'static str,
    about: &'static str,
    run: fn(&Env, &mut Report) -> Result<()>,
) -> Group {
    Group {
        name,
        about,
        suite: Suite::Long,
        native: false,
        run,
    }
}

const fn native(group: Group) -> Group {
    Group {
        native: true,
        ..group
    }
}

/// Every group, in the order in which they run.
pub(crate) const GROUPS: &[Group] = &[
    native(short(
        "dom0",
        "SVM: Debian 13 as dom0, 2 vCPUs on 2 CPUs",
        boots::dom0,
    )),
    short(
        "vcpus",
        "SVM: both kernels, a few vCPU and CPU counts",
        boots::vcpus_short,
    ),
    long(
        "vcpus-all",
        "SVM: both kernels with 1, 2 and 4 vCPUs on 1 and 2 CPUs",
        boots::vcpus_all,
    ),
    short(
        "lost-interrupts",
        "SVM: an emulator that loses interrupts as QEMU's can, much more often",
        boots::lost_interrupts,
    ),
    short(
        "run",
        "the README's first command: dom0's shell",
        command::run,
    ),
    short(
        "run-guest",
        "the same, and a guest by xl create",
        command::run_guest,
    ),
    short(
        "domu",
        "SVM: guests by xl create: disk, network, life cycle, hot plug, faults",
        domu::svm,
    ),
    short(
        "iommu",
        "SVM with VT-d: guests' pages under DMA, devices confined, options",
        domu::iommu,
    ),
    short(
        "iommu-amd",
        "SVM with AMD-Vi: the same as group iommu",
        domu::iommu_amd,
    ),
    long(
        "iommu-48",
        "SVM with VT-d: the same with 4 levels and caching mode",
        domu::iommu_48,
    ),
    long(
        "domu-long",
        "SVM: guests with both kernels, 64 MiB each way over their cards",
        domu::svm_long,
    ),
    short(
        "hostile-guests",
        "SVM: guests that do nothing but harm, beside one that minds its own business",
        domu::hostile_svm,
    ),
    long(
        "hostile-guests-long",
        "SVM: the same, five million calls",
        domu::hostile_svm_long,
    ),
    long(
        "hostile-guests-bochs",
        "VMX: the same, fewer calls",
        domu::hostile_vmx,
    ),
    short(
        "domu-kills",
        "SVM: SIGKILL for xenstored, xenconsoled, xl create in mid-way",
        domu::svm_kills,
    ),
    long(
        "domu-cycles",
        "SVM: 200 guests one after the other leave nothing",
        domu::svm_cycles,
    ),
    long(
        "domu-many",
        "SVM: 60 guests at once, each answers over its card",
        domu::svm_many,
    ),
    long(
        "domu-bochs",
        "VMX: a guest from create to shutdown, and a few one after the other",
        domu::vmx,
    ),
    long(
        "domu-bochs-work",
        "VMX: guests with both kernels: disk, network, reboot, crash",
        domu::vmx_work,
    ),
    short("endings", "SVM: reboot and a crashed dom0", boots::endings),
    native(short(
        "devices",
        "SVM: disks and network cards by MSI and MSI-X",
        devices::msi,
    )),
    native(short(
        "intx",
        "SVM: disks and network cards by INTx",
        devices::intx,
    )),
    native(long(
        "load",
        "SVM: a NIC and a disk under load together for a minute",
        devices::load,
    )),
    native(short("time", "SVM: drift, steps, sleeps", time::time)),
    native(short(
        "firmware",
        "SVM: GRUB on BIOS and on UEFI, packed kernels",
        boots::firmware,
    )),
    native(short(
        "memory",
        "SVM: 512 MB and 6 GB machines, a dom0 with 256 MB",
        boots::memory,
    )),
    short(
        "hostile",
        "SVM: dom0 misbehaves, the hypervisor stays",
        hostile::svm,
    ),
    long(
        "hostile-bochs",
        "VMX: dom0 misbehaves, the hypervisor stays",
        hostile::vmx,
    ),
    short(
        "debug-keys",
        "SVM: three Ctrl-A, every debug key, and back to dom0",
        debug_keys::svm,
    ),
    short(
        "faults",
        "SVM: page fault, stack overflow, assertion and hangs of the hypervisor itself",
        faults::svm,
    ),
    long(
        "faults-bochs",
        "VMX: stack overflow and hang of the hypervisor itself",
        faults::vmx,
    ),
    short(
        "refusals",
        "SVM: what cannot work is refused in one clear line",
        refusals::refusals,
    ),
    short(
        "screen",
        "SVM: the refusal on a text screen and in a framebuffer",
        screen::screen,
    ),
    short(
        "cpu-models",
        "Bochs: CPUs without 64-bit mode, VMX, SVM, nested paging, unrestricted guest",
        cpu_models::refusals,
    ),
    long(
        "systemd",
        "SVM: our Debian package under systemd: units, guests at boot and at halt",
        systemd::systemd,
    ),
    long(
        "debian-tools",
        "SVM: Debian's own xl and daemons in dom0, and our xl beside theirs",
        debian_tools::theirs,
    ),
    long(
        "debian-tools-c",
        "SVM: Debian's own xl with the C store",
        debian_tools::c_store,
    ),
    long(
        "debian-tools-ours",
        "SVM: Debian's own xl and xenstore-utils with our daemons",
        debian_tools::ours,
    ),
    long(
        "scheduling",
        "SVM: weights, a cap, pinning and idleness of guests",
        scheduling::svm,
    ),
    native(short(
        "bochs",
        "VMX: Debian 13 as dom0 on 1 CPU",
        boots::bochs_one,
    )),
    short(
        "bochs-smp",
        "VMX: Debian 13 as dom0 on 2 CPUs",
        boots::bochs_two,
    ),
];
