//! What every group needs: images, kernels, and boots put together from them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use boot_image::kernel::Kernel;
use boot_image::{Layout, grub, initrd};
use harness::{Boot, Firmware, Machine, Session, Start};

/// The two stock kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linux {
    /// Debian 13's.
    V6_12,
    /// Debian 12's.
    V6_1,
}

impl Linux {
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::V6_12 => "6.12",
            Self::V6_1 => "6.1",
        }
    }
}

/// Images and kernels, found or made once.
pub(crate) struct Env {
    pub(crate) layout: Layout,
    /// Run the checks on bare Linux.
    pub(crate) native: bool,
    new: (Kernel, PathBuf),
    old: (Kernel, PathBuf),
}

/// How dom0 is started.
#[derive(Clone, Debug)]
pub(crate) struct Dom0 {
    /// Which kernel.
    pub(crate) linux: Linux,
    /// The packaged bzImage instead of the ELF unpacked from it.
    pub(crate) packed: bool,
    /// The hypervisor's options.
    pub(crate) options: String,
    /// More words for the kernel's command line.
    pub(crate) arguments: String,
    /// Start from an ISO by this firmware instead of QEMU's loader.
    pub(crate) firmware: Option<Firmware>,
    /// The initramfs that serves guests of these kernels, instead of the one for tests.
    pub(crate) guests: &'static [Linux],
}

impl Default for Dom0 {
    fn default() -> Self {
        Self {
            linux: Linux::V6_12,
            packed: false,
            options: String::new(),
            arguments: String::new(),
            firmware: None,
            guests: &[],
        }
    }
}

impl Env {
    /// Fetches kernels and makes the initramfs images where they are missing.
    pub(crate) fn new(native: bool) -> Result<Self> {
        let layout = Layout::new()?;
        let agent = layout.build().join("agent");
        ensure!(
            agent.exists(),
            "no {}: run ./radon test, which builds it",
            agent.display()
        );
        let with_initrd = |version: &str| -> Result<_> {
            let kernel = Kernel::fetch(&layout, version)?;
            let initrd = initrd::test(&layout, &kernel, Some(&agent))?;
            Ok((kernel, initrd))
        };
        let (new, old) = (with_initrd("6.12")?, with_initrd("6.1")?);
        Ok(Self {
            layout,
            native,
            new,
            old,
        })
    }

    /// A machine of `tests/machines`.
    pub(crate) fn machine(&self, name: &str) -> Result<Machine> {
        Machine::load(self.layout.top(), name)
    }

    /// Kernel and test initramfs.
    pub(crate) fn linux(&self, linux: Linux) -> &(Kernel, PathBuf) {
        match linux {
            Linux::V6_12 => &self.new,
            Linux::V6_1 => &self.old,
        }
    }

    /// The initramfs of a dom0 that serves guests.
    fn serving(&self, dom0: &Dom0) -> Result<PathBuf> {
        let (kernel, _) = self.linux(dom0.linux);
        let guests: Vec<(&str, &Kernel)> = dom0
            .guests
            .iter()
            .map(|&linux| (linux.version(), &self.linux(linux).0))
            .collect();
        initrd::serving(
            &self.layout,
            kernel,
            &self.layout.build().join("agent"),
            &guests,
            &[],
        )
    }

    /// The hypervisor by QEMU's loader with these modules.
    ///
    /// `RADON_OTHER_IMAGE`, `RADON_OTHER_OPTIONS` and `RADON_OTHER_QEMU` put
    /// another hypervisor of the same ABI in its place, to check the checks.
    pub(crate) fn direct(&self, options: &str, modules: Vec<(PathBuf, String)>) -> Start {
        let image = std::env::var_os("RADON_OTHER_IMAGE");
        let more = std::env::var("RADON_OTHER_OPTIONS").unwrap_or_default();
        Start::Direct {
            image: image.map_or_else(|| self.layout.radon32_elf(), PathBuf::from),
            options: format!("console=com1 loglvl=all {options} {more}")
                .trim()
                .to_owned(),
            modules,
        }
    }

    /// A boot of dom0 on `machine`; `group` is what repeats it.
    pub(crate) fn dom0(
        &self,
        group: &str,
        name: &str,
        machine: Machine,
        dom0: &Dom0,
    ) -> Result<Boot> {
        let (kernel, initrd) = self.linux(dom0.linux);
        let initrd = match dom0.guests {
            [] => initrd.clone(),
            _ => self.serving(dom0)?,
        };
        let image = if dom0.packed {
            kernel.vmlinuz()
        } else {
            kernel.vmlinux()
        };
        let full = format!("{group}-{name}");
        let console = if self.native { "ttyS0" } else { "hvc0" };
        let arguments = format!("console={console} {}", dom0.arguments)
            .trim()
            .to_owned();
        let start = match (self.native, dom0.firmware) {
            (true, None) => Start::Native {
                kernel: image,
                initrd,
                arguments,
            },
            (false, None) => self.direct(
                &dom0.options,
                vec![(image, arguments), (initrd, String::new())],
            ),
            (native, Some(firmware)) => {
                let iso = self.layout.build().join(format!("test-{full}.iso"));
                let image = if native { kernel.vmlinuz() } else { image };
                let entry = grub::Entry {
                    loads: if native {
                        grub::Loads::Linux
                    } else {
                        grub::Loads::Radon
                    },
                    title: full.clone(),
                    options: format!("console=com1 loglvl=all {}", dom0.options)
                        .trim()
                        .to_owned(),
                    modules: vec![(image, arguments), (initrd, String::new())],
                    commands: Vec::new(),
                };
                grub::make_iso(&self.layout, &iso, &[entry]).context("the test's ISO")?;
                Start::Iso { iso, firmware }
            }
        };
        let mut boot = Boot::new(&full, machine, start);
        let native = if self.native { "--native " } else { "" };
        boot.repeat = format!("./radon test {native}{group}");
        if let Ok(words) = std::env::var("RADON_OTHER_QEMU") {
            boot.extra
                .extend(words.split_whitespace().map(str::to_owned));
        }
        Ok(boot)
    }

    /// Starts a boot.
    pub(crate) fn start(&self, boot: Boot) -> Result<Session> {
        Session::start(&self.layout, boot)
    }
}
