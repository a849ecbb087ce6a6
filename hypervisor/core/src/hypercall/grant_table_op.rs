//! `grant_table_op` (20).
//!
//! `args` are (array, count). Each element carries its own status; the call fails as a whole only
//! when the array cannot be read or written. Long arrays are done in parts: the array pointer and
//! the count move on between two executions of the hypercall.
//!
//! Refused with `ENOSYS`: `transfer` (page flipping: no guest has used it for over a decade, and it
//! could not be done to the frames of a direct-mapped domain), `unmap_and_replace` (for PV callers
//! in Xen, too) and `dump_table` (the debug key `g` prints what it would).

use alloc::sync::Arc;

use xen_abi::grant_table::*;
use xen_abi::{DomId, Errno, Gfn, GrantRef, PAGE_SIZE};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Hook, Target};
use crate::domain::Domain;
use crate::grant::translated::{P2mBorrower, P2mLender};
use crate::grant::{
    CopyArgs, FrameKind, MapArgs, PendingUnmap, Place, Status, UnmapArgs, copy as copy_grant,
    finish_unmap, map, unmap,
};
use crate::hvm::backend::HvmBackend;
use crate::machine::Machine;

ops! { "grant_table_op":
    GNTTABOP_map_grant_ref = Hook => map_grant_ref;
    GNTTABOP_unmap_grant_ref = Hook => unmap_grant_ref;
    GNTTABOP_setup_table = Target => setup_table;
    GNTTABOP_dump_table = missing;
    GNTTABOP_transfer = missing;
    GNTTABOP_copy = Hook => copy;
    GNTTABOP_query_size = Target => query_size;
    GNTTABOP_unmap_and_replace = missing;
    GNTTABOP_set_version = Hook => set_version;
    GNTTABOP_get_status_frames = Target => get_status_frames;
    GNTTABOP_get_version = Target => get_version;
    GNTTABOP_swap_grant_ref = Hook => swap_grant_ref;
    GNTTABOP_cache_flush = Hook => cache_flush;
}

/// Operations between two looks at what else is to do.
const BATCH: u64 = 64;
/// Operations that are read at a time.
const PART: usize = 16;
/// Unmaps that share a flush.
const UNMAP_BATCH: usize = 32;

type Stage2<M> = <<M as Machine>::Hvm as HvmBackend>::Stage2;

/// The memory of a domain that lends.
fn lender<'a, M: Machine>(c: &Ctx<'a, M>, d: &'a Domain<M>) -> P2mLender<'a, M, Stage2<M>> {
    P2mLender {
        mem: &c.hv.machine,
        frames: c.hv.mm,
        p2m: &d.p2m,
    }
}

/// The domain that the last operation of an array named: arrays mostly name one.
struct Last<M: Machine>(Option<Arc<Domain<M>>>);

impl<M: Machine> Last<M> {
    const fn new() -> Self {
        Self(None)
    }

    /// The domain of this number; the caller's own number is fine, `DOMID_SELF` only if `or_self`.
    fn find(
        &mut self,
        c: &Ctx<'_, M>,
        id: DomId,
        or_self: bool,
    ) -> Result<&Arc<Domain<M>>, Status> {
        let id = if id == DomId::SELF && or_self {
            c.d.id
        } else {
            id
        };
        if self.0.as_ref().is_none_or(|d| d.id != id) {
            self.0 = Some(c.hv.domains.get(id).ok_or(Status::BAD_DOMAIN)?);
        }
        self.0.as_ref().ok_or(Status::BAD_DOMAIN)
    }
}

/// The status as it goes into its field.
fn code(r: Result<(), Status>) -> i16 {
    match r {
        Ok(()) => GNTST_okay,
        Err(s) => s.0,
    }
}

/// Element `i` of the array at `a[0]`.
fn element<T>(a: [u64; 3], i: u64) -> Result<u64, Errno> {
    let bytes = i.checked_mul(size_of::<T>() as u64).ok_or(Errno::EFAULT)?;
    a[0].checked_add(bytes).ok_or(Errno::EFAULT)
}

