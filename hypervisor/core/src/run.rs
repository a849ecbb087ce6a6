//! The run loop: one per physical CPU, on one stack.
//!
//! It asks the scheduler for a vCPU, enters the guest, hands the exit to
//! [`crate::hvm::exit`], and starts over.  Interrupts are off except inside
//! [`Platform::idle`], [`Platform::irq_window`] and the guest; no lock is held there.
//!
//! [`Platform::idle`]: crate::machine::Platform::idle
//! [`Platform::irq_window`]: crate::machine::Platform::irq_window

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use x86_defs::msr::{self, pred_cmd};
use xen_abi::{Ns, PcpuId, VcpuId};

use crate::domain::vcpu::{NO_CPU, attention, stop};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hvm::backend::HvmBackend;
use crate::hvm::exit::{self, Next};
use crate::hvm::intr;
use crate::hvm::vlapic::timer::TimerCommand;
use crate::hypervisor::{CpuState, Hypervisor, work};
use crate::machine::Machine;
use crate::sched::{Decision, Readiness, Request, Scheduler, UnitId};
use crate::time::timers::{TimerId, TimerKind};

/// The vCPU whose hardware state is on this CPU.
struct Loaded<M: Machine> {
    d: Arc<Domain<M>>,
    v: Arc<Vcpu<M>>,
    hw: Box<HwVcpu<M>>,
}

/// The timer of each CPU fires at least so often after [`Hypervisor::beat`]: every 500 ms.
const BEAT: u64 = 500_000_000;

/// How the scheduler sees a vCPU.
pub fn readiness<M: Machine>(v: &Vcpu<M>) -> Readiness {
    let s = v.not_runnable.load(Ordering::SeqCst);
    if s & stop::DOWN != 0 || v.pause_count.load(Ordering::SeqCst) != 0 {
        Readiness::Offline
    } else if s != 0 {
        Readiness::Blocked
    } else {
        Readiness::Runnable
    }
}

/// Runs guests on this CPU for ever.
pub fn run_cpu<M: Machine>(hv: &Hypervisor<M>) -> ! {
    let me = hv.machine.this_cpu();
    let cpu = hv.cpu(me);
    let mut loaded: Option<Loaded<M>> = None;
    let mut is_running = false;
    // What to ask the scheduler, if anything.
    let mut request = Some(Request::None);
    let mut decision = Decision::default();
    loop {
        let mut todo = if cpu.work.load(Ordering::Relaxed) != 0 {
            cpu.work.swap(0, Ordering::SeqCst)
        } else {
            0
        };
        if todo != 0 {
            todo |= work_off(hv, me, cpu, loaded.as_ref(), todo);
        }
        if todo & work::RESUME != 0 {
            is_running = resume(hv, me, cpu, loaded.as_ref());
        }
        // A resumed vCPU that is not here is asked for, as below.
        if todo & work::RESCHED != 0 || todo & work::RESUME != 0 && !is_running {
            request = request.or(Some(Request::None));
        }
        if let Some(why) = request {
            is_running = reschedule(hv, me, cpu, &mut loaded, why, &mut decision);
            // A vCPU that could not be loaded is asked for again at the next interrupt.
            let is_missing = !is_running && decision.next.is_some();
            request = is_missing.then_some(Request::None);
        }
        if cpu.work.load(Ordering::Relaxed) != 0 {
            continue;
        }
        if !is_running {
            idle(hv, me, cpu);
            continue;
        }
        let Some(l) = &mut loaded else { continue };
        loop {
            match step(hv, cpu, l) {
                Next::Resume => {}
                Next::Yield => {
                    if hv.sched.has_rivals(me) {
                        request = Some(Request::Yield);
                        break;
                    }
                }
                Next::Stop => {
                    request = Some(Request::None);
                    break;
                }
            }
            if cpu.work.load(Ordering::Relaxed) != 0 {
                break;
            }
        }
    }
}

