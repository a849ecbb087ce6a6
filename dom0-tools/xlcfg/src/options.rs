//! Every option of xl.cfg(5) of Xen 4.20, and what becomes of it.
//!
//! An option is either applied, or *fixed*: then only values that ask for what is
//! done anyway are accepted (`vnc = 0`), and every other is refused with the
//! reason and what to do instead. The table is sorted by name.

use crate::parser::Value;

/// Which values of an option that is not applied ask for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// No value.
    Nothing,
    /// 0, or an empty string.
    Zero,
    /// 1.
    One,
    /// 0 and 1: neither makes a difference.
    Truth,
    /// An empty list or string.
    Empty,
    /// These words.
    Words(&'static [&'static str]),
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Read into [`crate::Config`].
    Applied {
        /// Values and what they do.
        what: &'static str,
    },
    /// Refused, unless it asks for what is the case.
    Fixed {
        /// These values are the case.
        accepts: Accepts,
        /// Why no others.
        why: &'static str,
        /// What to do.
        instead: &'static str,
    },
}

/// A known option.
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// Name.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
}

/// Looks an option up.
#[must_use]
pub fn find(name: &str) -> Option<&'static OptionInfo> {
    let at = OPTIONS.binary_search_by(|info| info.name.cmp(name)).ok()?;
    OPTIONS.get(at)
}

impl Accepts {
    /// Does `value` ask for nothing but what is the case?
    #[must_use]
    pub fn takes(self, value: &Value) -> bool {
        let atom = match value {
            Value::List(values, _) => return self == Self::Empty && values.is_empty(),
            Value::Atom(atom) => atom.text.as_str(),
        };
        match self {
            Self::Nothing => false,
            Self::Zero => matches!(atom, "0" | ""),
            Self::One => atom == "1",
            Self::Truth => matches!(atom, "0" | "1"),
            Self::Empty => matches!(atom, "0" | ""),
            Self::Words(words) => words.contains(&atom),
        }
    }
}

const fn applied(name: &'static str, what: &'static str) -> OptionInfo {
    OptionInfo {
        name,
        treatment: Treatment::Applied { what },
    }
}

/// Reason and remedy.
type Refusal = (&'static str, &'static str);

const fn fixed(name: &'static str, accepts: Accepts, (why, instead): Refusal) -> OptionInfo {
    OptionInfo {
        name,
        treatment: Treatment::Fixed {
            accepts,
            why,
            instead,
        },
    }
}

const VNUMA: Refusal = (
    "guests have no virtual NUMA nodes",
    "remove it; pin the guest to one node with cpus = \"node:0\"",
);
const ARM: Refusal = ("it is for Arm machines only", "remove it");
const FIRMWARE: Refusal = (
    "guests start from a kernel, not from firmware",
    "give kernel = and ramdisk =, copied from the guest's /boot",
);
const PVSHIM: Refusal = (
    "there is no PV shim",
    "use a kernel with PVH support (Linux 4.11 and later, CONFIG_XEN_PVH) and type = \"pvh\"",
);
const SECLABEL: Refusal = (
    "there is no security module, so labels would protect nothing",
    "remove it",
);
const DRIVER_DOMAIN: Refusal = ("backends run in dom0 only", "remove it");
const PASSTHROUGH: Refusal = (
    "devices of the machine cannot be given to guests yet",
    "remove it; use disk = and vif =",
);
const SUSPEND: Refusal = ("guests cannot be suspended yet", "remove it");
const VMTRACE: Refusal = ("processor trace is not available to guests", "remove it");
const VPMU: Refusal = (
    "performance counters are not available to guests",
    "remove it; count from outside the machine or with software events",
);
const XENSTORE: Refusal = (
    "quotas and features of xenstore are the daemon's, the same for all guests",
    "remove it; see the options of xenstored",
);
const DEVICE: Refusal = (
    "this kind of device has no backend here",
    "remove it; disks, network cards and a text console are available",
);
const VIF2: Refusal = ("it is long gone from xl", "use vif =");
const BOOTLOADER: Refusal = (
    "no program looks into the guest's disk for its kernel yet",
    "copy the kernel and initrd from the guest's /boot to dom0, and give kernel = and ramdisk =",
);
const E820_HOST: Refusal = ("it is for PV guests with PCI devices only", "remove it");
const HVM_BOOT: Refusal = (
    "it is for HVM guests, which start from emulated disks",
    "use type = \"pvh\" with kernel = and ramdisk =",
);
const HAP: Refusal = ("all guests run on nested paging", "remove it");
const OOS: Refusal = ("there are no shadow page tables", "remove it");
const SHADOW_MEMORY: Refusal = (
    "memory for page tables of the hypervisor is taken as needed",
    "remove it",
);
const CPU_BASE: Refusal = (
    "PVH guests always have PAE, NX and a local APIC",
    "remove it",
);
const PLATFORM: Refusal = ("PVH guests have no such platform device", "remove it");
const FIRMWARE_TABLES: Refusal = (
    "tables of firmware cannot be passed on",
    "remove it; give the guest its data on the kernel's command line with extra =",
);
const ALTP2M: Refusal = ("guests have one view of their memory", "remove it");
const NESTED: Refusal = (
    "guests cannot run hypervisors of their own yet",
    "remove it; run the inner guest as a second guest of dom0",
);
const CPUID: Refusal = (
    "every guest gets the default CPU policy for now",
    "remove it; a Linux guest can drop features itself: extra = \"clearcpuid=avx512f\"",
);
const MCA: Refusal = ("machine checks are not passed on to guests", "remove it");
const MSR_RELAXED: Refusal = (
    "accesses to unknown MSRs always fault",
    "remove it, and report which MSR the guest needs",
);
const RTC: Refusal = (
    "PVH guests have no emulated clock; their wall clock is UTC",
    "remove it; set the time zone in the guest",
);
const VPT_ALIGN: Refusal = ("there are no emulated periodic timers", "remove it");
const EMULATED: Refusal = (
    "guests have no emulated devices, and no device model runs for them",
    "remove it; use the text console ('xl console') and network services",
);
const VIRIDIAN: Refusal = (
    "the interface for Windows guests is missing",
    "remove it; Windows needs an HVM guest, which is not supported yet",
);
const RTDS: Refusal = (
    "the scheduler is credit2, which has no such parameter",
    "use cpu_weight = and cap =",
);

