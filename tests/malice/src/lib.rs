//! What hostile guests do, drawn from a seed.
//!
//! One [`Sequence`] is one vCPU's: hypercalls by nothing but their number, plots that know the
//! ABI, scribbling over what a guest shares with others, and exits. What a seed gives does not
//! depend on what the hypervisor answers, so the same seed gives the same calls in the tests
//! on the host (`radon-core`'s `hostile`) and in the guest that is started on emulators
//! (`tests/guests/hostile`). Both have the same layout of guest memory, which is below.
//!
//! The exits themselves are the [`Guest`]'s: on the host they are values, in a guest
//! instructions. They draw from a generator of their own, so that what follows is the same.
#![no_std]
#![forbid(unsafe_code)]

mod calls;

use core::ops::Range;

use xen_abi::DomId;

/// RAM that the sequences play with, in pages from gfn 0.
pub const PAGES: u64 = 32;
/// Where the grant table is.
pub const TABLE: u64 = 0x100;
/// Where the grants' status page is.
pub const STATUS: u64 = 0x110;
/// Where the shared info page is.
pub const SHARED: u64 = 0x120;
/// Where grants are mapped.
pub const GRANTS: u64 = 0x6000;
/// Frames of the machine as the lives in `tests/system` are told.
pub const LIFE_FRAMES: u64 = 1 << 19;
/// Page of code for exits.
pub const CODE: u64 = 3;

/// Pages that vCPUs have for arguments and lists, from this page on.
pub(crate) const ARGS: u64 = 4;
pub(crate) const ARGS_PAGES: u64 = 8;
/// Pages of a vCPU's arguments and lists, which it gives away only by accident.
#[must_use]
pub const fn arguments(vcpu: u32) -> Range<u64> {
    let first = ARGS + vcpu as u64 * ARGS_PAGES;
    first..first + ARGS_PAGES
}

/// Pages that plots lend and give away.
pub const SPARE: Range<u64> = 20..PAGES;

/// A generator of numbers (splitmix64): the same for the same seed, everywhere.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The generator of one vCPU of a guest.
    #[must_use]
    pub const fn of_vcpu(seed: u64, vcpu: u32) -> Self {
        Self(seed.wrapping_mul(0x1_0001).wrapping_add(vcpu as u64))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that is interesting in many places; the machine has so many `frames`.
    pub fn odd_number(&mut self, frames: u64) -> u64 {
        match self.below(8) {
            0 => self.below(16),
            1 => 1 << self.below(64),
            2 => (1u64 << self.below(64)).wrapping_sub(1),
            3 => self.below(frames * 2),
            4 => u64::MAX - self.below(4096),
            5 => 0x8000_0000_0000 + self.below(4096),
            6 => self.below(u64::from(u32::MAX) + 1),
            _ => self.draw(),
        }
    }
}

/// Who there is to harm.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// The domain that acts.
    pub own: DomId,
    /// The hostile domains, which may be one.
    pub hostile: [DomId; 2],
    /// Who minds its own business.
    pub victim: DomId,
    /// Frames of the machine.
    pub frames: u64,
}

/// The vCPU that acts.
pub trait Guest {
    /// Writes into guest memory at a physical address, where there is some.
    fn poke(&mut self, at: u64, bytes: &[u8]);

    /// A hypercall as its instruction is executed. False when the vCPU is gone.
    fn hypercall(&mut self, nr: u64, args: [u64; 5]) -> bool;

    /// An exit. False when the vCPU is gone.
    fn exit(&mut self, rng: Rng) -> bool;
}

/// What a vCPU does, one malicious act after the other.
#[derive(Debug)]
pub struct Sequence<G> {
    /// The vCPU.
    pub guest: G,
    cast: Cast,
    vcpu: u32,
    rng: Rng,
}

impl<G: Guest> Sequence<G> {
    /// The sequence of a vCPU.
    pub const fn new(guest: G, cast: Cast, vcpu: u32, rng: Rng) -> Self {
        Self {
            guest,
            cast,
            vcpu,
            rng,
        }
    }

    /// One malicious act. False when the vCPU is gone.
    pub fn step(&mut self) -> bool {
        match self.rng.below(12) {
            0 => {
                let rng = Rng(self.rng.draw());
                self.guest.exit(rng)
            }
            1 => self.scribble(),
            2..5 => self.noise(),
            _ => self.plot(),
        }
    }

    pub(crate) fn odd_number(&mut self) -> u64 {
        self.rng.odd_number(self.cast.frames)
    }

    pub(crate) fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.guest.poke(at, bytes);
    }

    pub(crate) fn hypercall(&mut self, nr: u64, args: [u64; 5]) -> bool {
        self.guest.hypercall(nr, args)
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use alloc::vec::Vec;

    use super::*;

    /// Remembers what it was told.
    #[derive(Default)]
    struct Recorder(Vec<(u64, [u64; 5])>, u64);

    impl Guest for Recorder {
        fn poke(&mut self, at: u64, bytes: &[u8]) {
            for &byte in bytes {
                self.1 = self.1.wrapping_mul(31).wrapping_add(at ^ u64::from(byte));
            }
        }

        fn hypercall(&mut self, nr: u64, args: [u64; 5]) -> bool {
            self.0.push((nr, args));
            true
        }

        fn exit(&mut self, mut rng: Rng) -> bool {
            self.1 ^= rng.draw();
            true
        }
    }

    /// Hypercalls of a sequence: the rarest operations come some 16 times among so many.
    const COUNT: usize = 100_000;

    fn calls(seed: u64, vcpu: u32) -> (Vec<(u64, [u64; 5])>, u64) {
        let cast = Cast {
            own: DomId(3),
            hostile: [DomId(3), DomId(4)],
            victim: DomId(1),
            frames: 4096,
        };
        let mut sequence = Sequence::new(Recorder::default(), cast, vcpu, Rng::of_vcpu(seed, vcpu));
        while sequence.guest.0.len() < COUNT {
            assert!(sequence.step());
        }
        (sequence.guest.0, sequence.guest.1)
    }

    #[test]
    fn a_seed_gives_one_sequence() {
        assert_eq!(calls(7, 0), calls(7, 0));
        assert_ne!(calls(7, 0), calls(7, 1));
        assert_ne!(calls(7, 0), calls(8, 0));
    }

    /// Every sub-operation of the large families is tried in a short while.
    #[test]
    fn every_operation_is_tried() {
        let (all, _) = calls(1, 0);
        for (nr, operations) in [
            (12, 0..29),
            (20, 0..13),
            (24, 0..16),
            (32, 0..15),
            (34, 0..26),
        ] {
            for op in operations {
                let is_tried = all.iter().any(|(n, args)| *n == nr && args[0] == op);
                assert!(is_tried, "hypercall {nr}, operation {op}");
            }
        }
    }
}
