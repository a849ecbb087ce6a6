//! The host's end of network tests: a TCP server on the loopback that takes or
//! sends a known stream. The agent in the guest is the client.
//!
//! The client's first line is `send BYTES SEED` or `receive BYTES SEED`; after
//! a `send` the server answers `ok` or names the first wrong byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use guest_agent::pattern;

/// A server that lives as long as the process; each connection is one transfer.
#[derive(Debug)]
pub struct NetServer {
    port: u16,
}

impl NetServer {
    /// Starts listening.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening on the loopback")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    if let Err(error) = serve(&stream) {
                        eprintln!("network server: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port })
    }

    /// The port on the host's loopback, which a guest reaches as 10.0.N.2.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn serve(stream: &TcpStream) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn send(bytes: &[u8], seed: u64) -> String {
        let server = NetServer::start().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream
            .write_all(format!("send {} {seed}\n", bytes.len()).as_bytes())
            .unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_right_stream_is_taken_and_a_wrong_byte_is_found() {
        let mut bytes = vec![0; 200_000];
        pattern::fill(&mut bytes, 7, 0);
        assert_eq!(send(&bytes, 7), "ok\n");
        bytes[123_456] ^= 1;
        assert_eq!(send(&bytes, 7), "wrong byte at 123456\n");
    }
}
