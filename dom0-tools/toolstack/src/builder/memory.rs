//! Where a PVH guest's memory lies: libxl's layout.
//!
//! ```text
//! 0 ............ RAM, up to 0xf000_0000
//! 0xfc00_0000    ACPI tables
//! 0xfeff_8000    special pages (xenstore ring, console ring), up to 0xff00_0000
//! 0x1_0000_0000  the rest of the RAM
//! ```

use guest_image::memory::{MemoryRange, MemoryType};
use xen_abi::{DomId, Gfn, Order, PAGE_SIZE};

use crate::Hypervisor;
use crate::error::{Error, Result};

/// RAM ends here and goes on at 4 GiB.
const LOW_RAM_END: u64 = 0xf000_0000;
const FOUR_GIB: u64 = 1 << 32;
/// The ACPI tables.
pub const ACPI_BASE: u64 = 0xfc00_0000;
/// First of the special pages.
pub const SPECIAL_BASE: u64 = 0xfeff_8000;
/// Their end.
pub const SPECIAL_END: u64 = 0xff00_0000;
/// The xenstore ring.
pub const STORE_GFN: Gfn = Gfn(0xf_effc);
/// The console ring.
pub const CONSOLE_GFN: Gfn = Gfn(0xf_efff);

/// Pages of 2 MiB.
const LARGE: Order = Order(9);

/// A guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// End of the RAM below 4 GiB.
    pub low_end: u64,
    /// End of the RAM above 4 GiB; 4 GiB when there is none.
    pub high_end: u64,
}

/// A run of frames of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Extents {
    first: Gfn,
    count: u64,
    order: Order,
}

impl MemoryPlan {
    /// For `mib` MiB of RAM.
    #[must_use]
    pub fn new(mib: u64) -> Self {
        let bytes = mib.saturating_mul(1 << 20);
        let low_end = bytes.min(LOW_RAM_END);
        Self {
            low_end,
            high_end: FOUR_GIB.saturating_add(bytes - low_end),
        }
    }

    /// Frames of RAM.
    #[must_use]
    pub fn pages(&self) -> u64 {
        (self.low_end + (self.high_end - FOUR_GIB)) / PAGE_SIZE
    }

    /// The map that the guest is given; `acpi` is the size of the tables.
    #[must_use]
    pub fn map(&self, acpi: u64) -> Vec<MemoryRange> {
        let mut map = vec![MemoryRange::new(0, self.low_end, MemoryType::RAM)];
        if acpi != 0 {
            let size = acpi.next_multiple_of(PAGE_SIZE);
            map.push(MemoryRange::new(ACPI_BASE, size, MemoryType::ACPI));
        }
        map.push(MemoryRange::new(
            SPECIAL_BASE,
            SPECIAL_END - SPECIAL_BASE,
            MemoryType::RESERVED,
        ));
        if self.high_end > FOUR_GIB {
            let size = self.high_end - FOUR_GIB;
            map.push(MemoryRange::new(FOUR_GIB, size, MemoryType::RAM));
        }
        map
    }

    /// Large frames wherever they fit, small ones at the edges.
    fn extents(&self) -> Vec<Extents> {
        let large = 1_u64 << LARGE.0;
        let mut all = Vec::new();
        for (start, end) in [(0, self.low_end), (FOUR_GIB, self.high_end)] {
            let (start, end) = (start / PAGE_SIZE, end / PAGE_SIZE);
            let count = (end - start) / large;
            if count != 0 {
                all.push(Extents {
                    first: Gfn(start),
                    count,
                    order: LARGE,
                });
            }
            let rest = start + count * large;
            if rest < end {
                all.push(Extents {
                    first: Gfn(rest),
                    count: end - rest,
                    order: Order(0),
                });
            }
        }
        all
    }

    /// Gives the domain all of its RAM.
    ///
    /// # Errors
    /// When the machine has not enough, with the figures.
    pub fn populate(&self, hypervisor: &dyn Hypervisor, d: DomId) -> Result<()> {
        for extents in self.extents() {
            self.populate_extents(hypervisor, d, &extents)?;
        }
        Ok(())
    }

    fn populate_extents(
        &self,
        hypervisor: &dyn Hypervisor,
        d: DomId,
        extents: &Extents,
    ) -> Result<()> {
        let step = 1_u64 << extents.order.0;
        let gfns: Vec<Gfn> = (0..extents.count)
            .map(|i| Gfn(extents.first.0 + i * step))
            .collect();
        let done = hypervisor.populate(d, &gfns, extents.order)?;
        let Some(rest) = gfns.get(done..).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        if extents.order == Order(0) {
            return Err(self.too_little(hypervisor));
        }
        // Memory may be there in smaller pieces.
        for gfn in rest {
            let small = Extents {
                first: *gfn,
                count: step,
                order: Order(0),
            };
            self.populate_extents(hypervisor, d, &small)?;
        }
        Ok(())
    }

    fn too_little(&self, hypervisor: &dyn Hypervisor) -> Error {
        let wanted = self.pages() >> 8;
        let free = hypervisor.free_pages().unwrap_or(0) >> 8;
        Error::new(
            "allocating the guest's memory",
            format!(
                "the machine ran out of free memory: {wanted} MiB are wanted, {free} MiB are left"
            ),
            "lower memory =, destroy or shrink another guest ('xl list', 'xl mem-set'), or give dom0 less ('xl mem-set 0 ...')",
        )
    }
}

/// Frames for things beside the RAM.
pub(super) fn populate_range(
    hypervisor: &dyn Hypervisor,
    d: DomId,
    start: u64,
    bytes: u64,
) -> Result<()> {
    let first = start / PAGE_SIZE;
    let count = bytes.div_ceil(PAGE_SIZE);
    let gfns: Vec<Gfn> = (first..first + count).map(Gfn).collect();
    if hypervisor.populate(d, &gfns, Order(0))? < gfns.len() {
        return Err(Error::new(
            "allocating the guest's memory",
            "the machine ran out of free memory",
            "destroy or shrink another guest",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_guests_lie_below_four_gib() {
        let plan = MemoryPlan::new(63);
        assert_eq!(plan.low_end, 63 << 20);
        assert_eq!(plan.pages(), 63 << 8);
        let extents = plan.extents();
        assert_eq!((extents[0].count, extents[0].order), (31, LARGE));
        assert_eq!((extents[1].first, extents[1].count), (Gfn(31 << 9), 256));
        assert_eq!(plan.map(0).len(), 2);
    }

    #[test]
    fn large_guests_go_on_above_it() {
        let plan = MemoryPlan::new(8192);
        assert_eq!(plan.low_end, LOW_RAM_END);
        assert_eq!(plan.pages(), 8192 << 8);
        let map = plan.map(5000);
        let kinds: Vec<_> = map.iter().map(|range| range.kind).collect();
        assert_eq!(
            kinds,
            [
                MemoryType::RAM,
                MemoryType::ACPI,
                MemoryType::RESERVED,
                MemoryType::RAM
            ]
        );
        assert_eq!(map[1].size(), 8192);
        for pair in map.windows(2) {
            assert!(pair[0].end <= pair[1].start);
        }
        let frames: u64 = plan.extents().iter().map(|e| e.count << e.order.0).sum();
        assert_eq!(frames, plan.pages());
    }
}
