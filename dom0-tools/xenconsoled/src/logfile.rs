//! Log files that rotate by size: `guest-NAME.log`, `.1` to `.3`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Files that are kept beside the present one.
const KEEP: u32 = 3;

/// A log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    max: u64,
}

/// The name of a guest, as part of a file name.
#[must_use]
pub fn file_name(guest: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let name: String = guest
        .chars()
        .take(128)
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    format!("guest-{name}.log")
}

impl LogFile {
    /// Opens or makes it; it rotates when it has `max` bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path, max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            len,
            max,
        })
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..KEEP).rev() {
            let from = self.numbered(number);
            if from.exists() {
                std::fs::rename(from, self.numbered(number + 1))?;
            }
        }
        std::fs::rename(&self.path, self.numbered(1))?;
        *self = Self::open(&self.path, self.max)?;
        Ok(())
    }

    /// Appends what a guest has printed.
    ///
    /// # Errors
    /// When the file system is full.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.len >= self.max {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_makes_room_for_the_next() {
        let dir = std::env::temp_dir().join(format!("xenconsoled-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(file_name("vm"));
        let mut log = LogFile::open(&path, 10).unwrap();
        for text in [
            "one 4567890",
            "two 4567890",
            "three 67890",
            "four 567890",
            "five 567890",
        ] {
            log.write(text.as_bytes()).unwrap();
        }
        let read = |suffix: &str| {
            let path = dir.join(format!("guest-vm.log{suffix}"));
            std::fs::read_to_string(path).unwrap_or_default()
        };
        assert_eq!(read(""), "five 567890");
        assert_eq!(read(".3"), "two 4567890");
        assert_eq!(read(".4"), "");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_stay_in_the_directory() {
        assert_eq!(file_name("../a b"), "guest-.._a_b.log");
    }
}
