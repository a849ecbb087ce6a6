//! Hypercalls of several vCPUs at once, in interleavings drawn from seeds.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use malice::Rng;
use x86_defs::apic::{lvt, reg};
use xen_abi::domctl::*;
use xen_abi::event_channel as e;
use xen_abi::hvm_vcpu::*;
use xen_abi::memory::{XENMEM_claim_pages, XenMemoryReservation};
use xen_abi::platform::*;
use xen_abi::sched::*;
use xen_abi::vcpu::{VCPUOP_initialise, VCPUOP_up};
use xen_abi::xen as n;
use xen_abi::{DomId, Errno, EvtchnPort, Gfn, Handle, Maddr, Ns, PcpuId, Union, VcpuId, Vector};
use zerocopy::FromZeros;

use super::{World, createdomain};
use crate::domain::physmap::Changes;
use crate::domain::vcpu::{attention, stop};
use crate::hvm::backend::{HvmBackend, Reg};
use crate::hvm::intr::{Bus, reset_state};
use crate::hvm::vlapic::Effect;
use crate::hvm::vlapic::message::{ApicBus, Signal};
use crate::hypercall::Flow;
use crate::machine::{FrameMem, Machine};
use crate::mm::{AllocArgs, FrameInfo};
use crate::p2m::{Leaf, P2mType};
use crate::testing::interleave::{explore, relax, together};
use crate::time::pvclock::WallClock;
use crate::time::timers::{TimerId, TimerKind};

const DOM0: DomId = DomId(0);
const FRAMES: u64 = 192;
/// Vector of the callback, and the flag that lets it in.
const VECTOR: u32 = 0xf3;
const IF: u64 = 0x200;

type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// A hypercall of a vCPU of domain 0's, until it is done.
fn call(w: &World, vcpu: u32, nr: u32, args: [u64; 3]) -> Result<Flow, Errno> {
    let mut args = [args[0], args[1], args[2], 0, 0];
    loop {
        match w.once(DOM0, vcpu, nr, args) {
            (Ok(Flow::Again), next) => args = next,
            (done, _) => return done,
        }
        relax();
    }
}

/// Where a vCPU has its arguments.
fn arg(vcpu: u32) -> u64 {
    0x1000 * u64::from(1 + vcpu)
}

/// Two vCPUs of domain 0: the first sleeps and takes events, the other sends them.
struct Sleep {
    w: World,
    /// To block for, and, masked, to poll for.
    ports: [EvtchnPort; 2],
    is_over: AtomicBool,
}

impl Sleep {
    fn new() -> Self {
        let w = World::with_frames(FRAMES, 2, 2);
        (0..2).for_each(|v| w.running(v, v));
        let d = w.dom0();
        d.callback_vector.store(VECTOR, Relaxed);
        let hvm = w.hv.machine.hvm();
        hvm.set(
            w.vcpu(0).hw.lock().as_mut().expect("at rest"),
            Reg::Rflags,
            IF,
        );
        let ports = [0; 2].map(|v| d.evtchn.bind_ipi(&w.hv.machine, VcpuId(v)).expect("free"));
        let is_over = AtomicBool::new(false);
        let s = Self { w, ports, is_over };
        s.w.hv.machine.fetch_or32(s.word(0xa00), 1 << ports[1].0);
        s
    }

    /// The sleeper runs, and nothing waits for it.
    fn begin(&self) {
        self.w.running(0, 0);
        self.is_over.store(false, Relaxed);
    }

    /// A word of `shared_info`.
    fn word(&self, offset: u64) -> Maddr {
        Maddr(self.w.dom0().shared_info.maddr().0 + offset)
    }

    /// Clears a pending bit; whether it was set.
    fn take(&self, port: EvtchnPort) -> bool {
        let bit = 1 << port.0;
        self.w.hv.machine.fetch_and32(self.word(0x800), !bit) & bit != 0
    }

    fn send(&self, mut rng: Rng) {
        for _ in 0..1 + rng.below(2) {
            let port = rng.pick(&self.ports);
            self.w.poke(DOM0, arg(1), &e::EvtchnSend { port });
            let op = [e::EVTCHNOP_send.into(), arg(1), 0];
            let sent = call(&self.w, 1, n::__HYPERVISOR_event_channel_op, op);
            assert_eq!(sent, Ok(Flow::Done(0)));
        }
        self.is_over.store(true, Relaxed);
    }

