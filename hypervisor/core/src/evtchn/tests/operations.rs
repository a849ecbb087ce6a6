//! Single operations: error values, affinity, polling, formats, teardown.

use xen_abi::{DomId, Errno, EvtchnPort, Maddr, Pirq, VcpuId, Virq};

use super::super::{
    Closed, Delivery, GlobalVirqs, Link, PortStatus, Progress, Raise, Sent, Wakeup, XenConsumer,
};
use super::{Domains, FRAMES, frame, shared_info, table};
use crate::machine::FrameMem;
use crate::testing::FakeMem;

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const D0: DomId = DomId(0);
const D1: DomId = DomId(1);

fn up(vcpu: VcpuId) -> Raise {
    Raise {
        upcall: Some(vcpu),
        wakeups: false,
    }
}

fn local(raise: Raise) -> Result<Sent, Errno> {
    Ok(Sent::Local(Delivery::Raised(raise)))
}

fn p(n: u32) -> EvtchnPort {
    EvtchnPort(n)
}

fn mem() -> FakeMem {
    FakeMem::new(4 * FRAMES, 4 * FRAMES)
}

/// Two domains with a channel from port 1 of d0 to port 1 of d1.
fn connected(mem: &FakeMem) -> Domains {
    let doms = Domains::new(2, 1023);
    assert_eq!(doms.0[1].alloc_unbound(mem, D0), Ok(p(1)));
    let (port, raise) = doms.0[0].bind_interdomain(mem, &doms.0[1], p(1)).unwrap();
    assert_eq!((port, raise), (p(1), up(V0)));
    doms
}

#[test]
fn port_zero_is_never_handed_out() {
    let (mem, t) = (mem(), table(0, 1));
    assert_eq!(t.alloc_unbound(&mem, D1), Ok(p(1)));
    assert_eq!(t.alloc_unbound(&mem, D1), Err(Errno::ENOSPC));
    let none = Domains::new(0, 0);
    assert_eq!(t.close(&mem, p(0), true, &none), Err(Errno::EINVAL));
    assert_eq!(t.send(&mem, p(0)), Err(Errno::EINVAL));
    assert_eq!(t.status(&mem, p(0)).unwrap().status, PortStatus::Closed);
    assert_eq!(t.status(&mem, p(u32::MAX)).unwrap_err(), Errno::EINVAL);
}

#[test]
fn a_dying_domain_gets_no_ports() {
    let (mem, t) = (mem(), table(0, 100));
    t.set_dying();
    assert_eq!(t.bind_ipi(&mem, V0), Err(Errno::EINVAL));
}

#[test]
fn interdomain_binds_sends_and_falls_back_to_unbound() {
    let mem = mem();
    let doms = connected(&mem);
    let (a, b) = (&doms.0[0], &doms.0[1]);
    let link = Link {
        from: D0,
        from_port: p(1),
        to: D1,
        to_port: p(1),
    };
    assert_eq!(a.send(&mem, p(1)), Ok(Sent::Remote(link)));
    assert_eq!(b.receive(&mem, &link), Delivery::Raised(up(V0)));
    assert_eq!(
        a.bind_interdomain(&mem, b, p(1)).unwrap_err(),
        Errno::EINVAL
    );
    assert_eq!(
        a.bind_interdomain(&mem, b, p(5000)).unwrap_err(),
        Errno::EINVAL
    );

    assert_eq!(a.close(&mem, p(1), true, &doms), Ok(Closed::default()));
    assert_eq!(
        b.status(&mem, p(1)).unwrap().status,
        PortStatus::Unbound(D0)
    );
    assert_eq!(b.send(&mem, p(1)), local(Raise::NONE), "dropped");
    // What was on its way when the channel closed goes nowhere.
    assert_eq!(b.receive(&mem, &link), Delivery::Raised(Raise::NONE));
}

