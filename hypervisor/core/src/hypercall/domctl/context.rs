//! The state of vCPUs, for building, saving and looking at domains.
//!
//! A save stream is records behind descriptors. Written are HEADER, then by type and vCPU CPU, LAPIC,
//! LAPIC_REGS, MTRR and CPU_XSAVE, then END; vCPUs that are down have no CPU record. Read are these types;
//! others of 4.20 that a PVH domain has no part for are passed over. Loading takes all
//! vCPUs down first; a CPU record brings its vCPU up.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use xen_abi::arch_x86::{VGCF_online, VcpuGuestContext};
use xen_abi::domctl::*;
use xen_abi::hvm_save::*;
use xen_abi::{Errno, VcpuId};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::super::{Ctx, Flow, OK, OpResult};
use super::{Op, other};
use crate::access::{Granted, Priv};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hvm::backend::{HvmBackend, Reg, Seg};
use crate::hvm::cr::Limits;
use crate::hvm::save::{self, BadRecord};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// Larger streams are nobody's.
const MAX_STREAM: usize = 1 << 20;

impl From<BadRecord> for Errno {
    fn from(_: BadRecord) -> Self {
        Self::EINVAL
    }
}

/// A save stream that grows.
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn put<T: HvmSaveType + IntoBytes + Immutable>(&mut self, instance: u16, record: &T) {
        self.descriptor(T::CODE, instance, size_of::<T>());
        self.bytes.extend_from_slice(record.as_bytes());
    }

    fn descriptor(&mut self, typecode: u16, instance: u16, length: usize) {
        let d = HvmSaveDescriptor {
            typecode,
            instance,
            length: length as u32,
        };
        self.bytes.extend_from_slice(d.as_bytes());
    }
}

/// Bytes of a record with its descriptor.
const fn sized<T>() -> usize {
    size_of::<HvmSaveDescriptor>() + size_of::<T>()
}

/// Bytes of a CPU_XSAVE record before the area, and at most with area and descriptor: AVX-512 and
/// protection keys need 2,696 bytes.
const XSAVE_HEAD: usize = 24;
const XSAVE_SIZE: usize = size_of::<HvmSaveDescriptor>() + XSAVE_HEAD + 2816;

/// Bytes that the stream of a domain with so many vCPUs takes at most.
const fn stream_size(vcpus: usize) -> usize {
    let per_vcpu = sized::<HvmHwCpu>()
        + sized::<HvmHwLapic>()
        + sized::<HvmHwLapicRegs>()
        + sized::<HvmHwMtrr>()
        + XSAVE_SIZE;
    sized::<HvmSaveHeader>() + vcpus * per_vcpu + size_of::<HvmSaveDescriptor>()
}

fn instance<M: Machine>(v: &Vcpu<M>) -> u16 {
    v.id.0 as u16
}

/// State of a vCPU at rest.
fn with_state<M: Machine, R>(
    hv: &Hypervisor<M>,
    v: &Vcpu<M>,
    f: impl FnOnce(&M::Hvm, &mut HwVcpu<M>) -> R,
) -> Result<R, Errno> {
    let found = hv.with_state(v, |hw| f(hv.machine.hvm(), hw));
    found.ok_or(Errno::EINVAL)
}

