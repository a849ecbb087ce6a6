//! `platform_op` (7): dom0 and the machine's firmware.

use xen_abi::platform::*;
use xen_abi::{Errno, Ns};

use super::{Ctx, Flow, OK, OpResult, Row};
use crate::machine::Machine;
use crate::time::pvclock::WallClock;

/// Operations of this hypercall. The number lies in the structure, so there is no `ops!` table.
pub(super) const ROWS: &[Row] = &[
    row("XENPF_settime64", XENPF_settime64, true),
    row("XENPF_settime32", XENPF_settime32, true),
    row("XENPF_firmware_info", XENPF_firmware_info, true),
    row("XENPF_get_dom0_console", XENPF_get_dom0_console, true),
    row("XENPF_get_cpuinfo", XENPF_get_cpuinfo, true),
    row(
        "XENPF_set_processor_pminfo",
        XENPF_set_processor_pminfo,
        false,
    ),
    row("XENPF_enter_acpi_sleep", XENPF_enter_acpi_sleep, false),
    row("XENPF_efi_runtime_call", XENPF_efi_runtime_call, false),
    row("XENPF_resource_op", XENPF_resource_op, false),
    row("XENPF_get_symbol", XENPF_get_symbol, false),
];

const fn row(op: &'static str, number: u32, is_done: bool) -> Row {
    Row {
        call: "platform_op",
        op,
        number: number as u64,
        class: if is_done { Some("PRIV") } else { None },
    }
}

/// Offset of the union in `struct xen_platform_op`.
const BODY: u64 = 8;

pub(super) fn dispatch<M: Machine>(c: &mut Ctx<'_, M>, at: u64) -> OpResult {
    if !c.d.is_privileged {
        return Err(Errno::EPERM);
    }
    let [cmd, version]: [u32; 2] = c.read(at)?;
    if version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    let body = at.wrapping_add(BODY);
    match cmd {
        XENPF_settime64 => {
            let t: XenpfSettime64 = c.read(body)?;
            if t.mbz != 0 {
                return Err(Errno::EINVAL);
            }
            set_time(c, t.secs, t.nsecs, t.system_time)
        }
        XENPF_settime32 => {
            let t: XenpfSettime32 = c.read(body)?;
            set_time(c, u64::from(t.secs), t.nsecs, t.system_time)
        }
        XENPF_get_cpuinfo => {
            let mut i: XenpfPcpuinfo = c.read(body)?;
            let n = c.hv.cpus.len() as u32;
            i.max_present = n - 1;
            let id = i.xen_cpuid;
            (i.flags, i.apic_id, i.acpi_id) = if id < n {
                (XEN_PCPU_FLAGS_ONLINE, id, id)
            } else {
                (XEN_PCPU_FLAGS_INVALID, 0, 0)
            };
            c.write(body, &i)?;
            OK
        }
        XENPF_firmware_info => firmware_info(c, body),
        XENPF_get_dom0_console => {
            let screen = c.hv.screen.ok_or(Errno::ENODEV)?;
            c.write(body, &screen)?;
            Ok(Flow::Done(size_of_val(&screen) as u64))
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// What a real-mode firmware told the boot loader. Ours hands nothing of it on, and what EFI has
/// to tell stands in its tables, which dom0 sees: nothing is found.
fn firmware_info<M: Machine>(c: &mut Ctx<'_, M>, body: u64) -> OpResult {
    let mut i: XenpfFirmwareInfo = c.read(body)?;
    match i.r#type {
        XEN_FW_DISK_INFO | XEN_FW_DISK_MBR_SIGNATURE | XEN_FW_VBEDDC_INFO | XEN_FW_EFI_INFO => {
            Err(Errno::ESRCH)
        }
        // No key was held.
        XEN_FW_KBD_SHIFT_FLAGS => {
            i.u.set(&0u8);
            c.write(body, &i)?;
            OK
        }
        _ => Err(Errno::EINVAL),
    }
}

fn set_time<M: Machine>(c: &mut Ctx<'_, M>, secs: u64, nsecs: u32, system_time: u64) -> OpResult {
    let wc = WallClock::from_settime(secs, nsecs, Ns(system_time)).ok_or(Errno::EINVAL)?;
    *c.hv.wallclock.lock() = wc;
    c.hv.domains.each(|d| c.hv.publish_wallclock(d));
    OK
}
