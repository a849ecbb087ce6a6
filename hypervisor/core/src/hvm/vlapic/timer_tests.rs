//! The timer through the registers.

use super::tests::{NOW, enabled, x2};
use super::timer::divisor;
use super::*;
use x86_defs::apic::reg;

#[test]
fn divisors() {
    let expected = [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ];
    for (tdcr, value) in expected {
        assert_eq!(divisor(tdcr), value);
    }
}

#[test]
fn timer_one_shot() {
    let apic = enabled(0, true);
    let write = |offset, value| apic.x2apic_write(x2(offset), value, || NOW);
    let count = |now| apic.x2apic_read(x2(reg::TMCCT), || Ns(now));
    assert_eq!(write(reg::TDCR, 0b1011), Ok(Effect::None));
    assert_eq!(write(reg::LVT_TIMER, 0xec), Ok(Effect::None));
    let at = TimerCommand::At(Ns(NOW.0 + 5000));
    assert_eq!(write(reg::TMICT, 500), Ok(Effect::Timer(at)));
    assert_eq!(apic.timer_armed(), at);
    assert_eq!(count(NOW.0), Ok(500));
    assert_eq!(count(NOW.0 + 1000), Ok(400));
    assert_eq!(apic.timer_fired(Ns(NOW.0 + 4999), 0), None, "early");
    assert_eq!(count(NOW.0 + 5000), Ok(0));
    let fired = apic.timer_fired(Ns(NOW.0 + 5000), 0);
    assert_eq!(
        fired,
        Some(Expiry {
            next: TimerCommand::Disarm,
            is_requested: true
        })
    );
    assert_eq!(apic.highest_pending(), Some(Vector(0xec)));
    assert_eq!(apic.timer_fired(Ns(NOW.0 + 6000), 0), None, "once");
    // A new divisor slows what is left.
    assert_eq!(write(reg::TMICT, 500), Ok(Effect::Timer(at)));
    let slowed = TimerCommand::At(Ns(NOW.0 + 10_000));
    assert_eq!(write(reg::TDCR, 0), Ok(Effect::Timer(slowed)));
    // Zero stops it.
    assert_eq!(
        write(reg::TMICT, 0),
        Ok(Effect::Timer(TimerCommand::Disarm))
    );
    assert_eq!(apic.timer_armed(), TimerCommand::Disarm);
}

#[test]
fn timer_periodic() {
    let apic = enabled(0, true);
    let write = |offset, value| apic.x2apic_write(x2(offset), value, || NOW);
    assert_eq!(write(reg::TDCR, 0b1011), Ok(Effect::None));
    assert_eq!(write(reg::LVT_TIMER, 0x2_00ec), Ok(Effect::None));
    // 1 ms.
    let first = NOW.0 + 1_000_000;
    assert_eq!(
        write(reg::TMICT, 100_000),
        Ok(Effect::Timer(TimerCommand::At(Ns(first))))
    );
    let next = |now| apic.timer_fired(Ns(now), 0).map(|e| e.next);
    assert_eq!(
        next(first + 10),
        Some(TimerCommand::At(Ns(first + 1_000_000)))
    );
    // Two ticks missed: one interrupt, and in step again.
    assert_eq!(
        next(first + 3_400_000),
        Some(TimerCommand::At(Ns(first + 4_000_000)))
    );
    assert_eq!(
        apic.x2apic_read(x2(reg::TMCCT), || Ns(first + 3_500_000)),
        Ok(50_000)
    );
    // Too short a period is stretched.
    let shortest = TimerCommand::At(Ns(NOW.0 + MIN_PERIOD.0));
    assert_eq!(write(reg::TMICT, 1), Ok(Effect::Timer(shortest)));
    // Masked: it goes on counting, silently.
    let _ = apic.withdraw(Vector(0xec));
    assert_eq!(write(reg::LVT_TIMER, 0x3_00ec), Ok(Effect::None));
    let fired = apic.timer_fired(Ns(NOW.0 + MIN_PERIOD.0), 0);
    assert_eq!(fired.map(|e| e.is_requested), Some(false));
    assert_eq!(apic.highest_pending(), None);
}

#[test]
fn timer_tsc_deadline() {
    let apic = enabled(0, true);
    let write = |offset, value| apic.x2apic_write(x2(offset), value, || NOW);
    assert_eq!(
        apic.set_tsc_deadline(77),
        Ok(Effect::None),
        "ignored outside its mode"
    );
    assert_eq!(apic.tsc_deadline(), Ok(0));
    assert_eq!(
        write(reg::LVT_TIMER, 0x4_00ec),
        Ok(Effect::Timer(TimerCommand::Disarm))
    );
    assert_eq!(
        write(reg::TMICT, 5),
        Ok(Effect::None),
        "ignored in its mode"
    );
    let at = TimerCommand::AtGuestTsc(9000);
    assert_eq!(apic.set_tsc_deadline(9000), Ok(Effect::Timer(at)));
    assert_eq!(apic.timer_armed(), at);
    assert_eq!(apic.timer_fired(NOW, 8999), None);
    let fired = apic.timer_fired(NOW, 9000);
    assert_eq!(
        fired,
        Some(Expiry {
            next: TimerCommand::Disarm,
            is_requested: true
        })
    );
    assert_eq!(apic.tsc_deadline(), Ok(0), "reads zero once fired");
    assert_eq!(
        apic.set_tsc_deadline(0),
        Ok(Effect::Timer(TimerCommand::Disarm))
    );
    // Leaving the mode disarms.
    assert_eq!(apic.set_tsc_deadline(9000), Ok(Effect::Timer(at)));
    assert_eq!(
        write(reg::LVT_TIMER, 0xec),
        Ok(Effect::Timer(TimerCommand::Disarm))
    );
    assert_eq!(apic.timer_armed(), TimerCommand::Disarm);
}
