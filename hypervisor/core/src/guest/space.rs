//! Typed copies in and out.

use super::{Fault, GuestMem};
use crate::machine::FrameMem;
use crate::p2m::EntryFormat;
use xen_abi::{Errno, Gpa, Handle};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A guest's address space as the hypervisor may copy from and to.
///
/// The typed methods take [`Handle`]s, and fail with the `EFAULT` that every hypercall returns
/// for a bad pointer.
pub trait GuestSpace {
    /// Copies bytes in.
    ///
    /// # Errors
    /// Where and why it failed; the beginning of `to` may have been filled.
    fn read_bytes(&self, addr: u64, to: &mut [u8]) -> Result<(), Fault>;

    /// Copies bytes out.
    ///
    /// # Errors
    /// Where and why it failed; pages before the bad one have been written.
    fn write_bytes(&self, addr: u64, from: &[u8]) -> Result<(), Fault>;

    /// Copies a structure in.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline]
    fn get<T: FromBytes + IntoBytes>(&self, h: Handle<T>) -> Result<T, Errno> {
        let mut v = T::new_zeroed();
        self.read_bytes(h.addr, v.as_mut_bytes())?;
        Ok(v)
    }

    /// Copies a structure out.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline]
    fn put<T: IntoBytes + Immutable>(&self, h: Handle<T>, v: &T) -> Result<(), Errno> {
        Ok(self.write_bytes(h.addr, v.as_bytes())?)
    }

    /// Copies element `i` of an array in.
    ///
    /// # Errors
    /// `EFAULT`, also when the address wraps.
    #[inline]
    fn get_at<T: FromBytes + IntoBytes>(&self, h: Handle<T>, i: u64) -> Result<T, Errno> {
        self.get(h.index(i).ok_or(Errno::EFAULT)?)
    }

    /// Copies element `i` of an array out.
    ///
    /// # Errors
    /// `EFAULT`, also when the address wraps.
    #[inline]
    fn put_at<T: IntoBytes + Immutable>(&self, h: Handle<T>, i: u64, v: &T) -> Result<(), Errno> {
        self.put(h.index(i).ok_or(Errno::EFAULT)?, v)
    }

    /// Copies elements from `first` on in, as many as `to` holds.
    ///
    /// # Errors
    /// `EFAULT`, also when the address wraps.
    fn get_slice<T: FromBytes + IntoBytes>(
        &self,
        h: Handle<T>,
        first: u64,
        to: &mut [T],
    ) -> Result<(), Errno> {
        let h = h.index(first).ok_or(Errno::EFAULT)?;
        Ok(self.read_bytes(h.addr, to.as_mut_bytes())?)
    }

    /// Copies elements out, from `first` on.
    ///
    /// # Errors
    /// `EFAULT`, also when the address wraps.
    fn put_slice<T: IntoBytes + Immutable>(
        &self,
        h: Handle<T>,
        first: u64,
        from: &[T],
    ) -> Result<(), Errno> {
        let h = h.index(first).ok_or(Errno::EFAULT)?;
        Ok(self.write_bytes(h.addr, from.as_bytes())?)
    }

    /// Copies one field of a structure out: `offset` is `offset_of!` of it.
    ///
    /// # Errors
    /// `EFAULT`, also when the address wraps.
    fn put_field<T, V: IntoBytes + Immutable>(
        &self,
        h: Handle<T>,
        offset: usize,
        v: &V,
    ) -> Result<(), Errno> {
        let h = h.cast::<u8>().index(offset as u64).ok_or(Errno::EFAULT)?;
        Ok(self.write_bytes(h.addr, v.as_bytes())?)
    }
}

/// Guest-physical addresses as a space, for the interfaces that take them.
#[derive(Debug)]
pub struct Physical<'a, M, F>(pub GuestMem<'a, M, F>);

impl<M: FrameMem, F: EntryFormat> GuestSpace for Physical<'_, M, F> {
    fn read_bytes(&self, addr: u64, to: &mut [u8]) -> Result<(), Fault> {
        self.0.read_gpa(Gpa(addr), to)
    }
    fn write_bytes(&self, addr: u64, from: &[u8]) -> Result<(), Fault> {
        self.0.write_gpa(Gpa(addr), from)
    }
}
