//! Messages as bytes.
//!
//! A message is a header of four words ([`XsdSockmsg`]) and up to [`PAYLOAD_MAX`] bytes.
//! [`Decoder`] takes bytes in whatever pieces they come and never holds more than one message.
//! A header that announces more breaks the connection: there is no way to find the next one.

use xen_abi::xs_wire::{
    XENSTORE_PAYLOAD_MAX, XS_CONTROL, XS_DIRECTORY, XS_DIRECTORY_PART, XS_ERROR,
    XS_GET_DOMAIN_PATH, XS_GET_PERMS, XS_INTRODUCE, XS_IS_DOMAIN_INTRODUCED, XS_MKDIR, XS_READ,
    XS_RELEASE, XS_RESET_WATCHES, XS_RESUME, XS_RM, XS_SET_PERMS, XS_SET_TARGET,
    XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WATCH_EVENT, XS_WRITE,
    XsdSockmsg,
};
use zerocopy::{FromBytes, IntoBytes};

/// The longest payload.
pub const PAYLOAD_MAX: usize = XENSTORE_PAYLOAD_MAX as usize;
/// Bytes of a header.
pub const HEADER: usize = size_of::<XsdSockmsg>();

/// What a message is (`XS_*`). Any number can come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(pub u32);

macro_rules! kinds {
    ($($name:ident = $value:ident,)*) => {
        #[allow(missing_docs, reason = "the protocol's names")]
        impl Kind {
            $(pub const $name: Self = Self($value);)*
            const NAMES: &[(u32, &'static str)] = &[$(($value, stringify!($name)),)*];
        }
    };
}

kinds! {
    CONTROL = XS_CONTROL,
    DIRECTORY = XS_DIRECTORY,
    READ = XS_READ,
    GET_PERMS = XS_GET_PERMS,
    WATCH = XS_WATCH,
    UNWATCH = XS_UNWATCH,
    TRANSACTION_START = XS_TRANSACTION_START,
    TRANSACTION_END = XS_TRANSACTION_END,
    INTRODUCE = XS_INTRODUCE,
    RELEASE = XS_RELEASE,
    GET_DOMAIN_PATH = XS_GET_DOMAIN_PATH,
    WRITE = XS_WRITE,
    MKDIR = XS_MKDIR,
    RM = XS_RM,
    SET_PERMS = XS_SET_PERMS,
    WATCH_EVENT = XS_WATCH_EVENT,
    ERROR = XS_ERROR,
    IS_DOMAIN_INTRODUCED = XS_IS_DOMAIN_INTRODUCED,
    RESUME = XS_RESUME,
    SET_TARGET = XS_SET_TARGET,
    RESET_WATCHES = XS_RESET_WATCHES,
    DIRECTORY_PART = XS_DIRECTORY_PART,
}

impl Kind {
    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(value, _)| *value == self.0);
        found.map_or("UNKNOWN", |(_, name)| name)
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// A transaction's number on its connection; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxId(pub u32);

impl TxId {
    /// No transaction.
    pub const NONE: Self = Self(0);
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Chosen by the client; the reply has the same.
    pub request: u32,
    /// The transaction that it belongs to.
    pub tx: TxId,
    /// At most [`PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// The payload was longer than [`PAYLOAD_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// What stands before a message's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) request: u32,
    pub(crate) tx: TxId,
}

impl Header {
    /// Appends the message with this payload to `out`.
    pub(crate) fn encode(self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        let len = u32::try_from(payload.len()).map_err(|_| TooLong)?;
        if len > XENSTORE_PAYLOAD_MAX {
            return Err(TooLong);
        }
        let header = XsdSockmsg {
            r#type: self.kind.0,
            req_id: self.request,
            tx_id: self.tx.0,
            len,
        };
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(payload);
        Ok(())
    }
}

impl Message {
    /// Appends it to `out`.
    ///
    /// # Errors
    /// When the payload is too long; then nothing is appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let header = Header {
            kind: self.kind,
            request: self.request,
            tx: self.tx,
        };
        header.encode(&self.payload, out)
    }
}

/// Takes a stream of bytes apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoder {
    /// The message that is not complete yet.
    bytes: Vec<u8>,
}

