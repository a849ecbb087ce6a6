//! dom0's RAM: which frames it gets, and what its memory map says of them.

use alloc::vec::Vec;
use core::ops::Range;

use guest_image::elf::LoadSink;
use guest_image::memory::{MemoryRange, MemoryType};
use xen_abi::{DomId, Maddr, Mfn};

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::mm::Scrub;

/// Puts a kernel's segments into memory of dom0's.
pub(super) struct Sink<'a, M: Machine> {
    pub(super) hv: &'a Hypervisor<M>,
}

impl<M: Machine> LoadSink for Sink<'_, M> {
    type Error = u64;

    fn write(&mut self, paddr: u64, data: &[u8]) -> Result<(), u64> {
        owned(self.hv, paddr, data.len() as u64)?;
        self.hv.machine.copy_to(Maddr(paddr), data);
        Ok(())
    }

    fn zero(&mut self, paddr: u64, len: u64) -> Result<(), u64> {
        owned(self.hv, paddr, len)?;
        let end = paddr + len;
        let mut at = paddr;
        const ZEROS: [u8; 256] = [0; 256];
        while at < end {
            if at & 4095 == 0 && end - at >= 4096 {
                self.hv.machine.zero_frame(Maddr(at).mfn());
                at += 4096;
            } else {
                let n = (end - at).min(4096 - (at & 4095)).min(256);
                self.hv.machine.copy_to(Maddr(at), &ZEROS[..n as usize]);
                at += n;
            }
        }
        Ok(())
    }
}

/// Whether all frames of a byte range are dom0's.
pub(super) fn owned<M: Machine>(hv: &Hypervisor<M>, at: u64, len: u64) -> Result<(), u64> {
    let end = at.checked_add(len).ok_or(at)?;
    let is_dom0 =
        |m: u64| hv.mm.info(Mfn(m)).and_then(crate::mm::FrameInfo::owner) == Some(DomId(0));
    match (at >> 12..end.div_ceil(4096)).find(|m| !is_dom0(*m)) {
        None => Ok(()),
        Some(m) => Err(m << 12),
    }
}

/// Takes free frames from the lowest up until `want` are dom0's; 2 MiB at a time where possible.
pub(super) fn take_ram<M: Machine>(hv: &Hypervisor<M>, memory: &[MemoryRange], want: u64) -> u64 {
    let mut have = u64::from(hv.mm.account(DomId(0)).total());
    for r in memory.iter().filter(|r| r.kind == MemoryType::RAM) {
        let (mut at, end) = (r.start.div_ceil(4096).max(1), r.end >> 12);
        while at < end && have < want {
            let n = if at & 511 == 0 && end - at >= 512 && want - have >= 512 {
                512
            } else {
                1
            };
            if hv
                .mm
                .alloc_range(&hv.machine, DomId(0), Mfn(at), n, Scrub::Skip)
                .is_ok()
            {
                have += n;
                at += n;
            } else if n == 1 {
                at += 1;
            } else {
                for m in at..at + n {
                    if have < want
                        && hv
                            .mm
                            .alloc_range(&hv.machine, DomId(0), Mfn(m), 1, Scrub::Skip)
                            .is_ok()
                    {
                        have += 1;
                    }
                }
                at += n;
            }
        }
    }
    have
}

/// Maximal runs of frames in `r` that are dom0's (`true`) or not.
pub(super) fn runs<M: Machine>(
    hv: &Hypervisor<M>,
    r: &MemoryRange,
    mut f: impl FnMut(Range<u64>, bool),
) {
    let (first, end) = (r.start.div_ceil(4096), r.end >> 12);
    let is_dom0 =
        |m: u64| hv.mm.info(Mfn(m)).and_then(crate::mm::FrameInfo::owner) == Some(DomId(0));
    let mut at = first;
    while at < end {
        let kind = is_dom0(at) || at == 0;
        let run_end = (at..end)
            .find(|m| (is_dom0(*m) || *m == 0) != kind)
            .unwrap_or(end);
        f(at..run_end, kind);
        at = run_end;
    }
}

/// dom0's memory map.
pub(super) fn memory_map<M: Machine>(
    hv: &Hypervisor<M>,
    memory: &[MemoryRange],
) -> Vec<MemoryRange> {
    let mut out: Vec<MemoryRange> = Vec::new();
    let mut push = |r: MemoryRange| match out.last_mut() {
        Some(l) if l.end == r.start && l.kind == r.kind => l.end = r.end,
        _ if r.start < r.end => out.push(r),
        _ => {}
    };
    for r in memory {
        if r.kind == MemoryType::RAM {
            runs(hv, r, |run, is_dom0| {
                let kind = if is_dom0 {
                    MemoryType::RAM
                } else {
                    MemoryType::UNUSABLE
                };
                push(MemoryRange {
                    start: run.start << 12,
                    end: run.end << 12,
                    kind,
                });
            });
        } else {
            push(*r);
        }
    }
    out
}

/// Splits `[at, at + len)` off dom0's RAM in the map, with another type.
pub(super) fn retype(map: &mut Vec<MemoryRange>, at: u64, len: u64, kind: MemoryType) {
    if let Some(i) = map
        .iter()
        .position(|r| r.kind == MemoryType::RAM && r.start <= at && at + len <= r.end)
    {
        let r = map[i];
        let parts = [
            MemoryRange {
                start: r.start,
                end: at,
                kind: r.kind,
            },
            MemoryRange {
                start: at,
                end: at + len,
                kind,
            },
            MemoryRange {
                start: at + len,
                end: r.end,
                kind: r.kind,
            },
        ];
        map.splice(i..=i, parts.into_iter().filter(|p| p.start < p.end));
    }
}
