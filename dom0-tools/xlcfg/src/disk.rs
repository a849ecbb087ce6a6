//! Disks as xl-disk-configuration(5) writes them: positional and `key=value` forms.

use crate::parser::Atom;
use crate::source::{Problems, Span};
use crate::suggest::did_you_mean;
use crate::vdev::Vdev;

/// Format of the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFormat {
    /// Bytes as they are.
    #[default]
    Raw,
    /// QEMU's first format.
    Qcow,
    /// QEMU's second format.
    Qcow2,
    /// Microsoft's.
    Vhd,
    /// QEMU's abandoned one.
    Qed,
    /// A drive without a medium.
    Empty,
}

impl DiskFormat {
    const NAMES: &[&str] = &["raw", "qcow", "qcow2", "vhd", "qed", "empty"];

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "" | "raw" => Self::Raw,
            "qcow" => Self::Qcow,
            "qcow2" => Self::Qcow2,
            "vhd" => Self::Vhd,
            "qed" => Self::Qed,
            "empty" => Self::Empty,
            _ => return None,
        })
    }

    /// As xl prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow => "qcow",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Qed => "qed",
            Self::Empty => "empty",
        }
    }
}

/// Who serves the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendType {
    /// The kernel's blkback.
    Phy,
    /// QEMU.
    Qdisk,
    /// blktap.
    Tap,
    /// A program of the user's.
    Standalone,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// File or block device; `None` for an empty drive.
    pub target: Option<String>,
    /// Format of the file.
    pub format: DiskFormat,
    /// Name in the guest.
    pub vdev: Vdev,
    /// May the guest write?
    pub is_writable: bool,
    /// Is it a CD-ROM drive?
    pub is_cdrom: bool,
    /// Domain of the backend, dom0 when `None`.
    pub backend: Option<String>,
    /// Who serves it; chosen by the toolstack when `None`.
    pub backend_type: Option<BackendType>,
    /// Program that finds the block device.
    pub script: Option<String>,
    /// Offer discard?
    pub has_discard: bool,
    /// Shall the guest trust the backend?
    pub is_trusted: bool,
    /// Direct I/O of a user-space backend is safe.
    pub is_direct_io_safe: bool,
    /// Speak virtio instead of Xen's protocol.
    pub is_virtio: bool,
    /// Where it is configured.
    pub span: Span,
}

/// Parameters that take a value.
const KEYS: &[&str] = &[
    "target",
    "format",
    "vdev",
    "access",
    "devtype",
    "backend",
    "backendtype",
    "script",
    "specification",
    "grant_usage",
    "colo-host",
    "colo-port",
    "colo-export",
    "active-disk",
    "hidden-disk",
];

/// Parameters that stand alone.
const FLAGS: &[&str] = &[
    "cdrom",
    "discard",
    "no-discard",
    "direct-io-safe",
    "trusted",
    "untrusted",
    "colo",
    "no-colo",
];

#[derive(Default)]
struct Partial {
    target: Option<String>,
    format: Option<DiskFormat>,
    vdev: Option<(Vdev, Span)>,
    is_writable: Option<bool>,
    is_cdrom: Option<bool>,
    backend: Option<String>,
    backend_type: Option<BackendType>,
    script: Option<String>,
    discard: Option<bool>,
    trusted: Option<bool>,
    is_direct_io_safe: bool,
    is_virtio: bool,
    has_old_prefix: bool,
}

struct Reader<'a> {
    disk: Partial,
    problems: &'a mut Problems,
    has_failed: bool,
}

/// Reads one specification, e.g. `/srv/a.img,raw,xvda,rw`.
pub fn parse(atom: &Atom, problems: &mut Problems) -> Option<Disk> {
    let mut reader = Reader {
        disk: Partial::default(),
        problems,
        has_failed: false,
    };
    reader.words(&atom.text, atom.inner());
    reader.finish(atom.span)
}

