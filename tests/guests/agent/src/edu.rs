//! QEMU's `edu` device, told to do DMA where dom0 has no business: whatever it is pointed at, what
//! it reaches is for the IOMMU to say.
// UNSAFETY: maps a device's registers and a page that it writes to.
#![expect(unsafe_code, reason = "registers and DMA have no safe form")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, mmap_anonymous};

const PAGE: usize = 4096;
/// The device's own memory, as its transfers name it.
const BUFFER: u64 = 0x4_0000;
/// Bytes that are moved at a time: QEMU stops when a transfer reaches the end of the device's memory.
const SIZE: usize = PAGE - 8;
/// Registers.
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
/// Commands.
const RUN: u64 = 1;
const TO_MEMORY: u64 = 2;

/// Memory that somebody else writes to as well.
struct Mapped(*mut u64);

impl Mapped {
    fn read(&self, at: usize) -> u64 {
        assert!(at < PAGE && at.is_multiple_of(8));
        // SAFETY: within the page that was mapped for good, and aligned.
        unsafe { self.0.byte_add(at).read_volatile() }
    }
    fn write(&self, at: usize, value: u64) {
        assert!(at < PAGE && at.is_multiple_of(8));
        // SAFETY: as in `read`.
        unsafe { self.0.byte_add(at).write_volatile(value) }
    }
    fn fill(&self, value: u64) {
        (0..PAGE).step_by(8).for_each(|at| self.write(at, value));
    }
    /// What all words are that are moved, if they are the same.
    fn all(&self) -> Option<u64> {
        let first = self.read(0);
        (0..SIZE)
            .step_by(8)
            .all(|at| self.read(at) == first)
            .then_some(first)
    }
}

/// The device, and a page of ours for its transfers.
struct Edu {
    registers: Mapped,
    page: Mapped,
    /// Where the page is, as dom0 numbers its memory.
    page_at: u64,
}

impl Edu {
    fn open() -> Result<(Self, String)> {
        let (path, name) = find()?;
        std::fs::write(path.join("enable"), "1").context("enabling the device")?;
        let config = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.join("config"))?;
        let mut command = [0; 2];
        config.read_exact_at(&mut command, 4)?;
        // Memory accesses, and mastery of the bus.
        config.write_all_at(&[command[0] | 6, command[1]], 4)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.join("resource0"))?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever the kernel likes, of a device that no driver uses.
        let registers = unsafe {
            mmap(
                std::ptr::null_mut(),
                PAGE,
                rights,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )
        };
        // SAFETY: a new mapping wherever the kernel likes.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), PAGE, rights, MapFlags::PRIVATE) };
        let (registers, page) = (registers.context("the registers")?, page.context("a page")?);
        let page = Mapped(page.cast());
        page.fill(1);
        // SAFETY: the page that was mapped above.
        unsafe { mlock(page.0.cast(), PAGE) }.context("locking the page")?;
        let page_at = physical(page.0.addr())?;
        let edu = Self {
            registers: Mapped(registers.cast()),
            page,
            page_at,
        };
        Ok((edu, name))
    }

    /// Moves a page between the device and an address.
    fn transfer(&self, source: u64, destination: u64, command: u64) -> Result<()> {
        let r = &self.registers;
        r.write(SOURCE, source);
        r.write(DESTINATION, destination);
        r.write(COUNT, SIZE as u64);
        r.write(COMMAND, command | RUN);
        let end = Instant::now() + Duration::from_secs(30);
        while r.read(COMMAND) & RUN != 0 {
            ensure!(Instant::now() < end, "a transfer does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn fetch(&self, from: u64) -> Result<()> {
        self.transfer(from, BUFFER, 0)
    }

    fn store(&self, to: u64) -> Result<()> {
        self.transfer(BUFFER, to, TO_MEMORY)
    }
}

/// Where the device is: its directory, and bus, device and function.
fn find() -> Result<(PathBuf, String)> {
    for entry in std::fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        let is =
            |file, id| std::fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() == id);
        if is("vendor", "0x1234") && is("device", "0x11e8") {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.split_once(':').map_or("", |(_, rest)| rest).to_owned();
            return Ok((path, name));
        }
    }
    anyhow::bail!("there is no edu device")
}

/// The frame behind an address of this process.
fn physical(address: usize) -> Result<u64> {
    let map = File::open("/proc/self/pagemap")?;
    let mut entry = [0; 8];
    map.read_exact_at(&mut entry, (address / PAGE * 8) as u64)?;
    let entry = u64::from_le_bytes(entry);
    let frame = entry & ((1 << 55) - 1);
    ensure!(entry >> 63 == 1 && frame != 0, "pagemap says {entry:#x}");
    Ok(frame * PAGE as u64)
}

/// Transfers to and from a page of ours go well; then the device writes to each target, and reads it.
/// Prints what it found there.
pub(crate) fn dma(targets: &[&str]) -> Result<()> {
    const OURS: u64 = 0x1122_3344_5566_7788;
    const MARK: u64 = 0xbad0_bad0_bad0_bad0;
    let (edu, name) = Edu::open()?;
    edu.page.fill(OURS);
    edu.fetch(edu.page_at)?;
    edu.page.fill(0);
    edu.store(edu.page_at)?;
    ensure!(
        edu.page.all() == Some(OURS),
        "the device does not reach our own page at {:#x}",
        edu.page_at
    );
    for target in targets {
        let target = u64::from_str_radix(target.trim_start_matches("0x"), 16)?;
        edu.page.fill(MARK);
        edu.fetch(edu.page_at)?;
        edu.store(target)?;
        edu.page.fill(OURS);
        edu.fetch(edu.page_at)?;
        edu.fetch(target)?;
        edu.store(edu.page_at)?;
        let seen = match edu.page.all() {
            Some(OURS | 0 | u64::MAX) => "nothing",
            Some(MARK) => "what it had written",
            _ => "something",
        };
        println!("edu {target:#x}: read {seen}");
    }
    println!(
        "edu {name} reaches our own page and tried {}",
        targets.len()
    );
    Ok(())
}
