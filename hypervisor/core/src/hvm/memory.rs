//! Guest memory as exits and hypercalls reach it.

use xen_abi::{Errno, Gfn, Gla, Gpa, Maddr, Mfn};

use super::backend::{HvmBackend, Reg, Seg};
use crate::domain::vcpu::Area;
use crate::domain::{Domain, HwVcpu};
use crate::guest::quick::Quick;
use crate::guest::{Access, GuestMem, GuestSpace, Linear, Paging, PagingRegs};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::p2m::LeafCache;

type Stage2<M> = <<M as Machine>::Hvm as HvmBackend>::Stage2;

/// A domain's physical memory.
pub(crate) fn physical<'a, M: Machine>(
    hv: &'a Hypervisor<M>,
    d: &'a Domain<M>,
) -> GuestMem<'a, M, Stage2<M>> {
    GuestMem {
        mem: &hv.machine,
        p2m: &d.p2m,
        frames: hv.mm,
    }
}

/// Where its domain's memory was found before.
#[inline(always)]
fn leaves<M: Machine>(hw: &HwVcpu<M>) -> &LeafCache {
    <M::Hvm as HvmBackend>::leaves(hw)
}

/// What decides how the vCPU translates now, for accesses from ring `cpl`.
#[inline(always)]
fn paging_regs<M: Machine>(hv: &Hypervisor<M>, hw: &HwVcpu<M>, cpl: u8) -> PagingRegs {
    let hvm = hv.machine.hvm();
    PagingRegs {
        cr0: hvm.get(hw, Reg::Cr0),
        cr3: hvm.get(hw, Reg::Cr3),
        cr4: hvm.get(hw, Reg::Cr4),
        efer: hvm.get(hw, Reg::Efer),
        // Hypercall buffers may be user pages: the caller's kernel vouches for them.
        rflags: hvm.get(hw, Reg::Rflags) | if cpl == 3 { 0 } else { 1 << 18 },
        cpl,
    }
}

/// Its linear memory as the vCPU translates now, with supervisor rights.
#[inline]
fn linear<'a, M: Machine>(
    hv: &'a Hypervisor<M>,
    d: &'a Domain<M>,
    hw: &HwVcpu<M>,
    cpl: u8,
) -> Linear<'a, M, Stage2<M>> {
    Linear {
        guest: physical(hv, d),
        paging: Paging::new(&paging_regs(hv, hw, cpl)),
    }
}

/// The same, for the usual cases.
#[inline(always)]
fn quick<'a, M: Machine>(
    hv: &'a Hypervisor<M>,
    d: &'a Domain<M>,
    hw: &'a HwVcpu<M>,
    cpl: u8,
) -> Quick<'a, M, Stage2<M>> {
    Quick {
        mem: &hv.machine,
        p2m: &d.p2m,
        cache: leaves::<M>(hw),
        regs: paging_regs(hv, hw, cpl),
    }
}

/// Copies in from a guest-linear address.
///
/// # Errors
/// `EFAULT`.
#[inline(never)]
pub(crate) fn copy_in<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    from: u64,
    to: &mut [u8],
) -> Result<(), Errno> {
    if quick(hv, d, hw, 0).read_known(from, to) {
        return Ok(());
    }
    find_and_copy_in(hv, d, hw, from, to)
}

/// Apart, so that what is found again needs no room for looking.
#[inline(never)]
fn find_and_copy_in<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    from: u64,
    to: &mut [u8],
) -> Result<(), Errno> {
    if quick(hv, d, hw, 0).find_and_read(from, to) {
        return Ok(());
    }
    Ok(linear(hv, d, hw, 0).read_bytes(from, to)?)
}

/// Copies out to a guest-linear address.
///
/// # Errors
/// `EFAULT`.
#[inline(never)]
pub(crate) fn copy_out<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    to: u64,
    from: &[u8],
) -> Result<(), Errno> {
    if quick(hv, d, hw, 0).write(hv.mm, to, from) {
        return Ok(());
    }
    careful_copy_out(hv, d, hw, to, from)
}

