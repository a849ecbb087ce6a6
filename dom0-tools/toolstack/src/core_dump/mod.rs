//! Core dumps: a domain's memory and registers in a file, as Xen's `xl dump-core` writes them.
//!
//! The file is ELF with sections and no segments ([`format`]): the vCPUs' registers, the shared
//! page where the guest has mapped it, the frames' numbers and the frames. Frames that are no RAM
//! are left out, those of zeros are holes in the file. What is known at the end only, the header,
//! is written last, so that a file that begins with ELF's magic is whole. One window of pages is
//! in memory at a time, whatever the guest's size.

mod format;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::domctl::XEN_INVALID_MAX_VCPU_ID;
use xen_abi::{DomId, Gfn, PAGE_SIZE, VcpuId};
use xencall::{DomainInfo, Errno};
use xlcfg::{Action, Config};
use zerocopy::IntoBytes as _;

use crate::error::{During as _, Error, Result};
use crate::layout::DOM0;
use crate::lifecycle::action;
use crate::loader::WINDOW;
use crate::{Host, Hypervisor};
use format::{Counts, DATA_AT, Section};

/// Where dumps go that a configuration asks for, as in Xen.
const FOLDER: &str = "/var/lib/xen/dump";
const PAGE: usize = PAGE_SIZE as usize;
const CONTEXT: u64 = size_of::<VcpuGuestContext>() as u64;
const PFN: u64 = size_of::<u64>() as u64;
/// Frames whose type is asked for at a time.
const PROBE: u64 = 1024;

/// The file that a domain which stopped for `reason` is to be dumped to, if its configuration
/// wants that. A later dump of a guest of this name takes its place.
#[must_use]
pub fn wanted(config: &Config, reason: u32) -> Option<PathBuf> {
    match action(config, reason) {
        Action::CoredumpDestroy | Action::CoredumpRestart => {
            Some(Path::new(FOLDER).join(&config.name))
        }
        _ => None,
    }
}

/// Dumps a domain to where its configuration wants it; how many pages it has.
///
/// # Errors
/// As [`dump`].
pub fn dump_to_folder(
    hypervisor: &dyn Hypervisor,
    host: &mut dyn Host,
    d: DomId,
    path: &Path,
) -> Result<u64> {
    host.make_private_folder(Path::new(FOLDER))?;
    dump(hypervisor, host, d, path)
}

/// Writes a domain's memory and registers to a file; how many pages it has. The domain may run
/// meanwhile.
///
/// # Errors
/// The domain cannot be dumped; those of hypervisor and file system. No file is left then.
pub fn dump(
    hypervisor: &dyn Hypervisor,
    host: &mut dyn Host,
    d: DomId,
    path: &Path,
) -> Result<u64> {
    let doing = || format!("dumping domain {} to {}", d.0, path.display());
    let info = hypervisor.domain_info(d).during(doing)?;
    check(d, &info).during(doing)?;
    let file = host.create_private_file(path).during(doing)?;
    let written = write(hypervisor, &info, d, &file).during(doing);
    if written.is_err() {
        drop(file);
        host.remove_file(path);
    }
    written
}

fn check(d: DomId, info: &DomainInfo) -> Result<()> {
    if d == DOM0 {
        return Err(Error::new(
            "",
            "domain 0 would have to dump itself",
            "take the dump in it (kdump)",
        ));
    }
    if !info.is_hvm() {
        return Err(Error::new(
            "",
            "it is a PV domain; PVH and HVM ones can be dumped",
            "take the dump in the guest (kdump)",
        ));
    }
    Ok(())
}

/// Frames are looked for below this one. A domain's RAM begins below 4 GiB, goes on there, and may
/// grow behind its end. The highest frame would not do: a guest maps pages where it likes, and has
/// no say in how long a dump takes.
const fn end(info: &DomainInfo) -> u64 {
    const FOUR_GIB: u64 = (1 << 32) / PAGE_SIZE;
    let (max, now) = (info.0.max_pages, info.0.tot_pages);
    let most = if max > now { max } else { now };
    most.saturating_mul(2).saturating_add(FOUR_GIB)
}

