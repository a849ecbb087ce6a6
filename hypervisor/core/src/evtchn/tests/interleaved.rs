//! Senders, receivers, pollers and those who bind and close, in interleavings drawn from seeds: no
//! event is lost, none is invented, and nobody sleeps through one.
//!
//! The guest's half is [`Guest`]; what the caller of this room does with a [`Raise`] is played here.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use malice::Rng;
use xen_abi::{DomId, EvtchnPort, VcpuId};

use super::super::{Delivery, EvtchnTable, Raise, Sent};
use super::guest::Guest;
use super::{Domains, FRAMES, VCPUS, racing};
use crate::testing::FakeMem;
use crate::testing::interleave::{explore, point, relax, together};

/// Schedules of each scene in the ordinary tests.
const SCHEDULES: u64 = 1000;
/// Channels, by the same number at both ends.
const PORTS: u32 = 3;

/// What is known of the events of a channel. These words are the test's: nobody comes in between.
#[derive(Default)]
struct Count {
    begun: AtomicU32,
    last_begun: AtomicU32,
    handled: AtomicU32,
    last_handled: AtomicU32,
}

/// Domain 0 sends, domain 1 receives.
struct Scene {
    mem: FakeMem,
    doms: Domains,
    clock: AtomicU32,
    counts: [Count; PORTS as usize + 1],
    /// The vCPU must look whether it has an upcall.
    attention: [AtomicBool; VCPUS as usize],
    is_asleep: [AtomicBool; VCPUS as usize],
    /// Senders that are not through yet.
    senders: AtomicU32,
    /// The first so many channels are used.
    used: u64,
}

type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

impl Scene {
    /// The scene, and a view of the receiving guest for each of its vCPUs.
    fn new(seed: u64) -> (Self, [Guest; VCPUS as usize]) {
        let s = Self {
            mem: FakeMem::new(2 * FRAMES, 2 * FRAMES),
            doms: Domains::new(2, 40),
            clock: AtomicU32::new(1),
            counts: Default::default(),
            attention: Default::default(),
            is_asleep: Default::default(),
            senders: AtomicU32::new(0),
            used: 1 + seed / 2 % u64::from(PORTS),
        };
        for port in (1..=PORTS).map(EvtchnPort) {
            let theirs = s.receiver().alloc_unbound(&s.mem, DomId(0));
            assert_eq!(theirs, Ok(port));
            let bound = s.doms.0[0].bind_interdomain(&s.mem, s.receiver(), port);
            assert_eq!(bound.map(|(p, _)| p), Ok(port));
            let moved = s.receiver().bind_vcpu(port, VcpuId(port.0 % VCPUS));
            assert_eq!(moved, Ok(None));
        }
        let mut guest = Guest::new(1);
        if seed.is_multiple_of(2) {
            guest.init_fifo(s.receiver(), &s.mem);
        }
        (s, [guest.clone(), guest])
    }

    fn receiver(&self) -> &EvtchnTable {
        &self.doms.0[1]
    }

    fn now(&self) -> u32 {
        self.clock.fetch_add(1, Relaxed)
    }

    /// What the hypervisor does about a raised event.
    fn raised(&self, raise: Raise) {
        let look = |v: VcpuId| self.attention[v.0 as usize].store(true, Relaxed);
        raise.upcall.map(look);
        while raise.wakeups
            && let Some(w) = self.receiver().take_wakeup()
        {
            if w.upcall {
                look(w.vcpu);
            }
            if w.poll {
                self.is_asleep[w.vcpu.0 as usize].store(false, Relaxed);
            }
        }
    }

    /// Sends on a channel; whether it was still open.
    fn send(&self, port: u32) -> bool {
        let count = &self.counts[port as usize];
        count.begun.fetch_add(1, Relaxed);
        count.last_begun.store(self.now(), Relaxed);
        let Ok(sent) = self.doms.0[0].send(&self.mem, EvtchnPort(port)) else {
            return false;
        };
        if let Sent::Remote(link) = sent {
            match self.receiver().receive(&self.mem, &link) {
                Delivery::Raised(raise) => self.raised(raise),
                other @ Delivery::Consumer { .. } => panic!("{other:?}"),
            }
        }
        true
    }

    fn handled(&self, port: u32) {
        let count = &self.counts[port as usize];
        count.handled.fetch_add(1, Relaxed);
        count.last_handled.store(self.now(), Relaxed);
    }

    /// The guest's interrupt handler, if the vCPU was told to look.
    fn look(&self, guest: &mut Guest, vcpu: u32) -> bool {
        let is_told = self.attention[vcpu as usize].swap(false, Relaxed);
        if is_told {
            guest.handle_vcpu(&self.mem, vcpu, &mut |port| self.handled(port.0));
        }
        is_told
    }

    fn unmask(&self, guest: &Guest, port: u32) {
        if guest.unmask(&self.mem, port) {
            let raise = self.receiver().unmask(&self.mem, EvtchnPort(port));
            self.raised(raise.expect("it is bound"));
        }
    }

    /// A vCPU of domain 0's.
    fn sender(&self, mut rng: Rng) {
        // Few: what comes later makes good what was lost before.
        for _ in 0..1 + rng.below(3) {
            assert!(self.send(1 + rng.below(self.used) as u32));
        }
        self.senders.fetch_sub(1, Relaxed);
    }

