//! What the machine has.

use xen_abi::physdev::PhysdevPciDevice;
use xen_abi::sysctl::*;
use xen_abi::{DomId, Errno, PcpuId};

use super::super::domctl::describe;
use super::super::{Ctx, OK, OpResult};
use super::Op;
use crate::access::{Granted, Priv};
use crate::cpu_policy::FeatureSet;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::sched::Scheduler;

/// Frames of RAM.
fn total_frames<M: Machine>(hv: &Hypervisor<M>) -> u64 {
    hv.ram.iter().map(|r| r.end.saturating_sub(r.start)).sum()
}

pub(super) fn physinfo<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, op: &mut Op) -> OpResult {
    let cpus = c.hv.cpus.len() as u32;
    let stats = c.hv.mm.stats();
    let mut hw_cap = [0; 8];
    let features = FeatureSet::from_table(&c.hv.host_cpuid);
    for (to, from) in hw_cap.iter_mut().zip(features.0) {
        *to = from;
    }
    op.body.u.set(&XenSysctlPhysinfo {
        threads_per_core: 1,
        cores_per_socket: cpus,
        nr_cpus: cpus,
        max_cpu_id: cpus.saturating_sub(1),
        nr_nodes: 1,
        max_node_id: 0,
        cpu_khz: u32::try_from(c.hv.clock.hz() / 1000).unwrap_or(0),
        capabilities: XEN_SYSCTL_PHYSCAP_hvm
            | XEN_SYSCTL_PHYSCAP_hap
            | XEN_SYSCTL_PHYSCAP_gnttab_v1
            | XEN_SYSCTL_PHYSCAP_gnttab_v2,
        arch_capabilities: 0,
        pad: 0,
        total_pages: total_frames(c.hv),
        free_pages: stats.free,
        scrub_pages: 0,
        outstanding_pages: stats.claimed,
        max_mfn: c.hv.mm.frame_count().saturating_sub(1),
        hw_cap,
    });
    op.reply()
}

/// Domains told by one call; callers come again with the next number until there is none.
const MAX_DOMAINS: u32 = 1024;

pub(super) fn getdomaininfolist<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut l: XenSysctlGetdomaininfolist = op.body.u.get();
    let most = l.max_domains.min(MAX_DOMAINS);
    let (mut from, mut n) = (l.first_domain, 0);
    while n < most {
        let Some(d) = c.hv.domains.at_or_after(from) else {
            break;
        };
        let info = describe(c.hv, &d);
        let at = l.buffer.index(n.into()).ok_or(Errno::EFAULT)?;
        c.write(at.addr, &info)?;
        n += 1;
        from = DomId(d.id.0.saturating_add(1));
    }
    l.num_domains = n;
    op.body.u.set(&l);
    op.reply()
}

pub(super) fn getcpuinfo<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut g: XenSysctlGetcpuinfo = op.body.u.get();
    let n = g.max_cpus.min(c.hv.cpus.len() as u32);
    for i in 0..n {
        let info = c.hv.sched.cpu_info(PcpuId(i), c.hv.now());
        let idletime = info.map_or(0, |i| i.idle);
        let at = g.info.index(i.into()).ok_or(Errno::EFAULT)?;
        c.write(at.addr, &XenSysctlCpuinfo { idletime })?;
    }
    g.nr_cpus = n;
    op.body.u.set(&g);
    op.reply()
}

pub(super) fn availheap<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, op: &mut Op) -> OpResult {
    let mut h: XenSysctlAvailheap = op.body.u.get();
    h.avail_bytes = c.hv.mm.stats().free << 12;
    op.body.u.set(&h);
    op.reply()
}

pub(super) fn cputopoinfo<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut t: XenSysctlCputopoinfo = op.body.u.get();
    let cpus = c.hv.cpus.len() as u32;
    if !t.cputopo.is_null() {
        for core in 0..cpus.min(t.num_cpus) {
            let at = t.cputopo.index(core.into()).ok_or(Errno::EFAULT)?;
            let place = XenSysctlCputopo {
                core,
                socket: 0,
                node: 0,
            };
            c.write(at.addr, &place)?;
        }
        t.num_cpus = cpus.min(t.num_cpus);
    } else {
        t.num_cpus = cpus;
    }
    op.body.u.set(&t);
    op.reply()
}

/// Functions told by one call; callers come again for the rest.
const MAX_FUNCTIONS: u32 = 64;

/// Nodes of PCI functions: there is one node.
pub(super) fn pcitopoinfo<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut t: XenSysctlPcitopoinfo = op.body.u.get();
    if t.devs.is_null() || t.nodes.is_null() {
        return Err(Errno::EINVAL);
    }
    t.num_devs = t.num_devs.min(MAX_FUNCTIONS);
    for i in 0..u64::from(t.num_devs) {
        let from = t.devs.index(i).ok_or(Errno::EFAULT)?;
        let to = t.nodes.index(i).ok_or(Errno::EFAULT)?;
        let f: PhysdevPciDevice = c.read(from.addr)?;
        let hardware = c.hv.hardware_domain.get();
        let hardware = hardware.and_then(|d| d.hardware.as_ref());
        let is_there = hardware.is_some_and(|hw| hw.has_function(f.seg, f.bus, f.devfn));
        c.write(to.addr, &if is_there { 0 } else { XEN_INVALID_DEV })?;
    }
    op.body.u.set(&t);
    op.reply()
}

/// Distance of a node to itself.
const LOCAL: u32 = 10;

pub(super) fn numainfo<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, op: &mut Op) -> OpResult {
    let mut n: XenSysctlNumainfo = op.body.u.get();
    let asks = !n.meminfo.is_null() || !n.distance.is_null();
    if asks && n.num_nodes == 0 {
        op.body.u.set(&n);
        return op.reply();
    }
    if !n.meminfo.is_null() {
        let info = XenSysctlMeminfo {
            memsize: total_frames(c.hv) << 12,
            memfree: c.hv.mm.stats().free << 12,
        };
        c.write(n.meminfo.addr, &info)?;
    }
    if !n.distance.is_null() {
        c.write(n.distance.addr, &LOCAL)?;
    }
    n.num_nodes = 1;
    op.body.u.set(&n);
    op.reply()
}

/// Bytes of the ring that one call copies.
const MAX_READ: usize = 1 << 20;

pub(super) fn readconsole<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut r: XenSysctlReadconsole = op.body.u.get();
    let console = c.hv.console;
    let room = (r.count as usize).min(MAX_READ);
    let mut at = console.read_begin(r.incremental != 0, r.index);
    let (mut done, mut part) = (0, [0; 512]);
    while done < room {
        let most = (room - done).min(part.len());
        let (n, next) = console.read(at, &mut part[..most]);
        if n == 0 {
            break;
        }
        c.copy_out(r.buffer.addr.wrapping_add(done as u64), &part[..n])?;
        (done, at) = (done + n, next);
    }
    if r.clear != 0 {
        console.read_clear(at);
    }
    (r.count, r.index) = (done as u32, at);
    op.body.u.set(&r);
    op.reply()
}

/// Keys that one call presses.
const MAX_KEYS: u32 = 32;

pub(super) fn debug_keys<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let k: XenSysctlDebugKeys = op.body.u.get();
    if k.nr_keys > MAX_KEYS {
        return Err(Errno::E2BIG);
    }
    for i in 0..k.nr_keys {
        let at = k.keys.index(i.into()).ok_or(Errno::EFAULT)?;
        let key: u8 = c.read(at.addr)?;
        crate::debug::handle_key(c.hv, key);
    }
    OK
}
