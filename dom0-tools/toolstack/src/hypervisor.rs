//! The hypercalls that the toolstack needs.

use xen_abi::domctl::{XenDomctlCreatedomain, XenDomctlTscInfo};
use xen_abi::grant_table::{GTF_permit_access, GrantEntryV1};
use xen_abi::{DomId, EvtchnPort, Gfn, GrantRef, Order, PAGE_SIZE, VcpuId};
use xencall::{CpuMap, DomainInfo, Error, MemoryRegion, Resource, Result, Xen};
use zerocopy::IntoBytes;

/// Hypercalls on behalf of domains. Methods are named after the operations.
#[expect(missing_docs, reason = "the operations' names say it; see xencall")]
#[expect(
    clippy::missing_errors_doc,
    reason = "all give the hypervisor's refusal"
)]
pub trait Hypervisor {
    fn create_domain(&self, config: &XenDomctlCreatedomain) -> Result<DomId>;
    fn destroy_domain(&self, d: DomId) -> Result<()>;
    fn pause_domain(&self, d: DomId) -> Result<()>;
    fn unpause_domain(&self, d: DomId) -> Result<()>;
    fn domain_info(&self, d: DomId) -> Result<DomainInfo>;
    fn domains(&self) -> Result<Vec<DomainInfo>>;
    fn set_max_vcpus(&self, d: DomId, count: u32) -> Result<()>;
    fn set_max_memory(&self, d: DomId, kib: u64) -> Result<()>;
    fn set_paging_mempool_size(&self, d: DomId, bytes: u64) -> Result<()>;
    fn set_tsc_info(&self, d: DomId, info: XenDomctlTscInfo) -> Result<()>;
    fn set_memory_map(&self, d: DomId, map: &[MemoryRegion]) -> Result<()>;
    fn set_hvm_param(&self, d: DomId, index: u32, value: u64) -> Result<()>;
    fn set_hvm_context(&self, d: DomId, records: &[u8]) -> Result<()>;
    fn set_vcpu_affinity(
        &self,
        d: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
    ) -> Result<()>;
    fn set_credit2(&self, d: DomId, weight: u16, cap: u16) -> Result<()>;
    fn alloc_unbound(&self, d: DomId, remote: DomId) -> Result<EvtchnPort>;
    fn remote_shutdown(&self, d: DomId, reason: u32) -> Result<()>;

    /// How many of `gfns` got 2^`order` frames.
    fn populate(&self, d: DomId, gfns: &[Gfn], order: Order) -> Result<usize>;
    /// Copies into guest memory.
    fn write_memory(&self, d: DomId, gpa: u64, data: &[u8]) -> Result<()>;
    /// Zeroes guest memory.
    fn zero_memory(&self, d: DomId, gpa: u64, len: u64) -> Result<()>;
    /// Lets `to` map frames of `d` by fixed grant references, before `d` runs.
    fn seed_grants(&self, d: DomId, to: DomId, entries: &[(GrantRef, Gfn)]) -> Result<()>;
    /// Frames that no domain has.
    fn free_pages(&self) -> Result<u64>;
    /// The NUMA node of each CPU.
    fn nodes_of_cpus(&self) -> Result<Vec<u32>>;
}

/// Pages mapped at a time when guest memory is written. Linux takes them out of dom0's memory again
/// by one hypercall each, without letting anybody else run in between, and each waits until dom0's
/// other CPUs have flushed: on a host that is so busy that this takes 20 ms, 4 MiB would keep a CPU
/// for 20 s, and Linux complain of a soft lockup.
const WINDOW: u64 = 128;

/// Calls `work` with a mapping of each part of a range, where the part begins in the
/// mapping, its length, and how much of the range came before.
fn for_windows(
    xen: &Xen,
    d: DomId,
    gpa: u64,
    len: u64,
    mut work: impl FnMut(&xencall::SharedPages, usize, u64, u64) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    while done < len {
        let at = gpa.saturating_add(done);
        let offset = at % PAGE_SIZE;
        let part = (len - done).min(WINDOW * PAGE_SIZE - offset);
        let first = at / PAGE_SIZE;
        let count = (offset + part).div_ceil(PAGE_SIZE);
        let gfns: Vec<Gfn> = (first..first.saturating_add(count)).map(Gfn).collect();
        let pages = xen.map_foreign(d, &gfns)?;
        // Less than a page.
        let offset = usize::try_from(offset).unwrap_or(0);
        work(&pages, offset, part, done)?;
        done += part;
    }
    Ok(())
}