/// The records of one type, or of all types, in the order of their codes.
fn write_stream<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    only: Option<(u32, u32)>,
) -> Result<Vec<u8>, Errno> {
    let wants = |code: u16| only.is_none_or(|(t, _)| t == u32::from(code));
    let vcpus = || {
        d.each_vcpu()
            .filter(move |v| only.is_none_or(|(_, i)| i == v.id.0))
    };
    let mut out = Writer { bytes: Vec::new() };
    let room = stream_size(d.vcpus.len());
    out.bytes
        .try_reserve_exact(room)
        .map_err(|_| Errno::ENOMEM)?;
    if wants(HVM_SAVE_CODE_HEADER) {
        let header = HvmSaveHeader {
            magic: HVM_FILE_MAGIC,
            version: HVM_FILE_VERSION,
            changeset: 0,
            cpuid: hv.host_cpuid.plain(1).eax,
            gtsc_khz: u32::try_from(hv.clock.hz() / 1000).unwrap_or(0),
        };
        out.put(0, &header);
    }
    if wants(HVM_SAVE_CODE_CPU) {
        for v in vcpus().filter(|v| !v.is_down()) {
            let tsc = hv.machine.tsc();
            let record = with_state(hv, v, |hvm, hw| save::save(hvm, hw, tsc))?;
            out.put(instance(v), &record);
        }
    }
    let lapics = || vcpus().map(|v| (instance(v), v.lapic.save(hv.now())));
    if wants(HVM_SAVE_CODE_LAPIC) {
        lapics().for_each(|(i, (hidden, _))| out.put(i, &hidden));
    }
    if wants(HVM_SAVE_CODE_LAPIC_REGS) {
        lapics().for_each(|(i, (_, regs))| out.put(i, &regs));
    }
    if wants(HVM_SAVE_CODE_MTRR) {
        for v in vcpus() {
            let pat = with_state(hv, v, |hvm, hw| hvm.get(hw, Reg::Pat))?;
            out.put(instance(v), &v.msrs.mtrrs.save(pat));
        }
    }
    if wants(HVM_SAVE_CODE_CPU_XSAVE) {
        for v in vcpus().filter(|v| !v.is_down()) {
            let (i, mask) = (instance(v), d.policy.xcr0_mask());
            with_state(hv, v, |hvm, hw| write_xsave(&mut out, i, mask, hvm, hw))?;
        }
    }
    if only.is_none() {
        out.descriptor(HVM_SAVE_CODE_END, 0, 0);
    }
    Ok(out.bytes)
}

/// The extended state of a vCPU, if there is any beyond what its CPU record holds.
fn write_xsave<B: HvmBackend>(
    out: &mut Writer,
    instance: u16,
    mask: u64,
    hvm: &B,
    hw: &mut B::Vcpu,
) {
    let xcr0 = hvm.get(hw, Reg::Xcr0);
    let area = B::xsave_area(hw);
    if mask == 0 || area.len() < size_of::<HvmHwCpuXsaveSaveArea>() {
        return;
    }
    out.descriptor(HVM_SAVE_CODE_CPU_XSAVE, instance, XSAVE_HEAD + area.len());
    for word in [mask, xcr0, xcr0] {
        out.bytes.extend_from_slice(&word.to_le_bytes());
    }
    out.bytes.extend_from_slice(area);
}

/// Extended state comes back. What it claims beyond the domain's policy is refused; the backend
/// makes the area one that the hardware accepts.
fn load_xsave<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    v: &Vcpu<M>,
    body: &[u8],
) -> Result<(), Errno> {
    let (head, area) = HvmHwCpuXsave::read_from_prefix(body)
        .map_err(|_| Errno::EINVAL)
        .map(|(head, _)| (head, body.get(XSAVE_HEAD..).unwrap_or(&[])))?;
    let mask = d.policy.xcr0_mask();
    let header = head.save_area.xsave_hdr;
    if !crate::cpu_policy::xstate::is_valid_xcr0(head.xcr0, mask)
        || header.xstate_bv & !mask != 0
        || header.xcomp_bv != 0
    {
        return Err(Errno::EINVAL);
    }
    with_state(hv, v, |hvm, hw| {
        let to = <M::Hvm as HvmBackend>::xsave_area(hw);
        // A longer one has components that this machine would have to know.
        let rest = area.get(to.len()..).unwrap_or(&[]);
        if rest.iter().any(|b| *b != 0) {
            return Err(Errno::EOPNOTSUPP);
        }
        for (to, from) in to.iter_mut().zip(area) {
            *to = *from;
        }
        hvm.set(hw, Reg::Xcr0, head.xcr0);
        Ok(())
    })?
}

pub(super) fn gethvmcontext<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let mut h: XenDomctlHvmcontext = op.body.u.get();
    if h.buffer.is_null() {
        h.size = stream_size(d.vcpus.len()) as u32;
    } else {
        let bytes = write_stream(c.hv, &d, None)?;
        if bytes.len() > h.size as usize {
            return Err(Errno::ENOSPC);
        }
        c.copy_out(h.buffer.addr, &bytes)?;
        h.size = bytes.len() as u32;
    }
    op.body.u.set(&h);
    op.reply()
}

