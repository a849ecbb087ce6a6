//! The guest's end of network tests; the harness's `netserver` is the other, or `agent serve`
//! in another guest.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_agent::{pattern, transfer};

const CHUNK: usize = 64 * 1024;

fn connect(server: &str, request: &str) -> Result<TcpStream> {
    let mut stream =
        TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(300)))?;
    stream.set_write_timeout(Some(Duration::from_secs(300)))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    Ok(stream)
}

/// Streams `bytes` to the server, which verifies them.
pub(crate) fn send(server: &str, bytes: u64, seed: u64) -> Result<()> {
    let start = Instant::now();
    let mut stream = connect(server, &format!("send {bytes} {seed}"))?;
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < bytes {
        let count = usize::try_from((bytes - offset).min(CHUNK as u64))?;
        pattern::fill(&mut buffer[..count], seed, offset);
        stream
            .write_all(&buffer[..count])
            .with_context(|| format!("sending after {offset} bytes"))?;
        offset += count as u64;
    }
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("waiting for the server's verdict")?;
    ensure!(answer.trim() == "ok", "the server says: {}", answer.trim());
    report("sent", bytes, start);
    Ok(())
}

/// Takes `bytes` from the server and verifies them.
pub(crate) fn receive(server: &str, bytes: u64, seed: u64) -> Result<()> {
    let start = Instant::now();
    let mut stream = connect(server, &format!("receive {bytes} {seed}"))?;
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < bytes {
        let count = usize::try_from((bytes - offset).min(CHUNK as u64))?;
        stream
            .read_exact(&mut buffer[..count])
            .with_context(|| format!("receiving after {offset} bytes"))?;
        if let Some(at) = pattern::mismatch(&buffer[..count], seed, offset) {
            bail!("wrong byte at {}", offset + at as u64);
        }
        offset += count as u64;
    }
    report("received", bytes, start);
    Ok(())
}

/// Serves transfers, one at a time.
pub(crate) fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    for stream in listener.incoming() {
        if let Err(error) = transfer::serve(&stream.context("accepting")?) {
            println!("agent: {error:#}");
        }
    }
    Ok(())
}

fn report(what: &str, bytes: u64, start: Instant) {
    println!(
        "{what} {} MiB in {:.1} s",
        bytes >> 20,
        start.elapsed().as_secs_f64()
    );
}
