//! Boot to userland and idle seconds, beside the kernel without a hypervisor;
//! memory and image size.

use std::path::PathBuf;

use anyhow::{Context, Result};
use boot_image::kernel::Kernel;
use boot_image::{Layout, elf32, grub, initrd};
use harness::{Boot, Firmware, Machine, Session, Start};

use crate::counter::{self, Counter};
use crate::goal::{self, Goal};

/// Idle seconds that are averaged.
const IDLE: u64 = 10;
/// Memory of the machines, MiB.
const MEMORY: u32 = 1024;
/// Said by the reference about its own boot and rest (facts of Xen 4.20 in the same QEMU).
const REFERENCE_RATIO: f64 = 1.48;
const REFERENCE_IDLE: f64 = 1.43e6;
const REFERENCE_MEMORY_KIB: f64 = 49.0 * 1024.0;
const REFERENCE_IMAGE: f64 = 2_594_216.0;

/// One figure of several.
type Of = fn(&Figures) -> Option<f64>;

/// What one boot showed, as far as its machine can tell.
#[derive(Default)]
struct Figures {
    /// TSC ticks from the hypervisor's entry to dom0's first instruction.
    hypervisor: Option<f64>,
    /// Executed instructions, or TSC ticks, from power-on to userland.
    userland: f64,
    first_idle_second: Option<f64>,
    idle_second: Option<f64>,
    memory_kib: Option<f64>,
}

/// Prints the tables of both backends.
pub(crate) fn figures(layout: &Layout, native_only: bool, no_bochs: bool) -> Result<()> {
    let kernel = Kernel::fetch(layout, "6.12")?;
    let agent = layout.build().join("agent");
    let initrd = initrd::test(layout, &kernel, Some(&agent))?;
    let counter = Counter::build(layout)?;

    let start = Start::Native {
        kernel: kernel.vmlinux(),
        initrd: initrd.clone(),
        arguments: "console=ttyS0".to_owned(),
    };
    let native = on_qemu(layout, &counter, "bench-native", start)?;
    let radon = if native_only {
        None
    } else {
        let start = Start::Direct {
            image: layout.radon32_elf(),
            options: "console=com1 loglvl=all".to_owned(),
            modules: vec![
                (kernel.vmlinux(), "console=hvc0".to_owned()),
                (initrd.clone(), String::new()),
            ],
        };
        Some(on_qemu(layout, &counter, "bench-radon", start)?)
    };
    print("SVM (QEMU), executed instructions", &native, radon.as_ref());

    if !no_bochs {
        // The hypervisor has GRUB leave a frame buffer, on which Linux has a cursor blink five times
        // a second; without it there is text, whose cursor is the card's own.
        let words = "console=ttyS0 quiet vt.global_cursor_default=0";
        let image = [(kernel.vmlinuz(), words), (initrd, "")];
        let native = on_bochs(layout, "bench-native-vmx", grub::Loads::Linux, &image)?;
        let radon = if native_only {
            None
        } else {
            let image = image.map(|(path, words)| (path, words.replace("ttyS0", "hvc0")));
            let image = [
                (image[0].0.clone(), image[0].1.as_str()),
                (image[1].0.clone(), ""),
            ];
            Some(on_bochs(
                layout,
                "bench-radon-vmx",
                grub::Loads::Radon,
                &image,
            )?)
        };
        print("VMX (Bochs), ticks of the clock", &native, radon.as_ref());
    }
    if !native_only {
        let elf = std::fs::read(layout.radon_elf()).context("reading the image")?;
        let size = elf32::convert(&elf)?.len() as f64;
        goal::head("the image");
        goal::row(
            "file, KiB",
            size / 1024.0,
            REFERENCE_IMAGE / 1024.0,
            Goal::Most(1536.0),
        );
        let memory = elf32::memory_size(&elf)? as f64;
        goal::plain("in memory, KiB", memory / 1024.0);
    }
    Ok(())
}

