//! What cannot work is refused: one clear line that names the problem and the
//! remedy, no hang, no triple fault.

use std::path::PathBuf;

use anyhow::{Result, bail};
use harness::{Boot, Machine, Report, Start};

use crate::env::{Env, Linux};

/// A boot that must be refused.
struct Case {
    name: &'static str,
    /// Words of which one must be in the refusal.
    says: &'static [&'static str],
    machine: Machine,
    start: Start,
    extra: Vec<String>,
}

pub(crate) fn refusals(env: &Env, report: &mut Report) -> Result<()> {
    for case in cases(env)? {
        report.check(&format!("refusals/{}", case.name), || run(env, case));
    }
    Ok(())
}

fn run(env: &Env, case: Case) -> Result<String> {
    let mut boot = Boot::new(&format!("refusals-{}", case.name), case.machine, case.start);
    boot.extra = case.extra;
    boot.repeat = "./radon test refusals".to_owned();
    let mut session = env.start(boot)?;
    let timeout = session.machine().seconds(60);
    // Without `noreboot` the machine resets after its report, which ends QEMU.
    if let Err(error) = session.console.until_closed(timeout) {
        bail!("{error:#}\n{}", session.evidence());
    }
    let log = std::fs::read(session.console.log())?;
    let log = String::from_utf8_lossy(&log);
    if !log.contains("Panic on CPU") {
        bail!("no panic of the hypervisor\n{}", session.evidence());
    }
    if log.contains("Linux version") {
        bail!("dom0 was started\n{}", session.evidence());
    }
    // The line that names the problem is the panic's own: search from the end.
    match log
        .lines()
        .rev()
        .find(|line| case.says.iter().any(|word| line.contains(word)))
    {
        Some(line) => Ok(line.trim().to_owned()),
        None => bail!(
            "the refusal names none of {:?}\n{}",
            case.says,
            session.evidence()
        ),
    }
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
        extra: Vec::new(),
    };
    let noise: String = (0u32..4000)
        .map(|i| char::from(b'!' + u8::try_from(i * 7 % 90).unwrap_or(0)))
        .collect();
    let noise = noise.replace(',', ".");
    Ok(vec![
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
    ])
}

/// A kernel that fits beside the hypervisor on a machine too small for both.
fn no_pack(env: &Env) -> Result<PathBuf> {
    Ok(env.linux(Linux::V6_1).0.vmlinuz())
}

/// Turns the ELF's note segments into nothing, so that no PVH entry is found.
fn hide_notes(elf: &mut [u8]) {
    const PT_NOTE: u32 = 4;
    let field = |at: usize| usize::from(elf[at]) | usize::from(elf[at + 1]) << 8;
    let (table, size, count) = (64, field(54), field(56));
    for index in 0..count {
        let at = table + index * size;
        if elf[at..at + 4] == PT_NOTE.to_le_bytes() {
            elf[at..at + 4].fill(0);
        }
    }
}