/// The rest of the array, from element `done` on, waits for the next round.
fn again<T, M: Machine>(c: &mut Ctx<'_, M>, a: [u64; 3], done: u64) -> OpResult {
    c.args[1] = element::<T>(a, done)?;
    c.args[2] = a[1] - done;
    Ok(Flow::Again)
}

/// Elements `i..i + n` of an array of `count`: where they are, and `n`, which is at most `most`. More
/// than one lie in one page: they can be read or not, all of them.
fn part<T>(a: [u64; 3], i: u64, count: u64, most: usize) -> Result<(u64, usize), Errno> {
    let at = element::<T>(a, i)?;
    let in_page = (PAGE_SIZE - at % PAGE_SIZE) / size_of::<T>() as u64;
    let n = in_page.max(1).min(count - i).min(most as u64);
    Ok((at, n as usize))
}

/// Runs `each` on the elements of an array, which it may change. They are read and written by parts:
/// what `each` does to the caller's memory map makes ways to the array longer.
fn array<T, M: Machine>(
    c: &mut Ctx<'_, M>,
    a: [u64; 3],
    mut each: impl FnMut(&mut Ctx<'_, M>, &mut T) -> Result<(), Errno>,
) -> OpResult
where
    T: FromBytes + IntoBytes + Immutable,
{
    let count = checked_count(a)?;
    let mut i = 0;
    while i < count {
        if i >= BATCH {
            return again::<T, M>(c, a, i);
        }
        let (at, n) = part::<T>(a, i, count, PART)?;
        if n == 1 {
            let mut op: T = c.read(at)?;
            each(c, &mut op)?;
            c.write(at, &op)?;
        } else {
            let mut ops = <[T; PART]>::new_zeroed();
            let ops = &mut ops[..n];
            c.copy_in(at, ops.as_mut_bytes())?;
            ops.iter_mut().try_for_each(|op| each(c, op))?;
            c.copy_out(at, ops.as_bytes())?;
        }
        i += n as u64;
    }
    OK
}

/// The count, which Xen takes as 32 bits and limits to positive ones.
fn checked_count(a: [u64; 3]) -> Result<u64, Errno> {
    match i32::try_from(a[1]) {
        Ok(n) => Ok(u64::from(n.unsigned_abs())),
        Err(_) => Err(Errno::EINVAL),
    }
}

fn map_grant_ref<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let mut last = Last::new();
    let src = c.hv.mm.xen(&c.hv.machine);
    let borrower = P2mBorrower::new(&c.hv.machine, &src, &c.d.p2m);
    let result = array(c, a, |c, op: &mut GnttabMapGrantRef| {
        let args = MapArgs {
            host_addr: op.host_addr,
            flags: op.flags,
            r: op.r#ref,
        };
        let mapped = last.find(c, op.dom, false).and_then(|rd| {
            let mem = &c.hv.machine;
            map(mem, &c.d.grant, &borrower, &rd.grant, &lender(c, rd), args)
        });
        op.status = code(mapped.map(drop));
        if let Ok(m) = mapped {
            op.handle = m.handle;
            op.dev_bus_addr = m.dev_bus_addr.0;
        }
        Ok(())
    });
    // A device page of dom0's may have made room.
    let flush = borrower.take_flush();
    if flush.is_needed() {
        c.hv.flush_stage2(c.d);
        c.d.p2m.flushed(&c.hv.machine, &src, flush);
    }
    result
}

fn unmap_grant_ref<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let count = checked_count(a)?;
    let mut done = 0;
    while done < count {
        if done >= BATCH {
            return again::<GnttabUnmapGrantRef, M>(c, a, done);
        }
        let (at, n) = part::<GnttabUnmapGrantRef>(a, done, count, UNMAP_BATCH)?;
        if n == 1 {
            let mut op = [c.read(at)?];
            unmap_some(c, &mut op);
            c.write(at, &op)?;
        } else {
            let mut ops = <[GnttabUnmapGrantRef; UNMAP_BATCH]>::new_zeroed();
            let ops = &mut ops[..n];
            c.copy_in(at, ops.as_mut_bytes())?;
            unmap_some(c, ops);
            c.copy_out(at, ops.as_bytes())?;
        }
        done += n as u64;
    }
    OK
}

