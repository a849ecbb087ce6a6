//! Memory of domains: populating, maps, claims; pages of others in this program.
// UNSAFETY: the two mapping ioctls.
#![expect(unsafe_code, reason = "ioctls have no safe form")]

use std::mem::offset_of;

use rustix::ioctl::Opcode;
use rustix::mm::ProtFlags;
use xen_abi::domctl::{
    XEN_DOMCTL_PFINFO_BROKEN, XEN_DOMCTL_PFINFO_XALLOC, XEN_DOMCTL_PFINFO_XTAB,
    XEN_DOMCTL_getpageframeinfo3, XenDomctl, XenDomctlGetpageframeinfo3,
};
use xen_abi::layout::Handle;
use xen_abi::memory::{
    XENMEM_add_to_physmap, XENMEM_claim_pages, XENMEM_current_reservation,
    XENMEM_decrease_reservation, XENMEM_machine_memory_map, XENMEM_maximum_gpfn,
    XENMEM_maximum_reservation, XENMEM_populate_physmap, XENMEM_resource_grant_table,
    XENMEM_resource_grant_table_id_shared, XENMEM_resource_grant_table_id_status,
    XENMEM_resource_ioreq_server, XENMEM_set_memory_map, XenAddToPhysmap, XenForeignMemoryMap,
    XenMemoryDomain, XenMemoryMap, XenMemoryReservation,
};
use xen_abi::xen::__HYPERVISOR_memory_op;
use xen_abi::{DomId, Gfn, Order, PAGE_SIZE};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::domctl::at;
use crate::error::{Errno, Error, Result};
use crate::pages::SharedPages;
use crate::xen::{Call, Pointer, Xen, opcode, request};

/// `struct privcmd_mmapbatch_v2`.
#[repr(C)]
struct PrivcmdMmapbatchV2 {
    num: u32,
    dom: DomId,
    addr: u64,
    arr: *const u64,
    err: *mut i32,
}

/// `struct privcmd_mmap_resource`.
#[repr(C)]
struct PrivcmdMmapResource {
    dom: DomId,
    resource: u32,
    id: u32,
    idx: u32,
    num: u64,
    addr: u64,
}

const MMAPBATCH_V2: Opcode = opcode(b'P', 4, size_of::<PrivcmdMmapbatchV2>());
const MMAP_RESOURCE: Opcode = opcode(b'P', 7, size_of::<PrivcmdMmapResource>());

const MMAPBATCH: &str = "IOCTL_PRIVCMD_MMAPBATCH_V2";
/// Does a type that the hypervisor gives for a frame (`XEN_DOMCTL_PFINFO_*`) mean RAM?
fn is_ram(kind: u64) -> bool {
    let none = [
        XEN_DOMCTL_PFINFO_XTAB,
        XEN_DOMCTL_PFINFO_XALLOC,
        XEN_DOMCTL_PFINFO_BROKEN,
    ];
    !none.map(u64::from).contains(&kind)
}

/// An entry of an E820 map, as the guest gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// 1 RAM, 2 reserved, 3 ACPI tables, 4 ACPI NVS, 5 unusable.
    pub kind: u32,
}

const E820_ENTRY: usize = 20;
/// Most entries that the hypervisor takes.
const E820_MAX: usize = 1024;

impl MemoryRegion {
    fn bytes(&self) -> [u8; E820_ENTRY] {
        let mut out = [0; E820_ENTRY];
        out[..8].copy_from_slice(&self.start.to_le_bytes());
        out[8..16].copy_from_slice(&self.size.to_le_bytes());
        out[16..].copy_from_slice(&self.kind.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8; E820_ENTRY]) -> Self {
        let [a @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *bytes;
        let [_, _, _, _, _, _, _, _, b @ .., _, _, _, _] = *bytes;
        let [.., c, d, e, f] = *bytes;
        Self {
            start: u64::from_le_bytes(a),
            size: u64::from_le_bytes(b),
            kind: u32::from_le_bytes([c, d, e, f]),
        }
    }
}

/// Pages of the hypervisor that belong to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The grant table's entries.
    GrantTable,
    /// The status words of its version 2.
    GrantStatus,
    /// The pages of an ioreq server.
    IoreqServer(u32),
}

fn call(name: &'static str, command: u32, domain: Option<DomId>) -> Call {
    Call {
        name,
        number: __HYPERVISOR_memory_op,
        command: Some(u64::from(command)),
        domain,
    }
}

const EXTENTS: usize = offset_of!(XenMemoryReservation, extent_start);