pub(super) fn gethvmcontext_partial<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let mut h: XenDomctlHvmcontextPartial = op.body.u.get();
    let bytes = write_stream(c.hv, &d, Some((h.r#type, h.instance)))?;
    // Without its descriptor.
    let record = bytes
        .get(size_of::<HvmSaveDescriptor>()..)
        .ok_or(Errno::ENOENT)?;
    if !h.buffer.is_null() {
        if (record.len() as u64) > h.bufsz {
            return Err(Errno::ENOSPC);
        }
        c.copy_out(h.buffer.addr, record)?;
    }
    h.bufsz = record.len() as u64;
    op.body.u.set(&h);
    op.reply()
}

/// The records of a stream, up to its end.
fn records(stream: &[u8]) -> impl Iterator<Item = Result<(u16, u16, &[u8]), Errno>> {
    let mut rest = Some(stream);
    core::iter::from_fn(move || {
        let bytes = rest.take()?;
        let Ok((d, after)) = HvmSaveDescriptor::read_from_prefix(bytes) else {
            return Some(Err(Errno::ENODATA));
        };
        if d.typecode == HVM_SAVE_CODE_END {
            return None;
        }
        let Some((body, more)) = after.split_at_checked(d.length as usize) else {
            return Some(Err(Errno::ENODATA));
        };
        rest = Some(more);
        Some(Ok((d.typecode, d.instance, body)))
    })
}

fn record<T: FromBytes>(body: &[u8]) -> Result<T, Errno> {
    T::read_from_bytes(body).map_err(|_| Errno::EINVAL)
}

pub(super) fn sethvmcontext<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let h: XenDomctlHvmcontext = op.body.u.get();
    let size = h.size as usize;
    if size > MAX_STREAM {
        return Err(Errno::E2BIG);
    }
    let mut stream = Vec::new();
    stream.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    stream.resize(size, 0);
    c.copy_in(h.buffer.addr, &mut stream)?;
    match records(&stream).next() {
        Some(Ok((HVM_SAVE_CODE_HEADER, _, body))) => {
            let header: HvmSaveHeader = record(body)?;
            if header.magic != HVM_FILE_MAGIC || header.version != HVM_FILE_VERSION {
                return Err(Errno::EINVAL);
            }
        }
        _ => return Err(Errno::ENODATA),
    }
    c.hv.pause(&d);
    let loaded = load_stream(c.hv, &d, &stream);
    c.hv.unpause(&d);
    loaded?;
    OK
}

fn load_stream<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    stream: &[u8],
) -> Result<(), Errno> {
    for v in d.each_vcpu() {
        v.down();
    }
    for r in records(stream) {
        let (code, instance, body) = r?;
        let vcpu = || d.vcpu(VcpuId(instance.into())).ok_or(Errno::EINVAL);
        match code {
            HVM_SAVE_CODE_CPU => load_cpu(hv, d, vcpu()?, &record(body)?)?,
            HVM_SAVE_CODE_LAPIC => {
                let regs = lapic_regs(stream, instance)?;
                let v = vcpu()?;
                let loaded = v.lapic.load(&record(body)?, &regs, hv.now());
                hv.lapic_timer(v, loaded.map_err(|_| Errno::EINVAL)?);
            }
            HVM_SAVE_CODE_MTRR => {
                let mtrrs: HvmHwMtrr = record(body)?;
                let v = vcpu()?;
                let bits = d.policy.phys_bits();
                let loaded = v.msrs.mtrrs.load(&mtrrs, bits);
                loaded.map_err(|_| Errno::EINVAL)?;
                with_state(hv, v, |hvm, hw| save::load_pat(hvm, hw, mtrrs.msr_pat_cr))??;
            }
            HVM_SAVE_CODE_CPU_XSAVE => load_xsave(hv, d, vcpu()?, body)?,
            // What a PVH domain of ours does not have.
            1..=HVM_SAVE_CODE_MAX_U16 => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(())
}

/// Highest type of 4.20.
const HVM_SAVE_CODE_MAX_U16: u16 = HVM_SAVE_CODE_MAX as u16;

/// The register page that goes with a LAPIC record.
fn lapic_regs(stream: &[u8], of: u16) -> Result<HvmHwLapicRegs, Errno> {
    let found = records(stream)
        .flatten()
        .find(|&(code, instance, _)| code == HVM_SAVE_CODE_LAPIC_REGS && instance == of);
    record(found.ok_or(Errno::ENODATA)?.2)
}

fn load_cpu<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    v: &Arc<Vcpu<M>>,
    r: &HvmHwCpu,
) -> Result<(), Errno> {
    let limits = Limits::of(d);
    with_state(hv, v, |hvm, hw| save::load(hvm, hw, r, &limits))??;
    // When it runs: its memory may come after its registers.
    v.attention
        .fetch_or(crate::domain::vcpu::attention::PDPTES, Ordering::SeqCst);
    v.initialised.set();
    v.up(hv);
    Ok(())
}

/// Offset of a debug register in the context.
const DR6: usize = 6;
const DR7: usize = 7;

pub(super) fn getvcpucontext<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let p: XenDomctlVcpucontext = op.body.u.get();
    let v = d.vcpu(p.vcpu).ok_or(Errno::ESRCH)?;
    if !v.initialised.get() {
        return Err(Errno::ENODATA);
    }
    let r = with_state(c.hv, v, |hvm, hw| {
        let mut x = Box::new(VcpuGuestContext::new_zeroed());
        let r = save::save(hvm, hw, 0);
        x.fpu_ctxt.x = r.fpu_regs;
        let u = &mut x.user_regs;
        (u.rax, u.rbx, u.rcx, u.rdx) = (r.rax, r.rbx, r.rcx, r.rdx);
        (u.rbp, u.rsi, u.rdi, u.rsp) = (r.rbp, r.rsi, r.rdi, r.rsp);
        (u.r8, u.r9, u.r10, u.r11) = (r.r8, r.r9, r.r10, r.r11);
        (u.r12, u.r13, u.r14, u.r15) = (r.r12, r.r13, r.r14, r.r15);
        (u.rip, u.rflags) = (r.rip, r.rflags);
        let sel = |s| hvm.segment(hw, s).sel;
        (u.cs, u.ss, u.ds) = (sel(Seg::Cs), sel(Seg::Ss), sel(Seg::Ds));
        (u.es, u.fs, u.gs) = (sel(Seg::Es), sel(Seg::Fs), sel(Seg::Gs));
        (x.ctrlreg[0], x.ctrlreg[2]) = (r.cr0, r.cr2);
        (x.ctrlreg[3], x.ctrlreg[4]) = (r.cr3, r.cr4);
        (x.debugreg[DR6], x.debugreg[DR7]) = (r.dr6, r.dr7);
        (x.fs_base, x.gs_base_kernel, x.gs_base_user) = (r.fs_base, r.gs_base, r.shadow_gs);
        x
    })?;
    let mut r = r;
    if !v.is_down() {
        r.flags = u64::from(VGCF_online);
    }
    c.copy_out(p.ctxt.addr, r.as_bytes())?;
    OK
}

