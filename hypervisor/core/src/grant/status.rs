//! Status codes of single operations (`GNTST_*`).

use core::fmt;
use xen_abi::grant_table as abi;

/// Why a grant operation failed, as it goes into its `status` field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub i16);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:ident,)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self(abi::$code);)*
        }
        impl fmt::Debug for Status {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($code)),)*
                    Self(other) => write!(f, "GNTST {other}"),
                }
            }
        }
    };
}

codes! {
    /// Success; never an `Err`.
    OKAY = GNTST_okay,
    /// The grant does not allow it, or anything else.
    GENERAL_ERROR = GNTST_general_error,
    /// No such domain.
    BAD_DOMAIN = GNTST_bad_domain,
    /// No such grant.
    BAD_GNTREF = GNTST_bad_gntref,
    /// No such mapping.
    BAD_HANDLE = GNTST_bad_handle,
    /// The address is not where the mapping is.
    BAD_VIRT_ADDR = GNTST_bad_virt_addr,
    /// The bus address is not the mapping's.
    BAD_DEV_ADDR = GNTST_bad_dev_addr,
    /// The IOMMU is full.
    NO_DEVICE_SPACE = GNTST_no_device_space,
    /// Not allowed to.
    PERMISSION_DENIED = GNTST_permission_denied,
    /// The granted frame is not RAM of the lender's.
    BAD_PAGE = GNTST_bad_page,
    /// A copy leaves its page.
    BAD_COPY_ARG = GNTST_bad_copy_arg,
    /// The frame does not fit a version 1 entry.
    ADDRESS_TOO_BIG = GNTST_address_too_big,
    /// Busy, try again.
    EAGAIN = GNTST_eagain,
    /// No mapping handle is free.
    NO_SPACE = GNTST_no_space,
}