impl Xen {
    fn memory_op<T: FromBytes + IntoBytes + Immutable>(
        &self,
        call: Call,
        argument: &mut T,
        pointers: &mut [Pointer<'_>],
    ) -> Result<u32> {
        self.call(call, argument, pointers)
    }

    /// Extents per hypercall: the bounce buffer stays small, and a signal gets a chance.
    const BATCH: usize = 8192;

    fn reservation(
        &self,
        call: Call,
        domain: DomId,
        gfns: &[Gfn],
        order: Order,
        mem_flags: u32,
    ) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = gfns.get(done..).filter(|rest| !rest.is_empty()) {
            let batch = rest.get(..Self::BATCH).unwrap_or(rest);
            let mut argument = XenMemoryReservation {
                extent_start: Handle::NULL,
                nr_extents: batch.len() as u64,
                extent_order: u32::from(order.0),
                mem_flags,
                domid: domain,
                _fill0: [0; 6],
            };
            // In and out: a PV guest's machine frames come back. They are not asked for here.
            let mut pointers = [Pointer::read(EXTENTS, batch.as_bytes())];
            let count = self.memory_op(call, &mut argument, &mut pointers)? as usize;
            done += count.min(batch.len());
            if count < batch.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Gives a domain frames at `gfns`, 2^`order` each. Says for how many of them there was
    /// memory; that is less than `gfns.len()` when it, or the domain's limit, is exhausted.
    ///
    /// # Errors
    /// `ESRCH`, `EINVAL`.
    pub fn populate_physmap(
        &self,
        domain: DomId,
        gfns: &[Gfn],
        order: Order,
        mem_flags: u32,
    ) -> Result<usize> {
        let call = call(
            "XENMEM_populate_physmap",
            XENMEM_populate_physmap,
            Some(domain),
        );
        self.reservation(call, domain, gfns, order, mem_flags)
    }

    /// Takes frames away from a domain. Says how many it did.
    ///
    /// # Errors
    /// `ESRCH`, `EINVAL`.
    pub fn decrease_reservation(&self, domain: DomId, gfns: &[Gfn], order: Order) -> Result<usize> {
        let name = "XENMEM_decrease_reservation";
        let call = call(name, XENMEM_decrease_reservation, Some(domain));
        self.reservation(call, domain, gfns, order, 0)
    }

    /// Puts a page of the hypervisor or of the domain (`XENMAPSPACE_*`, `idx`) at `gpfn`.
    ///
    /// # Errors
    /// `EINVAL`, `ESRCH`.
    pub fn add_to_physmap(&self, domain: DomId, space: u32, idx: u64, gpfn: Gfn) -> Result<()> {
        let mut argument = XenAddToPhysmap {
            domid: domain,
            size: 0,
            space,
            idx,
            gpfn,
        };
        let call = call("XENMEM_add_to_physmap", XENMEM_add_to_physmap, Some(domain));
        self.memory_op(call, &mut argument, &mut []).map(drop)
    }

    /// The E820 map that the domain will ask for.
    ///
    /// # Errors
    /// `EINVAL` for too many entries.
    pub fn set_memory_map(&self, domain: DomId, map: &[MemoryRegion]) -> Result<()> {
        let call = call("XENMEM_set_memory_map", XENMEM_set_memory_map, Some(domain));
        let bytes: Vec<u8> = map.iter().flat_map(MemoryRegion::bytes).collect();
        let mut argument = XenForeignMemoryMap {
            domid: domain,
            _fill0: [0; 6],
            map: XenMemoryMap {
                nr_entries: u32::try_from(map.len()).map_err(|_| call.error(Errno::TOOBIG))?,
                _fill0: [0; 4],
                buffer: Handle::NULL,
            },
        };
        let offset = offset_of!(XenForeignMemoryMap, map) + offset_of!(XenMemoryMap, buffer);
        let mut pointers = [Pointer::read(offset, &bytes)];
        self.memory_op(call, &mut argument, &mut pointers).map(drop)
    }

    /// The host's E820 map.
    ///
    /// # Errors
    /// `EPERM` for others than dom0.
    pub fn machine_memory_map(&self) -> Result<Vec<MemoryRegion>> {
        let call = call("XENMEM_machine_memory_map", XENMEM_machine_memory_map, None);
        let mut bytes = vec![0; E820_MAX * E820_ENTRY];
        let mut argument = XenMemoryMap {
            nr_entries: E820_MAX as u32,
            _fill0: [0; 4],
            buffer: Handle::NULL,
        };
        let mut pointers = [Pointer::written(
            offset_of!(XenMemoryMap, buffer),
            &mut bytes,
        )];
        self.memory_op(call, &mut argument, &mut pointers)?;
        let (entries, _) = bytes.as_chunks::<E820_ENTRY>();
        let count = argument.nr_entries as usize;
        Ok(entries
            .iter()
            .take(count)
            .map(MemoryRegion::parse)
            .collect())
    }

    /// Reserves free pages for a domain that is being built; 0 lets go of them.
    ///
    /// # Errors
    /// `ENOMEM` when there are not that many free.
    pub fn claim_pages(&self, domain: DomId, pages: u64) -> Result<()> {
        let mut argument = XenMemoryReservation {
            nr_extents: pages,
            domid: domain,
            ..FromZeros::new_zeroed()
        };
        let call = call("XENMEM_claim_pages", XENMEM_claim_pages, Some(domain));
        self.memory_op(call, &mut argument, &mut []).map(drop)
    }

    fn domain_pages(&self, name: &'static str, command: u32, domain: DomId) -> Result<u64> {
        let mut argument = XenMemoryDomain { domid: domain };
        let call = call(name, command, Some(domain));
        self.memory_op(call, &mut argument, &mut []).map(u64::from)
    }

    /// The highest gfn of a domain.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn maximum_gpfn(&self, domain: DomId) -> Result<Gfn> {
        let name = "XENMEM_maximum_gpfn";
        self.domain_pages(name, XENMEM_maximum_gpfn, domain)
            .map(Gfn)
    }

    /// Pages that a domain has.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn current_reservation(&self, domain: DomId) -> Result<u64> {
        let name = "XENMEM_current_reservation";
        self.domain_pages(name, XENMEM_current_reservation, domain)
    }

