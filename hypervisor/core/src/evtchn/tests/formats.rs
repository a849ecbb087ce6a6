//! The two formats bit by bit, switching between them, `vcpu_info`.

use xen_abi::{DomId, Errno, EvtchnPort, Maddr, VcpuId};

use super::super::layout::{LINKED, MASKED, PENDING};
use super::super::{Delivery, EvtchnTable, InfoWidth, Raise, Sent, Wakeup};
use super::guest::Guest;
use super::{Domains, FRAMES, frame, shared_info, table};
use crate::machine::FrameMem;
use crate::testing::FakeMem;

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const D0: DomId = DomId(0);

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

#[test]
fn two_level_ends_at_4096_and_32_bit_guests_at_1024() {
    let (mem, t) = (mem(), table(0, u32::MAX));
    for n in 1..1024 {
        assert_eq!(t.bind_ipi(&mem, V0), Ok(p(n)));
    }
    t.set_info_width(InfoWidth::W32);
    assert_eq!(t.bind_ipi(&mem, V0), Err(Errno::ENOSPC));
    t.set_info_width(InfoWidth::W64);
    for n in 1024..4096 {
        assert_eq!(t.bind_ipi(&mem, V0), Ok(p(n)));
    }
    assert_eq!(t.bind_ipi(&mem, V0), Err(Errno::ENOSPC));
    t.init_control(&mem, V0, frame(0, 1), 0).unwrap();
    assert_eq!(t.bind_ipi(&mem, V0), Ok(p(4096)));
}

#[test]
fn thirty_two_bit_layout_is_the_headers() {
    let (mem, t) = (mem(), table(0, 1023));
    t.set_info_width(InfoWidth::W32);
    for _ in 0..40 {
        t.bind_ipi(&mem, V1).unwrap();
    }
    assert_eq!(t.send(&mem, p(37)), local(up(V1)));
    // vcpu_info[1]: upcall_pending, then a 32-bit selector at 4; bitmap at 2048, masks at 2176.
    assert_eq!(mem.load8(Maddr(64)), 1);
    assert_eq!(mem.load32(Maddr(68)), 1 << 1);
    assert_eq!(mem.load32(Maddr(2048 + 4)), 1 << 5);
    mem.store32(Maddr(2176 + 4), 1 << 6);
    assert_eq!(t.send(&mem, p(38)), local(Raise::NONE));
    assert_eq!(
        t.unmask(&mem, p(38)),
        Ok(Raise::NONE),
        "the selector bit is still set"
    );
}

#[test]
fn two_level_selects_once_and_masks() {
    let (mem, t) = (mem(), table(0, 1023));
    for _ in 0..3 {
        t.bind_ipi(&mem, V1).unwrap();
    }
    assert_eq!(t.send(&mem, p(1)), local(up(V1)));
    assert_eq!(t.send(&mem, p(1)), local(Raise::NONE));
    assert_eq!(t.send(&mem, p(2)), local(Raise::NONE), "same selector word");
    assert_eq!(mem.load64(Maddr(2048)), 0b110);
    mem.store8(Maddr(64), 0);
    mem.store64(Maddr(72), 0);
    mem.store64(Maddr(2560), 1 << 3);
    assert_eq!(t.send(&mem, p(3)), local(Raise::NONE));
    assert_eq!(t.unmask(&mem, p(3)), Ok(up(V1)));
    assert_eq!(t.unmask(&mem, p(3)), Ok(Raise::NONE), "was not masked");
    assert_eq!(t.unmask(&mem, p(200)), Err(Errno::EINVAL));
}

