//! `vm_assist` (21): behaviours that a guest switches on.

use core::sync::atomic::Ordering;

use xen_abi::Errno;
use xen_abi::xen::{VMASST_CMD_disable, VMASST_CMD_enable, VMASST_TYPE_runstate_update_flag};

use super::{Ctx, OK, OpResult, ops};
use crate::access::{Granted, Hook};
use crate::machine::Machine;

ops! { "vm_assist":
    VMASST_CMD_enable = Hook => enable;
    VMASST_CMD_disable = Hook => disable;
}

/// What translated guests may switch.
const VALID: u64 = 1 << VMASST_TYPE_runstate_update_flag;

fn mask(kind: u64) -> Result<u64, Errno> {
    1u64.checked_shl(u32::try_from(kind).unwrap_or(64))
        .filter(|m| m & VALID != 0)
        .ok_or(Errno::EINVAL)
}

fn enable<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    c.d.vm_assist.fetch_or(mask(a[0])?, Ordering::Relaxed);
    OK
}

fn disable<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    c.d.vm_assist.fetch_and(!mask(a[0])?, Ordering::Relaxed);
    OK
}
