//! Boot to userland and idle seconds, beside the kernel without a hypervisor.

use anyhow::{Context, Result};
use boot_image::kernel::Kernel;
use boot_image::{Layout, elf32, initrd};
use harness::{Boot, Machine, Session, Start};

use crate::counter::{self, Counter};

/// Idle seconds that are averaged.
const IDLE: u64 = 10;

/// Executed instructions of one boot.
struct Figures {
    userland: u64,
    idle_second: u64,
    first_idle_second: u64,
}

/// Prints the table.
pub(crate) fn figures(layout: &Layout, native_only: bool) -> Result<()> {
    let counter = Counter::build(layout)?;
    let kernel = Kernel::fetch(layout, "6.12")?;
    let agent = layout.build().join("agent");
    let initrd = initrd::test(layout, &kernel, Some(&agent))?;
    let native = measure(
        layout,
        &counter,
        "bench-native",
        Start::Native {
            kernel: kernel.vmlinux(),
            initrd: initrd.clone(),
            arguments: "console=ttyS0".to_owned(),
        },
    )?;
    println!("boot and idle, QEMU SVM, 1 CPU, executed instructions");
    println!(
        "{:<28}{:>16}{:>16}{:>8}",
        "", "Linux alone", "on Radon", "ratio"
    );
    if native_only {
        for (name, value) in rows(&native) {
            println!("{name:<28}{:>16}", millions(value));
        }
        return Ok(());
    }
    let start = Start::Direct {
        image: layout.radon32_elf(),
        options: "console=com1".to_owned(),
        modules: vec![
            (kernel.vmlinux(), "console=hvc0".to_owned()),
            (initrd, String::new()),
        ],
    };
    let radon = measure(layout, &counter, "bench-radon", start)?;
    for ((name, alone), (_, on)) in rows(&native).into_iter().zip(rows(&radon)) {
        let ratio = on as f64 / alone as f64;
        println!(
            "{name:<28}{:>16}{:>16}{ratio:>8.2}",
            millions(alone),
            millions(on)
        );
    }
    let elf = std::fs::read(layout.radon_elf()).context("reading the image")?;
    println!(
        "image: {} KiB in the file, {} KiB in memory",
        elf32::convert(&elf)?.len() / 1024,
        elf32::memory_size(&elf)? / 1024
    );
    Ok(())
}

fn rows(figures: &Figures) -> [(&'static str, u64); 3] {
    [
        ("power-on to userland", figures.userland),
        ("first idle second", figures.first_idle_second),
        ("idle second", figures.idle_second),
    ]
}

fn millions(count: u64) -> String {
    format!("{:.3} M", count as f64 / 1e6)
}

fn measure(layout: &Layout, counter: &Counter, name: &str, start: Start) -> Result<Figures> {
    let machine = Machine::load(layout.top(), "qemu-svm")?
        .cpus(1)
        .memory(1024);
    let mut boot = Boot::new(
        name,
        Machine {
            accelerator: "tcg,thread=single".to_owned(),
            ..machine
        },
        start,
    );
    let file = layout.build().join(format!("{name}.count"));
    boot.extra = counter.arguments(&file);
    boot.extra
        .extend(["-icount".to_owned(), "shift=0".to_owned()]);
    boot.repeat = "./radon bench".to_owned();
    let mut session = Session::start(layout, boot)?;
    let timeout = session.machine().seconds(600);
    let up = session
        .console
        .expect(&["RADON-TEST: userland up"], timeout);
    up.with_context(|| session.evidence())?;
    let userland = counter::read(&file)?;
    session.console.expect(&["RADON-TEST: ready\n"], timeout)?;
    session.console.shell("PS1=", timeout)?;
    // The guest marks the ends of its rests itself. `read -t` waits without a
    // new process, which would cost as much as many idle seconds.
    let script =
        format!("for rest in 1 2 {IDLE}; do echo mark; read -t $rest none; done; echo mark");
    session.console.send(&format!("{script}\n"))?;
    let mut marks = [0; 4];
    for mark in &mut marks {
        session.console.expect(&["mark\n"], timeout)?;
        *mark = counter::read(&file)?;
    }
    Ok(Figures {
        userland,
        first_idle_second: marks[1] - marks[0],
        idle_second: (marks[3] - marks[2]) / IDLE,
    })
}
