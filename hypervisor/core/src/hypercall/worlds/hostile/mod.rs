//! Hostile guests on the host: seeded random and hand-made malicious hypercalls and exits, through
//! the real tables, beside a victim and a domain 0 that serves the guests as a back end does. The
//! hypercalls are those of the hostile guest on emulators (`malice`); the exits are here.
//!
//! A *generation* is two hostile domains, from creation to destruction. What must hold: nothing
//! panics or hangs, the victim's memory and domain 0's stay what they were, and after a generation
//! nothing is left of it. [`alone`] replays from its seed; [`racing`] has the same calls come from
//! several threads at once. `RADON_SEED` sets the seed, `RADON_CALLS` the number of calls.

mod back_end;
mod exits;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::time::Instant;

use malice::{Cast, GRANTS, Guest, PAGES, Rng, SHARED, Sequence, TABLE};
use xen_abi::domctl::XEN_DOMCTL_destroydomain;
use xen_abi::memory::*;
use xen_abi::xen as n;
use xen_abi::{DomId, Errno, Gfn, Gpa, VcpuId};

use super::{FRAMES, World};
use crate::domain::vcpu::stop;
use crate::domain::{Domain, Vcpu};
use crate::hvm::backend::{HvmBackend, Reg, Seg, Segment};
use crate::hypercall::{Flow, enter};
use crate::machine::Machine;
use crate::testing::{FakeMachine, FakeVcpu};

const DOM0: DomId = DomId(0);
/// Pages of domain 0 that nobody has a reason to write.
const QUIET: core::ops::Range<u64> = 40..64;
/// Executions of one hypercall before its guest thinks of something else.
const PATIENCE: u32 = 20;

/// Number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// The seed of a test, which a failure shows.
fn seed(default: u64) -> u64 {
    let seed = setting("RADON_SEED", default);
    std::eprintln!("RADON_SEED={seed}");
    seed
}

fn pattern(id: DomId, gfn: u64, word: u64) -> u64 {
    Rng(u64::from(id.0) << 48 | gfn << 16 | word).draw()
}

/// The world and who lives in it.
struct Scene {
    w: World,
    victim: DomId,
    /// Frames of the victim, by gfn.
    frames: Vec<xen_abi::Mfn>,
    hostile: [DomId; 2],
}

impl Scene {
    fn new() -> Self {
        let w = World::sized(2, 1);
        let victim = w.guest(1, PAGES);
        for (id, pages) in [(victim, 0..PAGES), (DOM0, QUIET)] {
            for gfn in pages {
                let words: [u64; 512] = core::array::from_fn(|i| pattern(id, gfn, i as u64));
                w.poke(id, gfn << 12, &words);
            }
        }
        // Domain 0's page tables for mappings stay once they are there.
        w.hv.mm.account(DOM0).set_max(1000);
        assert_eq!(w.populate(DOM0, &[GRANTS], 0), 1);
        let mut r = XenRemoveFromPhysmap {
            domid: DomId::SELF,
            _fill0: [0; 6],
            gpfn: Gfn(GRANTS),
        };
        let op = XENMEM_remove_from_physmap;
        w.with(DOM0, n::__HYPERVISOR_memory_op, op, &mut r).unwrap();
        let d = w.dom(victim);
        let frame = |gfn| d.p2m.lookup(&w.hv.machine, Gfn(gfn)).unwrap().mfn;
        Self {
            frames: (0..PAGES).map(frame).collect(),
            w,
            victim,
            hostile: [DOM0; 2],
        }
    }

    /// Two new hostile domains, with two vCPUs each.
    fn populate(&mut self) {
        self.populate_as([DOM0; 2]);
    }

    /// The same, with these numbers, where they are not 0.
    fn populate_as(&mut self, numbers: [DomId; 2]) {
        for (id, number) in self.hostile.iter_mut().zip(numbers) {
            *id = self.w.guest_with(number, 2, PAGES);
            let d = self.w.dom(*id);
            for v in d.each_vcpu() {
                v.initialised.set();
                v.not_runnable.store(0, Ordering::SeqCst);
                v.pause_count.store(0, Ordering::SeqCst);
                let mut hw = v.hw.lock();
                long_mode(&self.w, hw.as_mut().unwrap());
            }
            for (space, gfn) in [
                (XENMAPSPACE_grant_table, TABLE),
                (XENMAPSPACE_shared_info, SHARED),
            ] {
                let mut a = XenAddToPhysmap {
                    domid: DomId::SELF,
                    size: 0,
                    space,
                    idx: 0,
                    gpfn: Gfn(gfn),
                };
                let op = XENMEM_add_to_physmap;
                self.w
                    .with(*id, n::__HYPERVISOR_memory_op, op, &mut a)
                    .unwrap();
            }
        }
    }

