//! Device interrupts: host vectors, their sources, and the way to dom0's interrupt controllers.

use crate::sync::atomic::{AtomicU64, Ordering};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use xen_abi::{Errno, Gfn, Gpa, Gsi, Maddr, Mfn, PcpuId, Vector};

use crate::domain::Domain;
use crate::domain::vcpu::NO_CPU;
use crate::hvm::intr::Bus;
use crate::hvm::vioapic::{Polarity, Rte, RteChange};
use crate::hvm::vlapic::Trigger;
use crate::hvm::vlapic::message::Message;
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, PinSetup};
use crate::sync::{Lock, Rank};
use crate::vpci::{
    ConfigPorts, DeviceMmio, Ecam, Effects, MsiHost, MsiMessage, MsiSource, PciConfig, PortRead,
    PortWrite, Sbdf, Visibility, Vpci, Width,
};

/// First vector for devices.
pub const FIRST_VECTOR: u8 = 0x30;
/// Last vector for devices.
pub const LAST_VECTOR: u8 = 0xef;

/// What raises a host vector: one word per vector, read without a lock by the interrupt handler.
/// 0: nothing; bit 63: MSI, with data in bits 0-31 and address bits 0-19 in 32-51; else bit 62: GSI in the low bits, level-triggered if bit 61 is set.
pub struct Vectors {
    sources: [AtomicU64; 256],
    used: Lock<[bool; 256]>,
    /// Interrupts per vector, for the debug key.
    pub counts: [AtomicU64; 256],
}

const IS_MSI: u64 = 1 << 63;
const IS_GSI: u64 = 1 << 62;
/// With [`IS_GSI`]: the pin is programmed as level-triggered, so it is masked until the guest ends the interrupt.
const IS_LEVEL: u64 = 1 << 61;

impl Default for Vectors {
    fn default() -> Self {
        Self {
            sources: [const { AtomicU64::new(0) }; 256],
            used: Lock::new(Rank::Leaf, [false; 256]),
            counts: [const { AtomicU64::new(0) }; 256],
        }
    }
}

impl Vectors {
    /// Reserves a vector that the hypervisor itself uses.
    pub fn reserve(&self, v: Vector) {
        self.used.lock()[v.0 as usize] = true;
    }

    /// 2^`log2` vectors, naturally aligned.
    fn alloc(&self, log2: u8) -> Result<Vector, Errno> {
        let n = 1usize << log2;
        let mut used = self.used.lock();
        let first = (usize::from(FIRST_VECTOR)..=usize::from(LAST_VECTOR) + 1 - n)
            .filter(|v| v % n == 0)
            .find(|v| !used[*v..*v + n].iter().any(|u| *u))
            .ok_or(Errno::ENOSPC)?;
        used[first..first + n].fill(true);
        Ok(Vector(first as u8))
    }

    fn free(&self, v: Vector, log2: u8) {
        for i in 0..1usize << log2 {
            self.sources[v.0 as usize + i].store(0, Ordering::SeqCst);
        }
        self.used.lock()[v.0 as usize..][..1 << log2].fill(false);
    }
}

impl Vectors {
    /// Prints the vectors that have a source (debug key `i`).
    pub fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        for (vector, source) in self.sources.iter().enumerate() {
            let (source, count) = (
                source.load(Ordering::Relaxed),
                self.counts[vector].load(Ordering::Relaxed),
            );
            if source & IS_MSI != 0 {
                let (address, data) = (0xfee0_0000 | source >> 32 & 0xf_ffff, source as u32);
                writeln!(
                    out,
                    "  vector {vector:#04x}: {count:8} MSI, guest's {address:#x} {data:#x}"
                )?;
            } else if source & IS_GSI != 0 {
                writeln!(
                    out,
                    "  vector {vector:#04x}: {count:8} GSI {}",
                    source as u32
                )?;
            }
        }
        Ok(())
    }
}

