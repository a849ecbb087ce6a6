//! A disk under parallel readers and writers, past the page cache.
//!
//! Each thread owns a stripe. It writes a block, then reads back and verifies
//! one that it wrote earlier, so that reads and writes are in flight together;
//! at the end every thread verifies its neighbour's stripe.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use guest_agent::pattern;

const BLOCK: u64 = 256 * 1024;
/// `O_DIRECT` wants buffers aligned to the sector size.
const ALIGN: usize = 4096;

/// A buffer whose slice is aligned for direct I/O.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    pub(crate) fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, start }
    }

    pub(crate) fn slice(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - ALIGN + self.start;
        &mut self.bytes[self.start..end]
    }
}

/// Opens a disk past the page cache: transfers must be [`Aligned`].
pub(crate) fn open(device: &str) -> Result<File> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(direct)
        .open(device)
        .with_context(|| format!("opening {device}"))
}

/// Writes and verifies `mib` MiB of `device` with `threads` threads.
pub(crate) fn exercise(device: &str, mib: u64, threads: u64) -> Result<()> {
    ensure!(threads > 0, "no threads");
    let file = open(device)?;
    let blocks = (mib << 20) / BLOCK / threads;
    ensure!(blocks > 0, "{mib} MiB are too few for {threads} threads");
    // Another seed each run: what an earlier run left must not look right.
    let seed = u64::try_from(crate::clock::monotonic_ns()).unwrap_or(1);
    let start = Instant::now();
    let barrier = Barrier::new(usize::try_from(threads)?);
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let (file, barrier) = (&file, &barrier);
                scope.spawn(move || {
                    let written = write_stripe(file, seed, thread * blocks, blocks);
                    barrier.wait();
                    written?;
                    let neighbour = (thread + 1) % threads;
                    verify_stripe(file, seed, neighbour * blocks, blocks)
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect()
    });
    for result in results {
        result.with_context(|| device.to_owned())?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = blocks * threads * BLOCK / (1 << 20);
    println!("disk {device}: {megabytes} MiB written and verified in {seconds:.1} s");
    Ok(())
}

fn write_stripe(file: &File, seed: u64, first: u64, blocks: u64) -> Result<()> {
    let mut out = Aligned::new(usize::try_from(BLOCK)?);
    let mut back = Aligned::new(usize::try_from(BLOCK)?);
    for block in 0..blocks {
        let offset = (first + block) * BLOCK;
        pattern::fill(out.slice(), seed, offset);
        file.write_all_at(out.slice(), offset)
            .with_context(|| format!("writing at {offset:#x}"))?;
        if block % 2 == 1 {
            check(file, &mut back, seed, (first + block / 2) * BLOCK)?;
        }
    }
    file.sync_data().context("flushing")
}

fn verify_stripe(file: &File, seed: u64, first: u64, blocks: u64) -> Result<()> {
    let mut back = Aligned::new(usize::try_from(BLOCK)?);
    for block in 0..blocks {
        check(file, &mut back, seed, (first + block) * BLOCK)?;
    }
    Ok(())
}

fn check(file: &File, buffer: &mut Aligned, seed: u64, offset: u64) -> Result<()> {
    file.read_exact_at(buffer.slice(), offset)
        .with_context(|| format!("reading at {offset:#x}"))?;
    match pattern::mismatch(buffer.slice(), seed, offset) {
        Some(at) => bail!("wrong byte at {:#x}", offset + at as u64),
        None => Ok(()),
    }
}