    /// The end of a generation.
    fn clear(&self) {
        for id in self.hostile {
            // It may be dead already, and its last frame come back meanwhile.
            let gone = self.w.domctl(XEN_DOMCTL_destroydomain, id, &mut 0u64);
            assert!(matches!(gone, Ok(_) | Err(Errno::ESRCH)), "{gone:?}");
        }
        back_end::let_go(self);
        self.w.hv.reap();
        assert!(self.w.hv.graveyard.lock().is_empty());
        for id in self.hostile {
            assert!(self.w.hv.domains.get(id).is_none(), "{id} is still there");
        }
    }

    /// What nobody may touch is untouched.
    fn check(&self) {
        let d = self.w.dom(self.victim);
        for (gfn, mfn) in (0..).zip(&self.frames) {
            let there = d.p2m.lookup(&self.w.hv.machine, Gfn(gfn)).unwrap();
            assert_eq!((there.mfn, gfn), (*mfn, gfn));
            assert_eq!(self.w.hv.mm.info(*mfn).unwrap().refs(), 1, "gfn {gfn:#x}");
        }
        for (id, pages) in [(self.victim, 0..PAGES), (DOM0, QUIET)] {
            for gfn in pages {
                let words: [u64; 512] = self.w.peek(id, gfn << 12);
                for (i, word) in (0..).zip(words) {
                    assert_eq!(word, pattern(id, gfn, i), "{id} gfn {gfn:#x} word {i}");
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_up = |id| self.w.hv.domains.get(id).is_some_and(|d| !d.is_stopped());
        !self.hostile.into_iter().all(is_up)
    }
}

fn long_mode(w: &World, hw: &mut FakeVcpu) {
    let hvm = w.hv.machine.hvm();
    let code = Segment {
        ar: 0xa09b,
        limit: u32::MAX,
        ..Segment::default()
    };
    hvm.set_segment(hw, Seg::Cs, code);
    hvm.set(hw, Reg::Efer, 1 << 10 | 1 << 8);
    hvm.set(hw, Reg::Rflags, 1 << 9 | 2);
}

/// A vCPU of a hostile domain.
struct Actor<'a> {
    s: &'a Scene,
    d: Arc<Domain<FakeMachine>>,
    v: Arc<Vcpu<FakeMachine>>,
    rng: Rng,
}

impl<'a> Actor<'a> {
    fn sequence(s: &'a Scene, id: DomId, vcpu: u32, rng: Rng) -> Sequence<Self> {
        let cast = Cast {
            own: id,
            hostile: s.hostile,
            victim: s.victim,
            frames: FRAMES,
        };
        Self::in_cast(s, cast, vcpu, rng)
    }

    fn in_cast(s: &'a Scene, cast: Cast, vcpu: u32, rng: Rng) -> Sequence<Self> {
        let d = s.w.dom(cast.own);
        let v = d.vcpu(VcpuId(vcpu)).unwrap().clone();
        let actor = Self {
            s,
            d,
            v,
            rng: rng.clone(),
        };
        Sequence::new(actor, cast, vcpu, rng)
    }

    /// The vCPU's hardware state, as a CPU takes it: not while the vCPU is paused.
    fn take_state(&self) -> Option<alloc::boxed::Box<FakeVcpu>> {
        let begin = Instant::now();
        while !self.d.is_stopped() {
            let mut slot = self.v.hw.lock();
            if self.v.pause_count.load(Ordering::SeqCst) == 0 {
                return slot.take();
            }
            drop(slot);
            std::thread::yield_now();
            let is_late = begin.elapsed() > Duration::from_secs(60);
            assert!(!is_late, "{} {} stays paused", self.d.id, self.v.id);
        }
        None
    }

    /// Does something with the vCPU's hardware state; `None` when it is gone.
    fn with_state<R>(&mut self, f: impl FnOnce(&mut Self, &mut FakeVcpu) -> R) -> Option<R> {
        let mut hw = self.take_state()?;
        let result = f(self, &mut hw);
        crate::sync::assert_none_held();
        *self.v.hw.lock() = Some(hw);
        // Whatever it waits for, it goes on.
        let waits = stop::BLOCKED | stop::POLL | stop::DOWN;
        self.v.not_runnable.fetch_and(!waits, Ordering::SeqCst);
        Some(result)
    }
}

impl Guest for Actor<'_> {
    fn hypercall(&mut self, nr: u64, args: [u64; 5]) -> bool {
        let done = self.with_state(|a, hw| {
            let r = <FakeMachine as Machine>::Hvm::regs_mut(hw);
            r.rax = nr;
            [r.rdi, r.rsi, r.rdx, r.r10, r.r8] = args;
            for _ in 0..PATIENCE {
                if enter(&a.s.w.hv, &a.d, &a.v, hw) != Flow::Again {
                    break;
                }
            }
        });
        done.is_some()
    }

    fn poke(&mut self, at: u64, bytes: &[u8]) {
        let _ = crate::hvm::memory::physical(&self.s.w.hv, &self.d).write_gpa(Gpa(at), bytes);
    }

    fn exit(&mut self, rng: Rng) -> bool {
        self.rng = rng;
        self.random_exit()
    }
}

#[test]
fn alone() {
    let seed = seed(1);
    let calls = setting("RADON_CALLS", 200_000);
    let mut s = Scene::new();
    let mut rng = Rng(seed);
    let before = s.w.counts();
    let (mut done, mut generation) = (0, 0);
    while done < calls {
        s.populate();
        for step in 0..20_000 {
            if s.is_over() {
                break;
            }
            let id = rng.pick(&s.hostile);
            let vcpu = rng.below(2) as u32;
            let mut actor = Actor::sequence(&s, id, vcpu, Rng(rng.draw()));
            assert!(actor.step());
            if rng.once_in(8) {
                back_end::step(&s, &mut rng);
            }
            if step % 4096 == 4095 {
                s.check();
            }
            done += 1;
        }
        s.check();
        s.clear();
        assert_eq!(s.w.counts(), before, "generation {generation}");
        generation += 1;
    }
    s.check();
}

/// Lives of the guest on emulators: its hypercalls with its arguments, as long as nothing traps there.
/// `RADON_SEED` is the seed of the life and `RADON_OWN` the number of its domain, as `agent lives` says
/// them. How its two vCPUs interleave is drawn from `RADON_ORDER`.
#[test]
fn replay() {
    let seed = seed(1);
    let lives = setting("RADON_LIVES", 2);
    let own = DomId(setting("RADON_OWN", 5) as u16);
    let mut order = Rng(setting("RADON_ORDER", 1));
    let mut s = Scene::new();
    let before = s.w.counts();
    for seed in (seed..).take(lives as usize) {
        s.populate_as([own, DOM0]);
        assert_eq!((s.hostile[0], s.victim), (own, DomId(1)));
        let cast = Cast {
            own,
            hostile: [own, DOM0],
            victim: s.victim,
            frames: malice::LIFE_FRAMES,
        };
        let mut vcpus = [0, 1].map(|vcpu| Actor::in_cast(&s, cast, vcpu, Rng::of_vcpu(seed, vcpu)));
        let mut acts = 0;
        while acts < setting("RADON_CALLS", 10_000) {
            if s.is_over() || !vcpus[order.below(2) as usize].step() {
                break;
            }
            acts += 1;
            if acts % 4096 == 0 {
                s.check();
            }
        }
        std::eprintln!("seed {seed} as {own}: {acts} acts");
        drop(vcpus);
        s.check();
        s.clear();
        assert_eq!(s.w.counts(), before, "seed {seed}");
    }
}

#[test]
fn racing() {
    let seed = seed(2);
    let calls = setting("RADON_CALLS", 30_000);
    let mut s = Scene::new();
    let before = s.w.counts();
    let done = AtomicU64::new(0);
    let mut generation = 0;
    while done.load(Ordering::Relaxed) < calls {
        s.populate();
        let is_over = AtomicBool::new(false);
        let (scene, over, done) = (&s, &is_over, &done);
        std::thread::scope(|t| {
            for (i, id) in scene.hostile.into_iter().enumerate() {
                for vcpu in 0..2 {
                    let mine = seed + 2 * generation + i as u64;
                    let mut actor = Actor::sequence(scene, id, vcpu, Rng::of_vcpu(mine, vcpu));
                    t.spawn(move || {
                        while !over.load(Ordering::Relaxed) && !actor.guest.d.is_stopped() {
                            if !actor.step() {
                                return;
                            }
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
            let mut rng = Rng(seed ^ generation << 8 ^ 0xff);
            for _ in 0..600 {
                if scene.is_over() {
                    break;
                }
                back_end::step(scene, &mut rng);
            }
            // One of them ends in the middle of what it does.
            if scene.w.hv.domains.get(scene.hostile[0]).is_some() {
                scene.w.destroy(scene.hostile[0]);
            }
            over.store(true, Ordering::Relaxed);
        });
        s.check();
        s.clear();
        assert_eq!(s.w.counts(), before, "generation {generation}");
        generation += 1;
    }
}
