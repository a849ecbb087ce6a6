//! What single operations cost: the guest of `tests/guests/bench` in dom0's
//! place, on QEMU (SVM, by `-icount`) and on Bochs (VMX, by its clock).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use boot_image::{Layout, grub};
use harness::{Boot, Firmware, Machine, Session, Start};

/// Names in the order of the table, and Xen 4.20's counts in the same QEMU,
/// measured by the same guest (Debian 13's package, dom0 as PVH).
const ROWS: [(&str, u64); 21] = [
    ("cpuid", 5393),
    ("cpuid-xen-leaf", 5399),
    ("rdmsr-apic-base", 5282),
    ("port-read", 1279),
    ("rdtsc", 5326),
    ("hypercall-null", 5500),
    ("hypercall-unknown", 5461),
    ("hypercall-64-bytes", 9436),
    ("sched-yield", 7849),
    ("apic-page-read", 14141),
    ("apic-page-self-ipi", 41407),
    ("x2apic-read", 5390),
    ("x2apic-self-ipi", 17670),
    ("event-send-masked", 9570),
    ("event-send-and-upcall", 10895),
    ("timer-set", 9779),
    ("timer-set-expiry-upcall", 11699),
    ("grant-copy-64", 15206),
    ("grant-copy-4096", 15207),
    ("grant-map-unmap", 29401),
    ("balloon-out-and-in", 36835),
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
        "{:<28}{:>12}{:>12}{:>16}{:>8}",
        "", "SVM (QEMU)", "VMX (Bochs)", "Xen 4.20 (SVM)", "ratio"
    );
    for (name, reference) in ROWS {
        let count = |figures: &BTreeMap<String, u64>| {
            figures.get(name).map_or("-".to_owned(), u64::to_string)
        };
        let ratio = svm.get(name).map_or("-".to_owned(), |&on| {
            format!("{:.2}", on as f64 / reference as f64)
        });
        println!(
            "{name:<28}{:>12}{:>12}{reference:>16}{ratio:>8}",
            count(&svm),
            count(&vmx)
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
