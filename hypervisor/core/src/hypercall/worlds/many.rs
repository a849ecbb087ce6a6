//! A thousand domains: no operation on one of them may cost more because there are others.

use core::cell::Cell;

use xen_abi::domctl::*;
use xen_abi::sysctl::*;
use xen_abi::{DomId, Handle, Ns, PcpuId, VcpuId};
use zerocopy::FromZeros;

use super::{LIST, World};
use crate::sched::{Request, Scheduler};
use crate::testing::work;

const CPU: PcpuId = PcpuId(0);
/// Domains in one question, as many as Debian's `xl` asks for.
const AT_ONCE: u32 = 1024;

/// The work of one stage.
fn cost(stage: impl FnOnce()) -> u64 {
    let before = work::done();
    stage();
    work::done() - before
}

/// What `xl list` asks of the hypervisor; how many domains it sees.
fn list(w: &World) -> u32 {
    let mut l = XenSysctlGetdomaininfolist::new_zeroed();
    (l.max_domains, l.buffer) = (AT_ONCE, Handle::new(LIST));
    let mut seen = 0;
    loop {
        w.sysctl(XEN_SYSCTL_getdomaininfolist, &mut l).unwrap();
        if l.num_domains == 0 {
            return seen;
        }
        seen += l.num_domains;
        let last = LIST + u64::from(l.num_domains - 1) * size_of::<XenDomctlGetdomaininfo>() as u64;
        let last: XenDomctlGetdomaininfo = w.peek(DomId(0), last);
        l.first_domain = DomId(last.domain.0 + 1);
    }
}

/// One turn of the run loop: the vCPU that has the CPU yields it.
fn turn(w: &World, now: Ns, asked: &Cell<u64>) -> bool {
    let d = w.hv.sched.schedule(CPU, now, Request::Yield, |u| {
        asked.set(asked.get() + 1);
        let v = w.hv.vcpu_of(u).unwrap();
        crate::run::readiness(&v)
    });
    if let Some(unit) = d.evict {
        w.hv.sched.context_saved(CPU, unit, now);
    }
    work::count(asked.replace(0) as usize);
    d.next.is_some()
}

/// Work to make, list, schedule and destroy so many domains.
fn lives(domains: u64) -> [u64; 4] {
    let w = World::with_frames(1024 + domains * 24, 1, 1);
    // One life first: tables that grow in steps, and the first of everything.
    let id = w.guest(1, 1);
    w.destroy(id);
    let before = w.counts();
    let mut ids = Vec::new();
    let made = cost(|| ids.extend((0..domains).map(|_| w.guest(1, 1))));
    let listed = cost(|| assert_eq!(u64::from(list(&w)), domains + 1));
    let (now, asked) = (Cell::new(w.hv.now().0), Cell::new(0));
    let tick = || {
        now.set(now.get() + 1_000_000);
        Ns(now.get())
    };
    let scheduled = cost(|| {
        for &id in &ids {
            let v = w.dom(id).vcpu(VcpuId(0)).unwrap().clone();
            v.up(&w.hv);
            w.domctl(XEN_DOMCTL_unpausedomain, id, &mut 0u64).unwrap();
        }
        for _ in 0..4 * domains {
            assert!(turn(&w, tick(), &asked));
        }
        for &id in &ids {
            w.domctl(XEN_DOMCTL_pausedomain, id, &mut 0u64).unwrap();
        }
        assert!(!turn(&w, tick(), &asked));
        // The state of the last one still lies on the CPU, which is asked to let go.
        for &id in &ids {
            let v = w.dom(id).vcpu(VcpuId(0)).unwrap().clone();
            if !w.hv.settle(&v) {
                turn(&w, tick(), &asked);
                assert!(w.hv.settle(&v));
            }
        }
    });
    let destroyed = cost(|| ids.iter().for_each(|&id| w.destroy(id)));
    assert_eq!(w.counts(), before);
    [made, listed, scheduled, destroyed]
}

#[test]
fn a_thousand_domains_cost_ten_times_what_a_hundred_do() {
    let [few, more, many] = [100, 300, 1000].map(lives);
    for (i, stage) in ["made", "listed", "scheduled", "destroyed"]
        .iter()
        .enumerate()
    {
        let counts = [few[i], more[i], many[i]];
        assert!(counts[0] >= 100, "{stage}: nothing was counted: {counts:?}");
        assert!(counts[1] * 10 <= counts[0] * 36, "{stage}: {counts:?}");
        assert!(counts[2] <= counts[0] * 12, "{stage}: {counts:?}");
    }
}
