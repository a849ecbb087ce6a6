//! Fuzz targets, their seeds, and a small driver that mutates the seeds.
//!
//! A target takes any bytes and must return: a panic, an overflow or a broken
//! promise (an `assert!` in the target) is a finding. [`run`] feeds a target with
//! mutations of its seeds, a fixed number of them, from a fixed or given seed of the
//! generator; `tests/bounded.rs` does that for every target as part of the
//! ordinary tests. To go on for longer, or to repeat a finding:
//!
//! ```text
//! RADON_FUZZ_CASES=1000000 RADON_FUZZ_SEED=7 cargo nextest run --release -p fuzz
//! ```
//!
//! The targets are plain functions over bytes, so a coverage-guided fuzzer can call
//! them as they are.
#![forbid(unsafe_code)]

mod mutate;
mod seeds;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use mutate::Mutator;

/// Something that reads bytes which others wrote.
pub struct Target {
    /// Name, as in the test.
    pub name: &'static str,
    /// What is done with the bytes.
    pub run: fn(&[u8]),
    /// Well-formed inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Mutations in an ordinary test run.
    pub cases: u64,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "multiboot2",
        run: targets::multiboot2,
        seeds: seeds::multiboot2,
        cases: 40_000,
    },
    Target {
        name: "multiboot1",
        run: targets::multiboot1,
        seeds: seeds::multiboot1,
        cases: 40_000,
    },
    Target {
        name: "elf",
        run: targets::elf,
        seeds: seeds::elf,
        cases: 20_000,
    },
    Target {
        name: "bzimage",
        run: targets::bzimage,
        seeds: seeds::bzimage,
        cases: 3_000,
    },
    Target {
        name: "payload",
        run: targets::payload,
        seeds: seeds::payload,
        cases: 6_000,
    },
    Target {
        name: "command_line",
        run: targets::command_line,
        seeds: seeds::command_line,
        cases: 20_000,
    },
    Target {
        name: "xl_cfg",
        run: targets::xl_cfg,
        seeds: seeds::xl_cfg,
        cases: 20_000,
    },
    Target {
        name: "xs_wire",
        run: targets::xs_wire,
        seeds: seeds::xs_wire,
        cases: 10_000,
    },
    Target {
        name: "acpi",
        run: targets::acpi,
        seeds: seeds::acpi,
        cases: 20_000,
    },
    Target {
        name: "dmar",
        run: targets::dmar,
        seeds: seeds::dmar,
        cases: 20_000,
    },
    Target {
        name: "ivrs",
        run: targets::ivrs,
        seeds: seeds::ivrs,
        cases: 20_000,
    },
];

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a target over its seeds and mutations of them.
///
/// # Panics
/// On a finding, with what is needed to repeat it.
pub fn run(name: &str) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("no target {name}"));
    let seed = setting("RADON_FUZZ_SEED").unwrap_or(1);
    let cases = setting("RADON_FUZZ_CASES").unwrap_or(target.cases);
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for input in &seeds {
        (target.run)(input);
    }
    let mut mutator = Mutator::new(seed);
    for case in 0..cases {
        let input = mutator.mutate(&seeds);
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        assert!(
            outcome.is_ok(),
            "{name}: seed {seed} case {case} is a finding; the input is {}",
            hex(&input)
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
