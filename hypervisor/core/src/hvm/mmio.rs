//! Accesses to guest-physical addresses that the nested tables do not allow: emulated
//! devices, dom0's first touch of a device page, and nothing at all.

use alloc::sync::Arc;

use x86_emul::{Cpu, EmulError, Mode, Place};
use xen_abi::{Gfn, Gla, Gpa, Mfn};

use super::backend::{Access, Event, HvmBackend, IoExit, Reg, Seg};
use super::exit::{Next, UD, crash};
use super::intr::Bus;
use super::{io, memory};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::guest::Fault;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::p2m::{Leaf, P2mType};

/// Page of the local APIC.
const LAPIC_PAGE: u64 = 0xfee0_0000;

/// Handles a nested page fault.
pub(crate) fn fault<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    gpa: Gpa,
    _gla: Option<Gla>,
    access: Access,
) -> Next {
    let gfn = gpa.gfn();
    if let Some(m) = d.p2m.lookup(&hv.machine, gfn) {
        if !access.write || m.t.hw_writable() {
            // Another CPU has repaired it meanwhile.
            hv.machine.hvm().flush_stage2(hw);
            return Next::Resume;
        }
    } else if access.exec && !d.is_hardware {
        return crash(
            hv,
            d,
            v,
            hw,
            "fetch from a hole in guest-physical memory",
            gpa.0,
        );
    } else if !is_emulated(d, v, gpa) && touch_device(hv, d, gfn) {
        return Next::Resume;
    }
    emulate(hv, d, v, hw, Some(gpa))
}

fn is_emulated<M: Machine>(d: &Domain<M>, v: &Vcpu<M>, gpa: Gpa) -> bool {
    gpa.0 & !0xfff == LAPIC_PAGE && v.lapic.has_page() || d.ioapics.at(gpa).is_some()
}

/// dom0's first access to a device page: maps it, with as large a leaf as the neighbourhood allows.
fn touch_device<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, gfn: Gfn) -> bool {
    let may = |g: Gfn| {
        g.0 << 12 != LAPIC_PAGE
            && hv.is_device_frame(Mfn(g.0))
            && d.ioapics.at(g.gpa()).is_none()
            && d.hardware.as_ref().is_some_and(|h| h.may_map(g))
    };
    if gfn.0 >> 36 != 0 || !may(gfn) {
        return false;
    }
    let src = hv.mm.xen(&hv.machine);
    let first = Gfn(gfn.0 & !511);
    if (first.0..first.0 + 512).all(|g| may(Gfn(g))) {
        let leaf = Leaf::new(Mfn(first.0), P2mType::MmioDirect);
        if let Ok(flush) = d.p2m.map_range(&hv.machine, &src, first, 512, leaf) {
            // An empty table may have made room.
            if flush.is_needed() {
                hv.flush_stage2(d);
            }
            d.p2m.flushed(&hv.machine, &src, flush);
            return true;
        }
    }
    map_device(hv, d, gfn)
}

/// Maps one device page at its own address.
pub(crate) fn map_device<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, gfn: Gfn) -> bool {
    let src = hv.mm.xen(&hv.machine);
    match d.p2m.set_entry(
        &hv.machine,
        &src,
        gfn,
        Leaf::new(Mfn(gfn.0), P2mType::MmioDirect),
    ) {
        Ok((_, flush)) => {
            if flush.is_needed() {
                hv.flush_stage2(d);
            }
            d.p2m.flushed(&hv.machine, &src, flush);
            true
        }
        Err(_) => false,
    }
}

/// INS and OUTS.
pub(crate) fn string_io<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    _io: IoExit,
) -> Next {
    emulate(hv, d, v, hw, None)
}

/// Why an emulated access failed.
enum Stop {
    /// A page fault for the guest.
    Page(Gla, u32),
    /// #GP.
    General,
}

impl From<Fault> for Stop {
    fn from(f: Fault) -> Self {
        match f {
            Fault::Page { gla, code } => Self::Page(gla, code),
            _ => Self::General,
        }
    }
}