#[test]
fn a_domain_talks_to_itself() {
    let (mem, t) = (mem(), table(0, 1023));
    let a = t.alloc_unbound(&mem, D0).unwrap();
    let (b, raise) = t.bind_interdomain(&mem, &t, a).unwrap();
    assert_eq!((b, raise), (p(2), up(V0)));
    assert_eq!(t.bind_vcpu(a, V1), Ok(None));
    assert_eq!(t.send(&mem, b), local(up(V1)));
    let none = Domains::new(0, 0);
    assert_eq!(t.close(&mem, a, true, &none), Ok(Closed::default()));
    assert_eq!(t.status(&mem, b).unwrap().status, PortStatus::Unbound(D0));
}

#[test]
fn a_peer_that_is_gone_does_not_keep_a_port() {
    let mem = mem();
    let doms = connected(&mem);
    let none = Domains::new(0, 0);
    assert_eq!(
        doms.0[0].close(&mem, p(1), true, &none),
        Ok(Closed::default())
    );
    assert_eq!(doms.0[0].active_ports(), 0);
}

#[test]
fn hypervisor_ports_are_out_of_the_guests_reach() {
    let mem = mem();
    let doms = Domains::new(2, 1023);
    let (a, b) = (&doms.0[0], &doms.0[1]);
    let consumer = XenConsumer(3);
    assert_eq!(b.alloc_unbound_xen(&mem, V1, D0, consumer), Ok(p(1)));
    assert_eq!(b.send(&mem, p(1)), Err(Errno::EINVAL));
    assert_eq!(b.close(&mem, p(1), true, &doms), Err(Errno::EINVAL));
    assert_eq!(b.bind_vcpu(p(1), V0), Err(Errno::EINVAL));
    assert_eq!(
        b.notify_xen(&mem, p(1)),
        Sent::Local(Delivery::Raised(Raise::NONE))
    );

    let (port, _) = a.bind_interdomain(&mem, b, p(1)).unwrap();
    let Ok(Sent::Remote(link)) = a.send(&mem, port) else {
        panic!()
    };
    assert_eq!(
        b.receive(&mem, &link),
        Delivery::Consumer {
            consumer,
            vcpu: V1,
            port: p(1)
        }
    );
    mem.store8(shared_info(0), 0);
    mem.store64(Maddr(8), 0);
    mem.store64(Maddr(2048), 0);
    let Sent::Remote(link) = b.notify_xen(&mem, p(1)) else {
        panic!()
    };
    assert_eq!(a.receive(&mem, &link), Delivery::Raised(up(V0)));
    assert_eq!(b.close(&mem, p(1), false, &doms), Ok(Closed::default()));
    assert_eq!(
        a.status(&mem, port).unwrap().status,
        PortStatus::Unbound(D1)
    );
}

#[test]
fn virqs_bind_once_and_global_ones_on_vcpu_0() {
    let (mem, t) = (mem(), table(0, 1023));
    assert_eq!(t.bind_virq(&mem, Virq(24), V0), Err(Errno::EINVAL));
    assert_eq!(t.bind_virq(&mem, Virq(3), V1), Err(Errno::EINVAL));
    assert_eq!(t.bind_virq(&mem, Virq(0), VcpuId(2)), Err(Errno::ENOENT));
    assert_eq!(t.bind_virq(&mem, Virq(0), V1), Ok(p(1)));
    assert_eq!(t.bind_virq(&mem, Virq(0), V1), Err(Errno::EEXIST));
    assert_eq!(t.bind_virq(&mem, Virq(3), V0), Ok(p(2)));
    assert_eq!(
        t.bind_vcpu(p(1), V0),
        Err(Errno::EINVAL),
        "per-vCPU VIRQs stay"
    );
    assert_eq!(t.bind_vcpu(p(2), V1), Ok(None));
    assert_eq!(t.bind_vcpu(p(2), VcpuId(2)), Err(Errno::ENOENT));
    assert_eq!(t.raise_virq(&mem, Virq(0), V0), Raise::NONE);
    assert_eq!(t.raise_virq(&mem, Virq(3), V0), up(V1));
    let none = Domains::new(0, 0);
    let closed = t.close(&mem, p(2), true, &none);
    assert_eq!(
        closed,
        Ok(Closed {
            pirq: None,
            virq: Some(Virq(3))
        })
    );
    assert!(!t.virq_bound(Virq(3), V0));
    assert_eq!(t.bind_virq(&mem, Virq(3), V0), Ok(p(2)));
    assert_eq!(
        t.status(&mem, p(2)).unwrap().vcpu,
        V0,
        "affinity does not survive a close"
    );
}

