//! Initramfs archives in the "newc" format, written without root, external
//! programs or timestamps, so that equal input gives equal bytes.
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive under construction. Folders are added as files need them.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: std::collections::BTreeSet<String>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder and those it lies in.
    pub fn folder(&mut self, path: &str) -> &mut Self {
        let mut end = 0;
        while end < path.len() {
            end = path[end + 1..]
                .find('/')
                .map_or(path.len(), |at| end + 1 + at);
            let name = &path[..end];
            if self.folders.insert(name.to_owned()) {
                self.entry(name, DIRECTORY | 0o755, 2, &[]);
            }
        }
        self
    }

    /// Adds a regular file with the given permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> &mut Self {
        self.parent(path);
        self.entry(path, REGULAR | (permissions & 0o7777), 1, content);
        self
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.parent(path);
        self.entry(path, SYMLINK | 0o777, 1, target.as_bytes());
        self
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, 1, &[]);
        // Linux skips zero bytes between archives; QEMU and GRUB do not care.
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("an initramfs member under 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend(MAGIC.bytes());
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and contents, read back by the format's description.
    fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut at = 0;
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[at..at + 6], MAGIC.as_bytes());
            let field = |i: usize| {
                let start = at + 6 + 8 * i;
                u32::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16)
                    .unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name_at = at + 110;
            let name = String::from_utf8(bytes[name_at..name_at + name_size - 1].to_vec()).unwrap();
            let data = (name_at + name_size).next_multiple_of(4);
            if name == TRAILER {
                return found;
            }
            found.push((name, mode, bytes[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
    }

    #[test]
    fn members_come_back_with_their_folders_first() {
        let mut archive = Archive::new();
        archive
            .file("lib/modules/a.ko", 0o644, b"abc")
            .link("bin/sh", "busybox")
            .file("init", 0o755, b"#!");
        let members = read(&archive.finish());
        let names: Vec<&str> = members.iter().map(|m| m.0.as_str()).collect();
        assert_eq!(
            names,
            [
                "lib",
                "lib/modules",
                "lib/modules/a.ko",
                "bin",
                "bin/sh",
                "init"
            ]
        );
        assert_eq!(members[2].2, b"abc");
        assert_eq!(members[4].1, 0o120_777);
        assert_eq!(members[5].1, 0o100_755);
    }

    #[test]
    fn equal_input_gives_equal_bytes_in_whole_sectors() {
        let make = || {
            let mut archive = Archive::new();
            archive.file("x/y", 0o600, &[7; 1000]);
            archive.finish()
        };
        assert_eq!(make(), make());
        assert_eq!(make().len() % 512, 0);
    }
}