/// Of an HVM context only the general registers count, as in Xen; a null one resets the vCPU.
pub(super) fn setvcpucontext<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let p: XenDomctlVcpucontext = op.body.u.get();
    let v = d.vcpu(p.vcpu).ok_or(Errno::EINVAL)?;
    if p.ctxt.is_null() {
        if !v.initialised.hold() {
            return Ok(Flow::Again);
        }
        v.down();
        let done = with_state(c.hv, v, crate::hvm::intr::reset_state);
        v.lapic.reset();
        v.initialised.release(false);
        return done.and(OK);
    }
    let mut x = Box::new(VcpuGuestContext::new_zeroed());
    c.copy_in(p.ctxt.addr, x.as_mut_bytes())?;
    with_state(c.hv, v, |hvm, hw| {
        let u = &x.user_regs;
        let r = <M::Hvm as HvmBackend>::regs_mut(hw);
        (r.rax, r.rbx, r.rcx, r.rdx) = (u.rax, u.rbx, u.rcx, u.rdx);
        (r.rbp, r.rsi, r.rdi, r.rsp) = (u.rbp, u.rsi, u.rdi, u.rsp);
        (r.r8, r.r9, r.r10, r.r11) = (u.r8, u.r9, u.r10, u.r11);
        (r.r12, r.r13, r.r14, r.r15) = (u.r12, u.r13, u.r14, u.r15);
        hvm.set(hw, Reg::Rip, u.rip);
        hvm.set(hw, Reg::Rflags, u.rflags & 0x3f_7fd7 | 2);
    })?;
    v.initialised.set();
    if x.flags & u64::from(VGCF_online) != 0 {
        v.up(c.hv);
    }
    OK
}
