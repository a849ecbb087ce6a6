//! Domains come, are described, run, and go without a trace.

use core::sync::atomic::Ordering;

use xen_abi::domctl::*;
use xen_abi::event_channel::*;
use xen_abi::hvm_save::*;
use xen_abi::sched::{SCHEDOP_shutdown, SCHEDOP_shutdown_code, SchedShutdown};
use xen_abi::sysctl::*;
use xen_abi::xen as n;
use xen_abi::{DomId, Errno, EvtchnPort, Handle, VcpuId};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{LIST, World, createdomain};
use crate::sched::{Request, Scheduler};

const DOM0: DomId = DomId(0);

fn info(w: &World, id: DomId) -> Result<XenDomctlGetdomaininfo, Errno> {
    let mut i = XenDomctlGetdomaininfo::new_zeroed();
    w.domctl(XEN_DOMCTL_getdomaininfo, id, &mut i).map(|_| i)
}

#[test]
fn two_hundred_lives_leave_nothing() {
    let w = World::new();
    // Chunks of accounts, unit tables and the like are allocated once, on the heap.
    let before = w.counts();
    for _ in 0..200 {
        let id = w.guest(2, 20);
        let mut alloc = EvtchnAllocUnbound {
            dom: id,
            remote_dom: DOM0,
            port: EvtchnPort(0),
        };
        let call = n::__HYPERVISOR_event_channel_op;
        w.with(DOM0, call, EVTCHNOP_alloc_unbound, &mut alloc)
            .unwrap();
        let mut bind = EvtchnBindInterdomain {
            remote_dom: id,
            _fill0: [0; 2],
            remote_port: alloc.port,
            local_port: EvtchnPort(0),
        };
        w.with(DOM0, call, EVTCHNOP_bind_interdomain, &mut bind)
            .unwrap();
        w.domctl(XEN_DOMCTL_unpausedomain, id, &mut 0u64).unwrap();
        w.destroy(id);
        assert_eq!(info(&w, id), Err(Errno::ESRCH));
        // The port of domain 0's stays, unbound, until it closes it.
        let mut close = EvtchnClose {
            port: bind.local_port,
        };
        w.with(DOM0, call, EVTCHNOP_close, &mut close).unwrap();
    }
    assert_eq!(w.counts(), before);
    assert!(w.hv.graveyard.lock().is_empty());
    let next = w.hv.unit_ids.take();
    assert!(
        next.is_some_and(|n| n <= 2),
        "{next:?}: numbers of vCPUs go round"
    );
}

#[test]
fn a_domain_that_runs_is_taken_off_its_cpu() {
    let w = World::new();
    let before = w.counts();
    let id = w.guest(1, 4);
    let v = w.dom(id).vcpu(VcpuId(0)).unwrap().clone();
    v.up(&w.hv);
    w.domctl(XEN_DOMCTL_unpausedomain, id, &mut 0u64).unwrap();
    // The CPU takes it, as the run loop does.
    let picked =
        w.hv.sched
            .schedule(xen_abi::PcpuId(0), w.hv.now(), Request::None, |_| {
                crate::run::readiness(&v)
            });
    assert_eq!(picked.next, Some(v.unit));
    let hw = v.hw.lock().take();
    v.loaded_on.store(0, Ordering::SeqCst);
    let d = w.dom(id);
    assert!(!w.hv.destroy_step(&d) && !w.hv.destroy_step(&d) && !w.hv.destroy_step(&d));
    assert!(!w.hv.settle(&v), "its state is on the CPU");
    // The CPU was asked, and lets go.
    let picked =
        w.hv.sched
            .schedule(xen_abi::PcpuId(0), w.hv.now(), Request::None, |_| {
                crate::run::readiness(&v)
            });
    assert_eq!((picked.next, picked.evict), (None, Some(v.unit)));
    *v.hw.lock() = hw;
    v.loaded_on
        .store(crate::domain::vcpu::NO_CPU, Ordering::SeqCst);
    w.hv.sched
        .context_saved(xen_abi::PcpuId(0), v.unit, w.hv.now());
    drop((d, v));
    w.destroy(id);
    assert_eq!(w.counts(), before);
}

