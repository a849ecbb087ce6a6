//! A connection to the daemon.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen_abi::{DomId, EvtchnPort, Gfn};

use crate::error::{Error, Result, StoreError};
use crate::store::{Request, Store};
use crate::wire::{Decoder, HEADER, Header, Kind, Message, TooLong, TxId, join, strings};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/xenstored/socket";
/// The way through the kernel: in guests, and in dom0 beside the socket.
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];
/// Replaces [`SOCKET`].
const SOCKET_VARIABLE: &str = "XENSTORED_PATH";

/// A watch has fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The node that changed, or the one watched; relative if the watch was.
    pub path: String,
    /// What the watch was registered with.
    pub token: String,
}

#[derive(Debug)]
enum Stream {
    Socket(UnixStream),
    Device(File),
}

impl Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.read(bytes),
            Self::Device(device) => device.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.write_all(bytes),
            Self::Device(device) => device.write_all(bytes),
        }
    }
}

fn refused(error: StoreError, kind: Kind, payload: &[u8]) -> Error {
    let path = strings(payload).0.first().copied().unwrap_or_default();
    let what = format!("{} {}", kind.name(), String::from_utf8_lossy(path));
    Error::Store { error, what }
}

/// A connection. Requests are answered in order; events that come in between are kept. Those that
/// came with answers are not announced by the connection's descriptor any more: who waits for
/// that takes events until there are none.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    decoder: Decoder,
    /// Read, but not looked at yet.
    inbox: VecDeque<Message>,
    events: VecDeque<WatchEvent>,
    next_request: u32,
}

impl Client {
    /// Connects to the daemon: its socket, else the kernel's device. A socket where nobody
    /// listens is the daemon's of this domain, which is gone: the kernel would wait for it.
    ///
    /// # Errors
    /// When neither is there; the error is the socket's.
    pub fn open() -> Result<Self> {
        let socket = std::env::var(SOCKET_VARIABLE);
        let socket = Path::new(socket.as_deref().unwrap_or(SOCKET));
        let failure = match Self::connect(socket) {
            Ok(client) => return Ok(client),
            Err(failure) if socket.exists() => return Err(failure),
            Err(failure) => failure,
        };
        for device in DEVICES {
            if let Ok(device) = OpenOptions::new().read(true).write(true).open(device) {
                return Ok(Self::over(Stream::Device(device)));
            }
        }
        Err(failure)
    }

    /// Connects to the daemon that listens at `socket`.
    ///
    /// # Errors
    /// When none does.
    pub fn connect(socket: &Path) -> Result<Self> {
        Ok(Self::over(Stream::Socket(UnixStream::connect(socket)?)))
    }

    /// Talks over a socket that is connected already.
    #[must_use]
    pub fn from_socket(socket: UnixStream) -> Self {
        Self::over(Stream::Socket(socket))
    }