/// What belongs to the domain that owns the hardware.
pub struct HardwareDomain<M: Machine> {
    vpci: Lock<Vpci>,
    ports: Lock<ConfigPorts>,
    ecam: Vec<Ecam>,
    /// Port latch of the real machine.
    cf8: Lock<()>,
    gsis: Lock<BTreeMap<u32, Vector>>,
    msis: Lock<BTreeMap<(Sbdf, MsiSource), (Vector, u8)>>,
    /// Device memory that is the hypervisor's, as machine frames.
    owned: Vec<core::ops::Range<u64>>,
    _machine: core::marker::PhantomData<fn(M)>,
}

impl<M: Machine> HardwareDomain<M> {
    /// With the machine's ECAM windows, and the frames of devices and the PCI functions that stay with
    /// the hypervisor.
    #[must_use]
    pub fn new(ecam: Vec<Ecam>, owned: Vec<core::ops::Range<u64>>, functions: &[Sbdf]) -> Self {
        let mut vpci = Vpci::new();
        for function in functions {
            vpci.restrict(*function, Visibility::ReadOnly);
        }
        Self {
            vpci: Lock::new(Rank::Pci, vpci),
            ports: Lock::new(Rank::Hvm, ConfigPorts::new()),
            ecam,
            cf8: Lock::new(Rank::Leaf, ()),
            gsis: Lock::new(Rank::Pirq, BTreeMap::new()),
            msis: Lock::new(Rank::Pirq, BTreeMap::new()),
            owned,
            _machine: core::marker::PhantomData,
        }
    }

    /// Whether the window is known.
    #[must_use]
    pub fn has_ecam(&self, base: u64, segment: u16) -> bool {
        self.ecam
            .iter()
            .any(|e| e.base.0 == base && e.segment == segment)
    }

    /// Whether dom0 may reach a device frame: not one of ours, not trapped.
    pub fn may_map(&self, gfn: Gfn) -> bool {
        !self.owned.iter().any(|r| r.contains(&gfn.0))
            && !self.ecam.iter().any(|e| e.range().contains(&gfn.gpa().0))
            && !self.vpci.lock().is_trapped(gfn)
    }

    /// Prints the message-signalled interrupts that are bound (debug key `M`).
    pub fn dump_msis(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let Some(msis) = self.msis.lock_patiently() else {
            return writeln!(out, "  somebody holds their lock");
        };
        for ((sbdf, source), (vector, log2)) in msis.iter() {
            let count = 1u32 << log2;
            writeln!(
                out,
                "  {sbdf}: {source:?} {count} from vector {:#04x}",
                vector.0
            )?;
        }
        Ok(())
    }

    /// dom0 found a device.
    pub fn device_added(&self, hv: &Hypervisor<M>, segment: u16, bus: u8, devfn: u8) {
        let Some(d) = hv.hardware_domain.get() else {
            return;
        };
        let sbdf = Sbdf::from_bdf(segment, u16::from(bus) << 8 | u16::from(devfn));
        let host = Host { hv, d, hw: self };
        // A read beyond the ids makes the function known.
        let (_, effects) = self.vpci.lock().config_read(&host, sbdf, 4, Width::Word);
        self.apply(hv, d, &effects);
    }

    /// Whether a PCI function is known.
    pub fn has_function(&self, segment: u16, bus: u8, devfn: u8) -> bool {
        let sbdf = Sbdf::from_bdf(segment, u16::from(bus) << 8 | u16::from(devfn));
        self.vpci.lock().has_function(sbdf)
    }

    /// Traps and untraps pages. dom0 may point a BAR wherever it likes: what is not a device's
    /// page there, RAM above all, is left as it is.
    fn apply(&self, hv: &Hypervisor<M>, d: &Domain<M>, e: &Effects) {
        let mut changes = crate::domain::physmap::Changes::new(hv, d);
        for gfn in e.trap.iter().filter(|g| self.is_open(hv, **g)) {
            // Nothing may be mapped there.
            let _ = changes.remove(*gfn);
        }
        drop(changes);
        for gfn in e.untrap.iter().filter(|g| self.is_open(hv, **g)) {
            crate::hvm::mmio::map_device(hv, d, *gfn);
        }
    }