#[test]
fn a_wrong_version_or_caller_is_refused() {
    let w = World::new();
    let id = w.guest(1, 16);
    w.poke(DOM0, super::ARG, &[XEN_DOMCTL_getdomaininfo, 0x16]);
    let call = |by, nr| w.call(by, nr, [super::ARG, 0, 0]);
    assert_eq!(call(DOM0, n::__HYPERVISOR_domctl), Err(Errno::EACCES));
    assert_eq!(call(DOM0, n::__HYPERVISOR_sysctl), Err(Errno::EACCES));
    w.poke(
        id,
        super::ARG,
        &[XEN_DOMCTL_getdomaininfo, XEN_DOMCTL_INTERFACE_VERSION],
    );
    assert_eq!(call(id, n::__HYPERVISOR_domctl), Err(Errno::EPERM));
    w.poke(
        id,
        super::ARG,
        &[XEN_SYSCTL_physinfo, XEN_SYSCTL_INTERFACE_VERSION],
    );
    assert_eq!(call(id, n::__HYPERVISOR_sysctl), Err(Errno::EPERM));
}

#[test]
fn limits_of_creation() {
    let w = World::new();
    let before = w.counts();
    let create = |f: &dyn Fn(&mut XenDomctlCreatedomain)| {
        let mut p = createdomain(1);
        f(&mut p);
        w.domctl(XEN_DOMCTL_createdomain, DomId(0), &mut p)
    };
    assert_eq!(create(&|p| p.flags = 0), Err(Errno::EINVAL));
    assert_eq!(create(&|p| p.flags |= 0x20), Err(Errno::EINVAL));
    assert_eq!(create(&|p| p.max_vcpus = 0), Err(Errno::EINVAL));
    assert_eq!(create(&|p| p.max_vcpus = 129), Err(Errno::EINVAL));
    assert_eq!(create(&|p| p.grant_opts = 3), Err(Errno::EINVAL));
    assert_eq!(
        create(&|p| p.arch.emulation_flags = 0x17f),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(w.counts(), before);
    let id = create(&|_| {}).unwrap();
    let mut p = createdomain(1);
    assert_eq!(
        w.domctl(XEN_DOMCTL_createdomain, id, &mut p),
        Err(Errno::EEXIST)
    );
    let mut max = XenDomctlMaxVcpus { max: 2 };
    assert_eq!(
        w.domctl(XEN_DOMCTL_max_vcpus, id, &mut max),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        w.domctl(XEN_DOMCTL_destroydomain, DOM0, &mut 0u64),
        Err(Errno::EINVAL)
    );
}

#[test]
fn pauses_nest_and_shutdown_is_told() {
    let w = World::new();
    let id = w.guest(1, 16);
    let call = |cmd| w.domctl(cmd, id, &mut 0u64).map(drop);
    assert_ne!(info(&w, id).unwrap().flags & XEN_DOMINF_paused, 0);
    call(XEN_DOMCTL_pausedomain).unwrap();
    call(XEN_DOMCTL_unpausedomain).unwrap();
    assert_ne!(info(&w, id).unwrap().flags & XEN_DOMINF_paused, 0);
    call(XEN_DOMCTL_unpausedomain).unwrap();
    assert_eq!(call(XEN_DOMCTL_unpausedomain), Err(Errno::EINVAL));
    let mut bind = EvtchnBindVirq {
        virq: xen_abi::Virq(n::VIRQ_DOM_EXC),
        vcpu: VcpuId(0),
        port: EvtchnPort(0),
    };
    w.with(
        DOM0,
        n::__HYPERVISOR_event_channel_op,
        EVTCHNOP_bind_virq,
        &mut bind,
    )
    .unwrap();
    let mut s = xen_abi::sched::SchedShutdown {
        reason: xen_abi::sched::SHUTDOWN_suspend,
    };
    let op = xen_abi::sched::SCHEDOP_shutdown;
    w.with(id, n::__HYPERVISOR_sched_op, op, &mut s).unwrap();
    let i = info(&w, id).unwrap();
    assert_eq!(i.flags & XEN_DOMINF_shutdown, XEN_DOMINF_shutdown);
    assert_eq!(i.flags >> XEN_DOMINF_shutdownshift & 0xff, s.reason);
    let pending = w.dom(DOM0).evtchn.status(&w.hv.machine, bind.port).unwrap();
    assert!(pending.pending, "VIRQ_DOM_EXC");
    let v = w.dom(id).vcpu(VcpuId(0)).unwrap().clone();
    assert_eq!(v.pause_count.load(Ordering::SeqCst), 1);
    call(XEN_DOMCTL_resumedomain).unwrap();
    assert_eq!(v.pause_count.load(Ordering::SeqCst), 0);
    assert_eq!(info(&w, id).unwrap().flags & XEN_DOMINF_shutdown, 0);
}

/// Whatever a guest says is a reason that is told, and one that can be taken back.
#[test]
fn any_reason_shuts_down() {
    for (said, told) in [(3, 3), (0x102, 2), (0xff, 0xff), (u32::MAX, 0xff)] {
        for code in [None, Some(4)] {
            let w = World::new();
            let id = w.guest(2, 16);
            w.domctl(XEN_DOMCTL_unpausedomain, id, &mut 0u64).unwrap();
            let call = n::__HYPERVISOR_sched_op;
            if let Some(reason) = code {
                let mut s = SchedShutdown { reason };
                w.with(id, call, SCHEDOP_shutdown_code, &mut s).unwrap();
            }
            for _ in 0..3 {
                let mut s = SchedShutdown { reason: said };
                w.with(id, call, SCHEDOP_shutdown, &mut s).unwrap();
            }
            let flags = info(&w, id).unwrap().flags;
            assert_ne!(flags & XEN_DOMINF_shutdown, 0, "{said:#x}");
            let reason = flags >> XEN_DOMINF_shutdownshift & XEN_DOMINF_shutdownmask;
            assert_eq!(reason, code.unwrap_or(told), "{said:#x}");
            w.domctl(XEN_DOMCTL_resumedomain, id, &mut 0u64).unwrap();
            let paused =
                |v: &std::sync::Arc<crate::domain::Vcpu<_>>| v.pause_count.load(Ordering::SeqCst);
            assert!(w.dom(id).each_vcpu().all(|v| paused(v) == 0), "{said:#x}");
            let mut s = SchedShutdown { reason: 1 };
            w.with(id, call, SCHEDOP_shutdown, &mut s).unwrap();
            let flags = info(&w, id).unwrap().flags;
            assert_eq!(
                flags >> XEN_DOMINF_shutdownshift & XEN_DOMINF_shutdownmask,
                1
            );
            w.destroy(id);
        }
    }
}

#[test]
fn domains_are_listed_in_order() {
    let w = World::new();
    let ids = [w.guest(1, 1), w.guest(2, 2), w.guest(3, 3)];
    let mut l = XenSysctlGetdomaininfolist {
        first_domain: ids[0],
        _fill0: [0; 2],
        max_domains: 100,
        buffer: Handle::new(LIST),
        num_domains: 0,
        _fill1: [0; 4],
    };
    w.sysctl(XEN_SYSCTL_getdomaininfolist, &mut l).unwrap();
    assert_eq!(l.num_domains, 3);
    for (i, id) in (0..).zip(ids) {
        let at = LIST + i * size_of::<XenDomctlGetdomaininfo>() as u64;
        let d: XenDomctlGetdomaininfo = w.peek(DOM0, at);
        assert_eq!(
            (d.domain, d.tot_pages, u64::from(d.max_vcpu_id)),
            (id, i + 1, i)
        );
        assert_eq!(d.handle, [7; 16]);
    }
    l.first_domain = DomId(ids[2].0 + 1);
    w.sysctl(XEN_SYSCTL_getdomaininfolist, &mut l).unwrap();
    assert_eq!(l.num_domains, 0);
}

/// A stream with one record.
fn stream<T: HvmSaveType + IntoBytes + zerocopy::Immutable>(record: &T) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |typecode, body: &[u8]| {
        let d = HvmSaveDescriptor {
            typecode,
            instance: 0,
            length: body.len() as u32,
        };
        out.extend_from_slice(d.as_bytes());
        out.extend_from_slice(body);
    };
    let mut header = HvmSaveHeader::new_zeroed();
    (header.magic, header.version) = (HVM_FILE_MAGIC, HVM_FILE_VERSION);
    put(HVM_SAVE_CODE_HEADER, header.as_bytes());
    put(T::CODE, record.as_bytes());
    put(HVM_SAVE_CODE_END, &[]);
    out
}

