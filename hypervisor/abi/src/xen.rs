//! Hypercall numbers, shared info, time, event and multicall layouts (`public/xen.h`).
//!
//! Numbers that name something with a newtype (virqs, domids) are plain here and
//! wrapped where they are used; reserved domids are constants of [`DomId`](crate::DomId).

use crate::arch_x86::{ArchSharedInfo, ArchVcpuInfo};
use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::Mfn;

abi_consts! {
    CONSTS: u32;
    /// PV: exception handlers.
    __HYPERVISOR_set_trap_table = 0,
    /// PV: checked writes to page tables.
    __HYPERVISOR_mmu_update = 1,
    /// PV: frames of the GDT.
    __HYPERVISOR_set_gdt = 2,
    /// PV: kernel stack.
    __HYPERVISOR_stack_switch = 3,
    /// PV: event and failsafe entry points.
    __HYPERVISOR_set_callbacks = 4,
    /// PV: CR0.TS.
    __HYPERVISOR_fpu_taskswitch = 5,
    /// Before interface 0x30101.
    __HYPERVISOR_sched_op_compat = 6,
    /// See [`platform`](crate::platform).
    __HYPERVISOR_platform_op = 7,
    __HYPERVISOR_set_debugreg = 8,
    __HYPERVISOR_get_debugreg = 9,
    /// PV: one GDT or LDT entry.
    __HYPERVISOR_update_descriptor = 10,
    /// See [`memory`](crate::memory).
    __HYPERVISOR_memory_op = 12,
    /// A list of [`MulticallEntry`].
    __HYPERVISOR_multicall = 13,
    /// PV: the L1 entry of an address.
    __HYPERVISOR_update_va_mapping = 14,
    /// One-shot timer in absolute system time.
    __HYPERVISOR_set_timer_op = 15,
    __HYPERVISOR_event_channel_op_compat = 16,
    /// See [`version`](crate::version).
    __HYPERVISOR_xen_version = 17,
    /// Emergency console.
    __HYPERVISOR_console_io = 18,
    __HYPERVISOR_physdev_op_compat = 19,
    /// See [`grant_table`](crate::grant_table).
    __HYPERVISOR_grant_table_op = 20,
    /// Switches for guests' peculiarities.
    __HYPERVISOR_vm_assist = 21,
    __HYPERVISOR_update_va_mapping_otherdomain = 22,
    /// PV: return from an exception.
    __HYPERVISOR_iret = 23,
    /// See [`vcpu`](crate::vcpu).
    __HYPERVISOR_vcpu_op = 24,
    /// PV: FS and GS bases.
    __HYPERVISOR_set_segment_base = 25,
    /// PV: pinning, base pointers, flushes; a list of [`MmuextOp`].
    __HYPERVISOR_mmuext_op = 26,
    /// Security modules.
    __HYPERVISOR_xsm_op = 27,
    __HYPERVISOR_nmi_op = 28,
    /// See [`sched`](crate::sched).
    __HYPERVISOR_sched_op = 29,
    /// PV: see [`callback`](crate::callback).
    __HYPERVISOR_callback_op = 30,
    __HYPERVISOR_xenoprof_op = 31,
    /// See [`event_channel`](crate::event_channel).
    __HYPERVISOR_event_channel_op = 32,
    /// See [`physdev`](crate::physdev).
    __HYPERVISOR_physdev_op = 33,
    /// See [`hvm_op`](crate::hvm_op).
    __HYPERVISOR_hvm_op = 34,
    /// See [`sysctl`](crate::sysctl).
    __HYPERVISOR_sysctl = 35,
    /// See [`domctl`](crate::domctl).
    __HYPERVISOR_domctl = 36,
    __HYPERVISOR_kexec_op = 37,
    /// Gone.
    __HYPERVISOR_tmem_op = 38,
    __HYPERVISOR_argo_op = 39,
    /// See [`pmu`](crate::pmu).
    __HYPERVISOR_xenpmu_op = 40,
    /// See [`dm_op`](crate::dm_op).
    __HYPERVISOR_dm_op = 41,
    __HYPERVISOR_hypfs_op = 42,
    __HYPERVISOR_arch_0 = 48,
    __HYPERVISOR_arch_1 = 49,
    __HYPERVISOR_arch_2 = 50,
    __HYPERVISOR_arch_3 = 51,
    __HYPERVISOR_arch_4 = 52,
    __HYPERVISOR_arch_5 = 53,
    __HYPERVISOR_arch_6 = 54,
    __HYPERVISOR_arch_7 = 55,

    /// Per vCPU: a timer has expired.
    VIRQ_TIMER = 0,
    /// Per vCPU: please dump state.
    VIRQ_DEBUG = 1,
    /// Global, dom0: input on the emergency console.
    VIRQ_CONSOLE = 2,
    /// Global, dom0: a domain has shut down or died.
    VIRQ_DOM_EXC = 3,
    /// Global, dom0: trace records.
    VIRQ_TBUF = 4,
    /// Global, dom0: a domain is paused for a debugger.
    VIRQ_DEBUGGER = 6,
    /// Per vCPU: a sample.
    VIRQ_XENOPROF = 7,
    /// Global, dom0: output in the console ring.
    VIRQ_CON_RING = 8,
    /// Global, dom0: a physical CPU has come or gone.
    VIRQ_PCPU_STATE = 9,
    /// Global, dom0: memory events.
    VIRQ_MEM_EVENT = 10,
    /// Global: an Argo message.
    VIRQ_ARGO = 11,
    /// Global, dom0: little memory left.
    VIRQ_ENOMEM = 12,
    /// Per vCPU: a performance counter.
    VIRQ_XENPMU = 13,
    VIRQ_ARCH_0 = 16,
    VIRQ_ARCH_1 = 17,
    VIRQ_ARCH_2 = 18,
    VIRQ_ARCH_3 = 19,
    VIRQ_ARCH_4 = 20,
    VIRQ_ARCH_5 = 21,
    VIRQ_ARCH_6 = 22,
    VIRQ_ARCH_7 = 23,

    /// Numbers from here on are no virqs.
    NR_VIRQS = 24,

    /// `ptr` is the machine address of an entry, `val` its new value, checked.
    MMU_NORMAL_PT_UPDATE = 0,
    /// `ptr` names a frame, `val` its new entry in the m2p.
    MMU_MACHPHYS_UPDATE = 1,
    /// Like a normal update, but accessed and dirty bits stay.
    MMU_PT_UPDATE_PRESERVE_AD = 2,
    /// Like a normal update; the value is never translated.
    MMU_PT_UPDATE_NO_TRANSLATE = 3,

    MMUEXT_PIN_L1_TABLE = 0,
    MMUEXT_PIN_L2_TABLE = 1,
    MMUEXT_PIN_L3_TABLE = 2,
    MMUEXT_PIN_L4_TABLE = 3,
    MMUEXT_UNPIN_TABLE = 4,
    MMUEXT_NEW_BASEPTR = 5,
    MMUEXT_TLB_FLUSH_LOCAL = 6,
    MMUEXT_INVLPG_LOCAL = 7,
    MMUEXT_TLB_FLUSH_MULTI = 8,
    MMUEXT_INVLPG_MULTI = 9,
    MMUEXT_TLB_FLUSH_ALL = 10,
    MMUEXT_INVLPG_ALL = 11,
    MMUEXT_FLUSH_CACHE = 12,
    MMUEXT_SET_LDT = 13,
    MMUEXT_NEW_USER_BASEPTR = 15,
    MMUEXT_CLEAR_PAGE = 16,
    MMUEXT_COPY_PAGE = 17,
    MMUEXT_FLUSH_CACHE_GLOBAL = 18,
    MMUEXT_MARK_SUPER = 19,
    MMUEXT_UNMARK_SUPER = 20,

    /// No flush.
    UVMF_NONE = 0,
    /// Flush whole TLBs.
    UVMF_TLB_FLUSH = 1,
    /// Flush the one address.
    UVMF_INVLPG = 2,
    UVMF_FLUSHTYPE_MASK = 0x3,
    /// Of the CPUs in the bitmap whose address is in the upper bits.
    UVMF_MULTI = 0,
    /// Of this CPU.
    UVMF_LOCAL = 0,
    /// Of all CPUs.
    UVMF_ALL = 4,

    CONSOLEIO_write = 0,
    CONSOLEIO_read = 1,

    VMASST_CMD_enable = 0,
    VMASST_CMD_disable = 1,
    /// 32-bit PV: emulate segments that reach into the hypervisor.
    VMASST_TYPE_4gb_segments = 0,
    /// 32-bit PV: tell of such emulations.
    VMASST_TYPE_4gb_segments_notify = 1,
    /// PV: emulate writes to page tables.
    VMASST_TYPE_writable_pagetables = 2,
    /// 32-bit PV: top table above 4 GiB.
    VMASST_TYPE_pae_extended_cr3 = 3,
    /// PV: IOPL as the hardware has it.
    VMASST_TYPE_architectural_iopl = 4,
    /// Mark updates of the runstate area with `XEN_RUNSTATE_UPDATE`.
    VMASST_TYPE_runstate_update_flag = 5,
    /// PV: the m2p is not visible in user mode.
    VMASST_TYPE_m2p_strict = 32,

    /// Bits that a domid can have.
    DOMID_MASK = 0x7fff,

    /// `flags` of [`VcpuTimeInfo`]: system time is monotonic across vCPUs.
    XEN_PVCLOCK_TSC_STABLE_BIT = 1,
    /// `flags` of [`VcpuTimeInfo`]: the vCPU was stopped by a debugger.
    XEN_PVCLOCK_GUEST_STOPPED = 2,

    MAX_GUEST_CMDLINE = 0x400,

    /// The domain is privileged.
    SIF_PRIVILEGED = 1,
    /// It is the first one.
    SIF_INITDOMAIN = 2,
    /// `mod_start` points to a list of modules.
    SIF_MULTIBOOT_MOD = 4,
    /// `mod_start` is a frame number.
    SIF_MOD_START_PFN = 8,
    /// The tools understand a linear p2m.
    SIF_VIRT_P2M_4TOOLS = 0x10,
    SIF_PM_MASK = 0xff00,

    XEN_VGATYPE_TEXT_MODE_3 = 3,
    XEN_VGATYPE_VESA_LFB = 35,
    XEN_VGATYPE_EFI_LFB = 112,
}