    /// A vCPU of domain 1's, which takes its interrupts and meanwhile changes what its ports do.
    fn receive(&self, guest: &mut Guest, vcpu: u32, mut rng: Rng) {
        for _ in 0..4 {
            let port = 1 + rng.below(self.used) as u32;
            // Linux masks and unmasks a port under a lock of that port.
            let is_ours = port % VCPUS == vcpu;
            match rng.below(6) {
                0 | 1 if is_ours => {
                    guest.mask(&self.mem, port);
                    point();
                    self.look(guest, vcpu);
                    point();
                    self.unmask(guest, port);
                }
                2 if is_ours => {
                    guest.mask(&self.mem, port);
                    let raise = self.receiver().unmask(&self.mem, EvtchnPort(port));
                    self.raised(raise.expect("it is bound"));
                }
                3 => {
                    let to = VcpuId(rng.below(VCPUS.into()) as u32);
                    assert_eq!(self.receiver().bind_vcpu(EvtchnPort(port), to), Ok(None));
                }
                4 => {
                    let priority = rng.below(3) as u32;
                    let set = self.receiver().set_priority(EvtchnPort(port), priority);
                    assert_eq!(set.is_ok(), guest.is_fifo());
                }
                _ => {}
            }
            self.look(guest, vcpu);
        }
    }

    /// A vCPU of domain 1's that sleeps until there is an event on one of two masked ports.
    fn poll(&self, guest: &Guest, vcpu: u32) {
        // The first vCPU waits for one port, the other for any of two.
        let ports: &[u32] = if vcpu == 0 { &[1] } else { &[2, 3] };
        let named: Vec<_> = ports.iter().copied().map(EvtchnPort).collect();
        let is_asleep = &self.is_asleep[vcpu as usize];
        loop {
            is_asleep.store(true, Relaxed);
            let sleeps = self.receiver().poll(&self.mem, VcpuId(vcpu), &named);
            while sleeps == Ok(true) && is_asleep.load(Relaxed) {
                if self.senders.load(Relaxed) == 0 {
                    // Nobody will wake it any more.
                    for &port in ports {
                        assert!(!guest.clear(&self.mem, port), "slept through port {port}");
                    }
                    return;
                }
                relax();
            }
            for &port in ports {
                if guest.clear(&self.mem, port) {
                    self.handled(port);
                }
            }
        }
    }

    /// All is quiet: what was sent has been seen, and nothing else.
    fn check(&self) {
        for port in 1..=PORTS {
            let count = &self.counts[port as usize];
            let [begun, last_begun, handled, last_handled] = [
                &count.begun,
                &count.last_begun,
                &count.handled,
                &count.last_handled,
            ]
            .map(|n| n.load(Relaxed));
            let info = self.receiver().status(&self.mem, EvtchnPort(port));
            assert!(!info.expect("bound").pending, "port {port} lost an event");
            assert!(last_begun <= last_handled, "port {port} lost an event");
            assert!(handled <= begun, "port {port}: an event was invented");
        }
    }
}

#[test]
fn each_event_is_seen_and_no_other() {
    explore(3 * SCHEDULES, |seed| {
        let (s, mut guests) = Scene::new(seed);
        let rng = |task| Rng::of_vcpu(seed, task);
        s.senders.store(2, Relaxed);
        {
            let (s, [first, second]) = (&s, &mut guests);
            together([
                Box::new(move || s.sender(rng(0))) as Task<'_>,
                Box::new(move || s.sender(rng(1))),
                Box::new(move || s.receive(first, 0, rng(2))),
                Box::new(move || s.receive(second, 1, rng(3))),
            ]);
        }
        loop {
            let told = [0, 1].map(|v| s.look(&mut guests[v as usize], v));
            if told == [false; 2] {
                break;
            }
        }
        s.check();
    });
}

#[test]
fn nobody_sleeps_through_an_event() {
    explore(SCHEDULES, |seed| {
        let (s, guests) = Scene::new(seed);
        s.senders.store(2, Relaxed);
        let (s, [first, second]) = (&s, &guests);
        for port in 1..=PORTS {
            first.mask(&s.mem, port);
        }
        together([
            Box::new(move || s.poll(first, 0)) as Task<'_>,
            Box::new(move || s.poll(second, 1)),
            Box::new(move || s.sender(Rng::of_vcpu(seed, 2))),
            Box::new(move || s.sender(Rng::of_vcpu(seed, 3))),
        ]);
        s.check();
    });
}

#[test]
fn an_event_does_not_outlive_its_channel() {
    explore(SCHEDULES, |seed| {
        let (s, guests) = Scene::new(seed);
        let (s, guest) = (&s, &guests[0]);
        together([
            Box::new(move || {
                s.send(1);
                s.send(1);
            }) as Task<'_>,
            Box::new(move || {
                let closed = s.receiver().close(&s.mem, EvtchnPort(1), true, &s.doms);
                assert!(closed.is_ok());
                // The same number again, if no queue holds it, for something that nobody uses.
                let port = s.receiver().bind_ipi(&s.mem, VcpuId(0));
                let port = port.expect("there are enough").0;
                for _ in 0..4 {
                    point();
                    assert!(!guest.clear(&s.mem, port), "an event came from nowhere");
                }
            }),
        ]);
        let last = s.receiver().status(&s.mem, EvtchnPort(1)).expect("known");
        assert!(!last.pending, "an event came from nowhere");
    });
}

#[test]
fn both_ends_agree() {
    explore(SCHEDULES, |seed| {
        let mem = FakeMem::new(2 * FRAMES, 2 * FRAMES);
        let doms = Domains::new(racing::DOMS, 4);
        {
            let (mem, doms) = (&mem, &doms);
            together((0..4).map(|i: u16| {
                let seed = Rng::of_vcpu(seed, i.into()).draw() | 1;
                Box::new(move || racing::vcpu(mem, doms, i % 2, seed, 12, 4)) as Task<'_>
            }));
        }
        racing::agree(&mem, &doms);
    });
}
