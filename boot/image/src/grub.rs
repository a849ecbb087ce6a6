//! Bootable ISO images: GRUB for BIOS and UEFI, one entry per way of booting.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{Layout, elf32, step};

/// What a menu entry starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loads {
    /// The hypervisor, with its options and all modules.
    Radon,
    /// The first module, a bzImage, with the second as its initramfs: what the
    /// hypervisor is measured by.
    Linux,
}

/// A menu entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it starts.
    pub loads: Loads,
    /// Title in the menu.
    pub title: String,
    /// The hypervisor's command line.
    pub options: String,
    /// Files handed over in order, each with its command line.
    pub modules: Vec<(PathBuf, String)>,
    /// Commands of GRUB's own before all that; `{N}` stands for where module N lies.
    pub commands: Vec<String>,
}

/// The text of `grub.cfg` for these entries. The first is started at once; the
/// serial line carries GRUB's own messages.
pub fn config(entries: &[Entry]) -> String {
    let mut text = String::from(
        "set timeout=0\nset default=0\n\
         insmod all_video\nserial --unit=0 --speed=115200\n\
         terminal_input serial console\nterminal_output serial console\n",
    );
    for (index, entry) in entries.iter().enumerate() {
        text.push_str(&format!(
            "menuentry \"{}\" {{\n",
            entry.title.replace('"', "'")
        ));
        let file = |module: usize| format!("/boot/{index}/{module}");
        for command in &entry.commands {
            let with_file =
                |text: String, module: usize| text.replace(&format!("{{{module}}}"), &file(module));
            let command = (0..entry.modules.len()).fold(command.clone(), with_file);
            text.push_str(&format!("    {command}\n"));
        }
        match entry.loads {
            Loads::Radon => {
                let options = escape(&entry.options);
                text.push_str(&format!("    multiboot2 /boot/radon.elf {options}\n"));
                for (module, (_, arguments)) in entry.modules.iter().enumerate() {
                    let words = escape(arguments);
                    text.push_str(&format!("    module2 --nounzip {} {words}\n", file(module)));
                }
            }
            Loads::Linux => {
                let words = entry.modules.first().map_or("", |module| &module.1);
                text.push_str(&format!(
                    "    linux {} {}\n    initrd {}\n",
                    file(0),
                    escape(words),
                    file(1)
                ));
            }
        }
        text.push_str("    boot\n}\n");
    }
    text
}

/// GRUB's shell gives these characters a meaning.
fn escape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        if "\\\"'$;{}<>|&#".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Writes an ISO with `radon.elf` (sections dropped) and the entries' modules.
pub fn make_iso(layout: &Layout, iso: &Path, entries: &[Entry]) -> Result<()> {
    let tree = iso.with_extension("tree");
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    std::fs::create_dir_all(tree.join("boot/grub"))?;
    if entries.iter().any(|entry| entry.loads == Loads::Radon) {
        let elf = std::fs::read(layout.radon_elf())
            .with_context(|| format!("reading {}", layout.radon_elf().display()))?;
        std::fs::write(tree.join("boot/radon.elf"), elf32::strip(&elf)?)?;
    }
    for (index, entry) in entries.iter().enumerate() {
        let dir = tree.join("boot").join(index.to_string());
        std::fs::create_dir_all(&dir)?;
        for (module, (path, _)) in entry.modules.iter().enumerate() {
            let place = dir.join(module.to_string());
            if std::fs::hard_link(path, &place).is_err() {
                std::fs::copy(path, &place)
                    .with_context(|| format!("copying {}", path.display()))?;
            }
        }
    }
    std::fs::write(tree.join("boot/grub/grub.cfg"), config(entries))?;
    let mut command = Command::new("grub-mkrescue");
    command.arg("-o").arg(iso).arg(&tree);
    // Fonts, themes and translations would triple the image.
    command.args(["--fonts=", "--locales=", "--themes="]);
    step::logged(
        "making the ISO image",
        &mut command,
        &iso.with_extension("log"),
    )?;
    std::fs::remove_dir_all(&tree)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_modules_in_order_and_quote_for_grub() {
        let text = config(&[Entry {
            loads: Loads::Radon,
            title: "dom0".into(),
            options: "console=com1 dom0_mem=512M,max:1G".into(),
            modules: vec![
                ("k".into(), "console=hvc0 a;b".into()),
                ("i".into(), String::new()),
            ],
            commands: vec!["acpi {1}".into()],
        }]);
        let at = |what: &str| {
            text.find(what)
                .unwrap_or_else(|| panic!("{what} is missing in\n{text}"))
        };
        assert!(
            at("multiboot2 /boot/radon.elf console=com1 dom0_mem=512M,max:1G")
                < at("module2 --nounzip /boot/0/0 console=hvc0 a\\;b")
        );
        assert!(at("module2 --nounzip /boot/0/0") < at("module2 --nounzip /boot/0/1"));
        assert!(text.contains("timeout=0"));
        assert!(at("    acpi /boot/0/1\n") < at("multiboot2"));
    }
}