#[test]
fn pirqs_bind_within_their_limit() {
    let (mem, t) = (mem(), table(0, 1023));
    assert_eq!(t.bind_pirq(&mem, Pirq(16)), Err(Errno::EINVAL));
    assert_eq!(t.raise_pirq(&mem, Pirq(9)), Raise::NONE);
    let port = t.bind_pirq(&mem, Pirq(9)).unwrap();
    assert_eq!(t.bind_pirq(&mem, Pirq(9)), Err(Errno::EEXIST));
    assert_eq!(t.send(&mem, port), Err(Errno::EINVAL));
    assert_eq!(t.bind_vcpu(port, V1), Ok(Some(Pirq(9))));
    assert_eq!(t.bind_vcpu(port, V1), Ok(None));
    assert_eq!(t.raise_pirq(&mem, Pirq(9)), up(V1));
    let none = Domains::new(0, 0);
    let closed = t.close(&mem, port, true, &none);
    assert_eq!(
        closed,
        Ok(Closed {
            pirq: Some(Pirq(9)),
            virq: None
        })
    );
    assert!(t.bind_pirq(&mem, Pirq(9)).is_ok());
}

#[test]
fn global_virqs_go_home_when_their_handler_dies() {
    let g = GlobalVirqs::new();
    assert_eq!(g.handler(Virq(3)), None);
    assert_eq!(g.set_handler(Virq(0), D1), Err(Errno::EINVAL));
    assert_eq!(g.set_handler(Virq(24), D1), Err(Errno::EINVAL));
    assert_eq!(g.set_handler(Virq(3), D1), Ok(()));
    assert_eq!(g.handler(Virq(3)), Some(D1));
    g.forget(D1);
    assert_eq!(g.handler(Virq(3)), None);
}

#[test]
fn a_poll_sleeps_only_if_nothing_is_pending() {
    let (mem, t) = (mem(), table(0, 1023));
    for _ in 0..3 {
        t.bind_ipi(&mem, V0).unwrap();
    }
    assert_eq!(t.poll(&mem, V1, &[p(100)]), Err(Errno::EINVAL));
    assert_eq!(t.poll(&mem, V1, &[p(1); 129]), Err(Errno::EINVAL));
    assert_eq!(t.poll(&mem, V1, &[p(1)]), Ok(true));
    assert_eq!(t.send(&mem, p(2)), local(up(V0)), "not the one waited for");
    assert_eq!(
        t.send(&mem, p(1)),
        local(Raise {
            upcall: None,
            wakeups: true
        })
    );
    let woken = Wakeup {
        vcpu: V1,
        upcall: false,
        poll: true,
    };
    assert_eq!(t.take_wakeup(), Some(woken));
    assert_eq!(t.take_wakeup(), None);
    assert_eq!(t.poll(&mem, V1, &[p(3), p(1)]), Ok(false));

    // Several ports: anything wakes it.  A poll that ended leaves nothing behind.
    let none = Domains::new(0, 0);
    t.close(&mem, p(1), true, &none).unwrap();
    t.bind_ipi(&mem, V0).unwrap();
    assert_eq!(t.poll(&mem, V1, &[p(3), p(1)]), Ok(true));
    assert!(matches!(t.send(&mem, p(3)), Ok(Sent::Local(Delivery::Raised(r))) if r.wakeups));
    t.end_poll(V1);
    assert_eq!(t.take_wakeup(), None);
    assert_eq!(t.poll(&mem, V1, &[p(1)]), Ok(true));
    t.end_poll(V1);
    assert_eq!(t.send(&mem, p(1)), local(Raise::NONE));
}

