//! Who may do what to whom. Classes carry the names of Xen's default policy.
//!
//! A handler takes the proof that its check passed: one that forgot to check does not compile.

use alloc::sync::Arc;
use core::marker::PhantomData;

use xen_abi::Errno;

use crate::domain::Domain;
use crate::machine::Machine;

/// Anybody may call; the operation checks its objects itself.
#[derive(Debug)]
pub enum Hook {}
/// The caller on itself, or a privileged domain.
#[derive(Debug)]
pub enum Target {}
/// A privileged domain.
#[derive(Debug)]
pub enum Priv {}

/// A privileged domain, or the one that runs the xenstore daemon.
#[derive(Debug)]
pub enum XsPriv {}

/// Evidence of a passed check of class `C`.
#[derive(Debug)]
pub struct Granted<C>(PhantomData<C>);

/// A class that needs no target.
pub trait Class: Sized {
    /// Name in the coverage page.
    const NAME: &'static str;
    /// Checks the caller.
    ///
    /// # Errors
    /// `EPERM` when the class forbids it.
    fn check<M: Machine>(caller: &Domain<M>) -> Result<Granted<Self>, Errno>;
}

impl Class for Hook {
    const NAME: &'static str = "HOOK";
    #[inline]
    fn check<M: Machine>(_: &Domain<M>) -> Result<Granted<Self>, Errno> {
        Ok(Granted(PhantomData))
    }
}

impl Class for Target {
    const NAME: &'static str = "TARGET";
    /// The target is not known yet: [`Granted::on`] finishes the check.
    #[inline]
    fn check<M: Machine>(_: &Domain<M>) -> Result<Granted<Self>, Errno> {
        Ok(Granted(PhantomData))
    }
}

impl Class for Priv {
    const NAME: &'static str = "PRIV";
    #[inline]
    fn check<M: Machine>(caller: &Domain<M>) -> Result<Granted<Self>, Errno> {
        if caller.is_privileged {
            Ok(Granted(PhantomData))
        } else {
            Err(Errno::EPERM)
        }
    }
}

impl Class for XsPriv {
    const NAME: &'static str = "XS_PRIV";
    #[inline]
    fn check<M: Machine>(caller: &Domain<M>) -> Result<Granted<Self>, Errno> {
        if caller.is_privileged || caller.is_xenstore {
            Ok(Granted(PhantomData))
        } else {
            Err(Errno::EPERM)
        }
    }
}

impl Granted<Target> {
    /// Whether `caller` may do it to `target`.
    ///
    /// # Errors
    /// `EPERM` unless they are the same or the caller is privileged.
    pub fn on<'a, M: Machine>(
        &self,
        caller: &Arc<Domain<M>>,
        target: &'a Arc<Domain<M>>,
    ) -> Result<&'a Arc<Domain<M>>, Errno> {
        if caller.is_privileged || Arc::ptr_eq(caller, target) {
            Ok(target)
        } else {
            Err(Errno::EPERM)
        }
    }
}
