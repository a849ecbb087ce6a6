//! What cannot work is refused: one clear line that names the problem and the
//! remedy, no hang, no triple fault.

use std::path::PathBuf;

use anyhow::{Result, bail};
use boot_image::grub;
use harness::{Boot, Firmware, Machine, Report, Start};

use crate::env::{Env, Linux};

/// A boot that must be refused.
struct Case {
    name: &'static str,
    /// Words of which one must be in the refusal.
    says: &'static [&'static str],
    machine: Machine,
    start: Start,
    then: Then,
}

/// What a refusal ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// A reset, which ends QEMU.
    Reset,
    /// `noreboot`: the machine stays.
    Stay,
}

pub(crate) fn refusals(env: &Env, report: &mut Report) -> Result<()> {
    for case in cases(env)? {
        report.check(&format!("refusals/{}", case.name), || run(env, case));
    }
    Ok(())
}

fn run(env: &Env, case: Case) -> Result<String> {
    let mut boot = Boot::new(&format!("refusals-{}", case.name), case.machine, case.start);
    boot.repeat = "./radon test refusals".to_owned();
    refused(env, boot, 60, case.says, case.then)
}

/// Boots and waits for the refusal: one line that holds a word of `says`, before any dom0.
pub(super) fn refused(
    env: &Env,
    boot: Boot,
    seconds: u64,
    says: &[&str],
    then: Then,
) -> Result<String> {
    let mut session = env.start(boot)?;
    let timeout = session.machine().seconds(seconds);
    let ends = [
        "Radon cannot start: ",
        // The 32-bit entry's words.
        "Radon: this CPU",
        "Linux version",
        "----[ Radon",
    ];
    let line = match session.console.expect(&ends, timeout) {
        Ok(found) if found.index < 2 => session.console.expect(&["\n"], timeout)?.before,
        Ok(found) => bail!(
            "{} instead of a refusal\n{}",
            ends[found.index],
            session.evidence()
        ),
        Err(error) => bail!("{error:#}\n{}", session.evidence()),
    };
    if !says.iter().any(|word| line.contains(word)) {
        bail!(
            "the refusal names none of {says:?}: {line}\n{}",
            session.evidence()
        );
    }
    if then == Then::Reset && session.console.until_closed(timeout).is_err() {
        bail!("the machine is not reset\n{}", session.evidence());
    }
    Ok(line.trim().to_owned())
}

