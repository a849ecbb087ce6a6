//! The serving end of network tests, on the host or in another guest: it takes or sends a
//! known stream.
//!
//! The client's first line is `send BYTES SEED` or `receive BYTES SEED`; after
//! a `send` the server answers `ok` or names the first wrong byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::pattern;

/// Serves one transfer.
///
/// # Errors
/// A request that is none; a connection that breaks.
pub fn serve(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(300)))?;
    stream.set_write_timeout(Some(Duration::from_secs(300)))?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [direction, bytes, seed] = words[..] else {
        bail!("request {line:?}")
    };
    let (bytes, seed): (u64, u64) = (bytes.parse()?, seed.parse()?);
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    while offset < bytes {
        let count = usize::try_from((bytes - offset).min(buffer.len() as u64))?;
        let part = &mut buffer[..count];
        if direction == "send" {
            reader
                .read_exact(part)
                .with_context(|| format!("the stream ended after {offset} bytes"))?;
            if let Some(at) = pattern::mismatch(part, seed, offset) {
                writer.write_all(format!("wrong byte at {}\n", offset + at as u64).as_bytes())?;
                return Ok(());
            }
        } else {
            pattern::fill(part, seed, offset);
            writer.write_all(part)?;
        }
        offset += count as u64;
    }
    if direction == "send" {
        writer.write_all(b"ok\n")?;
    }
    Ok(())
}