/// Works off all but [`work::RESCHED`] and [`work::RESUME`]; returns those if they came up
/// meanwhile: whom the timers have woken is in the same answer of the scheduler.
#[inline(never)]
fn work_off<M: Machine>(
    hv: &Hypervisor<M>,
    me: PcpuId,
    cpu: &CpuState,
    loaded: Option<&Loaded<M>>,
    todo: u32,
) -> u32 {
    if todo & work::TIMER != 0 {
        expire_timers(hv, me, cpu);
    }
    if todo & work::CONSOLE != 0 {
        hv.console_input();
    }
    if todo & work::DUMP != 0 {
        let here = loaded.map(|l| (&*l.v, &*l.hw));
        crate::debug::cpus::report(hv, me, here);
    }
    if let Some(iommu) = hv.iommu.get() {
        iommu.look(&hv.machine);
    }
    hv.console_news();
    const NEXT: u32 = work::RESCHED | work::RESUME;
    if cpu.work.load(Ordering::Relaxed) & NEXT == 0 {
        return 0;
    }
    cpu.work.fetch_and(!NEXT, Ordering::SeqCst) & NEXT
}

/// Goes on with the vCPU that is loaded here and was woken. False when there is none.
#[inline]
fn resume<M: Machine>(
    hv: &Hypervisor<M>,
    me: PcpuId,
    cpu: &CpuState,
    loaded: Option<&Loaded<M>>,
) -> bool {
    let current = cpu.current.load(Ordering::Relaxed);
    let Some(l) = loaded.filter(|l| l.v.unit.0 + 1 == current) else {
        return false;
    };
    l.v.running_on.store(me.0, Ordering::SeqCst);
    hv.write_runstate(&l.d, &l.v, &cpu.resumed.get());
    true
}