#[test]
fn reset_goes_back_to_two_level_in_steps() {
    let mem = mem();
    let doms = connected(&mem);
    let (a, b) = (&doms.0[0], &doms.0[1]);
    for _ in 0..200 {
        a.bind_ipi(&mem, V0).unwrap();
    }
    a.bind_virq(&mem, Virq(0), V0).unwrap();
    assert_eq!(
        a.reset(&mem, true, 64, &doms, |_| ()).unwrap_err(),
        Errno::EBUSY
    );
    for (v, at) in [(V0, 0), (V1, 128)] {
        a.init_control(&mem, v, frame(0, 1), at).unwrap();
    }
    let _ = a.expand_array(&mem, frame(0, 2)).unwrap();
    let mut virqs = 0;
    let mut step = |again| {
        a.reset(&mem, again, 64, &doms, |c| {
            virqs += u32::from(c.virq.is_some())
        })
    };
    assert!(matches!(step(false), Ok(Progress::Again)));
    assert_eq!(step(false).unwrap_err(), Errno::EBUSY);
    let mut rounds = 1;
    let frames = loop {
        rounds += 1;
        match step(true).unwrap() {
            Progress::Again => {}
            Progress::Done(frames) => break frames,
        }
    };
    assert_eq!((rounds, virqs), (4, 1));
    let mut back = Vec::new();
    frames.for_each(|m| back.push(m));
    assert_eq!(back, [frame(0, 1), frame(0, 1), frame(0, 2)]);
    assert!(!a.is_fifo());
    assert_eq!(a.active_ports(), 0);
    assert_eq!(
        b.status(&mem, p(1)).unwrap().status,
        PortStatus::Unbound(D0)
    );
    assert_eq!(a.bind_ipi(&mem, V0), Ok(p(1)));
}

#[test]
fn reset_leaves_the_hypervisors_ports() {
    let mem = mem();
    let doms = connected(&mem);
    let a = &doms.0[0];
    let own = a.alloc_unbound_xen(&mem, V0, D1, XenConsumer(1)).unwrap();
    assert!(matches!(
        a.reset(&mem, false, 64, &doms, |_| ()),
        Ok(Progress::Done(_))
    ));
    assert_eq!(a.active_ports(), 1);
    assert_eq!(a.status(&mem, own).unwrap().status, PortStatus::Unbound(D1));
}

#[test]
fn destroy_closes_all_and_gives_frames_back() {
    let mem = mem();
    let doms = connected(&mem);
    let (a, b) = (&doms.0[0], &doms.0[1]);
    a.alloc_unbound_xen(&mem, V0, D1, XenConsumer(1)).unwrap();
    a.init_control(&mem, V0, frame(0, 1), 0).unwrap();
    a.set_dying();
    let mut rounds = 0;
    let frames = loop {
        rounds += 1;
        match a.destroy(&mem, 10, &doms, |_| ()) {
            Progress::Again => {}
            Progress::Done(frames) => break frames,
        }
    };
    assert_eq!(rounds, 7, "63 ports in tens");
    let mut n = 0;
    frames.for_each(|_| n += 1);
    assert_eq!((n, a.active_ports()), (1, 0));
    assert_eq!(
        b.status(&mem, p(1)).unwrap().status,
        PortStatus::Unbound(D0)
    );
}

#[test]
fn domains_that_close_towards_each_other_do_not_deadlock() {
    let mem = mem();
    let doms = Domains::new(2, 1023);
    std::thread::scope(|s| {
        for side in 0..2usize {
            let (mem, doms) = (&mem, &doms);
            s.spawn(move || {
                let (me, other) = (&doms.0[side], &doms.0[1 - side]);
                for _ in 0..2_000 {
                    let mine = me.alloc_unbound(mem, other.dom()).unwrap();
                    for port in 1..6 {
                        if let Ok((got, _)) = me.bind_interdomain(mem, other, p(port)) {
                            if let Ok(Sent::Remote(link)) = me.send(mem, got) {
                                let _ = other.receive(mem, &link);
                            }
                            let _ = me.close(mem, got, true, doms);
                        }
                    }
                    let _ = me.close(mem, mine, true, doms);
                }
            });
        }
    });
    assert_eq!((doms.0[0].active_ports(), doms.0[1].active_ports()), (0, 0));
}