/// Unmaps with one flush; no more than [`UNMAP_BATCH`].
fn unmap_some<M: Machine>(c: &Ctx<'_, M>, ops: &mut [GnttabUnmapGrantRef]) {
    let src = c.hv.mm.xen(&c.hv.machine);
    let borrower = P2mBorrower::new(&c.hv.machine, &src, &c.d.p2m);
    let mut pending: [Option<PendingUnmap>; UNMAP_BATCH] = [None; UNMAP_BATCH];
    let mut last = Last::new();
    for (op, slot) in ops.iter_mut().zip(&mut pending) {
        let unmapped = unmap_one(c, op, &borrower, &mut last);
        op.status = code(unmapped.map(|p| *slot = p));
    }
    let flush = borrower.take_flush();
    if flush.is_needed() {
        c.hv.flush_stage2(c.d);
    }
    c.d.p2m.flushed(&c.hv.machine, &src, flush);
    for p in pending.into_iter().flatten() {
        if let Ok(rd) = last.find(c, p.dom, false) {
            finish_unmap(&c.hv.machine, &rd.grant, &lender(c, rd), p);
        }
    }
    c.hv.reap();
}

fn unmap_one<M: Machine>(
    c: &Ctx<'_, M>,
    op: &GnttabUnmapGrantRef,
    borrower: &P2mBorrower<'_, M, crate::mm::XenFrames<'_, M>, Stage2<M>>,
    last: &mut Last<M>,
) -> Result<Option<PendingUnmap>, Status> {
    let args = UnmapArgs {
        host_addr: op.host_addr,
        dev_bus_addr: op.dev_bus_addr,
        handle: op.handle,
    };
    let table = &c.d.grant;
    let rd = last.find(c, table.lender_of(op.handle)?, false)?;
    unmap(table, borrower, &rd.grant, args)
}

fn copy<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let (mut source, mut dest) = (Last::new(), Last::new());
    array(c, a, |c, op: &mut GnttabCopy| {
        op.status = code(copy_one(c, op, &mut source, &mut dest));
        Ok(())
    })
}

fn copy_one<M: Machine>(
    c: &Ctx<'_, M>,
    op: &GnttabCopy,
    source: &mut Last<M>,
    dest: &mut Last<M>,
) -> Result<(), Status> {
    let args = CopyArgs {
        by: c.d.id,
        source_offset: op.source.offset,
        dest_offset: op.dest.offset,
        len: op.len,
    };
    let is_grant = |flag: u16| op.flags & flag != 0;
    // A frame by its number only if it is the caller's own.
    let allowed = |p: &GnttabCopyPtr, flag| is_grant(flag) || p.domid == DomId::SELF;
    if !allowed(&op.source, GNTCOPY_source_gref) || !allowed(&op.dest, GNTCOPY_dest_gref) {
        return Err(Status::PERMISSION_DENIED);
    }
    let sd = source.find(c, op.source.domid, true)?;
    let dd = dest.find(c, op.dest.domid, true)?;
    let (sl, dl) = (lender(c, sd), lender(c, dd));
    let from = place(&op.source, is_grant(GNTCOPY_source_gref), sd, &sl);
    let to = place(&op.dest, is_grant(GNTCOPY_dest_gref), dd, &dl);
    copy_grant(&c.hv.machine, args, &from, &to)
}

fn place<'a, M: Machine, L>(
    p: &GnttabCopyPtr,
    is_grant: bool,
    d: &'a Domain<M>,
    memory: &'a L,
) -> Place<'a, L> {
    if is_grant {
        Place::Grant {
            table: &d.grant,
            lender: memory,
            r: p.u.get::<GrantRef>(),
        }
    } else {
        Place::Own {
            memory,
            gfn: p.u.get::<Gfn>(),
        }
    }
}

/// The domain whose table an operation is about.
fn target<M: Machine>(
    c: &Ctx<'_, M>,
    g: &Granted<Target>,
    id: DomId,
) -> Result<Arc<Domain<M>>, Status> {
    let d = c.domain(id).map_err(|_| Status::BAD_DOMAIN)?;
    g.on(c.d, &d).map_err(|_| Status::PERMISSION_DENIED)?;
    Ok(d)
}

