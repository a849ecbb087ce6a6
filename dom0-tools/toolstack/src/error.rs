//! One error for a failed operation: what was being done, why it failed, what to do.

use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something failed.
#[derive(Debug)]
pub enum Cause {
    /// A hypercall or device of the kernel.
    Hypervisor(xencall::Error),
    /// Xenstore.
    Store(xenstore::Error),
    /// A file or another request to the kernel.
    Io(std::io::Error),
    /// A kernel image.
    Kernel(guest_image::kernel::KernelError),
    /// Said in words.
    Words(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypervisor(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Kernel(error) => error.fmt(f),
            Self::Words(words) => f.write_str(words),
        }
    }
}

/// A failed operation.
#[derive(Debug)]
pub struct Error {
    /// What was being done.
    pub doing: String,
    /// Why it failed.
    pub cause: Box<Cause>,
    /// What to do; empty when the cause says it.
    pub help: String,
}

impl Error {
    /// From words.
    pub fn new(
        doing: impl Into<String>,
        cause: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            doing: doing.into(),
            cause: Box::new(Cause::Words(cause.into())),
            help: help.into(),
        }
    }

    /// There is no such domain?
    #[must_use]
    pub fn is_no_such_domain(&self) -> bool {
        matches!(&*self.cause, Cause::Hypervisor(error) if error.is_no_such_domain())
    }

    /// The connection to xenstore is lost, as when its daemon is started anew?
    #[must_use]
    pub fn is_store_lost(&self) -> bool {
        use xenstore::Error as E;
        matches!(&*self.cause, Cause::Store(error) if !matches!(error, E::Store { .. }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.doing.is_empty() {
            write!(f, "{}: ", self.doing)?;
        }
        self.cause.fmt(f)?;
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

macro_rules! causes {
    ($($variant:ident: $ty:ty,)*) => {
        $(impl From<$ty> for Error {
            fn from(error: $ty) -> Self {
                Self {
                    doing: String::new(),
                    cause: Box::new(Cause::$variant(error)),
                    help: String::new(),
                }
            }
        })*
    };
}

causes! {
    Hypervisor: xencall::Error,
    Store: xenstore::Error,
    Io: std::io::Error,
    Kernel: guest_image::kernel::KernelError,
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        std::io::Error::from(error).into()
    }
}

/// Adds what was being done.
pub(crate) trait During<T> {
    /// `doing` is said first, unless something nearer to the failure was said already.
    fn during(self, doing: impl FnOnce() -> String) -> Result<T>;
    /// The same with a remedy.
    fn during_or(self, doing: impl FnOnce() -> String, help: &str) -> Result<T>;
}

impl<T, E: Into<Error>> During<T> for std::result::Result<T, E> {
    fn during(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.during_or(doing, "")
    }

    fn during_or(self, doing: impl FnOnce() -> String, help: &str) -> Result<T> {
        self.map_err(|error| {
            let mut error = error.into();
            if error.doing.is_empty() {
                error.doing = doing();
            }
            if error.help.is_empty() {
                help.clone_into(&mut error.help);
            }
            error
        })
    }
}