abi_structs! {
    LAYOUTS:
    /// `arg1`: frame or linear address. `arg2`: entries of an LDT, CPU mask, or source frame.
    MmuextOp("struct mmuext_op") {
        cmd: u32,
        _fill0: [u8; 4],
        arg1: Union<[u64; 1]>,
        arg2: Union<[u64; 1]>,
    }
    MmuUpdate("struct mmu_update") {
        ptr: u64,
        val: u64,
    }
    MulticallEntry("struct multicall_entry") {
        op: u64,
        result: u64,
        args: [u64; 6],
    }
    /// `version` is odd while the hypervisor updates the rest.
    ///
    /// `system_time + ((((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul) >> 32)` is
    /// now, in nanoseconds.
    VcpuTimeInfo("struct vcpu_time_info") {
        version: u32,
        pad0: u32,
        tsc_timestamp: u64,
        system_time: u64,
        tsc_to_system_mul: u32,
        tsc_shift: i8,
        flags: u8,
        pad1: [u8; 2],
    }
    VcpuInfo("struct vcpu_info") {
        evtchn_upcall_pending: u8,
        evtchn_upcall_mask: u8,
        _fill0: [u8; 6],
        evtchn_pending_sel: u64,
        arch: ArchVcpuInfo,
        time: VcpuTimeInfo,
    }
    /// The page that a domain shares with the hypervisor.
    SharedInfo("struct shared_info") {
        vcpu_info: [VcpuInfo; 32],
        evtchn_pending: [u64; 64],
        evtchn_mask: [u64; 64],
        wc_version: u32,
        wc_sec: u32,
        wc_nsec: u32,
        wc_sec_hi: u32,
        arch: ArchSharedInfo,
    }
    StartInfoConsoleDomU("__typeof__(((struct start_info *)0)->console.domU)") {
        mfn: Mfn,
        evtchn: u32,
        _fill0: [u8; 4],
    }
    StartInfoConsoleDom0("__typeof__(((struct start_info *)0)->console.dom0)") {
        info_off: u32,
        info_size: u32,
    }
    /// What a PV domain finds at the address in `rsi`.
    StartInfo("struct start_info") {
        magic: [u8; 32],
        nr_pages: u64,
        shared_info: u64,
        flags: u32,
        _fill0: [u8; 4],
        store_mfn: Mfn,
        store_evtchn: u32,
        _fill1: [u8; 4],
        console: Union<[u64; 2]>,
        pt_base: u64,
        nr_pt_frames: u64,
        mfn_list: u64,
        mod_start: u64,
        mod_len: u64,
        cmd_line: [u8; 1024],
        first_p2m_pfn: u64,
        nr_p2m_frames: u64,
    }
    XenMultibootModList("struct xen_multiboot_mod_list") {
        mod_start: u32,
        mod_end: u32,
        cmdline: u32,
        pad: u32,
    }
    Dom0VgaConsoleInfoTextMode3("__typeof__(((struct dom0_vga_console_info *)0)->u.text_mode_3)") {
        font_height: u16,
        cursor_x: u16,
        cursor_y: u16,
        rows: u16,
        columns: u16,
    }
    Dom0VgaConsoleInfoVesaLfb("__typeof__(((struct dom0_vga_console_info *)0)->u.vesa_lfb)") {
        width: u16,
        height: u16,
        bytes_per_line: u16,
        bits_per_pixel: u16,
        lfb_base: u32,
        lfb_size: u32,
        red_pos: u8,
        red_size: u8,
        green_pos: u8,
        green_size: u8,
        blue_pos: u8,
        blue_size: u8,
        rsvd_pos: u8,
        rsvd_size: u8,
        gbl_caps: u32,
        mode_attrs: u16,
        pad: u16,
        ext_lfb_base: u32,
    }
    Dom0VgaConsoleInfo("struct dom0_vga_console_info") {
        video_type: u8,
        _fill0: [u8; 3],
        u: Union<[u32; 9]>,
    }
    /// A bitmap of the toolstack: `nr_bits` bits at `bitmap`.
    XenctlBitmap("struct xenctl_bitmap") {
        bitmap: Handle<u8>,
        nr_bits: u32,
        _fill0: [u8; 4],
    }
    XenUuid("xen_uuid_t") {
        a: [u8; 16],
    }
}
