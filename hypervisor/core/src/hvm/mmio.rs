//! Accesses to guest-physical addresses that the nested tables do not allow: emulated
//! devices, dom0's first touch of a device page, and nothing at all.

use alloc::sync::Arc;

use x86_emul::{Cpu, EmulError, Mode, Place};
use xen_abi::{Gfn, Gla, Gpa, Mfn};

use super::backend::{Access, HvmBackend, IoExit, Reg, Seg};
use super::exit::{Next, crash};
use super::inject::exception;
use super::intr::Bus;
use super::{io, memory};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::guest::Fault;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::p2m::{Leaf, P2mType};

const UD: u8 = 6;
const GP: u8 = 13;
const PF: u8 = 14;
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
    let mut is_hole = false;
    if let Some(m) = d.p2m.lookup(&hv.machine, gfn) {
        // A walk reads, whatever it is for.
        if access.exec && !access.walk && !m.t.hw_executable() {
            // Nothing makes it executable, and its instruction is no access to a device.
            return crash(hv, d, v, hw, "fetch from what is no RAM of its own", gpa.0);
        }
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
    } else if !is_emulated(d, v, gpa) {
        if touch_device(hv, d, gfn) {
            return Next::Resume;
        }
        is_hole = true;
    }
    if access.walk || hv.machine.hvm().interrupted(hw).is_some() {
        // Not the access of the instruction at rip: nothing here could complete it.
        let why = match (access.walk, is_hole) {
            (true, true) => "page tables in a hole of guest-physical memory",
            (true, false) => "page tables in what is no RAM",
            (false, _) => "an event was delivered through what is no RAM",
        };
        return crash(hv, d, v, hw, why, gpa.0);
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
        let (mapped, flush) = d.p2m.map_range(&hv.machine, &src, first, 512, leaf);
        // An empty table may have made room.
        if flush.is_needed() {
            hv.flush_stage2(d);
        }
        d.p2m.flushed(&hv.machine, &src, flush);
        if mapped.is_ok() {
            return true;
        }
    }
    map_device(hv, d, gfn)
}

/// Maps one device page at its own address, unless memory is mapped there.
pub(crate) fn map_device<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, gfn: Gfn) -> bool {
    let src = hv.mm.xen(&hv.machine);
    let leaf = Leaf::new(Mfn(gfn.0), P2mType::MmioDirect);
    let may = |there: Option<P2mType>| there.is_none_or(|t| t == P2mType::MmioDirect);
    match d.p2m.replace(&hv.machine, &src, gfn, leaf, may) {
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
        Err(_) => return exception(hv, d, v, cpu.hw, UD, None),
    };
    match x86_emul::emulate(&mut cpu, &bytes[..n]) {
        Ok(o) if o.complete => hvm.retire(hw, rip.wrapping_add(u64::from(o.len))),
        Ok(_) => {}
        Err(EmulError::Fault(Stop::Page(gla, code))) => {
            hvm.set(hw, Reg::Cr2, gla.0);
            return exception(hv, d, v, hw, PF, Some(code));
        }
        Err(EmulError::Fault(Stop::General)) => return exception(hv, d, v, hw, GP, Some(0)),
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
            return exception(hv, d, v, hw, UD, None);
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

/// Bytes in one page: where, and how many.
type Piece = (Gpa, u8);

impl<M: Machine> Emulated<'_, M> {
    /// Where the bytes at a place are: in one page, or at the end of one and the start of the
    /// linear next. Both are translated before either is touched.
    fn pieces(&self, place: Place, size: u8, write: bool) -> Result<(Piece, Option<Piece>), Stop> {
        let at = self.linear(place);
        let first = memory::translate(self.hv, self.d, self.hw, at, write)?;
        let room = 0x1000 - (at & 0xfff);
        if u64::from(size) <= room {
            return Ok(((first, size), None));
        }
        let mut next = at.wrapping_add(room);
        if self.mode() != Mode::Bits64 {
            next &= 0xffff_ffff;
        }
        let second = memory::translate(self.hv, self.d, self.hw, next, write)?;
        let room = room as u8;
        Ok(((first, room), Some((second, size - room))))
    }

    fn read_piece(&mut self, (gpa, size): Piece) -> Result<u64, Stop> {
        let mut buf = [0u8; 8];
        let Some(bytes) = buf.get_mut(..usize::from(size)) else {
            return Err(Stop::General);
        };
        match memory::physical(self.hv, self.d).read_gpa(gpa, bytes) {
            Ok(()) => Ok(u64::from_le_bytes(buf)),
            Err(Fault::NotRam(_)) => {
                let all = u64::MAX >> (64 - 8 * u32::from(size));
                Ok(self.read_device(gpa, size) & all)
            }
            Err(f) => Err(f.into()),
        }
    }

    fn write_piece(&mut self, (gpa, size): Piece, value: u64) -> Result<(), Stop> {
        let bytes = value.to_le_bytes();
        let Some(bytes) = bytes.get(..usize::from(size)) else {
            return Err(Stop::General);
        };
        match memory::physical(self.hv, self.d).write_gpa(gpa, bytes) {
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
        let (first, second) = self.pieces(place, size, false)?;
        let low = self.read_piece(first)?;
        match second {
            None => Ok(low),
            Some(second) => Ok(low | self.read_piece(second)? << (8 * u32::from(first.1))),
        }
    }

    fn write_mem(&mut self, place: Place, size: u8, value: u64) -> Result<(), Stop> {
        let (first, second) = self.pieces(place, size, true)?;
        self.write_piece(first, value)?;
        match second {
            None => Ok(()),
            Some(second) => self.write_piece(second, value >> (8 * u32::from(first.1))),
        }
    }

    fn check_write(&mut self, place: Place, size: u8) -> Result<(), Stop> {
        self.pieces(place, size, true).map(drop)
    }

    fn port_in(&mut self, port: u16, size: u8) -> Result<u64, Stop> {
        Ok(u64::from(io::read(self.hv, self.d, port, size)))
    }

    fn port_out(&mut self, port: u16, size: u8, value: u64) -> Result<(), Stop> {
        io::write(self.hv, self.d, port, size, value as u32);
        Ok(())
    }
}