/// One entry and exit. Left to itself the compiler takes it out of the loop, which costs each exit
/// 36 instructions.
#[inline(always)]
fn step<M: Machine>(hv: &Hypervisor<M>, cpu: &CpuState, l: &mut Loaded<M>) -> Next {
    // After `running_on` was stored: whoever saw the old value has set its bit by now.
    let has_attended = l.v.attention.load(Ordering::SeqCst) != 0;
    if has_attended && let Some(next) = intr::attend(hv, &l.d, &l.v, &mut l.hw) {
        return next;
    }
    crate::sync::assert_none_held();
    let exit = hv.machine.hvm().run(&mut l.hw);
    if has_attended {
        intr::end_loan(hv, &l.v, &mut l.hw);
    }
    // Only this CPU writes it.
    cpu.exits.store(
        cpu.exits.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
    exit::handle(hv, &l.d, &l.v, &mut l.hw, exit)
}

fn idle<M: Machine>(hv: &Hypervisor<M>, me: PcpuId, cpu: &CpuState) {
    crate::sync::assert_none_held();
    let first = first_deadline(hv, me, cpu);
    if cpu.armed.load(Ordering::Relaxed) < first {
        // Nobody waits for that any more: to be woken costs more than to set the timer.
        cpu.armed.store(first, Ordering::Relaxed);
        hv.machine
            .set_deadline((first != u64::MAX).then_some(Ns(first)));
    }
    hv.mm.scrub_while(&hv.machine, || {
        hv.machine.irq_window();
        cpu.work.load(Ordering::Relaxed) == 0
    });
    if cpu.work.load(Ordering::SeqCst) == 0 {
        hv.machine.idle();
    }
}

/// Asks the scheduler and switches. True when a vCPU is to run.
fn reschedule<M: Machine>(
    hv: &Hypervisor<M>,
    me: PcpuId,
    cpu: &CpuState,
    loaded: &mut Option<Loaded<M>>,
    request: Request,
    d: &mut Decision,
) -> bool {
    let now = hv.now();
    let is_ready = |u| match loaded {
        Some(l) if l.v.unit == u => readiness(&l.v),
        _ => hv.readiness_of(u),
    };
    hv.sched.schedule_into(me, now, request, is_ready, d);
    if let Some(l) = loaded
        && d.next != Some(l.v.unit)
    {
        l.v.running_on.store(NO_CPU, Ordering::SeqCst);
    }
    if let Some(unit) = d.evict {
        if let Some(l) = loaded.take_if(|l| l.v.unit == unit) {
            unload(hv, l);
        }
        if let Some(kick) = hv.sched.context_saved(me, unit, now) {
            hv.request(kick, work::RESCHED);
        }
    }
    if !d.kick.is_empty() {
        for other in d.kick.iter() {
            hv.request(other, work::RESCHED);
        }
    }
    cpu.slice_end
        .store(d.slice_end.map_or(u64::MAX, |n| n.0), Ordering::Relaxed);
    cpu.current
        .store(d.next.map_or(0, |u| u.0 + 1), Ordering::Relaxed);
    let is_running = match d.next {
        None => false,
        Some(unit) => {
            if loaded.as_ref().is_none_or(|l| l.v.unit != unit) {
                *loaded = load(hv, me, unit, d.has_migrated);
            }
            if let Some(l) = loaded {
                l.v.running_on.store(me.0, Ordering::SeqCst);
                if let Some(info) = &d.started {
                    hv.write_runstate(&l.d, &l.v, info);
                }
            }
            loaded.is_some()
        }
    };
    // Timers program it when they are set; so there is only the slice, or timers that came along.
    let armed = cpu.armed.load(Ordering::Relaxed);
    let is_first = d.slice_end.is_some_and(|end| end.0 < armed);
    if is_first || d.has_migrated || armed == u64::MAX {
        program_timer(hv, me, cpu);
    }
    is_running
}

/// Another domain's branches must not train the predictors for this one's.
pub(crate) fn separate<M: Machine>(hv: &Hypervisor<M>, me: PcpuId, d: &Domain<M>) {
    if !hv.host_msrs.has_ibpb {
        return;
    }
    let (last, this) = (&hv.cpu(me).last_domain, u32::from(d.id.0) + 1);
    let before = last.load(Ordering::Relaxed);
    if before != this {
        last.store(this, Ordering::Relaxed);
        if before != 0 {
            hv.machine.write_msr(msr::IA32_PRED_CMD, pred_cmd::IBPB);
        }
    }
}

fn load<M: Machine>(
    hv: &Hypervisor<M>,
    me: PcpuId,
    unit: UnitId,
    has_migrated: bool,
) -> Option<Loaded<M>> {
    let v = hv.vcpu_of(unit)?;
    let d = v.domain()?;
    let mut hw = v.hw.lock().take()?;
    if has_migrated {
        hv.timers.move_unit(unit, me);
    }
    separate(hv, me, &d);
    hv.machine.hvm().load(&mut hw);
    v.loaded_on.store(me.0, Ordering::SeqCst);
    Some(Loaded { d, v, hw })
}

fn unload<M: Machine>(hv: &Hypervisor<M>, mut l: Loaded<M>) {
    hv.machine.hvm().unload(&mut l.hw);
    l.v.loaded_on.store(NO_CPU, Ordering::SeqCst);
    let v = l.v;
    *v.hw.lock() = Some(l.hw);
}

/// What this CPU's timer has to fire for first; `u64::MAX` for nothing.
#[inline(always)]
fn first_deadline<M: Machine>(hv: &Hypervisor<M>, me: PcpuId, cpu: &CpuState) -> u64 {
    let timers = hv.timers.next_deadline(me).map_or(u64::MAX, |n| n.0);
    let slice = cpu.slice_end.load(Ordering::Relaxed);
    timers.min(slice).min(cpu.beat.load(Ordering::Relaxed))
}

/// Arms the hardware timer for whatever comes first, if that is earlier than before.
fn program_timer<M: Machine>(hv: &Hypervisor<M>, me: PcpuId, cpu: &CpuState) {
    let first = first_deadline(hv, me, cpu);
    // Firing early once is cheaper than stopping the timer.
    if first != u64::MAX && first < cpu.armed.load(Ordering::Relaxed) {
        cpu.armed.store(first, Ordering::Relaxed);
        hv.machine.set_deadline(Some(Ns(first)));
    }
}

fn expire_timers<M: Machine>(hv: &Hypervisor<M>, me: PcpuId, cpu: &CpuState) {
    let now = hv.now();
    // The hardware timer is spent, even if it fired a little early.
    cpu.armed.store(u64::MAX, Ordering::Relaxed);
    if cpu.slice_end.load(Ordering::Relaxed) <= now.0 {
        cpu.slice_end.store(u64::MAX, Ordering::Relaxed);
        cpu.work.fetch_or(work::RESCHED, Ordering::SeqCst);
    }
    if cpu.beat.load(Ordering::Relaxed) <= now.0 {
        cpu.beat.store(now.0 + BEAT, Ordering::Relaxed);
    }
    while let Some(t) = hv.timers.pop_expired(me, now) {
        if let Some(v) = hv.vcpu_of(t.unit()) {
            fire(hv, &v, t, now);
        }
    }
    program_timer(hv, me, cpu);
}

pub(crate) fn fire<M: Machine>(hv: &Hypervisor<M>, v: &Arc<Vcpu<M>>, t: TimerId, now: Ns) {
    match t.kind() {
        TimerKind::Singleshot => {
            let due = v.timers.lock().singleshot.expire(now);
            if due {
                timer_virq(hv, v);
            }
        }
        TimerKind::Periodic => {
            let next = v.timers.lock().periodic.expire(now);
            if let Some(next) = next {
                hv.timers.set(t, hv.machine.this_cpu(), next);
                timer_virq(hv, v);
            }
        }
        TimerKind::Lapic => {
            // TSC offset 0 for all domains: the guest's TSC is ours.
            if let Some(e) = v.lapic.timer_fired(now, hv.machine.tsc()) {
                // It has left the queue: what is there by now is what the guest has set since.
                // Before the vCPU is told, which may set it anew on another CPU then.
                if e.next != TimerCommand::Disarm {
                    hv.lapic_timer(v, e.next);
                }
                if e.is_requested {
                    v.notify(hv, attention::LAPIC);
                }
            }
        }
        TimerKind::Poll => v.end_poll(hv),
        TimerKind::Watchdog0 | TimerKind::Watchdog1 => {
            if let Some(d) = v.domain() {
                crate::domain::watchdog::fired(hv, &d, t.kind());
            }
        }
        // Platform timers come with HVM domains.
        TimerKind::Platform | TimerKind::Spare => {}
    }
}

fn timer_virq<M: Machine>(hv: &Hypervisor<M>, v: &Arc<Vcpu<M>>) {
    if let Some(d) = v.domain() {
        hv.send_virq(&d, xen_abi::xen::VIRQ_TIMER, VcpuId(v.id.0));
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Sets a timer of a vCPU in the queue of this CPU.
    #[inline]
    pub fn set_timer(&self, _v: &Vcpu<M>, id: TimerId, at: Ns) {
        let me = self.machine.this_cpu();
        if self.timers.set(id, me, at) {
            program_timer(self, me, self.cpu(me));
        }
    }

    /// Does what a vLAPIC asks of its timer.
    pub fn lapic_timer(&self, v: &Vcpu<M>, c: TimerCommand) {
        let id = TimerId::new(v.unit, TimerKind::Lapic);
        match c {
            TimerCommand::Disarm => {
                self.timers.cancel(id);
            }
            TimerCommand::At(at) => self.set_timer(v, id, at),
            TimerCommand::AtGuestTsc(tsc) => self.set_timer(v, id, self.clock.at(tsc)),
        }
    }

    /// From the next time that it is set, the timer of each CPU fires at least every 500 ms: for a
    /// watchdog, or where an interrupt that got stuck comes with the next one.
    pub fn beat(&self) {
        for cpu in &self.cpus {
            cpu.beat.store(0, Ordering::Relaxed);
        }
    }

    /// This CPU, which calls, asks the scheduler at `at` at the latest.
    #[inline]
    pub(crate) fn reschedule_by(&self, me: PcpuId, at: Ns) {
        let cpu = self.cpu(me);
        if at.0 < cpu.slice_end.load(Ordering::Relaxed) {
            cpu.slice_end.store(at.0, Ordering::Relaxed);
            if at.0 < cpu.armed.load(Ordering::Relaxed) {
                program_timer(self, me, cpu);
            }
        }
    }

    /// The hardware timer of this CPU fired.
    #[inline]
    pub fn timer_interrupt(&self) {
        self.cpu(self.machine.this_cpu())
            .work
            .fetch_or(work::TIMER, Ordering::SeqCst);
    }
}
