//! Errors that the daemon answers with, and errors of a connection.

use std::fmt;
use std::io;

macro_rules! store_errors {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// An error that the daemon answers with; the message has its name.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum StoreError { $($(#[$doc])* $name,)* }

        impl StoreError {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in a message.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

store_errors! {
    /// Malformed request, path or permission.
    EINVAL,
    /// No permission.
    EACCES,
    /// Exists already.
    EEXIST,
    /// Not something with a value.
    EISDIR,
    /// No such node, watch or domain.
    ENOENT,
    /// The daemon has no memory.
    ENOMEM,
    /// A quota is exhausted.
    ENOSPC,
    /// The daemon's state is broken.
    EIO,
    /// Has children.
    ENOTEMPTY,
    /// No such operation.
    ENOSYS,
    /// Not over this kind of connection.
    EROFS,
    /// A transaction is in the way.
    EBUSY,
    /// The transaction conflicts with what others did meanwhile: repeat it.
    EAGAIN,
    /// Connected already.
    EISCONN,
    /// The answer does not fit into a message.
    E2BIG,
    /// Not for this domain.
    EPERM,
}

impl StoreError {
    /// The error of that name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let is_it = |error: &&Self| error.name().as_bytes() == name;
        Self::ALL.iter().find(is_it).copied()
    }

    /// What it means.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::EINVAL => "not a path, value or permission that xenstore takes",
            Self::EACCES => "no permission",
            Self::EEXIST => "exists already",
            Self::EISDIR => "has no value",
            Self::ENOENT => "does not exist",
            Self::ENOMEM => "the xenstore daemon is out of memory",
            Self::ENOSPC => "a xenstore quota of the domain is exhausted",
            Self::EIO => "the xenstore daemon cannot reach the domain",
            Self::ENOTEMPTY => "has children",
            Self::ENOSYS => "the xenstore daemon does not know the operation",
            Self::EROFS => "not possible over this kind of connection",
            Self::EBUSY => "not possible within a transaction, or too many transactions",
            Self::EAGAIN => "others changed the same nodes meanwhile",
            Self::EISCONN => "connected already",
            Self::E2BIG => "longer than a message",
            Self::EPERM => "not for this domain",
        }
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A request that failed.
#[derive(Debug)]
pub enum Error {
    /// The daemon refused it.
    Store {
        /// Why.
        error: StoreError,
        /// What was asked: operation and path.
        what: String,
    },
    /// The daemon is not there, or gone.
    Connection(io::Error),
    /// What came is no xenstore message, or not one that answers.
    Protocol(&'static str),
}

impl Error {
    /// The daemon's refusal, if it was one.
    #[must_use]
    pub const fn store_error(&self) -> Option<StoreError> {
        match self {
            Self::Store { error, .. } => Some(*error),
            Self::Connection(_) | Self::Protocol(_) => None,
        }
    }

    /// The node does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.store_error() == Some(StoreError::ENOENT)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store { error, what } => {
                write!(
                    f,
                    "xenstore: {what}: {} ({})",
                    error.meaning(),
                    error.name()
                )
            }
            Self::Connection(error) => write!(f, "xenstore: no connection to the daemon: {error}"),
            Self::Protocol(what) => write!(f, "xenstore: the daemon's answer is {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connection(error) => Some(error),
            Self::Store { .. } | Self::Protocol(_) => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_errors() {
        for error in StoreError::ALL {
            assert_eq!(StoreError::from_name(error.name().as_bytes()), Some(*error));
        }
        assert_eq!(StoreError::from_name(b"EWHAT"), None);
    }
}