    /// What the run loop does before it enters the guest, and then the guest's handler.
    fn attend(&self) {
        let (v, d) = (self.w.vcpu(0), self.w.dom0());
        let mut hw = v.hw.lock().take().expect("nobody else runs it");
        let stop = crate::hvm::intr::attend(&self.w.hv, &d, &v, &mut hw);
        assert_eq!(stop, None);
        let is_injected = hw.injected.take().is_some();
        *v.hw.lock() = Some(hw);
        let m = &self.w.hv.machine;
        if is_injected && m.swap8(self.word(0), 0) != 0 && m.fetch_and64(self.word(8), 0) != 0 {
            self.take(self.ports[0]);
        }
    }

    fn sleep(&self, mut rng: Rng) {
        let v = self.w.vcpu(0);
        loop {
            let polls = rng.once_in(2);
            let args = if polls {
                self.w.poke(DOM0, arg(0) + 64, &self.ports[1]);
                let poll = SchedPoll {
                    ports: Handle::new(arg(0) + 64),
                    nr_ports: 1,
                    _fill0: [0; 4],
                    timeout: 0,
                };
                self.w.poke(DOM0, arg(0), &poll);
                [SCHEDOP_poll.into(), arg(0), 0]
            } else {
                [SCHEDOP_block.into(), 0, 0]
            };
            call(&self.w, 0, n::__HYPERVISOR_sched_op, args).expect("allowed");
            while !v.is_runnable() {
                if self.is_over.load(Relaxed) && !v.is_runnable() {
                    let waits = v.attention.load(Relaxed) & attention::WAKE;
                    let flag = self.w.hv.machine.load8(self.word(0));
                    assert_eq!((waits, flag), (0, 0), "asleep with an upcall");
                    assert!(!self.take(self.ports[0]), "asleep with an event");
                    assert!(
                        !polls || !self.take(self.ports[1]),
                        "slept through the poll"
                    );
                    return;
                }
                relax();
            }
            self.attend();
            self.take(self.ports[1]);
            relax();
        }
    }
}

#[test]
fn no_vcpu_sleeps_through_an_event() {
    let s = Sleep::new();
    explore(3000, move |seed| {
        s.begin();
        together([
            Box::new(|| s.sleep(Rng::of_vcpu(seed, 0))) as Task<'_>,
            Box::new(|| s.send(Rng::of_vcpu(seed, 1))),
        ]);
    });
}

/// Seconds and the time offset that a domain's wall clock shows.
fn wall_clock(w: &World, id: DomId) -> u32 {
    w.hv.machine
        .load32(Maddr(w.dom(id).shared_info.maddr().0 + 0xc04))
}

fn set_time(w: &World, vcpu: u32, secs: u64) {
    let op = XenpfSettime64 {
        secs,
        nsecs: 0,
        mbz: 0,
        system_time: 0,
    };
    w.poke(DOM0, arg(vcpu), &[XENPF_settime64, XENPF_INTERFACE_VERSION]);
    w.poke(DOM0, arg(vcpu) + 8, &op);
    let done = call(w, vcpu, n::__HYPERVISOR_platform_op, [arg(vcpu), 0, 0]);
    assert_eq!(done, Ok(Flow::Done(0)));
}

fn domctl<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    w: &World,
    vcpu: u32,
    cmd: u32,
    domain: DomId,
    body: &T,
) -> Result<Flow, Errno> {
    let op = XenDomctl {
        cmd,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain,
        _pad: [0; 3],
        u: Union::new(body),
    };
    w.poke(DOM0, arg(vcpu), &op);
    call(w, vcpu, n::__HYPERVISOR_domctl, [arg(vcpu), 0, 0])
}

