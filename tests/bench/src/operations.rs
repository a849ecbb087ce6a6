//! What single operations cost: the guest of `tests/guests/bench` in dom0's
//! place, on QEMU (SVM, by `-icount`) and on Bochs (VMX, by its clock).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use boot_image::{Layout, grub};
use harness::{Boot, Firmware, Machine, Session, Start};

use crate::goal::Goal;

/// Names in the order of the table, Xen 4.20's counts in the same QEMU, measured by the
/// same guest (Debian 13's package, dom0 as PVH), and by how much we want to be below
/// them: ten times where the reference decodes the instruction, five times for grants,
/// three times elsewhere.
const ROWS: [(&str, f64, f64); 27] = [
    ("cpuid", 5393.0, 10.0),
    ("cpuid-xen-leaf", 5399.0, 10.0),
    ("rdmsr-apic-base", 5282.0, 10.0),
    ("x2apic-read", 5390.0, 10.0),
    ("hypercall-null", 5500.0, 10.0),
    ("hypercall-unknown", 5461.0, 10.0),
    ("hypercall-64-bytes", 9436.0, 10.0),
    ("sched-yield", 7849.0, 10.0),
    ("rdtsc", 5326.0, 10.0),
    ("port-read", 1279.0, 3.0),
    ("apic-page-read", 14141.0, 3.0),
    ("apic-page-self-ipi", 41407.0, 3.0),
    ("x2apic-self-ipi", 17670.0, 3.0),
    ("event-send-masked", 9570.0, 3.0),
    ("event-send-and-upcall", 10895.0, 3.0),
    ("timer-set", 9779.0, 3.0),
    ("timer-set-expiry-upcall", 11699.0, 3.0),
    ("grant-copy-64", 15206.0, 5.0),
    ("grant-copy-4096", 15207.0, 5.0),
    ("grant-map-unmap", 29401.0, 5.0),
    ("balloon-out-and-in", 36835.0, 5.0),
    // Between the guest and a copy of it, on one CPU: there is a switch of domains in the first,
    // two are in the next two. A fifth for events as for grants, a third for yields.
    ("event-to-other-domain", 15908.0, 5.0),
    ("event-there-and-back", 41121.0, 5.0),
    ("yield-there-and-back", 19627.0, 3.0),
    ("other-copy-64", 16205.0, 5.0),
    ("other-copy-4096", 16758.0, 5.0),
    ("other-map-unmap", 36067.0, 5.0),
];

/// Prints the table; the backends that `skip_bochs` leaves.
pub(crate) fn figures(layout: &Layout, skip_bochs: bool) -> Result<()> {
    let guest = layout.build().join("bench-guest.elf");
    let modules = vec![(guest, String::new())];
    let options = "console=com1 dom0_mem=256M dom0_max_vcpus=1";

    let machine = Machine::load(layout.top(), "qemu-svm")?
        .cpus(1)
        .memory(1024);
    let machine = Machine {
        accelerator: "tcg,thread=single".to_owned(),
        ..machine
    };
    let start = Start::Direct {
        image: layout.radon32_elf(),
        options: options.to_owned(),
        modules: modules.clone(),
    };
    let mut boot = Boot::new("bench-operations-svm", machine, start);
    boot.extra = vec!["-icount".to_owned(), "shift=0".to_owned()];
    let svm = measure(layout, boot)?;

    let vmx = if skip_bochs {
        BTreeMap::new()
    } else {
        let iso = layout.build().join("bench.iso");
        let entry = grub::Entry {
            loads: grub::Loads::Radon,
            title: "bench".to_owned(),
            options: options.to_owned(),
            modules,
            commands: Vec::new(),
        };
        grub::make_iso(layout, &iso, &[entry])?;
        let start = Start::Iso {
            iso,
            firmware: Firmware::Bios,
        };
        measure(
            layout,
            Boot::new(
                "bench-operations-vmx",
                Machine::load(layout.top(), "bochs-vmx")?.cpus(1),
                start,
            ),
        )?
    };

    println!("\noperations from dom0, executed instructions, guest and hypervisor together");
    println!(
        "{:<28}{:>12}{:>14}{:>10}{:>8}  {:<9}VMX",
        "", "SVM (QEMU)", "VMX (Bochs)", "Xen 4.20", "goal", "SVM"
    );
    for (name, reference, share) in ROWS {
        let goal = Goal::Share(share);
        let count = |figures| count(figures, name);
        let verdict = |figures: &BTreeMap<String, u64>| {
            let value = figures.get(name);
            value.map_or("-", |&value| goal.verdict(value as f64, reference))
        };
        println!(
            "{name:<28}{:>12}{:>14}{reference:>10}{:>8.0}  {:<9}{}",
            count(&svm),
            count(&vmx),
            goal.most(reference),
            verdict(&svm),
            verdict(&vmx)
        );
    }
    let boot = |figures: &BTreeMap<String, u64>| {
        figures
            .get("boot-to-dom0")
            .map_or("-".to_owned(), |n| format!("{:.1} M", *n as f64 / 1e6))
    };
    println!(
        "{:<28}{:>12}{:>12}",
        "power-on to dom0's first",
        boot(&svm),
        boot(&vmx)
    );
    Ok(())
}

/// A count, if it was taken.
fn count(figures: &BTreeMap<String, u64>, name: &str) -> String {
    figures.get(name).map_or("-".to_owned(), u64::to_string)
}

fn measure(layout: &Layout, mut boot: Boot) -> Result<BTreeMap<String, u64>> {
    boot.repeat = "./radon bench".to_owned();
    let mut session = Session::start(layout, boot)?;
    let timeout = session.machine().seconds(120);
    let mut figures = BTreeMap::new();
    loop {
        session
            .console
            .expect(&["bench: "], timeout)
            .with_context(|| session.evidence())?;
        let line = session.console.rest_of_line(timeout)?;
        match line.split_once(' ') {
            None if line == "done" => return Ok(figures),
            Some(("trap", _)) => bail!("the guest met a trap\n{}", session.evidence()),
            Some((name, count)) => {
                // Lines without a number say what the machine lacks.
                if let Ok(count) = count.parse() {
                    figures.insert(name.to_owned(), count);
                }
            }
            None => bail!("the guest said {line:?}\n{}", session.evidence()),
        }
    }
}