#[cold]
#[inline(never)]
fn careful_copy_out<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    to: u64,
    from: &[u8],
) -> Result<(), Errno> {
    Ok(linear(hv, d, hw, 0).write_bytes(to, from)?)
}

/// The ring that the vCPU executes in.
#[inline]
pub(crate) fn cpl<M: Machine>(hv: &Hypervisor<M>, hw: &HwVcpu<M>) -> u8 {
    (hv.machine.hvm().segment(hw, Seg::Ss).ar >> 5 & 3) as u8
}

/// Four bytes of code at a linear address, if the quick way finds them.
#[inline(never)]
pub(crate) fn code_word<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    reason: usize,
    at: u64,
) -> Option<u32> {
    match quick(hv, d, hw, cpl(hv, hw)).known_code_word(reason, at) {
        None => find_code_word(hv, d, hw, reason, at),
        known => known,
    }
}

/// Apart, so that what is found again needs no room for looking.
#[inline(never)]
fn find_code_word<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    reason: usize,
    at: u64,
) -> Option<u32> {
    quick(hv, d, hw, cpl(hv, hw)).find_code_word(reason, at)
}

/// Fetches code bytes at a linear address; how many could be read.
#[inline(never)]
pub(crate) fn fetch<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    at: u64,
    to: &mut [u8],
) -> Result<usize, crate::guest::Fault> {
    linear(hv, d, hw, cpl(hv, hw)).fetch(Gla(at), to)
}

/// Translates a linear address for a data access of the guest itself.
pub(crate) fn translate<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    at: u64,
    write: bool,
) -> Result<Gpa, crate::guest::Fault> {
    let access = if write { Access::Write } else { Access::Read };
    linear(hv, d, hw, cpl(hv, hw)).translate(Gla(at), access)
}

/// The frame behind a gfn of the domain's own writable RAM, with a reference that the caller drops by `put`.
pub(crate) fn get_frame<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, gfn: Gfn) -> Option<Mfn> {
    let frame = physical(hv, d).pin_writable(gfn).ok()?;
    Some(frame.into_raw())
}

/// Pins a guest-linear area of at most a page that the hypervisor will write.
///
/// # Errors
/// `EFAULT` when it is not mapped, `EINVAL` when it is not RAM.
pub(crate) fn pin_area<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    at: u64,
    len: u32,
) -> Result<Area, Errno> {
    if at == 0 {
        return Ok(Area::default());
    }
    let l = linear(hv, d, hw, 0);
    let in_first = (4096 - (at & 4095)).min(u64::from(len)) as u32;
    let mut area = Area {
        first_len: in_first,
        ..Area::default()
    };
    let pin = |at: u64| -> Result<Maddr, Errno> {
        let gpa = l.translate(Gla(at), Access::Write)?;
        let mfn = get_frame(hv, d, gpa.gfn()).ok_or(Errno::EINVAL)?;
        Ok(Maddr(mfn.maddr().0 + gpa.offset()))
    };
    area.first = Some(pin(at)?);
    if in_first < len {
        match pin(at.wrapping_add(u64::from(in_first))) {
            Ok(m) => area.second = Some(m),
            Err(e) => {
                unpin_area(hv, area);
                return Err(e);
            }
        }
    }
    Ok(area)
}

/// Lets a pinned area go.
pub(crate) fn unpin_area<M: Machine>(hv: &Hypervisor<M>, area: Area) {
    for m in [area.first, area.second].into_iter().flatten() {
        hv.mm.put(m.mfn());
    }
}

/// Writes `bytes` at `offset` of a pinned area.
pub(crate) fn write_area<M: Machine>(hv: &Hypervisor<M>, area: &Area, offset: usize, bytes: &[u8]) {
    let Some(first) = area.first else { return };
    let split = (area.first_len as usize)
        .saturating_sub(offset)
        .min(bytes.len());
    let (a, b) = bytes.split_at(split);
    if !a.is_empty() {
        hv.machine.copy_to(Maddr(first.0 + offset as u64), a);
    }
    if let Some(second) = area.second
        && !b.is_empty()
    {
        let at = (offset + split - area.first_len as usize) as u64;
        hv.machine.copy_to(Maddr(second.0 + at), b);
    }
}