    /// Whether a page is device memory that is not the hypervisor's own.
    fn is_open(&self, hv: &Hypervisor<M>, gfn: Gfn) -> bool {
        hv.is_device_frame(Mfn(gfn.0))
            && !self.owned.iter().any(|r| r.contains(&gfn.0))
            && !self.ecam.iter().any(|e| e.range().contains(&gfn.gpa().0))
    }

    /// A read at 0xcf8..=0xcff.
    pub fn port_read(&self, hv: &Hypervisor<M>, d: &Domain<M>, port: u16, size: u8) -> u32 {
        let Some(width) = Width::from_bytes(size) else {
            return u32::MAX;
        };
        let host = Host { hv, d, hw: self };
        let (value, effects) = {
            let mut vpci = self.vpci.lock();
            self.ports.lock().read(&mut vpci, &host, port, width)
        };
        self.apply(hv, d, &effects);
        match value {
            PortRead::Value(v) => v,
            PortRead::PassThrough => hv.machine.port_in(port, size),
        }
    }

    /// A write at 0xcf8..=0xcff.
    pub fn port_write(&self, hv: &Hypervisor<M>, d: &Domain<M>, port: u16, size: u8, val: u32) {
        let Some(width) = Width::from_bytes(size) else {
            return;
        };
        let host = Host { hv, d, hw: self };
        let outcome = {
            let mut vpci = self.vpci.lock();
            self.ports.lock().write(&mut vpci, &host, port, width, val)
        };
        match outcome {
            PortWrite::Done(effects) => self.apply(hv, d, &effects),
            PortWrite::PassThrough if port == 0xcf9 => hv.reset_control(d, val),
            PortWrite::PassThrough => hv.machine.port_out(port, size, val),
        }
    }

    /// A read of device memory that is trapped: ECAM or an MSI-X table. `None` when it is neither.
    pub fn mmio_read(&self, hv: &Hypervisor<M>, d: &Domain<M>, at: Gpa, size: u8) -> Option<u64> {
        let host = Host { hv, d, hw: self };
        if let Some(e) = self.ecam.iter().find(|e| e.range().contains(&at.0)) {
            let (v, effects) = e.read(&mut self.vpci.lock(), &host, at, size);
            self.apply(hv, d, &effects);
            return Some(v);
        }
        let mut vpci = self.vpci.lock();
        vpci.claims(at).then(|| vpci.mmio_read(&host, at, size))
    }

    /// A write to trapped device memory; false when it is none.
    pub fn mmio_write(
        &self,
        hv: &Hypervisor<M>,
        d: &Domain<M>,
        at: Gpa,
        size: u8,
        val: u64,
    ) -> bool {
        let host = Host { hv, d, hw: self };
        if let Some(e) = self.ecam.iter().find(|e| e.range().contains(&at.0)) {
            let effects = e.write(&mut self.vpci.lock(), &host, at, size, val);
            self.apply(hv, d, &effects);
            return true;
        }
        let mut vpci = self.vpci.lock();
        let is_ours = vpci.claims(at);
        if is_ours {
            vpci.mmio_write(&host, at, size, val);
        }
        is_ours
    }
}

/// The real machine under the virtual config space.
struct Host<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    d: &'a Domain<M>,
    hw: &'a HardwareDomain<M>,
}

impl<M: Machine> Host<'_, M> {
    fn ecam(&self, sbdf: Sbdf, reg: u16) -> Option<Maddr> {
        let at = |e: &Ecam| e.base.0 + (u64::from(sbdf.bdf()) << 12) + u64::from(reg);
        self.hw
            .ecam
            .iter()
            .find(|e| e.segment == sbdf.segment() && e.range().contains(&at(e)))
            .map(|e| Maddr(at(e)))
    }
}