    fn over(stream: Stream) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            inbox: VecDeque::new(),
            events: VecDeque::new(),
            next_request: 1,
        }
    }

    /// Reads once, whatever is there.
    fn fill(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut input = bytes.get(..count).unwrap_or_default();
        while !input.is_empty() {
            let message = self.decoder.feed(&mut input);
            let message = message.map_err(|TooLong| Error::Protocol("longer than a message"))?;
            self.inbox.extend(message);
        }
        Ok(())
    }

    /// The next message.
    fn receive(&mut self) -> Result<Message> {
        loop {
            match self.inbox.pop_front() {
                Some(message) => return Ok(message),
                None => self.fill()?,
            }
        }
    }

    fn keep_event(&mut self, payload: &[u8]) -> Result<()> {
        let (fields, _) = strings(payload);
        let [path, token, ..] = fields.as_slice() else {
            return Err(Error::Protocol("an event without path and token"));
        };
        self.events.push_back(WatchEvent {
            path: String::from_utf8_lossy(path).into_owned(),
            token: String::from_utf8_lossy(token).into_owned(),
        });
        Ok(())
    }

    fn exchange(&mut self, kind: Kind, tx: TxId, payload: &[u8]) -> Result<Vec<u8>> {
        let request = self.send(tx, &[(kind, payload)])?;
        self.reply_to(request, kind, payload)?
    }

    /// As many exchanges, but requests go out together where the daemon takes them so.
    fn exchange_all(&mut self, tx: TxId, requests: &[Request]) -> Result<Vec<Result<Vec<u8>>>> {
        /// A socket takes this much at once, though nobody reads its replies meanwhile.
        const AT_ONCE: usize = 16 << 10;
        let mut replies = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut room = AT_ONCE;
            let fits = |request: &&Request| {
                let size = HEADER + request.payload.len();
                room = room.saturating_sub(size);
                room > 0
            };
            let count = match self.stream {
                Stream::Socket(_) => rest.iter().take_while(fits).count().max(1),
                // The kernel takes one with each write.
                Stream::Device(_) => 1,
            };
            let (now, later) = rest.split_at(count);
            let parts: Vec<_> = now.iter().map(|r| (r.kind, &*r.payload)).collect();
            let mut number = self.send(tx, &parts)?;
            for (kind, payload) in parts {
                replies.push(self.reply_to(number, kind, payload)?);
                number = number.wrapping_add(1);
            }
            rest = later;
        }
        Ok(replies)
    }

    /// Sends requests with one write; the number of the first.
    fn send(&mut self, tx: TxId, requests: &[(Kind, &[u8])]) -> Result<u32> {
        let first = self.next_request;
        let mut bytes = Vec::new();
        for &(kind, payload) in requests {
            let header = Header {
                kind,
                request: self.next_request,
                tx,
            };
            header
                .encode(payload, &mut bytes)
                .map_err(|TooLong| refused(StoreError::E2BIG, kind, payload))?;
            self.next_request = self.next_request.wrapping_add(1);
        }
        self.stream.write_all(&bytes)?;
        Ok(first)
    }

    /// Waits for the reply to a request: an error when there will be none, else what it says.
    fn reply_to(&mut self, request: u32, kind: Kind, payload: &[u8]) -> Result<Result<Vec<u8>>> {
        loop {
            let reply = self.receive()?;
            match reply.kind {
                Kind::WATCH_EVENT => self.keep_event(&reply.payload)?,
                _ if reply.request != request => {
                    return Err(Error::Protocol("to another request"));
                }
                Kind::ERROR => {
                    let name = strings(&reply.payload).0.first().copied();
                    let error = name
                        .and_then(StoreError::from_name)
                        .ok_or(Error::Protocol("an unknown error"))?;
                    return Ok(Err(refused(error, kind, payload)));
                }
                got if got == kind => return Ok(Ok(reply.payload)),
                _ => return Err(Error::Protocol("of another kind")),
            }
        }
    }

    /// Does `work` in a transaction and commits it; again from the start when others changed
    /// the same nodes meanwhile. An error of `work` gives it up.
    ///
    /// # Errors
    /// Those of `work`, and of the daemon.
    pub fn transaction<T>(
        &mut self,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        loop {
            let mut transaction = self.begin()?;
            let outcome = match work(&mut transaction) {
                Ok(outcome) => outcome,
                Err(error) => {
                    // The first error is the one to tell.
                    let _ = transaction.abort();
                    return Err(error);
                }
            };
            match transaction.commit() {
                Ok(()) => return Ok(outcome),
                Err(error) if error.store_error() == Some(StoreError::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins a transaction. Dropped without [`commit`](Transaction::commit), it is given up.
    ///
    /// # Errors
    /// `ENOSPC` when the connection has too many.
    pub fn begin(&mut self) -> Result<Transaction<'_>> {
        let reply = self.exchange(Kind::TRANSACTION_START, TxId::NONE, b"\0")?;
        let id = strings(&reply)
            .0
            .first()
            .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok())
            .ok_or(Error::Protocol("not a transaction"))?;
        Ok(Transaction {
            client: self,
            id: TxId(id),
            is_open: true,
        })
    }

    /// Watches a node and all below it, or a special one (`@releaseDomain`). It fires once
    /// right away.
    ///
    /// # Errors
    /// `EEXIST` for the same path and token again; `ENOSPC`.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        self.exchange(Kind::WATCH, TxId::NONE, &join(&[path, token]))
            .map(drop)
    }

    /// Ends a watch. Events that have fired already are still given.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<()> {
        self.exchange(Kind::UNWATCH, TxId::NONE, &join(&[path, token]))
            .map(drop)
    }

    /// The next event that has fired, waiting for it no longer than `timeout` (`None`: for ever).
    ///
    /// # Errors
    /// A broken connection.
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Option<WatchEvent>> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if let Some(message) = self.inbox.pop_front() {
                match message.kind {
                    Kind::WATCH_EVENT => self.keep_event(&message.payload)?,
                    _ => return Err(Error::Protocol("to no request")),
                }
                continue;
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [PollFd::new(self, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            self.fill()?;
        }
    }

    /// Tells the daemon of a domain whose ring is at `gfn`, with `port` to connect to.
    ///
    /// # Errors
    /// `EINVAL` when there is no such domain, or its ring cannot be mapped; `EACCES`.
    pub fn introduce(&mut self, domain: DomId, gfn: Gfn, port: EvtchnPort) -> Result<()> {
        let fields = [domain.0.to_string(), gfn.0.to_string(), port.0.to_string()];
        self.exchange(Kind::INTRODUCE, TxId::NONE, &join(&fields))
            .map(drop)
    }

    fn about(&mut self, kind: Kind, domain: DomId) -> Result<Vec<u8>> {
        self.exchange(kind, TxId::NONE, &join(&[domain.0.to_string()]))
    }

    /// Tells the daemon to forget a domain.
    ///
    /// # Errors
    /// `ENOENT` when it does not know it; `EACCES`.
    pub fn release(&mut self, domain: DomId) -> Result<()> {
        self.about(Kind::RELEASE, domain).map(drop)
    }

    /// Tells the daemon that a domain goes on after its suspension was cancelled.
    ///
    /// # Errors
    /// `ENOENT` when it does not know it; `EACCES`.
    pub fn resume(&mut self, domain: DomId) -> Result<()> {
        self.about(Kind::RESUME, domain).map(drop)
    }

    /// Does the daemon know the domain?
    ///
    /// # Errors
    /// A broken connection.
    pub fn is_introduced(&mut self, domain: DomId) -> Result<bool> {
        Ok(self.about(Kind::IS_DOMAIN_INTRODUCED, domain)?.first() == Some(&b'T'))
    }

    /// Gives `domain` the rights of `target` as well.
    ///
    /// # Errors
    /// `ENOENT` when the daemon does not know one of them; `EACCES`.
    pub fn set_target(&mut self, domain: DomId, target: DomId) -> Result<()> {
        let fields = [domain.0.to_string(), target.0.to_string()];
        self.exchange(Kind::SET_TARGET, TxId::NONE, &join(&fields))
            .map(drop)
    }

    /// A control command with its arguments; gives what the daemon says.
    ///
    /// # Errors
    /// `EINVAL` for one that it does not know; `EACCES`.
    pub fn control(&mut self, command: &[&str]) -> Result<String> {
        let reply = self.exchange(Kind::CONTROL, TxId::NONE, &join(command))?;
        let text = reply.strip_suffix(b"\0").unwrap_or(&reply);
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

impl Store for Client {
    fn request(&mut self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>> {
        self.exchange(kind, TxId::NONE, payload)
    }

    fn requests(&mut self, requests: &[Request]) -> Result<Vec<Result<Vec<u8>>>> {
        self.exchange_all(TxId::NONE, requests)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Socket(socket) => socket.as_fd(),
            Stream::Device(device) => device.as_fd(),
        }
    }
}

/// A transaction: others see all of it or nothing.
#[derive(Debug)]
pub struct Transaction<'a> {
    client: &'a mut Client,
    id: TxId,
    is_open: bool,
}

impl Transaction<'_> {
    fn end(&mut self, decision: &[u8]) -> Result<()> {
        self.is_open = false;
        self.client
            .exchange(Kind::TRANSACTION_END, self.id, decision)
            .map(drop)
    }

    /// Makes its changes visible.
    ///
    /// # Errors
    /// `EAGAIN` when it conflicts with what others did meanwhile: then nothing has changed.
    pub fn commit(mut self) -> Result<()> {
        self.end(b"T\0")
    }

    /// Gives it up.
    ///
    /// # Errors
    /// A broken connection.
    pub fn abort(mut self) -> Result<()> {
        self.end(b"F\0")
    }
}

impl Store for Transaction<'_> {
    fn request(&mut self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>> {
        self.client.exchange(kind, self.id, payload)
    }

    fn requests(&mut self, requests: &[Request]) -> Result<Vec<Result<Vec<u8>>>> {
        self.client.exchange_all(self.id, requests)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // A broken connection ends its transactions by itself.
            let _ = self.end(b"F\0");
        }
    }
}
