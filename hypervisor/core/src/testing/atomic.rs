//! `core`'s atomic words for tests: before each operation another task may run.

use core::sync::atomic::{self, Ordering};

use super::interleave::point;

macro_rules! word {
    ($($name:ident: $t:ty { $($number:ident)* })*) => {$(
        #[doc = concat!("[`atomic::", stringify!($name), "`], interruptible.")]
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(atomic::$name);

        #[expect(missing_docs, reason = "as core's")]
        #[allow(clippy::missing_errors_doc, reason = "as core's")]
        impl $name {
            #[must_use]
            pub const fn new(value: $t) -> Self {
                Self(atomic::$name::new(value))
            }
            pub fn get_mut(&mut self) -> &mut $t {
                self.0.get_mut()
            }
            #[inline]
            pub fn load(&self, order: Ordering) -> $t {
                point();
                self.0.load(order)
            }
            #[inline]
            pub fn store(&self, value: $t, order: Ordering) {
                point();
                self.0.store(value, order);
            }
            word!(@ $t { swap fetch_and fetch_or fetch_xor $($number)* });
            #[inline]
            pub fn compare_exchange(
                &self,
                old: $t,
                new: $t,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$t, $t> {
                point();
                self.0.compare_exchange(old, new, success, failure)
            }
            #[inline]
            pub fn compare_exchange_weak(
                &self,
                old: $t,
                new: $t,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$t, $t> {
                point();
                self.0.compare_exchange_weak(old, new, success, failure)
            }
            #[inline]
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut f: impl FnMut($t) -> Option<$t>,
            ) -> Result<$t, $t> {
                let mut seen = self.load(failure);
                while let Some(new) = f(seen) {
                    match self.compare_exchange_weak(seen, new, success, failure) {
                        Ok(old) => return Ok(old),
                        Err(now) => seen = now,
                    }
                }
                Err(seen)
            }
        }
    )*};
    (@ $t:ty { $($op:ident)* }) => {$(
        #[inline]
        pub fn $op(&self, value: $t, order: Ordering) -> $t {
            point();
            self.0.$op(value, order)
        }
    )*};
}

word! {
    AtomicBool: bool {}
    AtomicU8: u8 { fetch_add fetch_sub fetch_max fetch_min }
    AtomicU16: u16 { fetch_add fetch_sub fetch_max fetch_min }
    AtomicU32: u32 { fetch_add fetch_sub fetch_max fetch_min }
    AtomicU64: u64 { fetch_add fetch_sub fetch_max fetch_min }
    AtomicI64: i64 { fetch_add fetch_sub fetch_max fetch_min }
    AtomicUsize: usize { fetch_add fetch_sub fetch_max fetch_min }
}
