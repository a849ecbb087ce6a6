//! The host's end of network tests: a TCP server on the loopback. The agent in the guest
//! is the client; what they say is in `guest_agent::transfer`.

use std::net::TcpListener;

use anyhow::{Context, Result};
use guest_agent::transfer;

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
                    if let Err(error) = transfer::serve(&stream) {
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpStream;

    use guest_agent::pattern;

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