impl<M: Machine> PciConfig for Host<'_, M> {
    fn read(&self, sbdf: Sbdf, reg: u16, width: Width) -> u32 {
        let m = &self.hv.machine;
        if reg >= 256 || sbdf.segment() != 0 {
            return self
                .ecam(sbdf, reg)
                .map_or(width.ones(), |at| m.mmio_read(at, width as u8) as u32);
        }
        let _latch = self.hw.cf8.lock();
        m.port_out(
            0xcf8,
            4,
            1 << 31 | u32::from(sbdf.bdf()) << 8 | u32::from(reg & 0xfc),
        );
        m.port_in(0xcfc | reg & 3, width as u8)
    }

    fn write(&self, sbdf: Sbdf, reg: u16, width: Width, value: u32) {
        let m = &self.hv.machine;
        if reg >= 256 || sbdf.segment() != 0 {
            if let Some(at) = self.ecam(sbdf, reg) {
                m.mmio_write(at, width as u8, u64::from(value));
            }
            return;
        }
        let _latch = self.hw.cf8.lock();
        m.port_out(
            0xcf8,
            4,
            1 << 31 | u32::from(sbdf.bdf()) << 8 | u32::from(reg & 0xfc),
        );
        m.port_out(0xcfc | reg & 3, width as u8, value);
    }
}

impl<M: Machine> DeviceMmio for Host<'_, M> {
    fn mmio_read(&self, at: Maddr, bytes: u8) -> u64 {
        if self.hw.is_open(self.hv, Gfn(at.mfn().0)) {
            self.hv.machine.mmio_read(at, bytes)
        } else {
            u64::MAX
        }
    }
    fn mmio_write(&self, at: Maddr, bytes: u8, value: u64) {
        if self.hw.is_open(self.hv, Gfn(at.mfn().0)) {
            self.hv.machine.mmio_write(at, bytes, value);
        }
    }
}

impl<M: Machine> MsiHost for Host<'_, M> {
    fn max_msi_log2(&self) -> u8 {
        4
    }

    fn bind(&self, sbdf: Sbdf, source: MsiSource, guest: MsiMessage) -> Result<MsiMessage, Errno> {
        let log2 = match source {
            MsiSource::Msi { log2_vectors } => log2_vectors,
            MsiSource::Msix { .. } => 0,
        };
        let message = Message::from_msi(guest.address, guest.data).ok_or(Errno::EINVAL)?;
        let mut msis = self.hw.msis.lock();
        let (vector, _) = match msis.get(&(sbdf, source)) {
            Some(v) => *v,
            None => {
                let v = self.hv.vectors.alloc(log2)?;
                msis.insert((sbdf, source), (v, log2));
                (v, log2)
            }
        };
        for i in 0..1u32 << log2 {
            let data = guest.data & !((1 << log2) - 1) | i;
            let packed = IS_MSI | (guest.address & 0xf_ffff) << 32 | u64::from(data);
            self.hv.vectors.sources[vector.0 as usize + i as usize].store(packed, Ordering::SeqCst);
        }
        let (address, data) = self
            .hv
            .machine
            .msi_message(vector, cpu_for(self.d, &message));
        Ok(MsiMessage { address, data })
    }

    fn unbind(&self, sbdf: Sbdf, source: MsiSource) {
        if let Some((v, log2)) = self.hw.msis.lock().remove(&(sbdf, source)) {
            self.hv.vectors.free(v, log2);
        }
    }
}

/// The CPU on which to take an interrupt that goes to this guest destination.
fn cpu_for<M: Machine>(d: &Domain<M>, m: &Message) -> PcpuId {
    let at = m
        .single()
        .and_then(|v| d.vcpu(v))
        .map_or(NO_CPU, |v| v.loaded_on.load(Ordering::Relaxed));
    PcpuId(if at == NO_CPU { 0 } else { at })
}