fn write(hypervisor: &dyn Hypervisor, info: &DomainInfo, d: DomId, file: &File) -> Result<u64> {
    let version = hypervisor.version()?;
    let end = end(info);
    let mut out = Out { file, len: DATA_AT };
    let mut sections = vec![write_contexts(hypervisor, d, info, &mut out)?];
    let vcpus = sections.iter().map(|all| all.size / CONTEXT).sum();
    sections.extend(write_shared_info(hypervisor, d, info, &mut out)?);
    // Room for the number of each frame that may turn out to be RAM: a hole, but for what is used.
    let pfns_at = out.len.next_multiple_of(PAGE_SIZE);
    let pages_at = pfns_at + (end * PFN).next_multiple_of(PAGE_SIZE);
    let mut pages = Pages {
        pfns_at,
        pages_at,
        count: 0,
        window: vec![0; WINDOW as usize * PAGE],
    };
    let mut at = 0;
    while at < end {
        let gfns: Vec<Gfn> = (at..end.min(at + PROBE)).map(Gfn).collect();
        let are_ram = hypervisor.are_ram(d, &gfns)?;
        let ram = gfns.iter().zip(are_ram).filter(|(_, is_ram)| *is_ram);
        let ram: Vec<Gfn> = ram.map(|(gfn, _)| *gfn).collect();
        for gfns in ram.chunks(WINDOW as usize) {
            pages.write(hypervisor, d, gfns, &mut out)?;
        }
        at += PROBE;
    }
    sections.extend(pages.sections());
    let counts = Counts {
        vcpus,
        pages: pages.count,
    };
    // Pages of zeros at the end are part of it.
    let len = pages_at + pages.count * PAGE_SIZE;
    file.set_len(len).during_or(String::new, NO_ROOM)?;
    out.write(0, &format::head(counts, &version, &sections))?;
    Ok(pages.count)
}

const NO_ROOM: &str = "is there room? see with 'df'";

/// The file that is written.
struct Out<'a> {
    file: &'a File,
    /// Where it ends now.
    len: u64,
}

impl Out<'_> {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, at);
        written.during_or(String::new, NO_ROOM)?;
        self.len = self.len.max(at + bytes.len() as u64);
        Ok(())
    }
}

/// Registers of the vCPUs that the guest has started.
fn write_contexts(
    hypervisor: &dyn Hypervisor,
    d: DomId,
    info: &DomainInfo,
    out: &mut Out<'_>,
) -> Result<Section> {
    let mut size = 0;
    let vcpus = match info.0.max_vcpu_id {
        XEN_INVALID_MAX_VCPU_ID => 0,
        highest => highest + 1,
    };
    for vcpu in 0..vcpus {
        match hypervisor.vcpu_context(d, VcpuId(vcpu)) {
            Ok(context) => {
                out.write(DATA_AT + size, context.as_bytes())?;
                size += CONTEXT;
            }
            Err(error) if matches!(error.errno(), Errno::NODATA | Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if size == 0 {
        return Err(Error::new(
            "",
            "none of its vCPUs has registers",
            "is it being destroyed? see 'xl list'",
        ));
    }
    Ok(Section {
        name: ".xen_prstatus",
        offset: DATA_AT,
        size,
        entry: CONTEXT,
        align: align_of::<VcpuGuestContext>() as u64,
    })
}

/// The page that the guest shares with the hypervisor, where it has mapped it and it can be read.
fn write_shared_info(
    hypervisor: &dyn Hypervisor,
    d: DomId,
    info: &DomainInfo,
    out: &mut Out<'_>,
) -> Result<Option<Section>> {
    let gfn = Gfn(info.0.shared_info_frame);
    if gfn == Gfn::INVALID {
        return Ok(None);
    }
    let mut page = [0; PAGE];
    // It may have moved since.
    if hypervisor.read_pages(d, &[gfn], &mut page)? != [true] {
        return Ok(None);
    }
    let offset = out.len.next_multiple_of(PAGE_SIZE);
    out.write(offset, &page)?;
    Ok(Some(Section {
        name: ".xen_shared_info",
        offset,
        size: PAGE_SIZE,
        entry: PAGE_SIZE,
        align: PFN,
    }))
}

/// Frames and their numbers.
struct Pages {
    pfns_at: u64,
    pages_at: u64,
    /// So many are written.
    count: u64,
    window: Vec<u8>,
}

impl Pages {
    /// Writes those of `gfns` that are there.
    fn write(
        &mut self,
        hypervisor: &dyn Hypervisor,
        d: DomId,
        gfns: &[Gfn],
        out: &mut Out<'_>,
    ) -> Result<()> {
        let are_there = hypervisor.read_pages(d, gfns, &mut self.window)?;
        let places = self.window.as_chunks::<PAGE>().0.iter();
        let found = gfns.iter().zip(places).zip(are_there);
        let found: Vec<(&Gfn, &[u8; PAGE])> = found
            .filter_map(|(page, is_there)| is_there.then_some(page))
            .collect();
        let pfns: Vec<u8> = found
            .iter()
            .flat_map(|(gfn, _)| gfn.0.to_le_bytes())
            .collect();
        out.write(self.pfns_at + self.count * PFN, &pfns)?;
        let mut at = self.pages_at + self.count * PAGE_SIZE;
        self.count += found.len() as u64;
        for (_, page) in found {
            if *page != [0; PAGE] {
                out.write(at, page)?;
            }
            at += PAGE_SIZE;
        }
        Ok(())
    }

    fn sections(&self) -> [Section; 2] {
        let pfns = Section {
            name: ".xen_pfn",
            offset: self.pfns_at,
            size: self.count * PFN,
            entry: PFN,
            align: PFN,
        };
        let pages = Section {
            name: ".xen_pages",
            offset: self.pages_at,
            size: self.count * PAGE_SIZE,
            entry: PAGE_SIZE,
            align: PAGE_SIZE,
        };
        [pages, pfns]
    }
}