fn set_context(w: &World, id: DomId, bytes: &[u8]) -> Result<DomId, Errno> {
    for (i, b) in bytes.iter().enumerate() {
        w.poke(DOM0, LIST + i as u64, b);
    }
    let mut h = XenDomctlHvmcontext {
        size: bytes.len() as u32,
        _fill0: [0; 4],
        buffer: Handle::new(LIST),
    };
    w.domctl(XEN_DOMCTL_sethvmcontext, id, &mut h)
}

/// What libxc's PVH builder loads.
fn start_record() -> HvmHwCpu {
    let mut r = HvmHwCpu::new_zeroed();
    (r.cr0, r.rip, r.rbx, r.rflags) = (0x11, 0x100_0000, 0x9000, 2);
    (r.cs_limit, r.cs_arbytes) = (u32::MAX, 0xc9b);
    (r.ds_limit, r.ds_arbytes) = (u32::MAX, 0xc93);
    (r.es_limit, r.es_arbytes) = (u32::MAX, 0xc93);
    (r.ss_limit, r.ss_arbytes) = (u32::MAX, 0xc93);
    (r.tr_limit, r.tr_arbytes) = (0x67, 0x8b);
    r
}

#[test]
fn a_cpu_record_starts_the_domain() {
    let w = World::new();
    let id = w.guest(2, 4);
    let mut h = XenDomctlHvmcontext {
        size: 0,
        _fill0: [0; 4],
        buffer: Handle::NULL,
    };
    w.domctl(XEN_DOMCTL_gethvmcontext, id, &mut h).unwrap();
    let room = h.size;
    h.buffer = Handle::new(LIST);
    w.domctl(XEN_DOMCTL_gethvmcontext, id, &mut h).unwrap();
    assert!(h.size <= room);
    let mut saved = Vec::new();
    saved.extend((0..u64::from(h.size)).map(|i| w.peek::<u8>(DOM0, LIST + i)));
    // HEADER first, an MTRR record with write-back memory, END last.
    let (d, _) = HvmSaveDescriptor::read_from_prefix(&saved).unwrap();
    assert_eq!(d.typecode, HVM_SAVE_CODE_HEADER);
    assert!(saved.ends_with(&[0; 8]));

    set_context(&w, id, &stream(&start_record())).unwrap();
    let d = w.dom(id);
    let v = d.vcpu(VcpuId(0)).unwrap();
    assert!(!v.is_down() && d.vcpu(VcpuId(1)).unwrap().is_down());
    assert!(!v.is_runnable(), "created paused");
    w.domctl(XEN_DOMCTL_unpausedomain, id, &mut 0u64).unwrap();
    assert!(v.is_runnable());
    let picked =
        w.hv.sched
            .schedule(xen_abi::PcpuId(0), w.hv.now(), Request::None, |_| {
                crate::run::readiness(v)
            });
    assert_eq!(picked.next, Some(v.unit));

    // And what it has can be read back.
    let mut p = XenDomctlHvmcontextPartial {
        r#type: HVM_SAVE_CODE_CPU.into(),
        instance: 0,
        bufsz: 4096,
        buffer: Handle::new(LIST),
    };
    w.hv.sched
        .context_saved(xen_abi::PcpuId(0), v.unit, w.hv.now());
    w.domctl(XEN_DOMCTL_pausedomain, id, &mut 0u64).unwrap();
    let _ =
        w.hv.sched
            .schedule(xen_abi::PcpuId(0), w.hv.now(), Request::None, |_| {
                crate::run::readiness(v)
            });
    w.hv.sched.evict(v.unit);
    let gone =
        w.hv.sched
            .schedule(xen_abi::PcpuId(0), w.hv.now(), Request::None, |_| {
                crate::run::readiness(v)
            });
    if gone.evict.is_some() {
        w.hv.sched
            .context_saved(xen_abi::PcpuId(0), v.unit, w.hv.now());
    }
    w.domctl(XEN_DOMCTL_gethvmcontext_partial, id, &mut p)
        .unwrap();
    let r: HvmHwCpu = w.peek(DOM0, LIST);
    let mut sent = start_record();
    (sent.dr7, sent.flags, sent.tsc) = (r.dr7, r.flags, r.tsc);
    assert_eq!(r, sent);
}