use Accepts::{Empty, Nothing, One, Truth, Words, Zero};

/// All options, sorted.
pub const OPTIONS: &[OptionInfo] = &[
    applied("acpi", "0 or 1 (default): ACPI tables for the guest"),
    fixed("acpi_firmware", Nothing, FIRMWARE_TABLES),
    fixed("acpi_laptop_slate", Zero, PLATFORM),
    fixed("acpi_s3", Zero, PLATFORM),
    fixed("acpi_s4", Zero, PLATFORM),
    fixed("altp2m", Words(&["disabled"]), ALTP2M),
    fixed("altp2m_count", Zero, ALTP2M),
    fixed("altp2mhvm", Zero, ALTP2M),
    fixed("apic", One, CPU_BASE),
    fixed("arm_sci", Words(&["none", "disabled", ""]), ARM),
    fixed("bios", Nothing, HVM_BOOT),
    fixed("bios_path_override", Nothing, HVM_BOOT),
    fixed("boot", Nothing, HVM_BOOT),
    fixed("bootloader", Nothing, BOOTLOADER),
    fixed("bootloader_args", Empty, BOOTLOADER),
    fixed("bootloader_restrict", Zero, BOOTLOADER),
    fixed("bootloader_user", Nothing, BOOTLOADER),
    applied(
        "builder",
        "old form of `type` (`generic`, `linux`: PV, `hvm`), with a warning",
    ),
    applied(
        "cap",
        "most CPU time in percent of one CPU; 0 (default) is no limit",
    ),
    fixed("channel", Empty, DEVICE),
    applied(
        "cmdline",
        "the kernel's whole command line; `root` and `extra` are then not used",
    ),
    applied(
        "cpu_weight",
        "1 to 65535, 256 when left out: share of CPU time beside other guests",
    ),
    fixed("cpuid", Empty, CPUID),
    applied(
        "cpus",
        "CPUs on which vCPUs may run: `\"all\"`, `\"0-3,^1\"`, `\"node:0\"` for all vCPUs, or a list with one entry for each",
    ),
    applied("cpus_soft", "CPUs that vCPUs prefer, written like `cpus`"),
    fixed("device_model", Nothing, EMULATED),
    fixed("device_model_args", Empty, EMULATED),
    fixed("device_model_args_hvm", Empty, EMULATED),
    fixed("device_model_args_pv", Empty, EMULATED),
    fixed("device_model_override", Nothing, EMULATED),
    fixed("device_model_stubdomain_override", Zero, EMULATED),
    fixed("device_model_stubdomain_seclabel", Nothing, SECLABEL),
    fixed("device_model_user", Nothing, EMULATED),
    fixed(
        "device_model_version",
        Words(&["qemu-xen", "none"]),
        EMULATED,
    ),
    fixed("device_tree", Empty, ARM),
    applied("disk", "list of [disks](#disks)"),
    fixed("display", Nothing, EMULATED),
    fixed("dm_restrict", Zero, EMULATED),
    fixed("driver_domain", Zero, DRIVER_DOMAIN),
    fixed("dtdev", Empty, ARM),
    fixed("e820_host", Zero, E820_HOST),
    applied(
        "extra",
        "words for the kernel's command line, behind `root`",
    ),
    fixed("extratime", Nothing, RTDS),
    fixed("firmware", Nothing, FIRMWARE),
    fixed("firmware_override", Nothing, FIRMWARE),
    fixed("gfx_passthru", Zero, PASSTHROUGH),
    fixed("gic_version", Words(&["default", "none"]), ARM),
    fixed("hap", One, HAP),
    fixed("hdtype", Nothing, HVM_BOOT),
    fixed("hpet", Zero, PLATFORM),
    fixed("hvm_pirq", Zero, EMULATED),
    fixed("init_seclabel", Nothing, SECLABEL),
    fixed("iomem", Empty, PASSTHROUGH),
    fixed("ioports", Empty, PASSTHROUGH),
    fixed("irqs", Empty, PASSTHROUGH),
    applied(
        "kernel",
        "path in dom0 of the kernel: bzImage or ELF with the Xen PVH note. Needed",
    ),
    fixed("keymap", Nothing, EMULATED),
    fixed("latency", Nothing, RTDS),
    fixed("llc_colors", Empty, ARM),
    fixed("localtime", Zero, RTC),
    applied(
        "max_event_channels",
        "highest event channel, 1023 when left out",
    ),
    applied(
        "max_grant_frames",
        "frames of the grant table, 4 to 65536; 64 when left out",
    ),
    applied(
        "max_grant_version",
        "1 or 2 (default): highest version of the grant table",
    ),
    applied(
        "max_maptrack_frames",
        "frames for grants that the guest maps, 0 to 65536; 1024 when left out",
    ),
    applied(
        "maxmem",
        "MiB to which the guest may grow; `memory` when left out. All of it must be free at the start",
    ),
    applied(
        "maxvcpus",
        "vCPUs that can be brought online; `vcpus` when left out",
    ),
    fixed("mca_caps", Empty, MCA),
    applied(
        "memory",
        "MiB at the start. Needed, unless `maxmem` is given",
    ),
    fixed("mmio_hole", Zero, EMULATED),
    fixed("ms_vm_genid", Words(&["none"]), FIRMWARE_TABLES),
    fixed("msr_relaxed", Zero, MSR_RELAXED),
    applied(
        "name",
        "unique, at most 255 letters, digits and `- _ . + : @`, not digits only. Needed",
    ),
    fixed("nestedhvm", Zero, NESTED),
    fixed("nographic", Truth, EMULATED),
    applied("nomigrate", "0 or 1: taken; no guest migrates yet"),
    fixed("nr_spis", Zero, ARM),
    fixed("nx", One, CPU_BASE),
    applied("on_crash", "an [action](#actions); `destroy` when left out"),
    applied(
        "on_poweroff",
        "an [action](#actions); `destroy` when left out",
    ),
    applied(
        "on_reboot",
        "an [action](#actions); `restart` when left out",
    ),
    applied(
        "on_soft_reset",
        "an [action](#actions); `soft-reset` when left out",
    ),
    applied(
        "on_watchdog",
        "an [action](#actions); `destroy` when left out",
    ),
    fixed("oos", Truth, OOS),
    fixed("opengl", Zero, EMULATED),
    fixed("p9", Empty, DEVICE),
    fixed("pae", One, CPU_BASE),
    fixed("passthrough", Words(&["disabled", "default"]), PASSTHROUGH),
    fixed("pci", Empty, PASSTHROUGH),
    fixed("pci_msitranslate", Zero, PASSTHROUGH),
    fixed("pci_permissive", Zero, PASSTHROUGH),
    fixed("pci_power_mgmt", Zero, PASSTHROUGH),
    fixed("pci_seize", Zero, PASSTHROUGH),
    fixed("period", Nothing, RTDS),
    applied("pool", "CPU pool: `Pool-0`, there is no other"),
    fixed("pvcalls", Empty, DEVICE),
    fixed("pvshim", Zero, PVSHIM),
    fixed("pvshim_cmdline", Nothing, PVSHIM),
    fixed("pvshim_extra", Nothing, PVSHIM),
    fixed("pvshim_path", Nothing, PVSHIM),
    applied("ramdisk", "path in dom0 of the initial ramdisk"),
    fixed("rdm", Empty, PASSTHROUGH),
    fixed("rdm_mem_boundary", Zero, PASSTHROUGH),
    applied("root", "becomes `root=...` on the kernel's command line"),
    fixed("rtc_timeoffset", Zero, RTC),
    fixed("sdl", Zero, EMULATED),
    fixed("seclabel", Nothing, SECLABEL),
    fixed("serial", Empty, EMULATED),
    fixed("shadow_memory", Zero, SHADOW_MEMORY),
    fixed("slice", Nothing, RTDS),
    fixed("smbios", Empty, FIRMWARE_TABLES),
    fixed("smbios_firmware", Nothing, FIRMWARE_TABLES),
    fixed("soundhw", Nothing, EMULATED),
    fixed("spice", Zero, EMULATED),
    fixed("spice_clipboard_sharing", Zero, EMULATED),
    fixed("spice_image_compression", Nothing, EMULATED),
    fixed("spice_streaming_video", Nothing, EMULATED),
    fixed("spiceagent_mouse", Zero, EMULATED),
    fixed("spicedisable_ticketing", Zero, EMULATED),
    fixed("spicehost", Nothing, EMULATED),
    fixed("spicepasswd", Nothing, EMULATED),
    fixed("spiceport", Zero, EMULATED),
    fixed("spicetls_port", Zero, EMULATED),
    fixed("spiceusbredirection", Zero, EMULATED),
    fixed("spicevdagent", Zero, EMULATED),
    fixed("stdvga", Zero, EMULATED),
    fixed("stubdomain_cmdline", Nothing, EMULATED),
    fixed("stubdomain_kernel", Nothing, EMULATED),
    fixed("stubdomain_memory", Zero, EMULATED),
    fixed("stubdomain_ramdisk", Nothing, EMULATED),
    fixed("sve", Words(&["none", "disabled", ""]), ARM),
    fixed("tee", Words(&["default", "none"]), ARM),
    applied(
        "timer_mode",
        "0 to 3 or a name as in Xen: told to the hypervisor",
    ),
    fixed("trap_unmapped_accesses", Truth, ARM),
    applied(
        "tsc_mode",
        "`default` (0) or `native` (2), which are the same: RDTSC never exits. The hypervisor refuses `always_emulate` and `native_paravirt`",
    ),
    applied(
        "type",
        "`pvh`. `pv`, which is what a missing `type` means as in Xen, and `hvm` are refused",
    ),
    fixed("usb", Zero, EMULATED),
    fixed("usbctrl", Empty, DEVICE),
    fixed("usbdev", Empty, DEVICE),
    fixed("usbdevice", Empty, EMULATED),
    fixed("usbversion", Zero, EMULATED),
    applied("uuid", "made up when left out"),
    applied(
        "vcpus",
        "vCPUs at the start, 1 to 128; `maxvcpus` or 1 when left out",
    ),
    fixed("vdispl", Empty, DEVICE),
    fixed("vendor_device", Words(&["none"]), EMULATED),
    fixed("vfb", Empty, DEVICE),
    fixed("vga", Words(&["none"]), EMULATED),
    fixed("videoram", Zero, EMULATED),
    applied("vif", "list of [network cards](#network-cards)"),
    fixed("vif2", Empty, VIF2),
    fixed("viridian", Empty, VIRIDIAN),
    fixed("virtio", Empty, DEVICE),
    fixed("vkb", Empty, DEVICE),
    fixed("vkb_device", Zero, EMULATED),
    fixed("vmtrace_buf_kb", Zero, VMTRACE),
    fixed("vnc", Zero, EMULATED),
    fixed("vncdisplay", Nothing, EMULATED),
    fixed("vnclisten", Nothing, EMULATED),
    fixed("vncpasswd", Nothing, EMULATED),
    fixed("vncunused", Zero, EMULATED),
    fixed("vncviewer", Nothing, EMULATED),
    fixed("vnuma", Empty, VNUMA),
    fixed("vpmu", Zero, VPMU),
    fixed("vpt_align", Truth, VPT_ALIGN),
    fixed("vsnd", Empty, DEVICE),
    fixed("vtpm", Empty, DEVICE),
    fixed("vuart", Words(&["none", "disabled", ""]), ARM),
    fixed("xauthority", Nothing, EMULATED),
    fixed("xen_platform_pci", Zero, EMULATED),
    fixed("xen_platform_pci_bar_uc", Zero, EMULATED),
    fixed("xend_suspend_evtchn_compat", Zero, SUSPEND),
    fixed("xenstore_feature_mask", Nothing, XENSTORE),
    fixed("xenstore_quota", Empty, XENSTORE),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::Atom;
    use crate::source::Span;

    #[test]
    fn the_table_is_sorted() {
        for pair in OPTIONS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{}", pair[1].name);
        }
    }

    #[test]
    fn every_refusal_has_a_reason_and_a_remedy() {
        for info in OPTIONS {
            if let Treatment::Fixed { why, instead, .. } = info.treatment {
                assert!(!why.is_empty() && !instead.is_empty(), "{}", info.name);
            }
        }
    }

    /// What the manual page names and xl of 4.20 reads.
    const MANUAL: &str = "acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2m_count \
        altp2mhvm apic arm_sci bios bios_path_override boot bootloader bootloader_args \
        bootloader_restrict bootloader_user builder cap channel cmdline cpu_weight cpuid cpus \
        cpus_soft device_model_args device_model_args_hvm device_model_args_pv \
        device_model_override device_model_stubdomain_override device_model_stubdomain_seclabel \
        device_model_user device_model_version device_tree disk display dm_restrict driver_domain \
        dtdev e820_host extra firmware gfx_passthru gic_version hap hdtype hpet hvm_pirq \
        init_seclabel iomem ioports irqs kernel keymap llc_colors localtime max_event_channels \
        max_grant_frames max_grant_version max_maptrack_frames maxmem maxvcpus mca_caps memory \
        mmio_hole ms_vm_genid msr_relaxed name nestedhvm nographic nomigrate nr_spis nx on_crash \
        on_poweroff on_reboot on_soft_reset on_watchdog oos p9 pae passthrough pci \
        pci_msitranslate pci_permissive pci_power_mgmt pci_seize pool pvcalls pvshim \
        pvshim_cmdline pvshim_extra pvshim_path ramdisk rdm rdm_mem_boundary root rtc_timeoffset \
        sdl seclabel serial shadow_memory smbios smbios_firmware soundhw spice \
        spice_clipboard_sharing spice_image_compression spice_streaming_video spiceagent_mouse \
        spicedisable_ticketing spicehost spicepasswd spiceport spicetls_port spiceusbredirection \
        spicevdagent stdvga stubdomain_cmdline stubdomain_kernel stubdomain_memory \
        stubdomain_ramdisk sve tee timer_mode trap_unmapped_accesses tsc_mode type usb usbctrl \
        usbdev usbdevice usbversion uuid vcpus vdispl vendor_device vfb vga videoram vif viridian \
        virtio vkb vkb_device vmtrace_buf_kb vnc vncdisplay vnclisten vncpasswd vncunused vnuma \
        vpmu vpt_align vsnd vtpm vuart xauthority xen_platform_pci xen_platform_pci_bar_uc \
        xend_suspend_evtchn_compat xenstore_feature_mask xenstore_quota extratime latency opengl \
        period slice vif2 vncviewer device_model firmware_override";

    #[test]
    fn every_option_of_the_manual_is_known() {
        for name in MANUAL.split_whitespace() {
            assert!(find(name).is_some(), "{name}");
        }
        assert_eq!(MANUAL.split_whitespace().count(), OPTIONS.len());
    }

    #[test]
    fn only_values_that_ask_for_nothing_are_taken() {
        let atom = |text: &str| {
            Value::Atom(Atom {
                text: text.into(),
                is_quoted: false,
                span: Span::default(),
            })
        };
        let list = |values| Value::List(values, Span::default());
        assert!(Zero.takes(&atom("0")) && !Zero.takes(&atom("1")));
        assert!(One.takes(&atom("1")) && !One.takes(&atom("0")));
        assert!(Empty.takes(&list(vec![])) && !Empty.takes(&list(vec![atom("1")])));
        assert!(Words(&["none"]).takes(&atom("none")) && !Words(&["none"]).takes(&atom("x")));
        assert!(!Nothing.takes(&atom("")) && !Zero.takes(&list(vec![])));
    }
}
