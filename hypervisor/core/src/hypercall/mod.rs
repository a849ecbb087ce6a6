//! Hypercalls: the tables, arguments, dispatch.
//!
//! Each file here is one hypercall.  Its operations stand in an `ops!` table, from
//! which dispatch, `-ENOSYS` and the coverage page come: a row names the
//! sub-operation, its access class and its handler, or says `missing`.
//!
//! Contract (`docs/abi-coverage.md`): rax holds the number and the result; rdi, rsi,
//! rdx, r10, r8 the arguments; everything but rax is preserved.  Guest pointers are
//! guest-linear and are copied once.
#![expect(
    non_upper_case_globals,
    reason = "operations keep the names that Xen's headers give them"
)]
// Not `expect`: the lint does not look at test builds.
#![allow(
    clippy::wildcard_imports,
    reason = "each file imports its header, as C does"
)]

use alloc::sync::Arc;

use xen_abi::{DomId, Errno};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hvm::backend::{HvmBackend, Reg, Seg};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

mod console_io;
mod domctl;
mod event_channel_op;
mod grant_table_op;
mod hvm_op;
mod memory_op;
mod multicall;
mod physdev_op;
mod platform_op;
mod sched_op;
mod sysctl;
mod vcpu_op;
mod version;
mod vm_assist;

#[cfg(test)]
mod worlds;

/// A hypercall on its way: who asks, and the CPU that asks.
pub struct Ctx<'a, M: Machine> {
    /// The hypervisor.
    pub hv: &'a Hypervisor<M>,
    /// Calling domain.
    pub d: &'a Arc<Domain<M>>,
    /// Calling vCPU.
    pub v: &'a Arc<Vcpu<M>>,
    /// Its hardware state.
    pub hw: &'a mut HwVcpu<M>,
    /// Arguments of the call; before it returns [`Flow::Again`] an operation puts its progress here.
    pub args: [u64; 5],
}

/// What becomes of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Done; the value for rax.
    Done(u64),
    /// Done, and the vCPU should give way to the scheduler.
    Reschedule(u64),
    /// Not done: execute the hypercall again with [`Ctx::args`].
    Again,
}

/// Result of an operation.
pub type OpResult = Result<Flow, Errno>;

/// Success with 0.
pub(crate) const OK: OpResult = Ok(Flow::Done(0));

/// One operation for the coverage page.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Hypercall.
    pub call: &'static str,
    /// Sub-operation.
    pub op: &'static str,
    /// Its number.
    pub number: u64,
    /// Access class, or `None` when it is missing.
    pub class: Option<&'static str>,
}

/// Declares the operations of one hypercall and their dispatch.
macro_rules! ops {
    ($call:literal: $($row:tt)*) => { ops! { $call ([u64; 3]): $($row)* } };
    ($call:literal ($arg:ty): $($op:ident = $class:ident $(=> $handler:path)?;)*) => {
        /// Operations of this hypercall.
        pub(super) const ROWS: &[super::Row] = &[$(super::Row {
            call: $call,
            op: stringify!($op),
            number: $op as u64,
            class: ops!(@class $class),
        },)*];

        /// Runs operation `op`.
        #[inline]
        pub(super) fn dispatch<M: crate::machine::Machine>(c: &mut super::Ctx<'_, M>, op: u64, args: $arg) -> super::OpResult {
            match u32::try_from(op).unwrap_or(u32::MAX) {
                $($op => ops!(@call c, args, $class $(, $handler)?),)*
                _ => Err(xen_abi::Errno::ENOSYS),
            }
        }
    };
    (@class missing) => { None };
    (@class $class:ident) => { Some(<crate::access::$class as crate::access::Class>::NAME) };
    (@call $c:ident, $args:ident, missing) => { Err(xen_abi::Errno::ENOSYS) };
    (@call $c:ident, $args:ident, $class:ident, $handler:path) => {{
        let granted = <crate::access::$class as crate::access::Class>::check($c.d)?;
        $handler($c, granted, $args)
    }};
}
pub(crate) use ops;

/// All rows, for the coverage page.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [
        version::ROWS,
        console_io::ROWS,
        domctl::ROWS,
        event_channel_op::ROWS,
        grant_table_op::ROWS,
        hvm_op::ROWS,
        memory_op::ROWS,
        physdev_op::ROWS,
        platform_op::ROWS,
        sched_op::ROWS,
        sysctl::ROWS,
        vcpu_op::ROWS,
        vm_assist::ROWS,
    ]
    .into_iter()
    .flatten()
}

