//! The control domain's dealings with the platform (`public/platform.h`).
//!
//! `XenProcessorFlags::bits`: bm_control, bm_check, has_cst, power_setup_done, bm_rld_set from bit 0 up.

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::Mfn;

abi_consts! {
    CONSTS: u32;
    XENPF_INTERFACE_VERSION = 0x300_0001,
    XENPF_settime32 = 17,
    XENPF_settime64 = 62,
    XENPF_settime = 62,
    XENPF_add_memtype = 31,
    XENPF_del_memtype = 32,
    XENPF_read_memtype = 33,
    XENPF_microcode_update = 35,
    XENPF_platform_quirk = 39,

    QUIRK_NOIRQBALANCING = 1,
    QUIRK_IOAPIC_BAD_REGSEL = 2,
    QUIRK_IOAPIC_GOOD_REGSEL = 3,

    XENPF_efi_runtime_call = 49,

    XEN_EFI_get_time = 1,
    XEN_EFI_set_time = 2,
    XEN_EFI_get_wakeup_time = 3,
    XEN_EFI_set_wakeup_time = 4,
    XEN_EFI_get_next_high_monotonic_count = 5,
    XEN_EFI_get_variable = 6,
    XEN_EFI_set_variable = 7,
    XEN_EFI_get_next_variable_name = 8,
    XEN_EFI_query_variable_info = 9,
    XEN_EFI_query_capsule_capabilities = 10,
    XEN_EFI_update_capsule = 11,
    XEN_EFI_GET_TIME_SET_CLEARS_NS = 1,
    XEN_EFI_GET_WAKEUP_TIME_ENABLED = 1,
    XEN_EFI_GET_WAKEUP_TIME_PENDING = 2,
    XEN_EFI_SET_WAKEUP_TIME_ENABLE = 1,
    XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY = 2,
    XEN_EFI_VARIABLE_NON_VOLATILE = 1,
    XEN_EFI_VARIABLE_BOOTSERVICE_ACCESS = 2,
    XEN_EFI_VARIABLE_RUNTIME_ACCESS = 4,
    XEN_EFI_VARINFO_BOOT_SNAPSHOT = 1,

    XENPF_firmware_info = 50,

    XEN_FW_DISK_INFO = 1,
    XEN_FW_DISK_MBR_SIGNATURE = 2,
    XEN_FW_VBEDDC_INFO = 3,
    XEN_FW_EFI_INFO = 4,
    XEN_FW_EFI_VERSION = 0x0,
    XEN_FW_EFI_CONFIG_TABLE = 1,
    XEN_FW_EFI_VENDOR = 2,
    XEN_FW_EFI_MEM_INFO = 3,
    XEN_FW_EFI_RT_VERSION = 0x4,
    XEN_FW_EFI_PCI_ROM = 5,
    XEN_FW_EFI_APPLE_PROPERTIES = 6,
    XEN_FW_KBD_SHIFT_FLAGS = 0x5,

    XENPF_enter_acpi_sleep = 51,
    XENPF_ACPI_SLEEP_EXTENDED = 1,
    XENPF_change_freq = 52,
    XENPF_getidletime = 53,
    XENPF_set_processor_pminfo = 54,

    XEN_PROCESSOR_PM_CX = 1,
    XEN_PROCESSOR_PM_PX = 2,
    XEN_PROCESSOR_PM_TX = 4,

    XEN_PM_CX = 0,
    XEN_PM_PX = 1,
    XEN_PM_TX = 2,
    XEN_PM_PDC = 3,

    XEN_PX_PCT = 1,
    XEN_PX_PSS = 2,
    XEN_PX_PPC = 4,
    XEN_PX_PSD = 8,

    XEN_CPUPERF_SHARED_TYPE_HW = 1,
    XEN_CPUPERF_SHARED_TYPE_ALL = 2,
    XEN_CPUPERF_SHARED_TYPE_ANY = 3,

    XENPF_get_cpuinfo = 55,

    XEN_PCPU_FLAGS_ONLINE = 0x1,
    XEN_PCPU_FLAGS_INVALID = 0x2,

    XENPF_get_cpu_version = 48,
    XENPF_cpu_online = 56,
    XENPF_cpu_offline = 57,
    XENPF_cpu_hotadd = 58,
    XENPF_mem_hotadd = 59,
    XENPF_core_parking = 60,

    XEN_CORE_PARKING_SET = 1,
    XEN_CORE_PARKING_GET = 2,

    XENPF_resource_op = 61,

    XEN_RESOURCE_OP_MSR_READ = 0,
    XEN_RESOURCE_OP_MSR_WRITE = 1,

    XENPF_get_symbol = 63,
    XENPF_get_dom0_console = 64,
    XENPF_get_ucode_revision = 65,
    XENPF_microcode_update2 = 66,
    XENPF_UCODE_FORCE = 1,
}