#[test]
fn moving_vcpu_info_marks_everything_pending() {
    let (mem, t) = (mem(), table(0, 1023));
    t.bind_ipi(&mem, V1).unwrap();
    mem.store64(Maddr(64 + 32), 0x1234);
    let new = Maddr(frame(0, 5).maddr().0 + 192);
    assert_eq!(t.set_vcpu_info(&mem, V1, new), Ok(up(V1)));
    assert_eq!(mem.load64(Maddr(new.0 + 8)), u64::MAX);
    assert_eq!(mem.load64(Maddr(new.0 + 32)), 0x1234, "times come along");
    assert!(t.upcall_pending(&mem, V1, true));
    mem.store8(Maddr(new.0 + 1), 1);
    assert!(!t.upcall_pending(&mem, V1, true));
    assert!(t.upcall_pending(&mem, V1, false));
    mem.store8(new, 0);
    mem.store64(Maddr(new.0 + 8), 0);
    assert_eq!(t.send(&mem, p(1)), local(up(V1)));
    assert_eq!(mem.load8(Maddr(64)), 0, "the old place is left alone");
    assert_eq!(t.set_vcpu_info(&mem, VcpuId(9), new), Err(Errno::ENOENT));
    assert_eq!(t.reset_vcpu_info(V1), Some(new));
    assert_eq!(t.reset_vcpu_info(V1), None);
    assert_eq!(t.vcpu_info(V1), Some(Maddr(64)));
}

#[test]
fn a_vcpu_above_31_has_no_info_until_it_registers_one() {
    let mem = mem();
    let t = EvtchnTable::new(D0, 40, shared_info(0), 1023, 0).unwrap();
    let v = VcpuId(35);
    t.bind_ipi(&mem, v).unwrap();
    assert_eq!(t.vcpu_info(v), None);
    assert_eq!(t.send(&mem, p(1)), local(Raise::NONE));
    assert!(!t.upcall_pending(&mem, v, false));
    let new = frame(0, 4).maddr();
    assert_eq!(t.set_vcpu_info(&mem, v, new), Ok(up(v)));
    assert_eq!(mem.load8(Maddr(new.0 + 1)), 1, "masked where masks count");
    assert!(t.status(&mem, p(1)).unwrap().pending);
}

#[test]
fn control_blocks_are_checked() {
    let (mem, t) = (mem(), table(0, 1023));
    assert_eq!(t.expand_array(&mem, frame(0, 2)), Err(Errno::EOPNOTSUPP));
    assert_eq!(t.check_expand(), Err(Errno::EOPNOTSUPP));
    assert_eq!(
        t.init_control(&mem, VcpuId(2), frame(0, 1), 0),
        Err(Errno::ENOENT)
    );
    for bad in [4, 4025, 4032, u32::MAX] {
        assert_eq!(
            t.init_control(&mem, V0, frame(0, 1), bad),
            Err(Errno::EINVAL)
        );
    }
    assert!(!t.is_fifo());
    assert_eq!(t.init_control(&mem, V0, frame(0, 1), 4024), Ok(()));
    assert!(t.is_fifo());
    assert_eq!(
        t.init_control(&mem, V0, frame(0, 1), 0),
        Err(Errno::EINVAL),
        "only once"
    );
    assert_eq!(t.init_control(&mem, V1, frame(0, 1), 0), Ok(()));
    for n in 0..128 {
        assert!(t.expand_array(&mem, frame(0, 2)).is_ok(), "page {n}");
    }
    assert_eq!(t.expand_array(&mem, frame(0, 2)), Err(Errno::ENOSPC));
    assert_eq!(t.check_expand(), Err(Errno::ENOSPC));
}