impl Decoder {
    /// A decoder that has seen `bytes` already (see [`pending`](Self::pending)).
    #[must_use]
    pub fn resumed(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Bytes of the message that is not complete yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes the present message still needs, as far as is known: never more than
    /// there are, never 0.
    #[must_use]
    pub fn wants(&self) -> usize {
        let whole = match self.header() {
            Some(header) => HEADER + (header.len as usize).min(PAYLOAD_MAX),
            None => HEADER,
        };
        (whole - self.bytes.len().min(whole)).max(1)
    }

    fn header(&self) -> Option<XsdSockmsg> {
        XsdSockmsg::read_from_prefix(&self.bytes).ok().map(|h| h.0)
    }

    /// Takes bytes from the front of `input`, up to the end of a message, and gives it.
    ///
    /// # Errors
    /// For a header that announces too much. Nothing sensible can follow.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Message>, TooLong> {
        let message = |header: XsdSockmsg, payload| Message {
            kind: Kind(header.r#type),
            request: header.req_id,
            tx: TxId(header.tx_id),
            payload,
        };
        // A message that is all there is not put together first.
        if self.bytes.is_empty()
            && let Ok((header, rest)) = XsdSockmsg::read_from_prefix(input)
            && header.len <= XENSTORE_PAYLOAD_MAX
            && let Some((payload, later)) = rest.split_at_checked(header.len as usize)
        {
            *input = later;
            return Ok(Some(message(header, payload.to_vec())));
        }
        loop {
            if let Some(header) = self.header() {
                let len = header.len as usize;
                if len > PAYLOAD_MAX {
                    return Err(TooLong);
                }
                if self.bytes.len() >= HEADER + len {
                    let mut payload = std::mem::take(&mut self.bytes);
                    payload.drain(..HEADER);
                    return Ok(Some(message(header, payload)));
                }
            }
            if input.is_empty() {
                return Ok(None);
            }
            let (now, later) = input.split_at(self.wants().min(input.len()));
            self.bytes.extend_from_slice(now);
            *input = later;
        }
    }
}

/// Strings in a payload, each ended by a zero byte. What stands after the last zero byte is
/// the remainder.
#[must_use]
pub fn strings(payload: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut list: Vec<&[u8]> = payload.split(|byte| *byte == 0).collect();
    let rest = list.pop().unwrap_or_default();
    (list, rest)
}

/// A payload of strings, each ended by a zero byte.
#[must_use]
pub fn join<S: AsRef<[u8]>>(strings: &[S]) -> Vec<u8> {
    let len = |string: &S| string.as_ref().len() + 1;
    let mut out = Vec::with_capacity(strings.iter().map(len).sum());
    for string in strings {
        out.extend_from_slice(string.as_ref());
        out.push(0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let message = (
            any::<u32>(),
            any::<u32>(),
            any::<u32>(),
            prop_oneof![
                4 => prop::collection::vec(any::<u8>(), 0..40),
                1 => Just(vec![7; PAYLOAD_MAX]),
            ],
        )
            .prop_map(|(kind, request, tx, payload)| Message {
                kind: Kind(kind),
                request,
                tx: TxId(tx),
                payload,
            });
        prop::collection::vec(message, 0..6)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_in_any_pieces(
            messages in messages(),
            pieces in prop::collection::vec(1usize..300, 1..8),
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                message.encode(&mut bytes).unwrap();
            }
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            let mut rest = bytes.as_slice();
            for size in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (mut piece, later) = rest.split_at((*size).min(rest.len()));
                rest = later;
                while !piece.is_empty() {
                    got.extend(decoder.feed(&mut piece).unwrap());
                }
                // A decoder that was put away and taken out again goes on as before.
                decoder = Decoder::resumed(decoder.pending().to_vec());
            }
            prop_assert_eq!(got, messages);
            prop_assert_eq!(decoder.wants(), HEADER);
        }

        #[test]
        fn any_bytes_are_bounded(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            let mut input = bytes.as_slice();
            while !input.is_empty() {
                let wants = decoder.wants();
                prop_assert!((1..=HEADER + PAYLOAD_MAX).contains(&wants));
                if decoder.feed(&mut input).is_err() {
                    break;
                }
                prop_assert!(decoder.pending().len() < HEADER + PAYLOAD_MAX);
            }
        }
    }

    #[test]
    fn too_long_is_an_error_both_ways() {
        let message = Message {
            kind: Kind::WRITE,
            request: 1,
            tx: TxId::NONE,
            payload: vec![0; PAYLOAD_MAX + 1],
        };
        let mut out = Vec::new();
        assert_eq!(message.encode(&mut out), Err(TooLong));
        assert!(out.is_empty());
        let header = XsdSockmsg {
            r#type: 0,
            req_id: 0,
            tx_id: 0,
            len: PAYLOAD_MAX as u32 + 1,
        };
        let mut input = header.as_bytes();
        assert_eq!(Decoder::default().feed(&mut input), Err(TooLong));
    }

    #[test]
    fn strings_end_with_zero_bytes() {
        assert_eq!(strings(b"a\0b\0"), (vec![&b"a"[..], b"b"], &b""[..]));
        assert_eq!(strings(b"a\0rest"), (vec![&b"a"[..]], &b"rest"[..]));
        assert_eq!(strings(b""), (vec![], &b""[..]));
        assert_eq!(join(&["a", ""]), b"a\0\0");
        assert_eq!(Kind(99).name(), "UNKNOWN");
        assert_eq!(Kind::DIRECTORY_PART.name(), "DIRECTORY_PART");
    }
}