fn print(title: &str, native: &Figures, radon: Option<&Figures>) {
    println!("\nboot and rest of Linux 6.12, 1 CPU, {MEMORY} MiB, {title}");
    println!(
        "{:<34}{:>14}{:>14}{:>8}",
        "", "Linux alone", "on Radon", "ratio"
    );
    let rows: [(&str, Of); 4] = [
        ("hypervisor's entry to dom0's first", |f| f.hypervisor),
        ("power-on to userland", |f| Some(f.userland)),
        ("first idle second", |f| f.first_idle_second),
        ("idle second", |f| f.idle_second),
    ];
    for (name, of) in rows {
        let text = |value: Option<f64>| {
            value.map_or("-".to_owned(), |value| format!("{:.3} M", value / 1e6))
        };
        let (alone, on) = (of(native), radon.and_then(of));
        let ratio = alone
            .zip(on)
            .map_or("-".to_owned(), |(alone, on)| format!("{:.3}", on / alone));
        println!("{name:<34}{:>14}{:>14}{ratio:>8}", text(alone), text(on));
    }
    let Some(radon) = radon else {
        return;
    };
    goal::head("against Xen 4.20 (SVM)");
    let ratio = radon.userland / native.userland;
    goal::row(
        "userland, times native",
        ratio,
        REFERENCE_RATIO,
        Goal::Most(1.2),
    );
    if let Some(idle) = radon.idle_second {
        goal::row("idle second", idle, REFERENCE_IDLE, Goal::Most(0.3e6));
    }
    if let Some(memory) = radon.memory_kib {
        let most = 12.0 * 1024.0 + f64::from(MEMORY) * 1024.0 / 100.0;
        goal::row(
            "memory, KiB",
            memory,
            REFERENCE_MEMORY_KIB,
            Goal::Most(most),
        );
    }
}

/// QEMU with `-icount`: the plugin counts.
fn on_qemu(layout: &Layout, counter: &Counter, name: &str, start: Start) -> Result<Figures> {
    let machine = Machine::load(layout.top(), "qemu-svm")?
        .cpus(1)
        .memory(MEMORY);
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
    let before = up.with_context(|| session.evidence())?.before;
    let userland = counter::read(&file)? as f64;
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
        first_idle_second: Some((marks[1] - marks[0]) as f64),
        idle_second: Some(((marks[3] - marks[2]) / IDLE) as f64),
        ..of_log(&before)
    })
}

/// Bochs: its TSC counts instructions, and ticks of idle time. Rests are told by the
/// account of who owns the CPU: the hypervisor's of dom0's vCPU, or Linux' own.
fn on_bochs(
    layout: &Layout,
    name: &str,
    loads: grub::Loads,
    modules: &[(PathBuf, &str)],
) -> Result<Figures> {
    let machine = Machine::load(layout.top(), "bochs-vmx")?
        .cpus(1)
        .memory(MEMORY);
    let ips = machine.ips as f64;
    let iso = layout.build().join(format!("{name}.iso"));
    let entry = grub::Entry {
        loads,
        title: "bench".to_owned(),
        options: "console=com1 loglvl=all".to_owned(),
        modules: modules
            .iter()
            .map(|(path, words)| (path.clone(), (*words).to_owned()))
            .collect(),
        commands: Vec::new(),
    };
    grub::make_iso(layout, &iso, &[entry])?;
    let start = Start::Iso {
        iso,
        firmware: Firmware::Bios,
    };
    let mut boot = Boot::new(name, machine, start);
    boot.repeat = "./radon bench".to_owned();
    let mut session = Session::start(layout, boot)?;
    let timeout = session.machine().seconds(600);
    let up = session.console.expect(&["RADON-TEST: tsc "], timeout);
    let before = up.with_context(|| session.evidence())?.before;
    let ticks = session.console.expect(&[";"], timeout)?.before;
    let mut figures = of_log(&before);
    figures.userland = ticks.trim().parse().context("the TSC at userland")?;
    session.console.expect(&["RADON-TEST: ready\n"], timeout)?;
    session.console.shell("sleep 3", timeout)?;
    let command = format!("agent idle {IDLE}");
    let (said, _) = session.console.shell(&command, timeout)?;
    let running = number_between(&said, "idle ", ";")
        .with_context(|| format!("the agent said {said:?}\n{}", session.evidence()))?;
    figures.idle_second = Some(running * ips / 1e9);
    Ok(figures)
}

/// What the hypervisor said about itself.
fn of_log(log: &str) -> Figures {
    let memory = log
        .lines()
        .find_map(|line| line.split_once("Memory of the hypervisor: "))
        .map(|(_, parts)| {
            let words: Vec<&str> = parts.split_whitespace().collect();
            let kib = words.windows(2).filter(|pair| pair[1].starts_with("KiB"));
            kib.filter_map(|pair| pair[0].parse::<f64>().ok()).sum()
        });
    Figures {
        hypervisor: number_between(log, "Dom0 starts ", " TSC"),
        memory_kib: memory,
        ..Figures::default()
    }
}

fn number_between(text: &str, before: &str, after: &str) -> Option<f64> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after)?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_understood() {
        let log = "(XEN) [0.1] Memory of the hypervisor: image 1080 KiB, frame table and M2P 6143 KiB, \
                   heap 2048 KiB (67 used), frames 132 KiB, page tables 80 KiB\r\n\
                   (XEN) [0.1] Dom0 starts 84575123 TSC ticks after entry\r\n";
        let figures = of_log(log);
        assert_eq!(figures.memory_kib, Some(9483.0));
        assert_eq!(figures.hypervisor, Some(84_575_123.0));
        assert!(of_log("nothing").hypervisor.is_none());
    }
}