#[test]
fn switching_to_fifo_loses_no_event() {
    let (mem, t) = (mem(), table(0, 1023));
    for v in [V0, V1, V1] {
        t.bind_ipi(&mem, v).unwrap();
    }
    assert_eq!(t.send(&mem, p(1)), local(up(V0)));
    mem.store8(Maddr(0), 0);
    let guest = Guest::new(0);
    for (v, at) in [(V0, 0), (V1, 128)] {
        t.init_control(&mem, v, frame(0, 1), at).unwrap();
    }
    // Sent while its page is missing.
    assert_eq!(t.send(&mem, p(3)), local(Raise::NONE));
    assert_eq!(t.poll(&mem, V1, &[p(2)]), Ok(true));
    let raise = t.expand_array(&mem, frame(0, 2)).unwrap();
    assert_eq!(
        raise,
        Raise {
            upcall: None,
            wakeups: true
        }
    );
    assert_eq!(
        t.take_wakeup(),
        Some(Wakeup {
            vcpu: V0,
            upcall: true,
            poll: false
        })
    );
    assert_eq!(
        t.take_wakeup(),
        Some(Wakeup {
            vcpu: V1,
            upcall: true,
            poll: false
        })
    );
    assert_eq!(t.take_wakeup(), None);
    for port in [1, 3] {
        assert_eq!(mem.load32(guest.word(port)), PENDING | LINKED);
    }
    assert_eq!(mem.load32(guest.word(2)), 0);
}

#[test]
fn fifo_keeps_order_and_priority() {
    let (mem, t) = (mem(), table(0, 1023));
    let mut guest = Guest::new(0);
    guest.init_fifo(&t, &mem);
    for _ in 0..4 {
        t.bind_ipi(&mem, V0).unwrap();
    }
    assert_eq!(t.set_priority(p(4), 16), Err(Errno::EINVAL));
    assert_eq!(t.set_priority(p(9), 3), Err(Errno::EACCES));
    assert_eq!(t.set_priority(p(4), 3), Ok(()));
    let first = t.send(&mem, p(3));
    assert_eq!(first, local(up(V0)));
    for port in [1, 2, 4] {
        assert_eq!(t.send(&mem, p(port)), local(Raise::NONE));
    }
    assert_eq!(guest.handle(&mem), [p(4), p(3), p(1), p(2)]);
}

#[test]
fn a_linked_port_is_not_reused_until_the_guest_unlinked_it() {
    let (mem, t) = (mem(), table(0, 1023));
    let mut guest = Guest::new(0);
    guest.init_fifo(&t, &mem);
    let none = Domains::new(0, 0);
    let port = t.bind_ipi(&mem, V0).unwrap();
    let _ = t.send(&mem, port);
    t.close(&mem, port, true, &none).unwrap();
    assert_eq!(mem.load32(guest.word(1)), LINKED, "no longer pending");
    assert_eq!(t.bind_ipi(&mem, V0), Ok(p(2)));
    assert!(guest.handle(&mem).is_empty());
    assert_eq!(t.bind_ipi(&mem, V0), Ok(p(1)));
}

#[test]
fn a_vcpu_without_control_block_hears_nothing() {
    let (mem, t) = (mem(), table(0, 1023));
    t.init_control(&mem, V0, frame(0, 1), 0).unwrap();
    let _ = t.expand_array(&mem, frame(0, 2)).unwrap();
    t.bind_ipi(&mem, V1).unwrap();
    assert_eq!(t.send(&mem, p(1)), local(Raise::NONE));
    assert_eq!(mem.load32(Maddr(frame(0, 2).maddr().0 + 4)), 0);
    t.init_control(&mem, V1, frame(0, 1), 128).unwrap();
    assert_eq!(t.send(&mem, p(1)), local(up(V1)));
}

#[test]
fn masked_fifo_events_wait_for_the_unmask() {
    let (mem, t) = (mem(), table(0, 1023));
    let mut guest = Guest::new(0);
    guest.init_fifo(&t, &mem);
    t.bind_ipi(&mem, V0).unwrap();
    guest.mask(&mem, 1);
    assert_eq!(t.send(&mem, p(1)), local(Raise::NONE));
    assert_eq!(mem.load32(guest.word(1)), PENDING | MASKED);
    assert_eq!(t.unmask(&mem, p(1)), Ok(up(V0)));
    assert_eq!(guest.handle(&mem), [p(1)]);
}
