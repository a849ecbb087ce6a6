//! dom0 misbehaving: each attempt must end in an error for dom0, never in a
//! fault of the hypervisor. The arguments are such that no attempt can succeed
//! in changing anything, so that dom0 itself must survive all of them.
// UNSAFETY: CPUID, RDTSC, and the ioctl that passes a hypercall on.
#![expect(unsafe_code, reason = "CPUID and the privcmd ioctl have no safe form")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

/// `struct privcmd_hypercall` of Linux.
#[repr(C)]
struct Hypercall {
    number: u64,
    arguments: [u64; 5],
}

// SAFETY: the opcode is IOCTL_PRIVCMD_HYPERCALL, whose argument is the struct
// above; the kernel reads it and writes nothing back.
unsafe impl Ioctl for Hypercall {
    type Output = i64;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        // _IOC(_IOC_NONE, 'P', 0, sizeof)
        0x0030_5000
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<i64> {
        Ok(i64::from(out))
    }
}

struct Privcmd(File);

impl Privcmd {
    fn open() -> Result<Self> {
        let path = "/dev/xen/privcmd";
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .context(path)?;
        Ok(Self(file))
    }

    fn call(&self, number: u64, arguments: [u64; 5]) -> Result<i64, Errno> {
        // SAFETY: every pointer among the arguments is checked by the
        // hypervisor; none points to memory of this program.
        unsafe { ioctl(self.0.as_fd(), Hypercall { number, arguments }) }
    }
}

const XEN_VERSION: u64 = 17;
const VCPU_OP: u64 = 24;

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: reads a counter that every x86-64 processor has.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// How long the first vCPU has run so far, in ns: its `VCPUOP_get_runstate_info`.
pub(crate) fn running_ns() -> Result<u64> {
    const GET_RUNSTATE_INFO: u64 = 4;
    let privcmd = Privcmd::open()?;
    // State, time of its entry, times of the four states: the first is running.
    let mut info = [0u64; 6];
    let at = std::ptr::from_mut(&mut info) as u64;
    // SAFETY: the hypervisor writes 48 bytes there, which `info` has.
    unsafe {
        let arguments = [GET_RUNSTATE_INFO, 0, at, 0, 0];
        let number = VCPU_OP;
        ioctl(privcmd.0.as_fd(), Hypercall { number, arguments })
            .context("VCPUOP_get_runstate_info")?;
    }
    // SAFETY: `info` lives. Volatile, because the ioctl is declared to change nothing.
    Ok(unsafe { (&raw const info[2]).read_volatile() })
}

/// Hypercalls that take a pointer in the given argument after a command number.
/// (number, commands, index of the pointer)
const WITH_POINTER: [(u64, u64, usize); 11] = [
    (7, 1, 0),   // platform_op: the command lies behind the pointer
    (12, 30, 1), // memory_op
    (13, 1, 0),  // multicall
    (17, 12, 1), // xen_version
    (18, 2, 2),  // console_io: write and read
    (20, 14, 1), // grant_table_op
    (VCPU_OP, 16, 2),
    (32, 16, 1), // event_channel_op
    (33, 32, 1), // physdev_op
    (34, 28, 1), // hvm_op
    (36, 1, 0),  // domctl
];

/// Addresses that no caller may pass: null, low, unmapped, not canonical,
/// hypervisor's, and ones where the end wraps.
const BAD: [u64; 8] = [
    0,
    0x1000,
    0x0000_5000_dead_b000,
    0x0000_7fff_ffff_fff8,
    0x8000_0000_0000_0000,
    0xffff_82d0_4020_0000,
    0xffff_8300_0000_0000,
    u64::MAX - 3,
];