impl<M: Machine> Ctx<'_, M> {
    /// Copies bytes in from a guest-linear address.
    ///
    /// # Errors
    /// `EFAULT` when any byte is not readable RAM.
    pub fn copy_in(&mut self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        crate::hvm::memory::copy_in(self.hv, self.d, self.hw, from, to)
    }

    /// Copies bytes out to a guest-linear address.
    ///
    /// # Errors
    /// `EFAULT` when any byte is not writable RAM.
    pub fn copy_out(&mut self, to: u64, from: &[u8]) -> Result<(), Errno> {
        crate::hvm::memory::copy_out(self.hv, self.d, self.hw, to, from)
    }

    /// Reads an argument structure, once.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline]
    pub fn read<T: FromBytes + IntoBytes>(&mut self, at: u64) -> Result<T, Errno> {
        let mut v = T::new_zeroed();
        self.copy_in(at, v.as_mut_bytes())?;
        Ok(v)
    }

    /// Writes a result structure.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(&mut self, at: u64, v: &T) -> Result<(), Errno> {
        self.copy_out(at, v.as_bytes())
    }

    /// The domain that an argument names.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn domain(&self, id: DomId) -> Result<Arc<Domain<M>>, Errno> {
        self.hv.resolve(self.d, id).ok_or(Errno::ESRCH)
    }
}

/// Runs one hypercall by number. Also the body of a multicall entry.
pub(crate) fn call<M: Machine>(c: &mut Ctx<'_, M>, nr: u64) -> OpResult {
    use xen_abi::xen as n;
    let a = c.args;
    let a3 = [a[1], a[2], a[3]];
    match u32::try_from(nr).unwrap_or(u32::MAX) {
        n::__HYPERVISOR_event_channel_op => event_channel_op::dispatch(c, a[0], a3),
        n::__HYPERVISOR_vcpu_op => vcpu_op::dispatch(c, a[0], a3),
        n::__HYPERVISOR_sched_op => sched_op::dispatch(c, a[0], a3),
        n::__HYPERVISOR_xen_version => version::dispatch(c, a[0], a3),
        n::__HYPERVISOR_grant_table_op => grant_table_op::dispatch(c, a[0], a3),
        n::__HYPERVISOR_memory_op => {
            memory_op::dispatch(c, a[0] & xen_abi::memory::MEMOP_CMD_MASK, a3)
        }
        n::__HYPERVISOR_console_io => console_io::dispatch(c, a[0], a3),
        n::__HYPERVISOR_hvm_op => hvm_op::dispatch(c, a[0], a3),
        n::__HYPERVISOR_physdev_op => physdev_op::dispatch(c, a[0], a3),
        n::__HYPERVISOR_platform_op => platform_op::dispatch(c, a[0]),
        n::__HYPERVISOR_domctl => domctl::run(c, a[0]),
        n::__HYPERVISOR_sysctl => sysctl::run(c, a[0]),
        n::__HYPERVISOR_vm_assist => vm_assist::dispatch(c, a[0], a3),
        n::__HYPERVISOR_multicall => multicall::run(c, a[0], a[1]),
        n::__HYPERVISOR_set_timer_op => vcpu_op::set_timer_op(c, a[0]),
        _ => Err(Errno::ENOSYS),
    }
}

/// VMCALL or VMMCALL: reads the registers, runs the call, writes rax.
/// The instruction is retired by the caller unless the result is [`Flow::Again`].
pub fn enter<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
) -> Flow {
    let hvm = hv.machine.hvm();
    let is_long =
        hvm.get(hw, Reg::Efer) & 1 << 10 != 0 && hvm.segment(hw, Seg::Cs).ar & 1 << 13 != 0;
    // CPL is SS.DPL in protected mode; real mode counts as 0, VM86 as 3.
    let protected = hvm.get(hw, Reg::Cr0) & 1 != 0;
    if protected && hvm.segment(hw, Seg::Ss).ar >> 5 & 3 != 0 {
        <M::Hvm as HvmBackend>::regs_mut(hw).rax = Errno::EPERM.as_rax();
        return Flow::Done(0);
    }
    let r = <M::Hvm as HvmBackend>::regs(hw);
    let (nr, args) = if is_long {
        (r.rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8])
    } else {
        let low = |v: u64| v & 0xffff_ffff;
        (
            low(r.rax),
            [low(r.rbx), low(r.rcx), low(r.rdx), low(r.rsi), low(r.rdi)],
        )
    };
    if !is_long && nr != u64::from(xen_abi::xen::__HYPERVISOR_xen_version) {
        // 32-bit callers need the compat layouts, which come with HVM guests.
        <M::Hvm as HvmBackend>::regs_mut(hw).rax = Errno::ENOSYS.as_rax() & 0xffff_ffff;
        return Flow::Done(0);
    }
    let c = &mut Ctx { hv, d, v, hw, args };
    let (flow, rax) = match call(c, nr) {
        Ok(Flow::Done(v)) => (Flow::Done(v), v),
        Ok(Flow::Reschedule(v)) => (Flow::Reschedule(v), v),
        Ok(Flow::Again) => {
            let a = c.args;
            let r = <M::Hvm as HvmBackend>::regs_mut(c.hw);
            if is_long {
                (r.rdi, r.rsi, r.rdx, r.r10, r.r8) = (a[0], a[1], a[2], a[3], a[4]);
            } else {
                (r.rbx, r.rcx, r.rdx, r.rsi, r.rdi) = (a[0], a[1], a[2], a[3], a[4]);
            }
            return Flow::Again;
        }
        Err(e) => (Flow::Done(0), e.as_rax()),
    };
    <M::Hvm as HvmBackend>::regs_mut(c.hw).rax = rax;
    flow
}
