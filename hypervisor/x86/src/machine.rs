//! [`Machine`] on the metal.

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU64, Ordering};

use radon_core::hvm::backend::HvmBackend;
use radon_core::machine::{Clock, Cpus, Fault, FrameMem, FrameSource, Machine, PinSetup, Platform};
use radon_core::mm::FrameTable;
use spin::mutex::TicketMutex as Mutex;
use xen_abi::{Gsi, Maddr, Ns, PcpuId, Vector};

use crate::frame_mem::DirectMap;
use crate::{apic, clock, cpu, ioapic, nmi, output, paging, percpu, serial, watchdog};

/// How to reset and to switch off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Power {
    /// ACPI reset register and value.
    pub reset: Option<(u16, u8)>,
    /// PM1a control port.
    pub pm1a_cnt: Option<u16>,
}

/// The machine with its virtualisation backend.
pub struct X86<B> {
    hvm: B,
    frames: &'static FrameTable,
    power: Power,
    /// Uncached windows by page.
    windows: Mutex<BTreeMap<u64, usize>>,
    /// Exits of each CPU, counted by the kick handler, for `kick_and_wait`.
    kicks: [AtomicU64; percpu::MAX_CPUS],
}

impl<B: HvmBackend> X86<B> {
    /// Wraps a backend that is enabled on this CPU.
    pub const fn new(hvm: B, frames: &'static FrameTable, power: Power) -> Self {
        Self {
            hvm,
            frames,
            power,
            windows: Mutex::new(BTreeMap::new()),
            kicks: [const { AtomicU64::new(0) }; percpu::MAX_CPUS],
        }
    }