/// Unknown numbers, bad pointers, absurd sizes.
pub(crate) fn hypercalls() -> Result<()> {
    let privcmd = Privcmd::open()?;
    let version = privcmd.call(XEN_VERSION, [0; 5]).context("xen_version")?;
    ensure!(
        version >> 16 == 4 && version & 0xffff == 20,
        "version {version:#x}"
    );
    let mut attempts = 0;

    let unknown = (64..512).chain([0x1_0000, 0xffff_ffff, 0x1_0000_0000, 1 << 63, u64::MAX]);
    for number in unknown {
        let answer = privcmd.call(number, [1, 2, 3, 4, 5]);
        ensure!(
            answer == Err(Errno::NOSYS),
            "hypercall {number:#x}: {answer:?}, expected ENOSYS"
        );
        attempts += 1;
    }
    for (number, commands, pointer) in WITH_POINTER {
        for command in 0..commands {
            for bad in BAD {
                for size in [1, 0xffff, 0xffff_ffff, u64::MAX] {
                    let mut arguments = [size; 5];
                    arguments[0] = command;
                    arguments[pointer] = bad;
                    if number == VCPU_OP {
                        // No vCPU of ours: one may not switch another off.
                        arguments[1] |= 0xffff;
                    }
                    // Some commands ignore the pointer and may succeed; what
                    // counts is that the machine goes on.
                    let _answer = privcmd.call(number, arguments);
                    attempts += 1;
                }
            }
        }
    }
    for command in [1000, u64::from(u32::MAX), u64::MAX] {
        // Those with a pointer first have their command behind it.
        for (number, _, _) in WITH_POINTER
            .into_iter()
            .filter(|&(_, _, pointer)| pointer > 0)
        {
            let answer = privcmd.call(number, [command, 0, 0, 0, 0]);
            ensure!(
                answer.is_err(),
                "hypercall {number}, command {command:#x}: {answer:?}"
            );
            attempts += 1;
        }
    }
    let again = privcmd
        .call(XEN_VERSION, [0; 5])
        .context("xen_version afterwards")?;
    ensure!(again == version, "the version changed to {again:#x}");
    println!("hypercalls: {attempts} bad ones answered");
    Ok(())
}

/// Reads every MSR in the architectural ranges and writes the ones that belong
/// to a hypervisor.
pub(crate) fn msrs() -> Result<()> {
    let path = "/dev/cpu/0/msr";
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context(path)?;
    let mut readable = 0;
    let mut value = [0; 8];
    for msr in (0..0x2000u64)
        .chain(0x4000_0000..0x4000_0400)
        .chain(0xc000_0000..0xc000_2000)
        .chain(0xc001_0000..0xc001_2000)
    {
        if device.read_exact_at(&mut value, msr).is_ok() {
            readable += 1;
        }
    }
    // VMX capabilities, SMM monitor, VM_CR, VM_HSAVE_PA, SVM_KEY, DEBUGCTL of
    // a hypervisor: a write must fail or change nothing for the machine.
    let owned = (0x480..=0x492u64).chain([0x9b, 0x79, 0xc001_0114, 0xc001_0117, 0xc001_0118]);
    let mut refused = 0;
    for msr in owned {
        if device.write_all_at(&u64::MAX.to_le_bytes(), msr).is_err() {
            refused += 1;
        }
    }
    println!("msrs: {readable} readable, {refused} writes refused");
    Ok(())
}

/// Reads all leaves; the guest must not see virtualisation that it cannot use.
pub(crate) fn cpuid() -> Result<()> {
    use core::arch::x86_64::__cpuid_count;
    let mut leaves = 0;
    for base in [
        0u32,
        0x4000_0000,
        0x4000_0100,
        0x8000_0000,
        0xc000_0000,
        0xffff_ff00,
    ] {
        for leaf in base..=base + 0x40 {
            for subleaf in [0, 1, 2, 3, 9, 64, u32::MAX] {
                std::hint::black_box(__cpuid_count(leaf, subleaf));
                leaves += 1;
            }
        }
    }
    let signature = __cpuid_count(0x4000_0000, 0);
    ensure!(
        [signature.ebx, signature.ecx, signature.edx] == [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e],
        "no Xen signature: {signature:x?}"
    );
    ensure!(
        __cpuid_count(1, 0).ecx & (1 << 31) != 0,
        "the hypervisor bit is clear"
    );
    ensure!(__cpuid_count(1, 0).ecx & (1 << 5) == 0, "VMX is shown");
    ensure!(
        __cpuid_count(0x8000_0001, 0).ecx & (1 << 2) == 0,
        "SVM is shown"
    );
    println!("cpuid: {leaves} leaves");
    Ok(())
}

/// Reads and writes the ports that belong to the hypervisor: interrupt
/// controllers, timers, the serial console.
pub(crate) fn ports() -> Result<()> {
    let path = "/dev/port";
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context(path)?;
    let owned = [0x20u64, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1]
        .into_iter()
        .chain(0x40..=0x43)
        .chain(0x3f8..=0x3ff);
    let mut attempts = 0;
    for port in owned {
        for value in [0u8, 0x55, 0xaa, 0xff] {
            let mut byte = [0];
            device
                .read_exact_at(&mut byte, port)
                .with_context(|| format!("reading port {port:#x}"))?;
            device
                .write_all_at(&[value], port)
                .with_context(|| format!("writing port {port:#x}"))?;
            attempts += 2;
        }
    }
    println!("ports: {attempts} accesses");
    Ok(())
}