struct Emulated<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    d: &'a Arc<Domain<M>>,
    v: &'a Arc<Vcpu<M>>,
    hw: &'a mut HwVcpu<M>,
    gpa: Option<Gpa>,
}

fn emulate<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    gpa: Option<Gpa>,
) -> Next {
    let hvm = hv.machine.hvm();
    let rip = hvm.get(hw, Reg::Rip);
    let cs = hvm.segment(hw, Seg::Cs);
    let mut bytes = [0u8; 15];
    let mut cpu = Emulated { hv, d, v, hw, gpa };
    let mode = cpu.mode();
    let at = if mode == Mode::Bits64 {
        rip
    } else {
        cs.base.wrapping_add(rip) & 0xffff_ffff
    };
    let n = match memory::fetch(hv, d, cpu.hw, at, &mut bytes) {
        Ok(n) => n,
        // Another vCPU unmapped the code meanwhile: the guest's own CPU finds out.
        Err(Fault::Page { .. }) => return Next::Resume,
        Err(_) => {
            hvm.inject(cpu.hw, UD);
            return Next::Resume;
        }
    };
    match x86_emul::emulate(&mut cpu, &bytes[..n]) {
        Ok(o) if o.complete => hvm.retire(hw, rip.wrapping_add(u64::from(o.len))),
        Ok(_) => {}
        Err(EmulError::Fault(Stop::Page(gla, code))) => {
            hvm.set(hw, Reg::Cr2, gla.0);
            hvm.inject(
                hw,
                Event::Exception {
                    vector: 14,
                    error: Some(code),
                },
            );
        }
        Err(EmulError::Fault(Stop::General)) => hvm.inject(hw, super::exit::GP),
        Err(_) => {
            hv.log_guest(
                d.id,
                log::Level::Warn,
                format_args!(
                    "{}{} cannot emulate {:02x?} at {rip:#x} (gpa {gpa:x?})",
                    d.id,
                    v.id,
                    &bytes[..n]
                ),
            );
            hvm.inject(hw, UD);
        }
    }
    Next::Resume
}

impl<M: Machine> Emulated<'_, M> {
    fn read_device(&mut self, gpa: Gpa, size: u8) -> u64 {
        let offset = gpa.offset() as u16;
        if gpa.0 & !0xfff == LAPIC_PAGE && self.v.lapic.has_page() {
            super::msr_exit::sync_tpr(self.hv, self.v, self.hw);
            return u64::from(self.v.lapic.mmio_read(offset, size.min(4), self.hv.now()));
        }
        if let Some((io, offset)) = self.d.ioapics.at(gpa) {
            return u64::from(io.mmio_read(offset));
        }
        if let Some(h) = &self.d.hardware
            && let Some(v) = h.mmio_read(self.hv, self.d, gpa, size)
        {
            return v;
        }
        u64::MAX
    }

    fn write_device(&mut self, gpa: Gpa, size: u8, val: u64) {
        let offset = gpa.offset() as u16;
        if gpa.0 & !0xfff == LAPIC_PAGE && self.v.lapic.has_page() {
            super::msr_exit::sync_tpr(self.hv, self.v, self.hw);
            let e = self
                .v
                .lapic
                .mmio_write(offset, size.min(4), val as u32, self.hv.now());
            super::msr_exit::apic_effect(self.hv, self.d, self.v, self.hw, e);
            return;
        }
        if let Some((io, offset)) = self.d.ioapics.at(gpa) {
            let bus = Bus {
                hv: self.hv,
                d: self.d,
            };
            if let Some(change) = io.mmio_write(offset, val as u32, &bus) {
                self.hv.follow_pin(self.d, &change);
            }
            return;
        }
        if let Some(h) = &self.d.hardware {
            h.mmio_write(self.hv, self.d, gpa, size, val);
        }
    }

    fn linear(&self, place: Place) -> u64 {
        let seg = match place.seg {
            x86_emul::Seg::Es => Seg::Es,
            x86_emul::Seg::Cs => Seg::Cs,
            x86_emul::Seg::Ss => Seg::Ss,
            x86_emul::Seg::Ds => Seg::Ds,
            x86_emul::Seg::Fs => Seg::Fs,
            x86_emul::Seg::Gs => Seg::Gs,
        };
        let is_flat = self.mode() == Mode::Bits64 && !matches!(seg, Seg::Fs | Seg::Gs);
        let base = if is_flat {
            0
        } else {
            self.hv.machine.hvm().segment(self.hw, seg).base
        };
        let at = base.wrapping_add(place.offset);
        if self.mode() == Mode::Bits64 {
            at
        } else {
            at & 0xffff_ffff
        }
    }
}

