//! Where a kernel goes, and how it gets there.

use super::ElfImage;
use core::ops::Range;

/// Guest-physical memory that a kernel is loaded into.
///
/// The hypervisor implements it over frames, the toolstack over mappings of the
/// guest's memory. Addresses are those that a [`Placement`] chose.
pub trait LoadSink {
    /// Why bytes could not be placed.
    type Error;
    /// Copies `data` to `paddr`.
    ///
    /// # Errors
    /// When there is no memory at that address.
    fn write(&mut self, paddr: u64, data: &[u8]) -> Result<(), Self::Error>;
    /// Makes `len` bytes from `paddr` zero.
    ///
    /// # Errors
    /// When there is no memory at that address.
    fn zero(&mut self, paddr: u64, len: u64) -> Result<(), Self::Error>;
}

/// A load address that suits the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Guest-physical addresses of the image, including memory to be zeroed.
    pub range: Range<u64>,
    /// What is added, modulo 2^64, to every address that the file names.
    pub delta: u64,
}

/// A loaded kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Guest-physical addresses of the image.
    pub range: Range<u64>,
    /// Guest-physical PVH entry point, when the kernel has one.
    pub pvh_entry: Option<u64>,
}

impl ElfImage<'_> {
    /// The placement that the file is linked for.
    #[must_use]
    pub fn linked_placement(&self) -> Placement {
        Placement {
            range: self.range(),
            delta: 0,
        }
    }

    /// Chooses where to load a PVH kernel: where it is linked for, or else, if its notes
    /// allow that, at the lowest suitable address. `free` lists guest RAM that may be
    /// used, in ascending order; `None` when nothing suits.
    #[must_use]
    pub fn place(&self, free: &[Range<u64>]) -> Option<Placement> {
        let linked = self.range();
        let holds = |outer: &Range<u64>, inner: &Range<u64>| {
            outer.start <= inner.start && inner.end <= outer.end
        };
        if free.iter().any(|range| holds(range, &linked)) {
            return Some(self.linked_placement());
        }
        let reloc = self.notes.phys32_reloc?;
        // What lies between the alignment boundary and the image moves along.
        let skew = linked.start & (reloc.align - 1);
        let size = linked.end.checked_sub(linked.start)?;
        free.iter().find_map(|range| {
            let low = range.start.max(reloc.min);
            let start = low
                .checked_sub(skew)
                .map_or(Some(0), |low| low.checked_next_multiple_of(reloc.align))?
                .checked_add(skew)?;
            let end = start.checked_add(size)?;
            let fits = start >= low && end <= range.end && end <= reloc.max.saturating_add(1);
            fits.then(|| Placement {
                range: start..end,
                delta: start.wrapping_sub(linked.start),
            })
        })
    }

    /// Loads all segments and zeroes what the file does not fill.
    ///
    /// # Errors
    /// The first error of the sink.
    pub fn load<S: LoadSink>(
        &self,
        placement: &Placement,
        sink: &mut S,
    ) -> Result<Loaded, S::Error> {
        for segment in &self.segments {
            let start = segment.paddr.wrapping_add(placement.delta);
            if !segment.data.is_empty() {
                sink.write(start, segment.data)?;
            }
            let filled = segment.data.len() as u64;
            let rest = segment.memory_size - filled;
            if rest != 0 {
                sink.zero(start.wrapping_add(filled), rest)?;
            }
        }
        Ok(Loaded {
            range: placement.range.clone(),
            pvh_entry: self
                .notes
                .phys32_entry
                .map(|entry| entry.wrapping_add(placement.delta)),
        })
    }
}