    /// A kick arrived on this CPU.
    pub fn kicked(&self) {
        self.kicks[percpu::this().id().0 as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// Where `size` bytes of a device are mapped. `None` when they are not aligned, or when there
    /// is no room for another page: dom0 chooses the address.
    fn window(&self, at: Maddr, size: u8) -> Option<*mut u8> {
        if !is_access(at, size) {
            return None;
        }
        let page = at.0 >> 12;
        let mut w = self.windows.lock();
        let base = match w.get(&page) {
            Some(v) => *v,
            None if w.len() >= MAX_WINDOWS => return None,
            None => {
                let mem = DirectMap;
                let src = self.frames.xen(&mem);
                let v = paging::map_mmio(page << 12, 4096, &mut || src.alloc_frames(0))?;
                w.insert(page, v);
                v
            }
        };
        Some((base + at.offset() as usize) as *mut u8)
    }
}

/// Most pages of devices that are mapped for dom0's trapped accesses: extended configuration
/// space of 64 buses, and MSI-X tables.
const MAX_WINDOWS: usize = 16 << 10;

/// Whether an access has a size that devices know and is aligned to it.
const fn is_access(at: Maddr, size: u8) -> bool {
    matches!(size, 1 | 2 | 4 | 8) && at.0.is_multiple_of(size as u64) && at.0 >> 52 == 0
}

impl<B: HvmBackend> FrameMem for X86<B> {
    radon_core::frame_mem_by!(|_| DirectMap);
}

impl<B: HvmBackend> Clock for X86<B> {
    #[inline]
    fn now(&self) -> Ns {
        Ns(clock::now())
    }
    #[inline]
    fn tsc(&self) -> u64 {
        cpu::rdtsc()
    }
    #[inline]
    fn set_deadline(&self, deadline: Option<Ns>) {
        apic::arm(deadline);
    }
}

impl<B: HvmBackend> Cpus for X86<B> {
    #[inline]
    fn this_cpu(&self) -> PcpuId {
        percpu::this().id()
    }
    fn cpu_count(&self) -> u32 {
        percpu::online()
    }
    #[inline]
    fn kick(&self, id: PcpuId) {
        if let Some(p) = percpu::of(id) {
            apic::send_ipi(p.apic_id(), apic::VECTOR_KICK);
        }
    }
    fn kick_and_wait(&self, id: PcpuId) {
        let count = &self.kicks[id.0 as usize];
        let before = count.load(Ordering::SeqCst);
        self.kick(id);
        // Two CPUs that wait for each other must both answer: callers hold no lock.
        while count.load(Ordering::SeqCst) == before {
            cpu::irq_window();
            cpu::pause();
        }
    }
}

impl<B: HvmBackend> Platform for X86<B> {
    fn bind_gsi(&self, gsi: Gsi, pin: PinSetup, id: PcpuId) -> bool {
        if ioapic::is_kept(gsi) {
            return false;
        }
        let dest = percpu::of(id).map_or_else(apic::bsp_id, |p| p.apic_id());
        ioapic::set_pin(
            gsi,
            ioapic::Pin {
                vector: pin.vector,
                is_level: pin.is_level,
                is_low: pin.is_low,
                dest,
                is_masked: false,
            },
        )
    }
    fn mask_gsi(&self, gsi: Gsi, mask: bool) {
        if !ioapic::is_kept(gsi) {
            ioapic::set_mask(gsi, mask);
        }
    }
    fn msi_message(&self, vector: Vector, id: PcpuId) -> (u64, u32) {
        let dest = percpu::of(id).map_or_else(apic::bsp_id, |p| p.apic_id());
        (
            0xfee0_0000 | u64::from(dest & 0xff) << 12,
            u32::from(vector.0),
        )
    }
    fn port_in(&self, port: u16, size: u8) -> u32 {
        match size {
            1 => u32::from(cpu::inb(port)),
            2 => u32::from(cpu::inw(port)),
            _ => cpu::inl(port),
        }
    }
    fn port_out(&self, port: u16, size: u8, val: u32) {
        match size {
            1 => cpu::outb(port, val as u8),
            2 => cpu::outw(port, val as u16),
            _ => cpu::outl(port, val),
        }
    }
    fn mmio_read(&self, at: Maddr, size: u8) -> u64 {
        let Some(p) = self.window(at, size) else {
            return u64::MAX;
        };
        // SAFETY: `window` maps the page uncached, and the access is aligned, so within the page.
        unsafe {
            match size {
                1 => u64::from(p.read_volatile()),
                2 => u64::from(p.cast::<u16>().read_volatile()),
                4 => u64::from(p.cast::<u32>().read_volatile()),
                _ => p.cast::<u64>().read_volatile(),
            }
        }
    }
    fn mmio_write(&self, at: Maddr, size: u8, val: u64) {
        let Some(p) = self.window(at, size) else {
            return;
        };
        // SAFETY: as in `mmio_read`.
        unsafe {
            match size {
                1 => p.write_volatile(val as u8),
                2 => p.cast::<u16>().write_volatile(val as u16),
                4 => p.cast::<u32>().write_volatile(val as u32),
                _ => p.cast::<u64>().write_volatile(val),
            }
        }
    }
    fn console_write(&self, bytes: &[u8]) {
        output::write(bytes);
    }
    fn console_read(&self) -> Option<u8> {
        serial::read()
    }
    fn write_msr(&self, msr: u32, val: u64) {
        crate::traps::try_wrmsr(msr, val);
    }
    #[inline]
    fn idle(&self) {
        apic::look_again();
        cpu::halt_once();
    }
    #[inline]
    fn irq_window(&self) {
        cpu::irq_window();
    }
    fn dump_cpu(&self, id: PcpuId, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        nmi::dump(id, out)
    }
    fn dump_pins(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        ioapic::dump(out)
    }
    fn heartbeat(&self) {
        watchdog::beat();
    }
    fn provoke(&self, fault: Fault) -> ! {
        crate::provoke::provoke(fault)
    }
    fn reboot(&self) -> ! {
        reboot(self.power)
    }
    fn stop(&self) -> ! {
        nmi::stop_others();
        cpu::stop()
    }
    fn power_off(&self) -> ! {
        // PIIX4 and ICH9 as QEMU and Bochs have them take S5 as type 0 or 5; a machine whose
        // AML says otherwise was switched off by dom0 itself before it came here.
        if let Some(p) = self.power.pm1a_cnt {
            cpu::outw(p, 1 << 13);
            cpu::outw(p, 1 << 13 | 5 << 10);
        }
        nmi::stop_others();
        cpu::stop()
    }
}

impl<B: HvmBackend> Machine for X86<B> {
    type Hvm = B;
    #[inline]
    fn hvm(&self) -> &B {
        &self.hvm
    }
    type Remapper = crate::iommu::Window;
}

/// Resets the machine: ACPI register, keyboard controller, 0xcf9, triple fault.
pub fn reboot(power: Power) -> ! {
    if percpu::is_up() {
        nmi::stop_others();
    }
    if let Some((port, val)) = power.reset {
        cpu::outb(port, val);
        spin_ms(100);
    }
    for _ in 0..1000 {
        if cpu::inb(0x64) & 2 == 0 {
            break;
        }
        cpu::pause();
    }
    cpu::outb(0x64, 0xfe);
    spin_ms(100);
    cpu::outb(0xcf9, 0x02);
    cpu::outb(0xcf9, 0x06);
    spin_ms(100);
    // SAFETY: an empty IDT and a trap reset any PC.
    unsafe {
        let none = [0u16; 5];
        core::arch::asm!("lidt [{}]", "int3", in(reg) none.as_ptr(), options(noreturn));
    }
}

fn spin_ms(ms: u64) {
    let end = clock::now().saturating_add(ms * 1_000_000);
    while clock::now() < end {
        cpu::pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_device_accesses_are_refused() {
        assert!(is_access(Maddr(0xfe00_0ffc), 4));
        assert!(is_access(Maddr(0xfe00_0fff), 1));
        assert!(!is_access(Maddr(0xfe00_0ffc), 8), "leaves the page");
        assert!(!is_access(Maddr(0xfe00_0001), 2));
        assert!(!is_access(Maddr(0xfe00_0000), 3));
        assert!(!is_access(Maddr(1 << 60), 4));
    }
}