impl<M: Machine> Hypervisor<M> {
    /// A device interrupt came. Called by the interrupt handler before it ends the interrupt
    /// at the local APIC: a level-triggered pin is masked by then.
    pub fn device_interrupt(&self, vector: Vector) {
        let i = vector.0 as usize;
        self.vectors.counts[i].fetch_add(1, Ordering::Relaxed);
        let source = self.vectors.sources[i].load(Ordering::SeqCst);
        let Some(d) = self.hardware_domain.get() else {
            return;
        };
        let bus = Bus { hv: self, d };
        if source & IS_MSI != 0 {
            let address = 0xfee0_0000 | source >> 32 & 0xf_ffff;
            if let Some(m) = Message::from_msi(address, source as u32) {
                m.deliver(None, &bus);
            }
        } else if source & IS_GSI != 0 {
            let gsi = Gsi(source as u32);
            // As the pin is, not as the guest's entry says: the two may differ for a moment,
            // and a level that nobody masks would interrupt for ever.
            if source & IS_LEVEL != 0 {
                self.machine.mask_gsi(gsi, true);
            }
            d.ioapics.raise_physical(gsi, &bus);
        }
    }

    /// A write to a virtual IO-APIC changed an entry whose pin is real.
    pub(crate) fn follow_pin(&self, d: &Arc<Domain<M>>, c: &RteChange) {
        let Some(hw) = &d.hardware else { return };
        if c.is_mask() {
            self.machine.mask_gsi(c.gsi, true);
        } else if c.is_bind() || c.is_retarget() && !c.new.is_masked() {
            let mut gsis = hw.gsis.lock();
            let vector = match gsis.get(&c.gsi.0) {
                Some(v) => *v,
                None => match self.vectors.alloc(0) {
                    Ok(v) => {
                        gsis.insert(c.gsi.0, v);
                        v
                    }
                    Err(_) => {
                        log::error!("no vector left for {}", c.gsi);
                        return;
                    }
                },
            };
            let is_level = c.new.trigger() == Trigger::Level;
            let source = IS_GSI | if is_level { IS_LEVEL } else { 0 } | u64::from(c.gsi.0);
            self.vectors.sources[vector.0 as usize].store(source, Ordering::SeqCst);
            let pin = PinSetup {
                vector,
                is_level,
                is_low: c.new.polarity() == Polarity::Low,
            };
            let cpu = c.new.message().map_or(PcpuId(0), |m| cpu_for(d, &m));
            self.machine.bind_gsi(c.gsi, pin, cpu);
        } else if c.is_ended && !c.new.is_masked() {
            self.open_pin(d, c.gsi);
        }
    }

    /// Lets a level-triggered pin fire again.
    fn open_pin(&self, d: &Domain<M>, gsi: Gsi) {
        self.machine.mask_gsi(gsi, false);
        // Another vCPU may have masked the entry meanwhile, and been at the pin before us.
        if d.ioapics.rte(gsi).is_none_or(Rte::is_masked) {
            self.machine.mask_gsi(gsi, true);
        }
    }

    /// The guest ended a level-triggered interrupt.
    pub(crate) fn end_level(&self, d: &Domain<M>, vector: Vector) {
        d.ioapics
            .eoi(vector, &Bus { hv: self, d }, |gsi| self.open_pin(d, gsi));
    }
}

#[cfg(test)]
impl<M: Machine> HardwareDomain<M> {
    pub(crate) fn untrap_for_test(&self, hv: &Hypervisor<M>, d: &Domain<M>, gfns: &[Gfn]) {
        let e = Effects {
            trap: Vec::new(),
            untrap: gfns.to_vec(),
        };
        self.apply(hv, d, &e);
    }

    pub(crate) fn device_write_for_test(&self, hv: &Hypervisor<M>, d: &Domain<M>, at: Gpa) {
        Host { hv, d, hw: self }.mmio_write(Maddr(at.0), 4, 0);
    }
}
