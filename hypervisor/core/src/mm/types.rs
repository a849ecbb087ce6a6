//! What a frame is used as: typed references.
//!
//! While a frame has typed references, all are of one type; only at zero may the type
//! change.  A page-table or descriptor type must be *validated* by whoever takes its first
//! reference (see `pv`), and stays validated until the frame is taken as another type.
//! A typed reference is held together with a general one.

use super::frame::FrameInfo;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// Uses of a frame that exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// No use yet.
    None = 0,
    /// Mapped writable somewhere.
    Writable = 1,
    /// PV page table, level 1.
    L1 = 2,
    /// PV page table, level 2.
    L2 = 3,
    /// PV page table, level 3.
    L3 = 4,
    /// PV page table, level 4.
    L4 = 5,
    /// Page of a PV descriptor table.
    SegDesc = 6,
    /// Shared read-only between domains.
    Shared = 7,
}

/// What the taker of a typed reference has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeState {
    /// Nothing: the frame is valid as this type.
    Ready,
    /// Validate the contents, then [`set_validated`](super::FrameTable::set_validated), or
    /// [`abort_type`](super::FrameTable::abort_type).
    Validate,
}

/// Why a typed reference was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeBusy {
    /// In use as another type.
    Other(FrameType),
    /// Somebody validates it now; try again.
    InProgress,
    /// The counter is full.
    Overflow,
}

/// The `kind` word of a frame in use: bits 0-31 count, 32-35 type, then flags.
const COUNT: u64 = 0xffff_ffff;
const TYPE_SHIFT: u32 = 32;
const TYPE: u64 = 0xf << TYPE_SHIFT;
const VALIDATED: u64 = 1 << 36;
const PINNED: u64 = 1 << 37;

impl FrameType {
    #[inline]
    const fn from_word(w: u64) -> Self {
        match (w & TYPE) >> TYPE_SHIFT {
            1 => Self::Writable,
            2 => Self::L1,
            3 => Self::L2,
            4 => Self::L3,
            5 => Self::L4,
            6 => Self::SegDesc,
            7 => Self::Shared,
            _ => Self::None,
        }
    }
    #[inline]
    const fn needs_validation(self) -> bool {
        matches!(
            self,
            Self::L1 | Self::L2 | Self::L3 | Self::L4 | Self::SegDesc
        )
    }
}

impl FrameInfo {
    /// Type and number of typed references; a hint unless the caller holds one.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a field of 32 bits")]
    pub fn frame_type(&self) -> (FrameType, u32) {
        let w = self.kind.load(Acquire);
        (FrameType::from_word(w), w as u32)
    }

    #[inline]
    pub(super) fn get_type(&self, t: FrameType) -> Result<TypeState, TypeBusy> {
        let mut w = self.kind.load(Acquire);
        loop {
            let same = FrameType::from_word(w) == t;
            let (new, state) = if w & COUNT == 0 {
                if same && w & VALIDATED != 0 {
                    (w + 1, TypeState::Ready)
                } else if t.needs_validation() {
                    (1 | (t as u64) << TYPE_SHIFT, TypeState::Validate)
                } else {
                    (1 | VALIDATED | (t as u64) << TYPE_SHIFT, TypeState::Ready)
                }
            } else if !same {
                return Err(TypeBusy::Other(FrameType::from_word(w)));
            } else if w & VALIDATED == 0 {
                return Err(TypeBusy::InProgress);
            } else if w & COUNT >= COUNT - 1 {
                return Err(TypeBusy::Overflow);
            } else {
                (w + 1, TypeState::Ready)
            };
            match self.kind.compare_exchange_weak(w, new, AcqRel, Acquire) {
                Ok(_) => return Ok(state),
                Err(seen) => w = seen,
            }
        }
    }

    pub(super) fn set_validated(&self) {
        self.kind.fetch_or(VALIDATED, Release);
    }

    pub(super) fn abort_type(&self) {
        self.kind.store(0, Release);
    }

    /// Drops a typed reference; the type and its validity stay. `true` when it was the last.
    #[inline]
    pub(super) fn put_type(&self) -> bool {
        let w = self.kind.fetch_sub(1, AcqRel);
        assert!(w & COUNT != 0, "typed reference dropped twice");
        w & COUNT == 1
    }

    /// Forgets the type of a frame without typed references, so that the next taker validates again.
    pub(super) fn devalidate(&self) -> bool {
        self.kind
            .fetch_update(AcqRel, Acquire, |w| (w & COUNT == 0).then_some(0))
            .is_ok()
    }

    pub(super) fn pin(&self) -> bool {
        self.kind.fetch_or(PINNED, AcqRel) & PINNED == 0
    }

    pub(super) fn unpin(&self) -> bool {
        self.kind.fetch_and(!PINNED, AcqRel) & PINNED != 0
    }

    pub(super) fn has_typed_refs(&self) -> bool {
        self.kind.load(Relaxed) & COUNT != 0
    }
}
