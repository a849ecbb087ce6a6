//! The hypercalls that the toolstack needs.

use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::domctl::{XenDomctlCreatedomain, XenDomctlTscInfo};
use xen_abi::{DomId, EvtchnPort, Gfn, Order, VcpuId};
use xencall::{CpuMap, DomainInfo, MemoryRegion, Result, Xen, XenVersion};

use crate::loader::{Loader, XenLoader};

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
    fn set_handle(&self, d: DomId, handle: [u8; 16]) -> Result<()>;
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
    fn vcpu_context(&self, d: DomId, vcpu: VcpuId) -> Result<Box<VcpuGuestContext>>;
    fn version(&self) -> Result<XenVersion>;

    /// Which of `gfns` are RAM.
    fn are_ram(&self, d: DomId, gfns: &[Gfn]) -> Result<Vec<bool>>;
    /// Copies pages to `to`, one after the other, and says which were there; the others' places
    /// are left as they were.
    fn read_pages(&self, d: DomId, gfns: &[Gfn], to: &mut [u8]) -> Result<Vec<bool>>;
    /// How many of `gfns` got 2^`order` frames.
    fn populate(&self, d: DomId, gfns: &[Gfn], order: Order) -> Result<usize>;
    /// Writes memory and grants of a domain that does not run yet.
    fn loader(&self, d: DomId) -> Result<Box<dyn Loader + '_>>;
    /// Frames that no domain has.
    fn free_pages(&self) -> Result<u64>;
    /// The NUMA node of each CPU.
    fn nodes_of_cpus(&self) -> Result<Vec<u32>>;
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
    fn set_handle(&self, d: DomId, handle: [u8; 16]) -> Result<()> {
        Self::set_handle(self, d, handle)
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
        Self::set_vcpu_affinity(self, d, vcpu, hard, soft, false).map(drop)
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
    fn vcpu_context(&self, d: DomId, vcpu: VcpuId) -> Result<Box<VcpuGuestContext>> {
        Self::vcpu_context(self, d, vcpu)
    }
    fn version(&self) -> Result<XenVersion> {
        Self::version(self)
    }
    fn are_ram(&self, d: DomId, gfns: &[Gfn]) -> Result<Vec<bool>> {
        Self::are_ram(self, d, gfns)
    }
    fn read_pages(&self, d: DomId, gfns: &[Gfn], to: &mut [u8]) -> Result<Vec<bool>> {
        self.read_foreign(d, gfns, to)
    }
    fn populate(&self, d: DomId, gfns: &[Gfn], order: Order) -> Result<usize> {
        self.populate_physmap(d, gfns, order, 0)
    }
    fn loader(&self, d: DomId) -> Result<Box<dyn Loader + '_>> {
        Ok(Box::new(XenLoader::new(self, d)?))
    }
    fn free_pages(&self) -> Result<u64> {
        Ok(self.physinfo()?.free_pages)
    }
    fn nodes_of_cpus(&self) -> Result<Vec<u32>> {
        let cpus = self.cpu_topology()?;
        Ok(cpus.iter().map(|cpu| cpu.node).collect())
    }
}
