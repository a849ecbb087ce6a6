//! CPU models of Bochs that cannot work: one clear line each, before any module is looked at.

use anyhow::{Context, Result};
use boot_image::grub;
use harness::{Boot, Firmware, Report, Start};

use super::refusals::{Then, refused};
use crate::env::Env;

/// Model, and words that its refusal must hold.
const MODELS: &[(&str, &[&str])] = &[
    ("atom_n270", &["64-bit mode"]),
    ("p4_prescott_celeron_336", &["no VMX"]),
    ("core2_penryn_t9600", &["EPT"]),
    ("corei5_lynnfield_750", &["unrestricted guest"]),
    ("athlon64_clawhammer", &["no SVM"]),
    ("turion64_tyler", &["nested paging"]),
];

pub(crate) fn refusals(env: &Env, report: &mut Report) -> Result<()> {
    // No module is reached, and GRUB is the slower the more it loads.
    let module = env.layout.build().join("test-cpu-models-module");
    std::fs::write(&module, [0x42; 4096])?;
    let iso = env.layout.build().join("test-cpu-models.iso");
    let entry = grub::Entry {
        loads: grub::Loads::Radon,
        title: "refusals".to_owned(),
        options: "console=com1 loglvl=all noreboot".to_owned(),
        modules: vec![(module, "console=hvc0".to_owned())],
        commands: Vec::new(),
    };
    grub::make_iso(&env.layout, &iso, &[entry]).context("the test's ISO")?;
    for &(model, says) in MODELS {
        report.check(&format!("cpu-models/{model}"), || {
            let mut machine = env.machine("bochs-vmx")?.memory(512);
            model.clone_into(&mut machine.cpu);
            let start = Start::Iso {
                iso: iso.clone(),
                firmware: Firmware::Bios,
            };
            let mut boot = Boot::new(&format!("cpu-models-{model}"), machine, start);
            boot.repeat = "./radon test cpu-models".to_owned();
            refused(env, boot, 40, says, Then::Stay)
        });
    }
    Ok(())
}