impl<M: Machine> Cpu for Emulated<'_, M> {
    type Fault = Stop;

    fn mode(&self) -> Mode {
        let hvm = self.hv.machine.hvm();
        let ar = hvm.segment(self.hw, Seg::Cs).ar;
        if ar & 1 << 13 != 0 && hvm.get(self.hw, Reg::Efer) & 1 << 10 != 0 {
            Mode::Bits64
        } else if ar & 1 << 14 != 0 && hvm.get(self.hw, Reg::Cr0) & 1 != 0 {
            Mode::Bits32
        } else {
            Mode::Bits16
        }
    }

    fn rip(&self) -> u64 {
        self.hv.machine.hvm().get(self.hw, Reg::Rip)
    }

    fn gpr(&self, reg: u8) -> u64 {
        super::cr::gpr_value::<M::Hvm>(self.hw, reg)
    }

    fn set_gpr(&mut self, reg: u8, value: u64) {
        *super::cr::gpr::<M::Hvm>(self.hw, reg) = value;
    }

    fn rflags(&self) -> u64 {
        self.hv.machine.hvm().get(self.hw, Reg::Rflags)
    }

    fn set_rflags(&mut self, value: u64) {
        self.hv.machine.hvm().set(self.hw, Reg::Rflags, value);
    }

    fn mmio_read(&mut self, size: u8) -> Result<u64, Stop> {
        let gpa = self.gpa.ok_or(Stop::General)?;
        Ok(self.read_device(gpa, size))
    }

    fn mmio_write(&mut self, size: u8, value: u64) -> Result<(), Stop> {
        let gpa = self.gpa.ok_or(Stop::General)?;
        self.write_device(gpa, size, value);
        Ok(())
    }

    fn read_mem(&mut self, place: Place, size: u8) -> Result<u64, Stop> {
        let at = self.linear(place);
        let mut buf = [0u8; 8];
        let bytes = &mut buf[..usize::from(size)];
        let gpa = memory::translate(self.hv, self.d, self.hw, at, false)?;
        match memory::physical(self.hv, self.d).read_gpa(gpa, bytes) {
            Ok(()) => Ok(u64::from_le_bytes(buf)),
            Err(Fault::NotRam(_)) => Ok(self.read_device(gpa, size)),
            Err(f) => Err(f.into()),
        }
    }

    fn write_mem(&mut self, place: Place, size: u8, value: u64) -> Result<(), Stop> {
        let at = self.linear(place);
        let gpa = memory::translate(self.hv, self.d, self.hw, at, true)?;
        match memory::physical(self.hv, self.d)
            .write_gpa(gpa, &value.to_le_bytes()[..usize::from(size)])
        {
            Ok(()) => Ok(()),
            Err(Fault::NotRam(_)) => {
                self.write_device(gpa, size, value);
                Ok(())
            }
            // Writes to read-only memory are dropped, as by a ROM.
            Err(Fault::ReadOnly(_)) => Ok(()),
            Err(f) => Err(f.into()),
        }
    }

    fn check_write(&mut self, place: Place, _size: u8) -> Result<(), Stop> {
        let at = self.linear(place);
        memory::translate(self.hv, self.d, self.hw, at, true)?;
        Ok(())
    }

    fn port_in(&mut self, port: u16, size: u8) -> Result<u64, Stop> {
        Ok(u64::from(io::read(self.hv, self.d, port, size)))
    }

    fn port_out(&mut self, port: u16, size: u8, value: u64) -> Result<(), Stop> {
        io::write(self.hv, self.d, port, size, value as u32);
        Ok(())
    }
}
