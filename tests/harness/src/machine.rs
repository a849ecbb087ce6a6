//! Descriptions of emulated machines: `tests/machines/*.toml`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Which program emulates the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emulator {
    /// `qemu-system-x86_64`.
    Qemu,
    /// Bochs 3.0 of `boot/fetch/bochs.sh`.
    Bochs,
}

/// The virtualisation extension that the machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Virtualisation {
    /// Intel.
    Vmx,
    /// AMD.
    Svm,
}

/// An emulated machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name of the description.
    #[serde(skip)]
    pub name: String,
    /// Program that emulates it.
    pub emulator: Emulator,
    /// Extension that the hypervisor will find.
    pub virtualisation: Virtualisation,
    /// QEMU's `-accel`.
    #[serde(default)]
    pub accelerator: String,
    /// QEMU's `-machine`.
    #[serde(default)]
    pub chipset: String,
    /// CPU model with its flags.
    pub cpu: String,
    /// Memory in MiB.
    pub memory: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// Bochs' instructions per emulated second.
    #[serde(default)]
    pub ips: u64,
    /// QEMU's IOMMU: the device with its properties, and all others behind it.
    #[serde(default)]
    pub iommu: Option<String>,
    /// Timeouts are divided by this.
    pub speed: f64,
}

impl Machine {
    /// Reads the description `name` from the checkout at `top`.
    pub fn load(top: &Path, name: &str) -> Result<Self> {
        let path = top.join("tests/machines").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let mut machine: Self =
            toml::from_str(&text).with_context(|| path.display().to_string())?;
        name.clone_into(&mut machine.name);
        Ok(machine)
    }

    /// The same machine with other memory.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// The same machine with another number of CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// A timeout of so many seconds on a machine of speed 1, scaled. A loaded
    /// host can widen all of them with `RADON_TIMEOUT_SCALE`.
    pub fn seconds(&self, seconds: u64) -> Duration {
        let scale = std::env::var("RADON_TIMEOUT_SCALE")
            .ok()
            .and_then(|s| s.parse::<f64>().ok())
            .unwrap_or(1.0);
        Duration::from_secs(seconds).mul_f64(scale.max(0.1) / self.speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .unwrap()
    }

    #[test]
    fn every_description_in_the_checkout_is_valid() {
        let mut count = 0;
        for entry in std::fs::read_dir(top().join("tests/machines")).unwrap() {
            let path = entry.unwrap().path();
            let machine =
                Machine::load(top(), path.file_stem().unwrap().to_str().unwrap()).unwrap();
            assert!(machine.speed > 0.0 && machine.memory > 0 && machine.cpus > 0);
            assert_eq!(
                machine.emulator == Emulator::Bochs,
                machine.ips > 0,
                "{}",
                path.display()
            );
            count += 1;
        }
        assert!(count >= 4);
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<Machine>("emulator = \"qemu\"\nspede = 1").is_err());
    }
}
