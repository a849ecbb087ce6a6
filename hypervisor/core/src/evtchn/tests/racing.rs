//! Two vCPUs of each of two domains allocate, bind, send over and close the same ports at once.

use xen_abi::{DomId, EvtchnPort};

use super::super::{PortStatus, Sent};
use super::{Domains, FRAMES};
use crate::testing::FakeMem;

pub(super) const DOMS: u16 = 2;
const PORTS: u32 = 12;
const ROUNDS: u32 = 5_000;

fn next(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}

/// What a vCPU of domain `me` does to ports up to `ports`.
pub(super) fn vcpu(mem: &FakeMem, doms: &Domains, me: u16, mut seed: u64, rounds: u32, ports: u32) {
    let (own, other) = (&doms.0[usize::from(me)], &doms.0[usize::from(1 - me)]);
    for _ in 0..rounds {
        let x = next(&mut seed);
        let port = EvtchnPort(1 + (x >> 8) as u32 % ports);
        match x % 8 {
            0 => {
                let remote = DomId((x >> 16) as u16 % DOMS);
                let _ = own.alloc_unbound(mem, remote);
            }
            1 | 2 => {
                let remote = if x & 1 << 20 != 0 { other } else { own };
                let _ = own.bind_interdomain(mem, remote, port);
            }
            3 => {
                let _ = own.close(mem, port, true, doms);
            }
            4 => {
                let _ = own.reset(mem, false, 64, doms, |_| {});
            }
            _ => {
                if let Ok(Sent::Remote(link)) = own.send(mem, port) {
                    let _ = doms.0[usize::from(link.to.0)].receive(mem, &link);
                }
            }
        }
    }
}

#[test]
fn both_ends_agree() {
    let mem = FakeMem::new(u64::from(DOMS) * FRAMES, u64::from(DOMS) * FRAMES);
    let doms = Domains::new(DOMS, PORTS);
    std::thread::scope(|s| {
        for (i, me) in [0, 1, 0, 1].into_iter().enumerate() {
            let (mem, doms) = (&mem, &doms);
            s.spawn(move || vcpu(mem, doms, me, 0x9e37_79b9 + i as u64, ROUNDS, PORTS));
        }
    });
    agree(&mem, &doms);
}

/// Each end of a channel leads to the other, and all of them can be closed.
pub(super) fn agree(mem: &FakeMem, doms: &Domains) {
    let mut bound = 0;
    for me in 0..DOMS {
        let own = &doms.0[usize::from(me)];
        for port in (1..=PORTS).map(EvtchnPort) {
            let Ok(s) = own.status(mem, port) else {
                continue;
            };
            if let PortStatus::Interdomain(dom, far) = s.status {
                let there = doms.0[usize::from(dom.0)].status(mem, far);
                let back = PortStatus::Interdomain(DomId(me), port);
                assert_eq!(there.map(|s| s.status), Ok(back), "{me} {port:?}");
                bound += 1;
            }
        }
    }
    assert_eq!(bound % 2, 0);
    // All of it can be closed.
    for own in &doms.0 {
        for port in (1..=PORTS).map(EvtchnPort) {
            let _ = own.close(mem, port, true, doms);
        }
        assert_eq!(own.active_ports(), 0);
    }
}