#[test]
fn impossible_records_are_refused() {
    let w = World::new();
    let id = w.guest(1, 4);
    let try_it = |f: &dyn Fn(&mut HvmHwCpu)| {
        let mut r = start_record();
        f(&mut r);
        set_context(&w, id, &stream(&r)).map(drop)
    };
    assert_eq!(try_it(&|_| {}), Ok(()));
    for f in [
        &(|r: &mut HvmHwCpu| r.cr0 = 0x8000_0010) as &dyn Fn(&mut HvmHwCpu),
        &|r| r.cr4 = 1 << 13,
        &|r| r.msr_efer = 1 << 12,
        &|r| r.msr_lstar = 1 << 60,
        &|r| r.cs_arbytes = 0,
    ] {
        assert_eq!(try_it(f), Err(Errno::EINVAL));
    }
    let good = stream(&start_record());
    for cut in [0, 4, 8, 40, good.len() - 9] {
        assert_eq!(set_context(&w, id, &good[..cut]), Err(Errno::ENODATA));
    }
    let mut long = good.clone();
    long[4] = 0xff;
    assert!(set_context(&w, id, &long).is_err());
}

#[test]
fn weights_and_caps() {
    let w = World::new();
    let id = w.guest(1, 1);
    let mut s = XenDomctlSchedulerOp {
        sched_id: XEN_SCHEDULER_CREDIT2,
        cmd: XEN_DOMCTL_SCHEDOP_getinfo,
        u: xen_abi::Union::default(),
    };
    w.domctl(XEN_DOMCTL_scheduler_op, id, &mut s).unwrap();
    let p: XenDomctlSchedCredit2 = s.u.get();
    assert_eq!((p.weight, p.cap), (256, 0));
    s.cmd = XEN_DOMCTL_SCHEDOP_putinfo;
    s.u.set(&XenDomctlSchedCredit2 {
        weight: 512,
        cap: u16::MAX,
    });
    w.domctl(XEN_DOMCTL_scheduler_op, id, &mut s).unwrap();
    s.cmd = XEN_DOMCTL_SCHEDOP_getinfo;
    w.domctl(XEN_DOMCTL_scheduler_op, id, &mut s).unwrap();
    let p: XenDomctlSchedCredit2 = s.u.get();
    assert_eq!((p.weight, p.cap), (512, 0));
    s.sched_id = XEN_SCHEDULER_CREDIT;
    assert_eq!(
        w.domctl(XEN_DOMCTL_scheduler_op, id, &mut s),
        Err(Errno::EINVAL)
    );
}