#[test]
fn the_wall_clock_is_the_one_that_was_set_last() {
    let w = World::with_frames(FRAMES, 1, 3);
    explore(800, move |seed| {
        w.dom0().time_offset.store(0, Relaxed);
        *w.hv.wallclock.lock() = WallClock::default();
        let at = w.dom0().shared_info.maddr().0 + 0xc00;
        let word = |offset| w.hv.machine.load32(Maddr(at + offset));
        together([
            Box::new(|| (10..12).for_each(|secs| set_time(&w, 0, secs))) as Task<'_>,
            Box::new(|| {
                if seed.is_multiple_of(2) {
                    set_time(&w, 1, 20);
                    return;
                }
                let body = XenDomctlSettimeoffset {
                    time_offset_seconds: 100,
                };
                let set = domctl(&w, 1, XEN_DOMCTL_settimeoffset, DOM0, &body);
                assert_eq!(set, Ok(Flow::Done(0)));
            }),
            Box::new(|| {
                let made = domctl(&w, 2, XEN_DOMCTL_createdomain, DomId(7), &createdomain(1));
                assert_eq!(made, Ok(Flow::Done(0)));
            }),
        ]);
        let set = w.hv.wallclock.lock().sec as u32;
        let offset = if seed.is_multiple_of(2) { 0 } else { 100 };
        assert_eq!(wall_clock(&w, DOM0), set + offset);
        assert_eq!(
            wall_clock(&w, DomId(7)),
            set,
            "a domain that was made meanwhile"
        );
        assert_eq!(word(0) & 1, 0);
        w.destroy(DomId(7));
    });
}

#[test]
fn nothing_is_added_to_a_domain_behind_its_destruction() {
    let w = World::with_frames(FRAMES, 2, 2);
    let before = w.counts();
    explore(800, move |_| {
        let id = w.guest_with(DomId(7), 1, 4);
        let d = w.dom(id);
        w.hv.mm.account(id).set_max(64);
        together([
            Box::new(|| {
                let mut claim = XenMemoryReservation::new_zeroed();
                (claim.domid, claim.nr_extents) = (id, 32);
                w.poke(DOM0, arg(0), &claim);
                let op = [XENMEM_claim_pages.into(), arg(0), 0];
                let _ = call(&w, 0, n::__HYPERVISOR_memory_op, op);
                let mut changes = Changes::new(&w.hv, &d);
                let _ = changes.populate(Gfn(0x40), AllocArgs::order(1));
            }) as Task<'_>,
            Box::new(|| {
                let done = domctl(&w, 1, XEN_DOMCTL_destroydomain, id, &0u64);
                assert_eq!(done, Ok(Flow::Done(0)));
            }),
        ]);
        drop(d);
        w.hv.reap();
        assert_eq!(w.counts(), before);
    });
}

#[test]
fn an_extent_that_finds_no_place_takes_back_only_what_is_still_there() {
    /// Where the extent would go, and where its first frames are moved to meanwhile.
    const TO: u64 = 0x400;
    const ELSEWHERE: u64 = 0x500;
    let w = World::with_frames(FRAMES, 2, 2);
    let before = w.counts();
    explore(800, move |_| {
        let id = w.guest_with(DomId(7), 1, 8);
        let d = w.dom(id);
        w.hv.mm.account(id).set_max(64);
        assert_eq!(w.populate(id, &[TO], 0), 1);
        // A grant in its last place refuses it, when the other three are taken.
        let src = w.hv.mm.xen(&w.hv.machine);
        let own = d.p2m.lookup(&w.hv.machine, Gfn(0)).expect("RAM").mfn;
        let grant = Leaf::new(own, P2mType::GrantRw);
        let set = d.p2m.set_entry(&w.hv.machine, &src, Gfn(TO + 3), grant);
        assert!(set.is_ok());
        together([
            Box::new(|| {
                let mut changes = Changes::new(&w.hv, &d);
                let done = changes.populate(Gfn(TO), AllocArgs::order(2));
                assert_eq!(done, Err(Errno::ENOMEM));
            }) as Task<'_>,
            Box::new(|| {
                for i in 0..3 {
                    let mut changes = Changes::new(&w.hv, &d);
                    let _ = changes.move_ram(Gfn(ELSEWHERE + i), Gfn(TO + i));
                }
            }),
        ]);
        // Whatever the guest can reach is its own, and everything of its own can be reached.
        let mut reached = 0;
        for gfn in (0..8).chain(TO..TO + 3).chain(ELSEWHERE..ELSEWHERE + 3) {
            if let Some(m) = d.p2m.lookup(&w.hv.machine, Gfn(gfn)) {
                let owner = w.hv.mm.info(m.mfn).and_then(FrameInfo::owner);
                assert_eq!(owner, Some(id), "{gfn:#x} maps a frame that was given back");
                reached += 1;
            }
        }
        assert_eq!(w.hv.mm.account(id).total(), reached);
        let gone = d.p2m.unmap_grant(&w.hv.machine, &src, Gfn(TO + 3), grant);
        assert!(gone.is_ok());
        drop(d);
        w.destroy(id);
        assert_eq!(w.counts(), before);
    });
}

