use super::*;
use core::cell::RefCell;
use xen_abi::Mfn;

/// One frame at 0x5000; calls `watch` after every store.
struct Page<'a> {
    bytes: RefCell<Vec<u8>>,
    watch: &'a dyn Fn(&[u8]),
}

impl Page<'_> {
    fn at(at: Maddr) -> usize {
        usize::try_from(at.0 - 0x5000).unwrap()
    }
    fn store(&self, at: Maddr, b: &[u8]) {
        assert_eq!(Self::at(at) % b.len(), 0, "aligned");
        self.bytes.borrow_mut()[Self::at(at)..][..b.len()].copy_from_slice(b);
        (self.watch)(&self.bytes.borrow());
    }
}

impl FrameMem for Page<'_> {
    fn load32(&self, at: Maddr) -> u32 {
        u32_at(&self.bytes.borrow(), Self::at(at))
    }
    fn store32(&self, at: Maddr, v: u32) {
        self.store(at, &v.to_le_bytes());
    }
    fn store64(&self, at: Maddr, v: u64) {
        self.store(at, &v.to_le_bytes());
    }
    fn load8(&self, _: Maddr) -> u8 {
        unreachable!()
    }
    fn store8(&self, _: Maddr, _: u8) {
        unreachable!()
    }
    fn swap8(&self, _: Maddr, _: u8) -> u8 {
        unreachable!()
    }
    fn cmpxchg32(&self, _: Maddr, _: u32, _: u32) -> Result<u32, u32> {
        unreachable!()
    }
    fn fetch_or32(&self, _: Maddr, _: u32) -> u32 {
        unreachable!()
    }
    fn fetch_and32(&self, _: Maddr, _: u32) -> u32 {
        unreachable!()
    }
    fn load64(&self, _: Maddr) -> u64 {
        unreachable!()
    }
    fn cmpxchg64(&self, _: Maddr, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!()
    }
    fn fetch_or64(&self, _: Maddr, _: u64) -> u64 {
        unreachable!()
    }
    fn fetch_and64(&self, _: Maddr, _: u64) -> u64 {
        unreachable!()
    }
    fn copy_from(&self, _: Maddr, _: &mut [u8]) {
        unreachable!()
    }
    fn copy_to(&self, _: Maddr, _: &[u8]) {
        unreachable!()
    }
    fn zero_frame(&self, _: Mfn) {
        unreachable!()
    }
    fn copy_frame(&self, _: Mfn, _: Mfn) {
        unreachable!()
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

#[test]
fn vcpu_time_layout_and_version() {
    let time = VcpuTime {
        tsc_timestamp: 0x1122_3344_5566_7788,
        system_time: Ns(0x99aa),
        scale: TscScale {
            mul: 0x8000_0001,
            shift: -3,
        },
        flags: PVCLOCK_TSC_STABLE,
    };
    let before = vec![0u8; 32];
    let old = RefCell::new(before);
    // Whatever a reader may see with an even version is wholly old or wholly new.
    let watch = |page: &[u8]| {
        let seen = &page[0x40..0x60];
        let mut old = old.borrow_mut();
        if u32_at(seen, 0).is_multiple_of(2) {
            assert_eq!(u64_at(seen, 8), 0x1122_3344_5566_7788);
            assert_eq!(u64_at(seen, 16), 0x99aa);
            assert_eq!(u32_at(seen, 24), 0x8000_0001);
            assert_eq!(seen[28], 0xfd);
            assert_eq!(seen[29], 1);
            *old = seen.to_vec();
        }
    };
    for (start, end) in [(0, 2), (1, 4), (7, 10), (u32::MAX, 2), (u32::MAX - 1, 0)] {
        let mut bytes = vec![0; 4096];
        bytes[0x40..0x44].copy_from_slice(&u32::to_le_bytes(start));
        let page = Page {
            bytes: RefCell::new(bytes),
            watch: &watch,
        };
        time.publish(&page, Maddr(0x5040));
        assert_eq!(page.load32(Maddr(0x5040)), end);
        assert_eq!(u32_at(&old.borrow(), 24), 0x8000_0001);
    }
}

#[test]
fn wall_clock_layouts() {
    let wc = WallClock {
        sec: 0x1_0000_0005,
        nsec: 77,
    };
    for (layout, base, hi) in [
        (SharedInfoLayout::Bits64, 0xc00, 0xc0c),
        (SharedInfoLayout::Bits32, 0x900, 0x924),
    ] {
        let page = Page {
            bytes: RefCell::new(vec![0; 4096]),
            watch: &|_| (),
        };
        wc.publish(&page, Maddr(0x5000), layout, -6);
        let b = page.bytes.borrow();
        assert_eq!(u32_at(&b, base), 2);
        assert_eq!(u32_at(&b, base + 4), 0xffff_ffff);
        assert_eq!(u32_at(&b, base + 8), 77);
        assert_eq!(u32_at(&b, hi), 0);
    }
}

#[test]
fn settime_goes_back_to_time_zero() {
    let wc = WallClock::from_settime(1_700_000_000, 5, Ns(2_000_000_010)).unwrap();
    assert_eq!((wc.sec, wc.nsec), (1_699_999_997, 999_999_995));
    assert_eq!(wc.at(Ns(2_000_000_010)), (1_700_000_000, 5));
    assert_eq!(WallClock::from_settime(1, 0, Ns(1_000_000_001)), None);
    assert_eq!(WallClock::from_settime(1, 1_000_000_000, Ns(0)), None);
    assert!(WallClock::from_settime(u64::MAX, 999_999_999, Ns(0)).is_some());
}

#[test]
fn offset_guests_read_system_time() {
    let clock = TscClock::new(2_600_000_000, 1_000_000).unwrap();
    let offset = 0u64.wrapping_sub(500_000_000);
    let time = VcpuTime::with_offset(&clock, offset);
    for tsc in [1_000_000u64, 5_000_000_000, 1 << 60] {
        assert_eq!(time.read(tsc.wrapping_add(offset)), clock.at(tsc));
    }
}

#[test]
fn a_guest_never_reads_parts_of_two_times() {
    use crate::testing::FakeMem;
    use crate::testing::interleave::{explore, relax, together};
    type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

    explore(500, |_| {
        let (mem, at) = (FakeMem::new(1, 1), Maddr(64));
        let time = |n: u8| VcpuTime {
            tsc_timestamp: n.into(),
            system_time: Ns(n.into()),
            scale: TscScale {
                mul: n.into(),
                shift: 0,
            },
            flags: n,
        };
        time(1).publish(&mem, at);
        // As Linux reads it (`pvclock_read_begin`, `pvclock_read_retry`).
        let read = || loop {
            let version = mem.load32(at);
            let seen = [
                mem.load64(add(at, 8)),
                mem.load64(add(at, 16)),
                mem.load32(add(at, 24)).into(),
                (mem.load32(add(at, 28)) >> 8).into(),
            ];
            if version & 1 == 0 && mem.load32(at) == version {
                return seen;
            }
            relax();
        };
        together([
            Box::new(|| (2..5).for_each(|n| time(n).publish(&mem, at))) as Task<'_>,
            Box::new(|| {
                for _ in 0..3 {
                    let seen = read();
                    assert!(seen == [seen[0]; 4], "{seen:?}");
                }
            }),
        ]);
        assert_eq!(read(), [4; 4]);
    });
}
