//! Error numbers of the ABI (`public/errno.h`); returned negated in rax.

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $val:literal,)*) => {
        /// One of Xen's error numbers.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Errno { $($(#[$doc])* $name = $val,)* }

        impl Errno {
            /// Every one, in the order of the values.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }

        impl core::fmt::Debug for Errno {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(match self { $(Self::$name => stringify!($name),)* })
            }
        }
    };
}

errnos! {
    /// Operation not permitted.
    EPERM = 1,
    /// No such entry.
    ENOENT = 2,
    /// No such domain.
    ESRCH = 3,
    /// Input or output error.
    EIO = 5,
    /// No such device or address.
    ENXIO = 6,
    /// Argument list too long.
    E2BIG = 7,
    /// Bad file number.
    EBADF = 9,
    /// Try again.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Permission denied; also a wrong interface version.
    EACCES = 13,
    /// Bad guest address.
    EFAULT = 14,
    /// Resource busy.
    EBUSY = 16,
    /// Already exists.
    EEXIST = 17,
    /// Improper link.
    EXDEV = 18,
    /// No such device.
    ENODEV = 19,
    /// Not a directory.
    ENOTDIR = 20,
    /// Is a directory.
    EISDIR = 21,
    /// Invalid argument.
    EINVAL = 22,
    /// No space left.
    ENOSPC = 28,
    /// Read-only.
    EROFS = 30,
    /// Result too large.
    ERANGE = 34,
    /// Would deadlock.
    EDEADLK = 35,
    /// Function not implemented.
    ENOSYS = 38,
    /// No data available.
    ENODATA = 61,
    /// Value too large for its type.
    EOVERFLOW = 75,
    /// Bad file contents.
    EILSEQ = 84,
    /// Internal only: restart the hypercall. Never seen by a guest.
    ERESTART = 85,
    /// Operation not supported.
    EOPNOTSUPP = 95,
    /// No buffer space.
    ENOBUFS = 105,
    /// Not connected.
    ENOTCONN = 107,
    /// Timed out.
    ETIMEDOUT = 110,
}

impl Errno {
    /// The value as a guest sees it in rax.
    #[inline]
    #[must_use]
    pub const fn as_rax(self) -> u64 {
        (-(self as i32)) as i64 as u64
    }
}