    /// Pages that a domain may have.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn maximum_reservation(&self, domain: DomId) -> Result<u64> {
        let name = "XENMEM_maximum_reservation";
        self.domain_pages(name, XENMEM_maximum_reservation, domain)
    }

    /// Which frames of a domain are RAM.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn are_ram(&self, domain: DomId, gfns: &[Gfn]) -> Result<Vec<bool>> {
        /// Most that the hypervisor looks at in one call.
        const MOST: usize = 1024;
        let mut are = Vec::with_capacity(gfns.len());
        for part in gfns.chunks(MOST) {
            let mut types: Vec<u64> = part.iter().map(|gfn| gfn.0).collect();
            let mut argument = XenDomctlGetpageframeinfo3 {
                num: types.len() as u64,
                array: Handle::NULL,
            };
            let array = at!(XenDomctlGetpageframeinfo3.array);
            let mut pointers = [Pointer::both(array, types.as_mut_bytes())];
            let name = "XEN_DOMCTL_getpageframeinfo3";
            let cmd = XEN_DOMCTL_getpageframeinfo3;
            self.domctl(name, cmd, domain, &mut argument, &mut pointers)?;
            are.extend(types.into_iter().map(is_ram));
        }
        Ok(are)
    }

    /// Maps what is there of some pages of another domain, and says what is wrong with the others,
    /// whose places must not be touched.
    fn map_batch(&self, domain: DomId, gfns: &[Gfn]) -> Result<(SharedPages, Vec<Option<Errno>>)> {
        let error = |errno| Error::new(MMAPBATCH, Some(domain), errno);
        let num = u32::try_from(gfns.len()).map_err(|_| error(Errno::TOOBIG))?;
        let pages = self.reserve(gfns.len(), MMAPBATCH)?;
        let mut errors = vec![0i32; gfns.len()];
        let mut argument = PrivcmdMmapbatchV2 {
            num,
            dom: domain,
            addr: pages.address(),
            arr: gfns.as_ptr().cast(),
            err: errors.as_mut_ptr(),
        };
        // SAFETY: privcmd's layout; `arr` and `err` have `num` elements (a `Gfn` is a `u64`) and
        // live until the call returns; `addr` is a privcmd mapping of `num` pages, which is ours.
        let done = unsafe { request(self.privcmd(), MMAPBATCH_V2, &mut argument) };
        let fault =
            |code: i32| (code != 0).then(|| Errno::from_raw_os_error(code.saturating_neg()));
        let errors: Vec<Option<Errno>> = errors.into_iter().map(fault).collect();
        match done {
            Ok(_) => Ok((pages, errors)),
            // Said for the whole where it is said for one of them.
            Err(Errno::NOENT) if errors.contains(&Some(Errno::NOENT)) => Ok((pages, errors)),
            Err(errno) => Err(error(errno)),
        }
    }

    /// Maps pages of another domain, one after the other.
    ///
    /// # Errors
    /// When one of them is not there; the error is the first one's.
    pub fn map_foreign(&self, domain: DomId, gfns: &[Gfn]) -> Result<SharedPages> {
        let (pages, errors) = self.map_batch(domain, gfns)?;
        match errors.into_iter().flatten().next() {
            None => Ok(pages),
            Some(errno) => Err(Error::new(MMAPBATCH, Some(domain), errno)),
        }
    }

    /// Copies pages of another domain to `to`, one after the other, and says which were there;
    /// the others' places are left as they were.
    ///
    /// # Errors
    /// `ERANGE` when `to` is shorter; `ESRCH`, `ENOMEM`.
    pub fn read_foreign(&self, domain: DomId, gfns: &[Gfn], to: &mut [u8]) -> Result<Vec<bool>> {
        let error = |errno| Error::new(MMAPBATCH, Some(domain), errno);
        if gfns.is_empty() {
            return Ok(Vec::new());
        }
        let (pages, errors) = self.map_batch(domain, gfns)?;
        let mut places = to.chunks_exact_mut(PAGE_SIZE as usize);
        let mut are_there = Vec::with_capacity(gfns.len());
        for (at, errno) in errors.into_iter().enumerate() {
            let place = places.next().ok_or(error(Errno::RANGE))?;
            match errno {
                None => pages.read(at * PAGE_SIZE as usize, place)?,
                // No page, or none that is RAM; the last is Xen's word.
                Some(Errno::INVAL | Errno::NOENT | Errno::PERM) => {}
                Some(errno) => return Err(error(errno)),
            }
            are_there.push(errno.is_none());
        }
        Ok(are_there)
    }

    /// Maps pages `first` to `first + count - 1` of a resource.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for one that the hypervisor does not have.
    pub fn map_resource(
        &self,
        domain: DomId,
        resource: Resource,
        first: u32,
        count: usize,
    ) -> Result<SharedPages> {
        const NAME: &str = "XENMEM_acquire_resource";
        let (kind, id) = match resource {
            Resource::GrantTable => (
                XENMEM_resource_grant_table,
                XENMEM_resource_grant_table_id_shared,
            ),
            Resource::GrantStatus => (
                XENMEM_resource_grant_table,
                XENMEM_resource_grant_table_id_status,
            ),
            Resource::IoreqServer(id) => (XENMEM_resource_ioreq_server, id),
        };
        let pages = self.reserve(count, NAME)?;
        let mut argument = PrivcmdMmapResource {
            dom: domain,
            resource: kind,
            id,
            idx: first,
            num: count as u64,
            addr: pages.address(),
        };
        // SAFETY: privcmd's layout; `addr` is a privcmd mapping of `num` pages, which is ours.
        unsafe { request(self.privcmd(), MMAP_RESOURCE, &mut argument) }
            .map_err(|errno| Error::new(NAME, Some(domain), errno))?;
        Ok(pages)
    }

    /// Address space for pages that an ioctl then fills in.
    fn reserve(&self, count: usize, name: &'static str) -> Result<SharedPages> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        SharedPages::map(self.privcmd(), 0, count, prot, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        // drivers/xen/privcmd.c: 32 bytes each, no holes but the tail of `dom`.
        assert_eq!(size_of::<PrivcmdMmapbatchV2>(), 32);
        assert_eq!(size_of::<PrivcmdMmapResource>(), 32);
        assert_eq!(offset_of!(PrivcmdMmapResource, num), 16);
        assert_eq!(MMAPBATCH_V2, 0x0020_5004);
        assert_eq!(MMAP_RESOURCE, 0x0020_5007);
    }

    #[test]
    fn pages_of_a_table_are_ram_and_holes_are_not() {
        use xen_abi::domctl::{
            XEN_DOMCTL_PFINFO_L4TAB, XEN_DOMCTL_PFINFO_LPINTAB, XEN_DOMCTL_PFINFO_NOTAB,
        };
        let pinned = XEN_DOMCTL_PFINFO_L4TAB | XEN_DOMCTL_PFINFO_LPINTAB;
        let ram = [XEN_DOMCTL_PFINFO_NOTAB, pinned];
        assert!(ram.iter().all(|kind| is_ram(u64::from(*kind))));
        let none = [
            XEN_DOMCTL_PFINFO_XTAB,
            XEN_DOMCTL_PFINFO_XALLOC,
            XEN_DOMCTL_PFINFO_BROKEN,
        ];
        assert!(none.iter().all(|kind| !is_ram(u64::from(*kind))));
    }

    #[test]
    fn memory_regions_keep_their_bytes() {
        let region = MemoryRegion {
            start: 0x0102_0304_0506_0708,
            size: 0x1112_1314_1516_1718,
            kind: 0x2122_2324,
        };
        let bytes = region.bytes();
        assert_eq!(bytes[0], 8);
        assert_eq!(bytes[16], 0x24);
        assert_eq!(MemoryRegion::parse(&bytes), region);
    }
}
