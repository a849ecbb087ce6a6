//! Intercepted port accesses.
//!
//! dom0 reaches every port directly except those that the hypervisor owns; other
//! domains reach none.  What nobody answers reads as all ones and swallows writes.

use alloc::sync::Arc;

use super::backend::{HvmBackend, IoExit};
use super::exit::{GP, Next};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// Xen's debug console port.
const DEBUG_CONSOLE: u16 = 0xe9;

/// Handles a port exit.
pub(crate) fn port<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    io: IoExit,
) -> Next {
    let hvm = hv.machine.hvm();
    if io.string {
        return super::mmio::string_io(hv, d, v, hw, io);
    }
    let Some(next) = io.next_rip.or_else(|| hvm.next_rip(hw)) else {
        hvm.inject(hw, GP);
        return Next::Resume;
    };
    if io.is_in {
        let val = read(hv, d, io.port, io.size);
        let r = <M::Hvm as HvmBackend>::regs_mut(hw);
        r.rax = match io.size {
            1 => r.rax & !0xff | u64::from(val & 0xff),
            2 => r.rax & !0xffff | u64::from(val & 0xffff),
            _ => u64::from(val),
        };
    } else {
        let val = <M::Hvm as HvmBackend>::regs(hw).rax as u32;
        write(hv, d, io.port, io.size, val);
    }
    hvm.retire(hw, next);
    Next::Resume
}

/// What a port reads as.
pub(crate) fn read<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, port: u16, size: u8) -> u32 {
    if port == DEBUG_CONSOLE && size == 1 {
        return u32::from(DEBUG_CONSOLE);
    }
    let Some(hw) = &d.hardware else {
        return u32::MAX;
    };
    match port {
        0xcf8..=0xcff => hw.port_read(hv, d, port, size),
        _ => u32::MAX,
    }
}

/// What a write to a port does.
pub(crate) fn write<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    port: u16,
    size: u8,
    val: u32,
) {
    if port == DEBUG_CONSOLE && size == 1 {
        hv.guest_console(d, &[val as u8]);
        return;
    }
    let Some(hw) = &d.hardware else { return };
    if let 0xcf8..=0xcff = port {
        hw.port_write(hv, d, port, size, val);
    }
}
