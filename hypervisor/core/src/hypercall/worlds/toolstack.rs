//! What Debian's toolstack asks in ways of its own.

use xen_abi::domctl::*;
use xen_abi::layout::Union;
use xen_abi::platform::*;
use xen_abi::sysctl::*;
use xen_abi::version::*;
use xen_abi::xen::{
    __HYPERVISOR_platform_op, __HYPERVISOR_xen_version, Dom0VgaConsoleInfo, XEN_VGATYPE_TEXT_MODE_3,
};
use xen_abi::{DomId, Errno, Handle, VcpuId};
use zerocopy::FromZeros;

use super::{ARG, LIST, World};

/// A text by the variable form: its length first, then the bytes without a NUL.
fn varbuf(w: &World, op: u32) -> Result<alloc::string::String, Errno> {
    let ask = |at| w.call(DomId(0), __HYPERVISOR_xen_version, [op.into(), at, 0]);
    let len = ask(0)? as usize;
    // Bytes behind the buffer stay.
    w.poke(DomId(0), LIST, &[0xaa_u8; 128]);
    w.poke(DomId(0), LIST, &(len as u32));
    assert_eq!(ask(LIST), Ok(len as u64));
    let all: [u8; 128] = w.peek(DomId(0), LIST);
    assert_eq!(all[4 + len], 0xaa);
    if len != 0 {
        w.poke(DomId(0), ARG, &(len as u32 - 1));
        assert_eq!(ask(ARG), Err(Errno::ENOBUFS));
    }
    Ok(core::str::from_utf8(&all[4..4 + len]).unwrap().into())
}

#[test]
fn texts_about_us() {
    let mut w = World::new();
    w.hv.command_line = "console=com1 loglvl=all";
    let command_line = varbuf(&w, XENVER_commandline2).unwrap();
    assert_eq!(command_line, "console=com1 loglvl=all");
    w.hv.command_line = "";
    assert_eq!(varbuf(&w, XENVER_commandline2).unwrap(), "");
    assert!(
        varbuf(&w, XENVER_capabilities2)
            .unwrap()
            .contains("hvm-3.0-x86_64 ")
    );
    assert!(varbuf(&w, XENVER_extraversion2).unwrap().contains("radon"));
    assert!(!varbuf(&w, XENVER_changeset2).unwrap().is_empty());
    assert_eq!(varbuf(&w, XENVER_build_id), Err(Errno::ENODATA));
    w.hv.build_id = b"twenty bytes of hash";
    assert_eq!(varbuf(&w, XENVER_build_id).unwrap(), "twenty bytes of hash");
    // What is the operator's is not told to guests.
    w.hv.command_line = "secret";
    let id = w.guest(1, 16);
    let ask = |op: u32| {
        w.call(
            id,
            xen_abi::xen::__HYPERVISOR_xen_version,
            [op.into(), ARG, 0],
        )
    };
    assert_eq!(ask(XENVER_commandline), Ok(0));
    assert_eq!(&w.peek::<[u8; 9]>(id, ARG), b"<denied>\0");
    assert_eq!(ask(XENVER_build_id), Err(Errno::EPERM));
}

#[test]
fn the_screen_is_told_to_dom0_alone() {
    let mut w = World::new();
    let ask = |w: &World, by| {
        let op = XenPlatformOp {
            cmd: XENPF_get_dom0_console,
            interface_version: XENPF_INTERFACE_VERSION,
            u: Union([u64::MAX; 16]),
        };
        w.poke(by, ARG, &op);
        w.call(by, __HYPERVISOR_platform_op, [ARG, 0, 0])
    };
    assert_eq!(ask(&w, DomId(0)), Err(Errno::ENODEV));
    w.hv.screen = crate::dom0::screen::describe(None, false);
    let size = size_of::<Dom0VgaConsoleInfo>();
    assert_eq!(ask(&w, DomId(0)), Ok(size as u64));
    let op: XenPlatformOp = w.peek(DomId(0), ARG);
    let said: Dom0VgaConsoleInfo = op.u.get();
    assert_eq!(u32::from(said.video_type), XEN_VGATYPE_TEXT_MODE_3);
    // What is behind it stays.
    assert_eq!(op.u.0[size / 8..], [u64::MAX; 16][size / 8..]);
    let guest = w.guest(1, 16);
    assert_eq!(ask(&w, guest), Err(Errno::EPERM));
}

#[test]
fn absent_vcpus_are_told_from_impossible_ones() {
    let w = World::new();
    let mut p = super::createdomain(2);
    let id = w.domctl(XEN_DOMCTL_createdomain, DomId(0), &mut p).unwrap();
    let ask = |vcpu| {
        let mut i = XenDomctlGetvcpuinfo::new_zeroed();
        i.vcpu = VcpuId(vcpu);
        w.domctl(XEN_DOMCTL_getvcpuinfo, id, &mut i).map(drop)
    };
    assert_eq!(ask(0), Err(Errno::ESRCH));
    assert_eq!(ask(2), Err(Errno::EINVAL));
    let mut max = XenDomctlMaxVcpus { max: 2 };
    w.domctl(XEN_DOMCTL_max_vcpus, id, &mut max).unwrap();
    assert_eq!(
        [ask(0), ask(1), ask(2)],
        [Ok(()), Ok(()), Err(Errno::EINVAL)]
    );
}

#[test]
fn nodes_of_functions_come_in_parts() {
    let w = World::new();
    let mut t = XenSysctlPcitopoinfo {
        num_devs: 100,
        _fill0: [0; 4],
        devs: Handle::new(LIST),
        nodes: Handle::new(LIST + 0x1000),
    };
    w.sysctl(XEN_SYSCTL_pcitopoinfo, &mut t).unwrap();
    assert_eq!(t.num_devs, 64);
    let nodes: [u32; 65] = w.peek(DomId(0), LIST + 0x1000);
    // Nobody found a device.
    assert!(nodes[..64].iter().all(|n| *n == XEN_INVALID_DEV));
    assert_eq!(nodes[64], 0);
    t.nodes = Handle::new(0);
    assert_eq!(w.sysctl(XEN_SYSCTL_pcitopoinfo, &mut t), Err(Errno::EINVAL));
}