#[test]
fn a_vcpu_runs_only_with_a_state_that_nobody_takes_back() {
    /// No CPU has this bit of CR4.
    const RESERVED: u64 = 1 << 30;
    let w = World::with_frames(FRAMES, 2, 3);
    let initialise = move |w: &World, vcpu: u32, cr4: u64| {
        let mut regs = VcpuHvmX86_64::new_zeroed();
        (regs.cr0, regs.cr4, regs.efer) = (0x8000_0011, 0x20 | cr4, 0x500);
        let context = VcpuHvmContext {
            mode: VCPU_HVM_MODE_64B,
            pad: 0,
            cpu_regs: Union::new(&regs),
        };
        w.poke(DOM0, arg(vcpu), &context);
        let op = [VCPUOP_initialise.into(), 1, arg(vcpu)];
        call(w, vcpu, n::__HYPERVISOR_vcpu_op, op)
    };
    explore(2000, move |seed| {
        w.running(0, 0);
        w.running(2, 1);
        let (v, d) = (w.vcpu(1), w.dom0());
        v.not_runnable.store(stop::DOWN, Relaxed);
        v.attention.store(0, Relaxed);
        v.sipi.store(0, Relaxed);
        assert!(v.initialised.hold());
        if let Some(hw) = v.hw.lock().as_mut() {
            reset_state(w.hv.machine.hvm(), hw);
        }
        v.initialised.release(false);
        let is_bad = seed.is_multiple_of(2);
        together([
            Box::new(|| {
                let refusal = if is_bad { Errno::EINVAL } else { Errno::EEXIST };
                match initialise(&w, 0, if is_bad { RESERVED } else { 0 }) {
                    Ok(done) => assert_eq!((is_bad, done), (false, Flow::Done(0))),
                    Err(e) => assert!(e == refusal || e == Errno::EEXIST),
                }
            }) as Task<'_>,
            Box::new(|| Bus { hv: &w.hv, d: &d }.signal(VcpuId(1), Signal::Startup { page: 1 })),
            Box::new(|| {
                let up = [VCPUOP_up.into(), 1, 0];
                let _ = call(&w, 2, n::__HYPERVISOR_vcpu_op, up);
            }),
        ]);
        if !v.is_down() {
            assert!(v.initialised.get(), "it runs, and has no state");
        }
        // Without paging it finds its argument.
        if !v.is_down() && is_bad {
            assert_eq!(initialise(&w, 1, 0), Err(Errno::EEXIST), "its own");
        }
    });
}

#[test]
fn a_timer_that_is_set_again_as_soon_as_it_fired_is_not_cancelled() {
    const TIMER: Vector = Vector(0x61);
    let w = World::with_frames(FRAMES, 2, 1);
    w.running(0, 1);
    let v = w.vcpu(0);
    let write = |w: &World, at: u16, value: u32| {
        let v = w.vcpu(0);
        if let Effect::Timer(t) = v.lapic.mmio_write(at, 4, value, w.hv.now()) {
            w.hv.lapic_timer(&v, t);
        }
    };
    write(&w, reg::SVR, 0x1ff);
    write(&w, reg::LVT_TIMER, lvt::TIMER_ONESHOT | u32::from(TIMER.0));
    explore(800, move |_| {
        let timers = &w.hv.timers;
        write(&w, reg::TMICT, 10);
        w.hv.machine.advance(1_000_000);
        let now = w.hv.now();
        let id = timers.pop_expired(PcpuId(0), now);
        assert_eq!(id, Some(TimerId::new(v.unit, TimerKind::Lapic)));
        together([
            Box::new(|| crate::run::fire(&w.hv, &v, TimerId::new(v.unit, TimerKind::Lapic), now))
                as Task<'_>,
            Box::new(|| {
                // The guest's handler, on another CPU.
                while v.attention.load(Relaxed) & attention::LAPIC == 0 {
                    relax();
                }
                v.attention.fetch_and(!attention::LAPIC, Relaxed);
                v.lapic.ack(TIMER);
                let _ = v.lapic.eoi();
                write(&w, reg::TMICT, 1000);
            }),
        ]);
        assert_ne!(timers.next_deadline(PcpuId(0)), None::<Ns>, "cancelled");
        write(&w, reg::TMICT, 0);
        assert_eq!(timers.next_deadline(PcpuId(0)), None::<Ns>);
    });
}