impl Hypervisor for Xen {
    fn create_domain(&self, config: &XenDomctlCreatedomain) -> Result<DomId> {
        Self::create_domain(self, None, config)
    }
    fn destroy_domain(&self, d: DomId) -> Result<()> {
        Self::destroy_domain(self, d)
    }
    fn pause_domain(&self, d: DomId) -> Result<()> {
        Self::pause_domain(self, d)
    }
    fn unpause_domain(&self, d: DomId) -> Result<()> {
        Self::unpause_domain(self, d)
    }
    fn domain_info(&self, d: DomId) -> Result<DomainInfo> {
        Self::domain_info(self, d)
    }
    fn domains(&self) -> Result<Vec<DomainInfo>> {
        Self::domains(self)
    }
    fn set_max_vcpus(&self, d: DomId, count: u32) -> Result<()> {
        Self::set_max_vcpus(self, d, count)
    }
    fn set_max_memory(&self, d: DomId, kib: u64) -> Result<()> {
        Self::set_max_memory(self, d, kib)
    }
    fn set_paging_mempool_size(&self, d: DomId, bytes: u64) -> Result<()> {
        Self::set_paging_mempool_size(self, d, bytes)
    }
    fn set_tsc_info(&self, d: DomId, info: XenDomctlTscInfo) -> Result<()> {
        Self::set_tsc_info(self, d, info)
    }
    fn set_memory_map(&self, d: DomId, map: &[MemoryRegion]) -> Result<()> {
        Self::set_memory_map(self, d, map)
    }
    fn set_hvm_param(&self, d: DomId, index: u32, value: u64) -> Result<()> {
        Self::set_hvm_param(self, d, index, value)
    }
    fn set_hvm_context(&self, d: DomId, records: &[u8]) -> Result<()> {
        Self::set_hvm_context(self, d, records)
    }
    fn set_vcpu_affinity(
        &self,
        d: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
    ) -> Result<()> {
        Self::set_vcpu_affinity(self, d, vcpu, hard, soft).map(drop)
    }
    fn set_credit2(&self, d: DomId, weight: u16, cap: u16) -> Result<()> {
        self.set_sched_credit2(d, xen_abi::domctl::XenDomctlSchedCredit2 { weight, cap })
    }
    fn alloc_unbound(&self, d: DomId, remote: DomId) -> Result<EvtchnPort> {
        self.evtchn_alloc_unbound(d, remote)
    }
    fn remote_shutdown(&self, d: DomId, reason: u32) -> Result<()> {
        Self::remote_shutdown(self, d, reason)
    }
    fn populate(&self, d: DomId, gfns: &[Gfn], order: Order) -> Result<usize> {
        self.populate_physmap(d, gfns, order, 0)
    }
    fn write_memory(&self, d: DomId, gpa: u64, data: &[u8]) -> Result<()> {
        for_windows(
            self,
            d,
            gpa,
            data.len() as u64,
            |pages, offset, len, done| {
                let range = usize::try_from(done).ok().zip(usize::try_from(len).ok());
                let part = range.and_then(|(done, len)| data.get(done..done + len));
                pages.write(offset, part.unwrap_or_default())
            },
        )
    }
    fn zero_memory(&self, d: DomId, gpa: u64, len: u64) -> Result<()> {
        for_windows(self, d, gpa, len, |pages, offset, len, _| {
            pages.zero(offset, usize::try_from(len).unwrap_or(0))
        })
    }
    fn seed_grants(&self, d: DomId, to: DomId, entries: &[(GrantRef, Gfn)]) -> Result<()> {
        let table = self.map_resource(d, Resource::GrantTable, 0, 1)?;
        for &(gref, gfn) in entries {
            let too_large = Error::new("grant seeding", Some(d), xencall::Errno::RANGE);
            let entry = GrantEntryV1 {
                flags: GTF_permit_access,
                domid: to,
                frame: u32::try_from(gfn.0).map_err(|_| too_large)?,
            };
            let offset = gref.0 as usize * size_of::<GrantEntryV1>();
            table.write(offset, entry.as_bytes())?;
        }
        Ok(())
    }
    fn free_pages(&self) -> Result<u64> {
        Ok(self.physinfo()?.free_pages)
    }
    fn nodes_of_cpus(&self) -> Result<Vec<u32>> {
        let cpus = self.cpu_topology()?;
        Ok(cpus.iter().map(|cpu| cpu.node).collect())
    }
}
