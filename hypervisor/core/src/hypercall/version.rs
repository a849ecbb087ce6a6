//! `xen_version` (17): who we are.

use xen_abi::Errno;
use xen_abi::features as f;
use xen_abi::version::*;

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Hook};
use crate::machine::Machine;

ops! { "xen_version":
    XENVER_version = Hook => version;
    XENVER_extraversion = Hook => extraversion;
    XENVER_compile_info = Hook => compile_info;
    XENVER_capabilities = Hook => capabilities;
    XENVER_changeset = Hook => changeset;
    XENVER_platform_parameters = Hook => platform_parameters;
    XENVER_get_features = Hook => get_features;
    XENVER_pagesize = Hook => pagesize;
    XENVER_guest_handle = Hook => guest_handle;
    XENVER_commandline = Hook => commandline;
    XENVER_build_id = Hook => build_id;
    XENVER_extraversion2 = Hook => extraversion2;
    XENVER_capabilities2 = Hook => capabilities2;
    XENVER_changeset2 = Hook => changeset2;
    XENVER_commandline2 = Hook => commandline2;
}

/// 4.20: what guests and toolstacks compare.
const MAJOR: u64 = 4;
const MINOR: u64 = 20;
/// Names us; `xl info` shows it after the version.
const EXTRAVERSION: &str = concat!(".0-radon-", env!("CARGO_PKG_VERSION"));
const CAPABILITIES: &str = "hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ";
const CHANGESET: &str = "radon";

fn version<M: Machine>(_: &mut Ctx<'_, M>, _: Granted<Hook>, _: [u64; 3]) -> OpResult {
    Ok(Flow::Done(MAJOR << 16 | MINOR))
}

/// Writes `text` NUL-padded into a field of `N` bytes.
fn fixed<M: Machine, const N: usize>(c: &mut Ctx<'_, M>, at: u64, text: &str) -> OpResult {
    let mut out = [0u8; N];
    let n = text.len().min(N - 1);
    out[..n].copy_from_slice(&text.as_bytes()[..n]);
    c.copy_out(at, &out)?;
    OK
}

/// The `xen_varbuf` form: a NULL handle asks for the length, a short buffer is `ENOBUFS`.
fn varbuf<M: Machine>(c: &mut Ctx<'_, M>, at: u64, bytes: &[u8]) -> OpResult {
    let need = bytes.len() as u64;
    if at == 0 {
        return Ok(Flow::Done(need));
    }
    let len: u32 = c.read(at)?;
    if u64::from(len) < need {
        return Err(Errno::ENOBUFS);
    }
    c.copy_out(at.wrapping_add(4), bytes)?;
    Ok(Flow::Done(need))
}

fn extraversion<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    fixed::<M, 16>(c, a[0], EXTRAVERSION)
}

fn extraversion2<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    varbuf(c, a[0], EXTRAVERSION.as_bytes())
}

fn compile_info<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    // compiler[64], compile_by[16], compile_domain[32], compile_date[32]
    let mut out = [0u8; 144];
    for (at, text) in [(0, "rustc"), (64, "radon"), (80, ""), (112, "")] {
        out[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    c.copy_out(a[0], &out)?;
    OK
}

fn capabilities<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    fixed::<M, 1024>(c, a[0], CAPABILITIES)
}

fn capabilities2<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    varbuf(c, a[0], CAPABILITIES.as_bytes())
}

fn changeset<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    fixed::<M, 64>(c, a[0], CHANGESET)
}

fn changeset2<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    varbuf(c, a[0], CHANGESET.as_bytes())
}

fn platform_parameters<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    // virt_start: 0 for HVM callers, who have no hypervisor hole.
    c.write(a[0], &0u64)?;
    OK
}

fn get_features<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    // struct xen_feature_info { u32 submap_idx; u32 submap; }
    let index: u32 = c.read(a[0])?;
    let bit = |n: u32| 1u32 << n;
    let map = match index {
        0 => {
            let mut m = bit(f::XENFEAT_writable_page_tables)
                | bit(f::XENFEAT_auto_translated_physmap)
                | bit(f::XENFEAT_hvm_callback_vector)
                | bit(f::XENFEAT_hvm_safe_pvclock)
                | bit(f::XENFEAT_memory_op_vnode_supported)
                | bit(f::XENFEAT_runstate_phys_area)
                | bit(f::XENFEAT_vcpu_time_phys_area);
            if c.d.is_privileged {
                m |= bit(f::XENFEAT_dom0);
            }
            m |= bit(if c.d.is_direct_mapped {
                f::XENFEAT_direct_mapped
            } else {
                f::XENFEAT_not_direct_mapped
            });
            m
        }
        _ => return Err(Errno::EINVAL),
    };
    c.write(a[0].wrapping_add(4), &map)?;
    OK
}

fn pagesize<M: Machine>(_: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    if a[0] != 0 {
        Err(Errno::EINVAL)
    } else {
        Ok(Flow::Done(4096))
    }
}

fn guest_handle<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    // xen_domain_handle_t: zeros for domains that nobody named.
    let id = *c.d.handle.lock();
    c.copy_out(a[0], &id)?;
    OK
}

/// The command line, which is the operator's business only.
fn shown_command_line<M: Machine>(c: &Ctx<'_, M>) -> &'static str {
    if c.d.is_privileged {
        c.hv.command_line
    } else {
        "<denied>"
    }
}

fn commandline<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let text = shown_command_line(c);
    fixed::<M, 1024>(c, a[0], text)
}

fn commandline2<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let text = shown_command_line(c);
    varbuf(c, a[0], text.as_bytes())
}

/// Toolstacks tell an image without one from an unknown operation.
fn build_id<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    if !c.d.is_privileged {
        return Err(Errno::EPERM);
    }
    if c.hv.build_id.is_empty() {
        return Err(Errno::ENODATA);
    }
    varbuf(c, a[0], c.hv.build_id)
}
