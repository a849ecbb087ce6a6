//! Marks for the emulator's counting plugin (`tests/bench/plugin`), and work between two of
//! them: mark N is a call of the code N * 16 bytes into a page at a fixed address, which the
//! plugin watches. Nothing leaves the guest for it.
// UNSAFETY: maps a page of return instructions and calls them.
#![expect(unsafe_code, reason = "code at a fixed address has no safe form")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_agent::MARKS;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::disk::Aligned;

/// The page of marks.
pub(crate) struct Marks(());

impl Marks {
    /// Maps it.
    pub(crate) fn new() -> Result<Self> {
        let rights = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        let at = std::ptr::without_provenance_mut(MARKS);
        // SAFETY: takes the place of nothing, as the flag asks.
        let page = unsafe { mmap_anonymous(at, 4096, rights, flags) }.context("mapping marks")?;
        // SAFETY: 4096 bytes that were mapped above.
        unsafe { page.cast::<u8>().write_bytes(RETURN, 4096) };
        Ok(Self(()))
    }

    /// Makes a mark.
    pub(crate) fn mark(&self, number: u8) {
        let at: *const () = std::ptr::without_provenance(MARKS + usize::from(number) * 16);
        // SAFETY: the page lives as long as the process, and holds return instructions only.
        let call: extern "C" fn() = unsafe { std::mem::transmute(at) };
        call();
    }
}

/// The instruction `ret`.
const RETURN: u8 = 0xc3;

/// Makes one mark.
pub(crate) fn one(number: u8) -> Result<()> {
    Marks::new()?.mark(number);
    Ok(())
}

/// Runs a command between two marks.
pub(crate) fn run(number: u8, words: &[&str]) -> Result<()> {
    let marks = Marks::new()?;
    let (program, arguments) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    marks.mark(number);
    let status = command.status().with_context(|| (*program).to_owned())?;
    marks.mark(number + 1);
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

/// Rests between two marks.
pub(crate) fn rest(number: u8, seconds: u64) -> Result<()> {
    let marks = Marks::new()?;
    marks.mark(number);
    std::thread::sleep(Duration::from_secs(seconds));
    marks.mark(number + 1);
    Ok(())
}

const MIB: u64 = 1 << 20;
/// What is read and written in sequence, and its pieces.
const SEQUENCE: u64 = 64 * MIB;
const PIECE: u64 = MIB;
/// Blocks of 4 KiB at random places.
const RANDOM: u64 = 512;
const BLOCK: u64 = 4096;

/// Reads and writes a disk past the page cache: four phases, each between two marks. Prints
/// how long each took.
pub(crate) fn blocks(first: u8, device: &str) -> Result<()> {
    let marks = Marks::new()?;
    let file = crate::disk::open(device)?;
    let mut state = 1u64;
    let mut random = move |_| {
        // A multiplicative generator of period 2^62: places need only be scattered.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % (SEQUENCE / BLOCK) * BLOCK
    };
    let in_sequence: Vec<u64> = (0..SEQUENCE / PIECE).map(|piece| piece * PIECE).collect();
    let scattered: Vec<u64> = (0..RANDOM).map(&mut random).collect();
    let mut buffer = Aligned::new(usize::try_from(PIECE)?);
    let phases = [
        ("write", &in_sequence, PIECE, Way::Write),
        ("read", &in_sequence, PIECE, Way::Read),
        ("write-4k", &scattered, BLOCK, Way::Write),
        ("read-4k", &scattered, BLOCK, Way::Read),
    ];
    let mut number = first;
    for (name, places, size, way) in phases {
        let piece = &mut buffer.slice()[..usize::try_from(size)?];
        let start = Instant::now();
        marks.mark(number);
        each(&file, places, piece, way).with_context(|| format!("{name} of {device}"))?;
        marks.mark(number + 1);
        let time = start.elapsed().as_nanos();
        println!("blocks {name} {} {time};", places.len() as u64 * size);
        number += 2;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

fn each(file: &File, places: &[u64], piece: &mut [u8], way: Way) -> std::io::Result<()> {
    for &place in places {
        match way {
            Way::Read => file.read_exact_at(piece, place)?,
            Way::Write => file.write_all_at(piece, place)?,
        }
    }
    Ok(())
}

const CHUNK: usize = 64 * 1024;

/// The other end of [`stream`]: takes or gives bytes that nobody looks at.
pub(crate) fn sink(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    println!("sink ready");
    for stream in listener.incoming() {
        let mut stream = stream.context("accepting")?;
        let mut request = [0; 9];
        stream.read_exact(&mut request)?;
        let bytes = u64::from_le_bytes(request[1..].try_into()?);
        match request[0] {
            SEND => {
                take(&mut stream, bytes)?;
                stream.write_all(&[0])?;
            }
            _ => give(&mut stream, bytes)?,
        }
    }
    Ok(())
}

const SEND: u8 = b's';

/// Sends bytes to a sink, or receives them from it, between two marks. Prints how long it took.
pub(crate) fn stream(number: u8, address: &str, way: &str, bytes: u64) -> Result<()> {
    let marks = Marks::new()?;
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    let mut request = vec![way.bytes().next().unwrap_or_default()];
    request.extend(bytes.to_le_bytes());
    let start = Instant::now();
    marks.mark(number);
    stream.write_all(&request)?;
    match way {
        "send" => {
            give(&mut stream, bytes)?;
            stream.read_exact(&mut [0])?;
        }
        "receive" => take(&mut stream, bytes)?,
        _ => bail!("send or receive, not {way}"),
    }
    marks.mark(number + 1);
    println!("stream {way} {bytes} {};", start.elapsed().as_nanos());
    Ok(())
}

fn take(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "the other end left {left} bytes early");
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

fn give(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let buffer = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left.min(CHUNK as u64))?;
        stream.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}