/// Where a frame of a table is in its domain's memory, all ones if nowhere.
fn gfn_of<M: Machine>(
    c: &Ctx<'_, M>,
    d: &Domain<M>,
    kind: FrameKind,
    index: u32,
) -> Result<u64, Status> {
    let frame = d.grant.frame(&c.hv.machine, c.hv.mm, kind, index);
    let mfn = frame.map_err(|_| Status::GENERAL_ERROR)?;
    let gfn = c.hv.m2p.get(mfn).map_or(u64::MAX, |g| g.0);
    c.hv.mm.put(mfn);
    Ok(gfn)
}

fn setup_table<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    if a[1] != 1 {
        return Err(Errno::EINVAL);
    }
    let mut op: GnttabSetupTable = c.read(a[0])?;
    let set_up = target(c, &g, op.dom).and_then(|d| {
        d.grant.setup(&c.hv.machine, c.hv.mm, op.nr_frames)?;
        Ok(d)
    });
    op.status = code(set_up.as_ref().map(drop).map_err(|s| *s));
    if let Ok(d) = set_up {
        for i in 0..op.nr_frames {
            let gfn = gfn_of(c, &d, FrameKind::Shared, i).unwrap_or(u64::MAX);
            let at = op.frame_list.index(i.into()).ok_or(Errno::EFAULT)?;
            c.write(at.addr, &gfn)?;
        }
    }
    c.write(a[0], &op)?;
    OK
}

fn get_status_frames<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    if a[1] != 1 {
        return Err(Errno::EINVAL);
    }
    let mut op: GnttabGetStatusFrames = c.read(a[0])?;
    let d = target(c, &g, op.dom).and_then(|d| {
        if op.nr_frames > d.grant.status_count() {
            return Err(Status::GENERAL_ERROR);
        }
        Ok(d)
    });
    op.status = code(d.as_ref().map(drop).map_err(|s| *s));
    if let Ok(d) = d {
        for i in 0..op.nr_frames {
            let gfn = gfn_of(c, &d, FrameKind::Status, i).unwrap_or(u64::MAX);
            let at = op.frame_list.index(i.into()).ok_or(Errno::EFAULT)?;
            c.write(at.addr, &gfn)?;
        }
    }
    c.write(a[0], &op)?;
    OK
}

fn query_size<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    if a[1] != 1 {
        return Err(Errno::EINVAL);
    }
    let mut q: GnttabQuerySize = c.read(a[0])?;
    let d = target(c, &g, q.dom);
    q.status = code(d.as_ref().map(drop).map_err(|s| *s));
    if let Ok(d) = d {
        (q.nr_frames, q.max_nr_frames) = d.grant.size();
    }
    c.write(a[0], &q)?;
    OK
}

fn set_version<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let mut s: GnttabSetVersion = c.read(a[0])?;
    let (hv, grant) = (c.hv, &c.d.grant);
    grant.set_version(&hv.machine, hv.mm, s.version)?;
    s.version = grant.version();
    c.write(a[0], &s)?;
    OK
}

fn get_version<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let mut op: GnttabGetVersion = c.read(a[0])?;
    let d = c.domain(op.dom)?;
    op.version = g.on(c.d, &d)?.grant.version();
    c.write(a[0], &op)?;
    OK
}

/// Checked as by Xen; there is nothing to do where caches are coherent with devices.
fn cache_flush<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let count = checked_count(a)?;
    for i in 0..count {
        if i == BATCH {
            return again::<GnttabCacheFlush, M>(c, a, i);
        }
        let f: GnttabCacheFlush = c.read(element::<GnttabCacheFlush>(a, i)?)?;
        let (offset, length) = (u32::from(f.offset), u32::from(f.length));
        let known = GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL | GNTTAB_CACHE_SOURCE_GREF;
        if offset >= 4096 || offset + length > 4096 || f.op & !known != 0 {
            return Err(Errno::EINVAL);
        }
        if f.op & GNTTAB_CACHE_SOURCE_GREF != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
    }
    OK
}

fn swap_grant_ref<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    array(c, a, |c, op: &mut GnttabSwapGrantRef| {
        op.status = code(c.d.grant.swap(&c.hv.machine, op.ref_a, op.ref_b));
        Ok(())
    })
}
