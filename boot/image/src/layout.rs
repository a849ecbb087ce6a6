//! Where things lie in the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders of a checkout. `RADON_CACHE` moves the cache, so that several
/// worktrees can share one.
#[derive(Clone, Debug)]
pub struct Layout {
    top: PathBuf,
    cache: PathBuf,
}

impl Layout {
    /// The layout of the checkout that this crate was compiled from.
    pub fn new() -> Result<Self> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("the crate lies outside the checkout")?
            .to_path_buf();
        let cache = match std::env::var_os("RADON_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => top.join("build/cache"),
        };
        let layout = Self { top, cache };
        std::fs::create_dir_all(layout.build()).context("making build/")?;
        std::fs::create_dir_all(&layout.cache).context("making the cache")?;
        Ok(layout)
    }

    /// The root of the checkout.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// `build/`: what the commands leave behind.
    pub fn build(&self) -> PathBuf {
        self.top.join("build")
    }

    /// What was fetched or took long to make; survives `clean`.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The hypervisor as a Multiboot2 ELF64.
    pub fn radon_elf(&self) -> PathBuf {
        self.build().join("radon.elf")
    }

    /// The programs of `dom0-tools`, built.
    pub fn tools(&self) -> PathBuf {
        self.build().join("tools")
    }

    /// The same image for `qemu -kernel`.
    pub fn radon32_elf(&self) -> PathBuf {
        self.build().join("radon32.elf")
    }

    /// The bootable ISO.
    pub fn radon_iso(&self) -> PathBuf {
        self.build().join("radon.iso")
    }

    /// The Bochs that `boot/fetch/bochs.sh` built.
    pub fn bochs(&self) -> PathBuf {
        self.cache.join("bochs/bin/bochs")
    }

    /// A script of the checkout.
    pub fn script(&self, path: &str) -> PathBuf {
        self.top.join(path)
    }
}