abi_structs! {
    LAYOUTS:
    XenpfSettime32("struct xenpf_settime32") {
        secs: u32,
        nsecs: u32,
        system_time: u64,
    }
    XenpfSettime64("struct xenpf_settime64") {
        secs: u64,
        nsecs: u32,
        mbz: u32,
        system_time: u64,
    }
    XenpfAddMemtype("struct xenpf_add_memtype") {
        mfn: Mfn,
        nr_mfns: u64,
        r#type: u32,
        handle: u32,
        reg: u32,
        _fill0: [u8; 4],
    }
    XenpfDelMemtype("struct xenpf_del_memtype") {
        handle: u32,
        reg: u32,
    }
    XenpfReadMemtype("struct xenpf_read_memtype") {
        reg: u32,
        _fill0: [u8; 4],
        mfn: Mfn,
        nr_mfns: u64,
        r#type: u32,
        _fill1: [u8; 4],
    }
    XenpfMicrocodeUpdate("struct xenpf_microcode_update") {
        data: Handle<u8>,
        length: u32,
        _fill0: [u8; 4],
    }
    XenpfPlatformQuirk("struct xenpf_platform_quirk") {
        quirk_id: u32,
    }
    XenpfEfiTime("struct xenpf_efi_time") {
        year: u16,
        month: u8,
        day: u8,
        hour: u8,
        min: u8,
        sec: u8,
        _fill0: [u8; 1],
        ns: u32,
        tz: i16,
        daylight: u8,
        _fill1: [u8; 1],
    }
    XenpfEfiGuid("struct xenpf_efi_guid") {
        data1: u32,
        data2: u16,
        data3: u16,
        data4: [u8; 8],
    }
    XenpfEfiRuntimeCallGetTime("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.get_time)") {
        time: XenpfEfiTime,
        resolution: u32,
        accuracy: u32,
    }
    XenpfEfiRuntimeCallGetVariable("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.get_variable)") {
        name: Handle<u8>,
        size: u64,
        data: Handle<u8>,
        vendor_guid: XenpfEfiGuid,
    }
    XenpfEfiRuntimeCallSetVariable("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.set_variable)") {
        name: Handle<u8>,
        size: u64,
        data: Handle<u8>,
        vendor_guid: XenpfEfiGuid,
    }
    XenpfEfiRuntimeCallGetNextVariableName("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.get_next_variable_name)") {
        size: u64,
        name: Handle<u8>,
        vendor_guid: XenpfEfiGuid,
    }
    XenpfEfiRuntimeCallQueryVariableInfo("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.query_variable_info)") {
        attr: u32,
        _fill0: [u8; 4],
        max_store_size: u64,
        remain_store_size: u64,
        max_size: u64,
    }
    XenpfEfiRuntimeCallQueryCapsuleCapabilities("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.query_capsule_capabilities)") {
        capsule_header_array: Handle<u8>,
        capsule_count: u64,
        max_capsule_size: u64,
        reset_type: u32,
        _fill0: [u8; 4],
    }
    XenpfEfiRuntimeCallUpdateCapsule("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.update_capsule)") {
        capsule_header_array: Handle<u8>,
        capsule_count: u64,
        sg_list: u64,
    }
    XenpfEfiRuntimeCall("struct xenpf_efi_runtime_call") {
        function: u32,
        misc: u32,
        status: u64,
        u: Union<[u64; 5]>,
    }
    XenpfFirmwareInfoDiskInfo("__typeof__(((struct xenpf_firmware_info *)0)->u.disk_info)") {
        device: u8,
        version: u8,
        interface_support: u16,
        legacy_max_cylinder: u16,
        legacy_max_head: u8,
        legacy_sectors_per_track: u8,
        edd_params: Handle<u8>,
    }
    XenpfFirmwareInfoDiskMbrSignature("__typeof__(((struct xenpf_firmware_info *)0)->u.disk_mbr_signature)") {
        device: u8,
        _fill0: [u8; 3],
        mbr_signature: u32,
    }
    XenpfFirmwareInfoVbeddcInfo("__typeof__(((struct xenpf_firmware_info *)0)->u.vbeddc_info)") {
        capabilities: u8,
        edid_transfer_time: u8,
        _fill0: [u8; 6],
        edid: Handle<u8>,
    }
    XenpfFirmwareInfo("struct xenpf_firmware_info") {
        r#type: u32,
        index: u32,
        u: Union<[u64; 4]>,
    }
    XenpfEnterAcpiSleep("struct xenpf_enter_acpi_sleep") {
        val_a: u16,
        val_b: u16,
        sleep_state: u32,
        flags: u32,
    }
    XenpfChangeFreq("struct xenpf_change_freq") {
        flags: u32,
        cpu: u32,
        freq: u64,
    }
    XenpfGetidletime("struct xenpf_getidletime") {
        cpumap_bitmap: Handle<u8>,
        cpumap_nr_cpus: u32,
        _fill0: [u8; 4],
        idletime: Handle<u64>,
        now: u64,
    }
    XenPowerRegister("struct xen_power_register") {
        space_id: u32,
        bit_width: u32,
        bit_offset: u32,
        access_size: u32,
        address: u64,
    }
    XenProcessorCsd("struct xen_processor_csd") {
        domain: u32,
        coord_type: u32,
        num: u32,
    }
    XenProcessorCx("struct xen_processor_cx") {
        reg: XenPowerRegister,
        r#type: u8,
        _fill0: [u8; 3],
        latency: u32,
        power: u32,
        dpcnt: u32,
        dp: Handle<XenProcessorCsd>,
    }
    XenProcessorFlags("struct xen_processor_flags") {
        bits: u32,
    }
    XenProcessorPower("struct xen_processor_power") {
        count: u32,
        flags: XenProcessorFlags,
        states: Handle<XenProcessorCx>,
    }
    XenPctRegister("struct xen_pct_register") {
        descriptor: u8,
        _fill0: [u8; 1],
        length: u16,
        space_id: u8,
        bit_width: u8,
        bit_offset: u8,
        reserved: u8,
        address: u64,
    }
    XenProcessorPx("struct xen_processor_px") {
        core_frequency: u64,
        power: u64,
        transition_latency: u64,
        bus_master_latency: u64,
        control: u64,
        status: u64,
    }
    XenPsdPackage("struct xen_psd_package") {
        num_entries: u64,
        revision: u64,
        domain: u64,
        coord_type: u64,
        num_processors: u64,
    }
    XenProcessorPerformance("struct xen_processor_performance") {
        flags: u32,
        platform_limit: u32,
        control_register: XenPctRegister,
        status_register: XenPctRegister,
        state_count: u32,
        _fill0: [u8; 4],
        states: Handle<XenProcessorPx>,
        domain_info: XenPsdPackage,
        shared_type: u32,
        _fill1: [u8; 4],
    }
    XenpfSetProcessorPminfo("struct xenpf_set_processor_pminfo") {
        id: u32,
        r#type: u32,
        u: Union<[u64; 13]>,
    }
    XenpfPcpuinfo("struct xenpf_pcpuinfo") {
        xen_cpuid: u32,
        max_present: u32,
        flags: u32,
        apic_id: u32,
        acpi_id: u32,
    }
    XenpfPcpuVersion("struct xenpf_pcpu_version") {
        xen_cpuid: u32,
        max_present: u32,
        vendor_id: [u8; 12],
        family: u32,
        model: u32,
        stepping: u32,
    }
    XenpfCpuOl("struct xenpf_cpu_ol") {
        cpuid: u32,
    }
    XenpfCpuHotadd("struct xenpf_cpu_hotadd") {
        apic_id: u32,
        acpi_id: u32,
        pxm: u32,
    }
    XenpfMemHotadd("struct xenpf_mem_hotadd") {
        spfn: u64,
        epfn: u64,
        pxm: u32,
        flags: u32,
    }
    XenpfCoreParking("struct xenpf_core_parking") {
        r#type: u32,
        idle_nums: u32,
    }
    XenpfResourceEntry("struct xenpf_resource_entry") {
        u: Union<[u32; 1]>,
        rsvd: u32,
        idx: u64,
        val: u64,
    }
    XenpfResourceOp("struct xenpf_resource_op") {
        nr_entries: u32,
        cpu: u32,
        entries: Handle<XenpfResourceEntry>,
    }
    XenpfSymdata("struct xenpf_symdata") {
        namelen: u32,
        symnum: u32,
        name: Handle<u8>,
        address: u64,
        r#type: u8,
        _fill0: [u8; 7],
    }
    XenpfUcodeRevision("struct xenpf_ucode_revision") {
        cpu: u32,
        signature: u32,
        pf: u32,
        revision: u32,
    }
    XenpfMicrocodeUpdate2("struct xenpf_microcode_update2") {
        flags: u32,
        length: u32,
        data: Handle<u8>,
    }
    XenPlatformOp("struct xen_platform_op") {
        cmd: u32,
        interface_version: u32,
        u: Union<[u64; 16]>,
    }
}