impl Reader<'_> {
    fn fail(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        self.has_failed = true;
        self.problems.error(span, what, help);
    }

    fn words(&mut self, text: &str, span: Span) {
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let blank = rest.len() - rest.trim_start().len();
            at += blank;
            let rest = &text[at..];
            if rest.is_empty() {
                break;
            }
            // The target takes the rest, commas included.
            if let Some(target) = rest.strip_prefix("target=") {
                self.disk.target = Some(target.to_owned());
                return;
            }
            let skipped = self.old_prefix(rest, span.part(at, at + rest.len()));
            at += skipped;
            let rest = &rest[skipped..];
            let length = rest.find(',').unwrap_or(rest.len());
            self.word(&rest[..length], span.part(at, at + length));
            at += length + 1;
        }
    }

    /// `phy:/dev/x`, `file:/x`, `raw:/x`, `qcow2:/x`: long deprecated, still in use.
    fn old_prefix(&mut self, rest: &str, span: Span) -> usize {
        let Some((prefix, after)) = rest.split_once(':') else {
            return 0;
        };
        let is_word = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_alphanumeric());
        let is_first = self.disk.target.is_none();
        if !is_first || !is_word || rest.find(',').is_some_and(|comma| comma <= prefix.len()) {
            return 0;
        }
        match prefix {
            "phy" | "file" | "aio" | "tap" | "tap2" | "tapdisk" | "ioemu" => {}
            "raw" | "qcow" | "qcow2" | "vhd" => {
                self.disk.format = DiskFormat::parse(prefix);
            }
            "iscsi" | "nbd" | "enbd" | "drbd" => {
                self.disk.script = Some(format!("block-{prefix}"));
            }
            _ if after.starts_with('/') => self.fail(
                span.part(0, prefix.len()),
                format!("unknown disk prefix '{prefix}:'"),
                "write /path/to/image,raw,xvda,rw",
            ),
            _ => return 0,
        }
        self.disk.has_old_prefix = true;
        prefix.len() + 1
    }

    fn word(&mut self, word: &str, span: Span) {
        if let Some((key, value)) = word.split_once('=') {
            let value_span = span.part(key.len() + 1, word.len());
            self.key_value(key, value, span.part(0, key.len()), value_span);
        } else if !self.flag(word) {
            self.positional(word, span);
        }
    }

    fn flag(&mut self, word: &str) -> bool {
        match word {
            "cdrom" => self.disk.is_cdrom = Some(true),
            "discard" => self.disk.discard = Some(true),
            "no-discard" => self.disk.discard = Some(false),
            "direct-io-safe" => self.disk.is_direct_io_safe = true,
            "trusted" => self.disk.trusted = Some(true),
            "untrusted" => self.disk.trusted = Some(false),
            "no-colo" => {}
            _ => return false,
        }
        true
    }

    fn key_value(&mut self, key: &str, value: &str, key_span: Span, span: Span) {
        let text = Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "format" => self.format(value, span),
            "vdev" => self.vdev(value, span),
            "access" => self.access(value, span),
            "devtype" => match value {
                "cdrom" => self.disk.is_cdrom = Some(true),
                "disk" | "" => self.disk.is_cdrom = Some(false),
                _ => self.fail(
                    span,
                    format!("unknown device type '{value}'"),
                    did_you_mean(value, &["cdrom", "disk"]),
                ),
            },
            "backend" => self.disk.backend = text,
            "backendtype" => match value {
                "phy" => self.disk.backend_type = Some(BackendType::Phy),
                "qdisk" => self.disk.backend_type = Some(BackendType::Qdisk),
                "tap" => self.disk.backend_type = Some(BackendType::Tap),
                "standalone" => self.disk.backend_type = Some(BackendType::Standalone),
                _ => self.fail(
                    span,
                    format!("unknown backend type '{value}'"),
                    did_you_mean(value, &["phy", "qdisk", "tap", "standalone"]),
                ),
            },
            "script" => self.disk.script = text,
            "specification" => match value {
                "xen" => self.disk.is_virtio = false,
                "virtio" => self.disk.is_virtio = true,
                _ => self.fail(
                    span,
                    format!("unknown specification '{value}'"),
                    did_you_mean(value, &["xen", "virtio"]),
                ),
            },
            "grant_usage" if matches!(value, "0" | "1") => {}
            _ if key.starts_with("colo-") || key.ends_with("-disk") => self.fail(
                key_span,
                format!("'{key}' is for replicated guests, which are not supported"),
                "remove it",
            ),
            _ => self.fail(
                key_span,
                format!("unknown disk parameter '{key}'"),
                did_you_mean(key, KEYS),
            ),
        }
    }

    fn format(&mut self, value: &str, span: Span) {
        match DiskFormat::parse(value) {
            Some(format) => self.disk.format = Some(format),
            None => self.fail(
                span,
                format!("unknown disk format '{value}'"),
                did_you_mean(value, DiskFormat::NAMES),
            ),
        }
    }

    fn access(&mut self, value: &str, span: Span) {
        match value {
            "r" | "ro" => self.disk.is_writable = Some(false),
            "w" | "rw" | "" => self.disk.is_writable = Some(true),
            _ => {
                let words = ["ro", "rw", "r", "w"];
                let help = if FLAGS.contains(&value) {
                    "colo is not supported: remove it".to_owned()
                } else {
                    did_you_mean(value, &words)
                };
                self.fail(span, format!("unknown access '{value}'"), help);
            }
        }
    }

    fn vdev(&mut self, value: &str, span: Span) {
        // The old form with the type behind it.
        let (name, kind) = value.split_once(':').unwrap_or((value, ""));
        match kind {
            "cdrom" => self.disk.is_cdrom = Some(true),
            "disk" | "" => {}
            _ => self.fail(
                span,
                format!("unknown device type '{kind}'"),
                did_you_mean(kind, &["cdrom", "disk"]),
            ),
        }
        match Vdev::parse(name) {
            Some(vdev) => self.disk.vdev = Some((vdev, span)),
            None => self.fail(
                span,
                format!("'{name}' names no virtual disk"),
                "use xvda, xvdb, ... (also sda, hda to hdd; xvda1 for a partition)",
            ),
        }
    }

    fn positional(&mut self, word: &str, span: Span) {
        if self.disk.target.is_none() {
            self.disk.target = Some(word.to_owned());
        } else if !self.disk.has_old_prefix && self.disk.format.is_none() {
            let is_old_drive = self.disk.target.as_deref() == Some("") && word.contains(':');
            if is_old_drive {
                self.disk.format = Some(DiskFormat::Empty);
                self.vdev(word, span);
            } else {
                self.format(word, span);
            }
        } else if self.disk.vdev.is_none() {
            self.vdev(word, span);
        } else if self.disk.is_writable.is_none() {
            self.access(word, span);
        } else if !word.is_empty() {
            self.fail(
                span,
                format!("one word too many: '{word}'"),
                "the order is target,format,vdev,access; everything else has a name",
            );
        }
    }

    fn finish(mut self, span: Span) -> Option<Disk> {
        let is_cdrom = self.disk.is_cdrom.unwrap_or(false);
        let target = self.disk.target.take().filter(|target| !target.is_empty());
        let mut format = self.disk.format.unwrap_or_default();
        if self.disk.vdev.is_none() && !self.has_failed {
            self.fail(
                span,
                "the disk has no name in the guest",
                "add one as the third word: 'target,raw,xvda'",
            );
        }
        if target.is_none() {
            if !is_cdrom && format != DiskFormat::Empty && !self.has_failed {
                self.fail(
                    span,
                    "the disk has no target",
                    "name a file or block device first; only CD-ROM drives may be empty",
                );
            }
            format = DiskFormat::Empty;
        }
        if is_cdrom && self.disk.is_writable == Some(true) {
            self.problems.warning(
                span,
                "a CD-ROM cannot be written to",
                "write ro, or drop cdrom",
            );
        }
        if self.has_failed {
            return None;
        }
        let target = target.map(|path| {
            let is_path = self.disk.script.is_none() && !path.starts_with('/');
            if is_path {
                format!("/dev/{path}")
            } else {
                path
            }
        });
        Some(Disk {
            target,
            format,
            vdev: self.disk.vdev?.0,
            is_writable: !is_cdrom && self.disk.is_writable.unwrap_or(true),
            is_cdrom,
            backend: self.disk.backend,
            backend_type: self.disk.backend_type,
            script: self.disk.script,
            has_discard: self.disk.discard.unwrap_or(true),
            is_trusted: self.disk.trusted.unwrap_or(true),
            is_direct_io_safe: self.disk.is_direct_io_safe,
            is_virtio: self.disk.is_virtio,
            span,
        })
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