fn cases(env: &Env) -> Result<Vec<Case>> {
    let machine = || env.machine("qemu-svm").map(|m| m.memory(1024));
    let (kernel, initrd) = env.linux(Linux::V6_12);
    let scratch = |name: &str, content: &[u8]| -> Result<PathBuf> {
        let path = env.layout.build().join(format!("test-refusal-{name}"));
        std::fs::write(&path, content)?;
        Ok(path)
    };
    let good = || {
        vec![
            (kernel.vmlinux(), "console=hvc0".to_owned()),
            (initrd.clone(), String::new()),
        ]
    };
    let with = |path: PathBuf| {
        vec![
            (path, "console=hvc0".to_owned()),
            (initrd.clone(), String::new()),
        ]
    };

    let packed = std::fs::read(kernel.vmlinuz())?;
    let truncated = scratch("truncated", &packed[..packed.len() / 2])?;
    let mut corrupt = packed.clone();
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 4096].fill(0x55);
    let corrupt = scratch("corrupt", &corrupt)?;
    let no_kernel = scratch("no-kernel", &[0x42; 64 * 1024])?;
    let mut elf = std::fs::read(kernel.vmlinux())?;
    hide_notes(&mut elf);
    let no_note = scratch("no-note", &elf)?;

    let mut without_svm = machine()?;
    without_svm.cpu = without_svm.cpu.replace("+svm,+npt", "-svm");
    let mut without_npt = machine()?;
    without_npt.cpu = without_npt.cpu.replace("+npt", "-npt");
    let case = |name, says, machine, options: &str, modules| Case {
        name,
        says,
        machine,
        start: env.direct(options, modules),
        then: Then::Reset,
    };
    let noise: String = (0u32..4000)
        .map(|i| char::from(b'!' + u8::try_from(i * 7 % 90).unwrap_or(0)))
        .collect();
    let noise = noise.replace(',', ".");
    let mut cases = vec![
        case("no-svm", &["SVM"], without_svm, "", good()),
        case("no-npt", &["nested paging", "NPT"], without_npt, "", good()),
        case(
            "no-module",
            &["module", "dom0 kernel"],
            machine()?,
            "",
            Vec::new(),
        ),
        case("no-kernel", &["kernel"], machine()?, "", with(no_kernel)),
        case(
            "truncated",
            &["kernel", "payload", "bzImage"],
            machine()?,
            "",
            with(truncated),
        ),
        case(
            "corrupt",
            &["kernel", "payload", "bzImage"],
            machine()?,
            "",
            with(corrupt),
        ),
        case("no-pvh-note", &["PVH"], machine()?, "", with(no_note)),
        case(
            "dom0-mem-large",
            &["dom0_mem"],
            machine()?,
            "dom0_mem=64G",
            good(),
        ),
        case(
            "dom0-mem-zero",
            &["dom0_mem"],
            machine()?,
            "dom0_mem=0",
            good(),
        ),
        case(
            "dom0-mem-nonsense",
            &["dom0_mem"],
            machine()?,
            "dom0_mem=plenty",
            good(),
        ),
        case(
            "too-little-memory",
            &["memory"],
            machine()?.memory(96),
            "",
            with(no_pack(env)?),
        ),
        case(
            "noise",
            &["module", "dom0 kernel"],
            machine()?,
            &noise,
            Vec::new(),
        ),
    ];
    // One waits for the reset; the others save the five seconds.
    for case in cases.iter_mut().skip(1) {
        if let Start::Direct { options, .. } = &mut case.start {
            options.insert_str(0, "noreboot ");
            case.then = Then::Stay;
        }
    }
    cases.extend(acpi(env)?);
    Ok(cases)
}

/// ACPI tables as a broken firmware leaves them: GRUB puts the set together anew.
fn acpi(env: &Env) -> Result<[Case; 2]> {
    let table = env.layout.build().join("test-refusal-madt");
    // Header of an empty MADT: signature, length, revision, and a checksum that is wrong.
    let mut madt = [0; 44];
    madt[..4].copy_from_slice(b"APIC");
    madt[4] = 44;
    madt[8..10].copy_from_slice(&[4, 0x5a]);
    std::fs::write(&table, madt)?;
    let case = |name: &'static str, command: &str| -> Result<Case> {
        let iso = env.layout.build().join(format!("test-refusal-{name}.iso"));
        let entry = grub::Entry {
            loads: grub::Loads::Radon,
            title: name.to_owned(),
            options: "console=com1 loglvl=all noreboot".to_owned(),
            modules: vec![(table.clone(), String::new())],
            commands: vec![command.to_owned()],
        };
        grub::make_iso(&env.layout, &iso, &[entry])?;
        Ok(Case {
            name,
            says: &["the ACPI table APIC (MADT)"],
            machine: env.machine("qemu-svm")?.memory(1024),
            start: Start::Iso {
                iso,
                firmware: Firmware::Bios,
            },
            then: Then::Stay,
        })
    };
    Ok([
        case("no-madt", "acpi --exclude=APIC")?,
        case("bad-madt", "acpi --exclude=APIC {0}")?,
    ])
}

/// A kernel that fits beside the hypervisor on a machine too small for both.
fn no_pack(env: &Env) -> Result<PathBuf> {
    Ok(env.linux(Linux::V6_1).0.vmlinuz())
}

/// Turns the notes with the PVH entry (Xen's number 18) into unknown ones, wherever segment
/// or section headers would find them.
fn hide_notes(elf: &mut [u8]) {
    const PHYS32_ENTRY: u8 = 18;
    let entry = [PHYS32_ENTRY, 0, 0, 0, b'X', b'e', b'n', 0];
    for at in 0..elf.len() - entry.len() {
        if elf[at..].starts_with(&entry) {
            elf[at] = 0xff;
        }
    }
}
