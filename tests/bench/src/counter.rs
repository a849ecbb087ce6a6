//! Executed instructions of a QEMU machine, by a TCG plugin.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use boot_image::Layout;
use guest_agent::MARKS;
use harness::plugin;

/// A plugin built for the QEMU of this machine.
pub(crate) struct Counter {
    plugin: PathBuf,
}

impl Counter {
    /// Compiles the plugin.
    pub(crate) fn build(layout: &Layout) -> Result<Self> {
        let plugin = plugin::compile(layout, "tests/bench/plugin/count.c", "count")?;
        Ok(Self { plugin })
    }

    /// The same, and marks at calls into the page at `page` and at each of `entries`.
    pub(crate) fn arguments_with_marks(
        &self,
        file: &Path,
        page: u64,
        entries: &[u64],
    ) -> Vec<String> {
        let mut arguments = self.arguments(file);
        if let Some(last) = arguments.last_mut() {
            last.push_str(&format!(",marks={page:#x}"));
            for entry in entries {
                last.push_str(&format!(",mark={entry:#x}"));
            }
        }
        arguments
    }

    /// QEMU's arguments; the count goes to `file`.
    pub(crate) fn arguments(&self, file: &Path) -> Vec<String> {
        plugin::arguments(&self.plugin, &format!("count={}", file.display()))
    }
}

/// What the plugin saw at marks: addresses and counts, in order.
pub(crate) struct Marks(Vec<(u64, u64)>);

impl Marks {
    /// Reads them.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let mut words = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
            .skip(1);
        let count = usize::try_from(words.next().context("the plugin wrote no count")?)?;
        let pairs = std::iter::from_fn(|| words.next().zip(words.next()));
        Ok(Self(pairs.take(count).collect()))
    }

    /// Where the agent's mark of a number is.
    pub(crate) fn address(number: u64) -> u64 {
        MARKS as u64 + number * 16
    }

    /// Whether a mark of a number was made.
    pub(crate) fn is_made(&self, number: u64) -> bool {
        let at = Self::address(number);
        self.0.iter().any(|&(mark, _)| mark == at)
    }

    /// Instructions from the last mark of a number to the next of another.
    pub(crate) fn between(&self, from: u64, to: u64) -> Result<f64> {
        self.since(from, Self::address(to))
    }

    /// Instructions from the last mark of a number until an address was jumped to.
    pub(crate) fn since(&self, number: u64, address: u64) -> Result<f64> {
        let from = Self::address(number);
        let at = self.0.iter().rposition(|&(at, _)| at == from);
        let at = at.with_context(|| format!("mark {number} was not made"))?;
        let end = self.0[at..].iter().find(|&&(at, _)| at == address);
        let (_, end) = end.with_context(|| format!("{address:#x} was not met after {number}"))?;
        Ok((end - self.0[at].1) as f64)
    }
}

/// The count so far.
pub(crate) fn read(file: &Path) -> Result<u64> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(bytes.len() >= 8, "the plugin wrote no count");
    Ok(u64::from_ne_bytes(bytes[..8].try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_taken_from_the_last_mark_on() {
        let at = Marks::address;
        let marks = Marks(vec![(at(1), 5), (7, 6), (at(1), 10), (7, 14), (at(2), 30)]);
        assert_eq!(marks.between(1, 2).unwrap(), 20.0);
        assert_eq!(marks.since(1, 7).unwrap(), 4.0);
        assert!(marks.between(2, 1).is_err());
        assert!(marks.is_made(2) && !marks.is_made(3));
    }
}
