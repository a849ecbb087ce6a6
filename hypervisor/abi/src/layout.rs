//! How the modules of this crate declare the ABI, and what they tell the test about it.
//!
//! `abi_structs!` and `abi_consts!` write down a header's layouts and numbers
//! once.  Each also fills a table ([`Header`]) from which `tests/abi` generates C
//! that compares sizes, offsets and values with the distribution's own headers,
//! so that nothing declared here escapes the comparison.
//!
//! Rules: field names are C's; fields that fill a hole which C leaves unnamed
//! start with `_fill`, fields that hold C's bit-fields with `bits`; a C union is a
//! [`Union`] of its size, and the structs that live in it are declared on their own.  Every layout derives `IntoBytes`, which
//! fails to compile when padding is forgotten: no uninitialised byte can leak.

use core::marker::PhantomData;
use core::mem::size_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A field of a [`Layout`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name in C and here.
    pub name: &'static str,
    /// Byte offset.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// A struct as this crate lays it out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The type in C (`struct x`, a typedef, or a `__typeof__` expression).
    pub c_type: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Fields in order.
    pub fields: &'static [Field],
}

/// A number that a header defines.
#[derive(Clone, Copy, Debug)]
pub struct Const {
    /// The expression in C, nearly always the name.
    pub name: &'static str,
    /// Value.
    pub value: i128,
}

/// What one module declares of one public header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Paths below the headers' root, for example `xen/vcpu.h`.
    pub paths: &'static [&'static str],
    /// Structs.
    pub layouts: &'static [&'static [Layout]],
    /// Numbers.
    pub consts: &'static [&'static [Const]],
}

/// A pointer of the guest to `T`, eight bytes wide: a claim, not something to follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Handle<T> {
    /// Guest-linear address.
    pub addr: u64,
    pointee: PhantomData<T>,
}

impl<T> Handle<T> {
    /// The null handle, with which callers ask for sizes.
    pub const NULL: Self = Self::new(0);

    /// A handle to `addr`.
    #[inline]
    #[must_use]
    pub const fn new(addr: u64) -> Self {
        Self {
            addr,
            pointee: PhantomData,
        }
    }
    /// Is it the null handle?
    #[inline]
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.addr == 0
    }
    /// The same address with another pointee.
    #[inline]
    #[must_use]
    pub const fn cast<U>(self) -> Handle<U> {
        Handle::new(self.addr)
    }
    /// Element `n` of the array behind the handle; `None` when the address wraps.
    #[inline]
    #[must_use]
    pub const fn index(self, n: u64) -> Option<Self> {
        let Some(bytes) = n.checked_mul(size_of::<T>() as u64) else {
            return None;
        };
        match self.addr.checked_add(bytes) {
            Some(addr) => Some(Self::new(addr)),
            None => None,
        }
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}
impl<T> Default for Handle<T> {
    fn default() -> Self {
        Self::NULL
    }
}
impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}
impl<T> Eq for Handle<T> {}
impl<T> core::fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Handle({:#x})", self.addr)
    }
}

/// The bytes of a C union: `A` is an array of the union's alignment and size.
///
/// Members are read and written as whole values; a member larger than the union
/// does not compile.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Union<A>(pub A);

impl<A: FromBytes + IntoBytes + Immutable> Union<A> {
    /// The union seen as its member `T`.
    #[inline]
    #[must_use]
    pub fn get<T: FromBytes + IntoBytes + Immutable>(&self) -> T {
        const {
            assert!(
                size_of::<T>() <= size_of::<A>(),
                "member larger than its union"
            )
        };
        let mut value = T::new_zeroed();
        for (to, from) in value.as_mut_bytes().iter_mut().zip(self.0.as_bytes()) {
            *to = *from;
        }
        value
    }
    /// Writes the member `value`; bytes beyond it become zero.
    #[inline]
    pub fn set<T: IntoBytes + Immutable>(&mut self, value: &T) {
        self.0 = A::new_zeroed();
        self.update(value);
    }
    /// Writes the member `value`; bytes beyond it stay.
    #[inline]
    pub fn update<T: IntoBytes + Immutable>(&mut self, value: &T) {
        const {
            assert!(
                size_of::<T>() <= size_of::<A>(),
                "member larger than its union"
            )
        };
        for (to, from) in self.0.as_mut_bytes().iter_mut().zip(value.as_bytes()) {
            *to = *from;
        }
    }
    /// A union that holds the member `value` and zeros.
    #[inline]
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(value: &T) -> Self {
        let mut union = Self(A::new_zeroed());
        union.update(value);
        union
    }
}

/// Declares structs with their C types and a table `$table` of their layouts.
macro_rules! abi_structs {
    ($table:ident: $($(#[$meta:meta])* $name:ident($c:literal) { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* })*) => {
        $(
            #[doc = concat!("Layout of `", $c, "`.")]
            ///
            $(#[$meta])*
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq,
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
            )]
            #[repr(C)]
            #[allow(missing_docs, reason = "the fields are the header's")]
            pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
        )*
        /// Layouts declared above, for `tests/abi`.
        #[doc(hidden)]
        pub const $table: &[$crate::layout::Layout] = &[$(
            $crate::layout::Layout {
                c_type: $c,
                size: core::mem::size_of::<$name>(),
                fields: &[$($crate::layout::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                    size: core::mem::size_of::<$ty>(),
                },)*],
            },
        )*];
    };
}

/// Declares numbers of one type (`NAME = value`, or `NAME("C expression") = value`) and a table `$table` of their values.
macro_rules! abi_consts {
    (@c $name:ident) => { stringify!($name) };
    (@c $name:ident $c:literal) => { $c };
    ($table:ident: $ty:ty; $($(#[$meta:meta])* $name:ident $(($c:literal))? = $value:expr,)*) => {
        $(
            $(#[$meta])*
            #[allow(missing_docs, non_upper_case_globals, reason = "the header's name")]
            pub const $name: $ty = $value;
        )*
        /// Numbers declared above, for `tests/abi`.
        #[doc(hidden)]
        pub const $table: &[$crate::layout::Const] = &[$(
            $crate::layout::Const {
                name: $crate::layout::abi_consts!(@c $name $($c)?),
                value: $name as i128,
            },
        )*];
    };
}

pub(crate) use {abi_consts, abi_structs};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_do_not_wrap() {
        let handle = Handle::<u64>::new(0x1000);
        assert_eq!(handle.index(2), Some(Handle::new(0x1010)));
        assert_eq!(Handle::<u64>::new(u64::MAX - 7).index(1), None);
        assert_eq!(handle.index(u64::MAX / 4), None);
        assert!(Handle::<u8>::NULL.is_null() && !handle.is_null());
        assert_eq!(handle.cast::<u8>().index(1), Some(Handle::new(0x1001)));
    }

    #[test]
    fn unions_hold_their_members() {
        let mut union = Union([0u64; 2]);
        union.set(&0x1122_3344_5566_7788u64);
        assert_eq!(union.get::<u32>(), 0x5566_7788);
        assert_eq!(union.get::<[u64; 2]>(), [0x1122_3344_5566_7788, 0]);
        union.0 = [u64::MAX; 2];
        union.update(&0u16);
        assert_eq!(union.0, [u64::MAX << 16, u64::MAX]);
        union.set(&1u8);
        assert_eq!(union.0, [1, 0]);
        assert_eq!(Union::<[u32; 2]>::new(&5u32).0, [5, 0]);
    }
}
