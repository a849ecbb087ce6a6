//! The typed configuration.

use std::fmt;

use crate::cpus::CpuList;
use crate::disk::{self, Disk};
use crate::parser::Document;
use crate::settings::{Settings, parse_number};
use crate::source::{Problems, Source, Span};
use crate::vif::{self, Vif};

/// How a guest is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// Paravirtualised, without hardware support.
    Pv,
    /// Hardware support, no emulated devices.
    Pvh,
    /// Hardware support and emulated devices.
    Hvm,
}

/// What to do when a guest has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Destroy it.
    Destroy,
    /// Destroy it and create it again.
    Restart,
    /// Keep it under another name and create it again.
    RenameRestart,
    /// Keep it.
    Preserve,
    /// Write its memory to a file, then destroy it.
    CoredumpDestroy,
    /// Write its memory to a file, then restart it.
    CoredumpRestart,
    /// Reset what it shares with the hypervisor and let it go on.
    SoftReset,
}

impl Action {
    const WORDS: &[(&str, Self)] = &[
        ("destroy", Self::Destroy),
        ("restart", Self::Restart),
        ("rename-restart", Self::RenameRestart),
        ("preserve", Self::Preserve),
        ("coredump-destroy", Self::CoredumpDestroy),
        ("coredump-restart", Self::CoredumpRestart),
        ("soft-reset", Self::SoftReset),
    ];

    /// As in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, action)| *action == self);
        found.map_or("", |(word, _)| word)
    }
}

/// `tsc_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TscMode {
    /// The hypervisor decides.
    #[default]
    Default = 0,
    /// Every read is emulated.
    AlwaysEmulate = 1,
    /// Never emulated.
    Native = 2,
    /// Obsolete.
    NativeParavirt = 3,
}

/// `timer_mode`: how late ticks are made up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerMode {
    /// Time waits for missed ticks.
    DelayForMissedTicks = 0,
    /// It does not.
    NoDelayForMissedTicks = 1,
    /// Missed ticks are dropped.
    NoMissedTicksPending = 2,
    /// All but one are dropped.
    OneMissedTickPending = 3,
}

/// A unique number of 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, hyphens optional.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|&b| b != b'-').collect();
        if digits.len() != 32 {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let [high, low] = pair else { return None };
            let digit = |b: u8| char::from(b).to_digit(16);
            *byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name, unique on the machine.
    pub name: String,
    /// How it is run.
    pub kind: GuestKind,
    /// Made up by the toolstack when `None`.
    pub uuid: Option<Uuid>,
    /// CPU pool.
    pub pool: Option<String>,
    /// vCPUs that are online at the start.
    pub vcpus: u32,
    /// vCPUs that can be brought online.
    pub max_vcpus: u32,
    /// CPUs that each vCPU may run on; missing ones may run anywhere.
    pub cpus: Vec<CpuList>,
    /// CPUs that each vCPU prefers.
    pub cpus_soft: Vec<CpuList>,
    /// Share of CPU time relative to others.
    pub weight: Option<u16>,
    /// Most CPU time, in percent of a CPU; 0 for no limit.
    pub cap: Option<u16>,
    /// Memory at the start, MiB.
    pub memory_mib: u64,
    /// Most memory, MiB.
    pub max_memory_mib: u64,
    /// Kernel in dom0.
    pub kernel: Option<String>,
    /// Its initial ramdisk.
    pub ramdisk: Option<String>,
    /// Its command line.
    pub command_line: String,
    /// When it powers itself off.
    pub on_poweroff: Action,
    /// When it asks for a reboot.
    pub on_reboot: Action,
    /// When its watchdog expires.
    pub on_watchdog: Action,
    /// When it crashes.
    pub on_crash: Action,
    /// When it asks for a soft reset.
    pub on_soft_reset: Action,
    /// Limit on frames of its grant table.
    pub max_grant_frames: Option<u32>,
    /// Limit on frames for its grant mappings.
    pub max_maptrack_frames: Option<u32>,
    /// Highest version of its grant table.
    pub max_grant_version: Option<u32>,
    /// Limit on event channels.
    pub max_event_channels: Option<u32>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Network cards.
    pub vifs: Vec<Vif>,
    /// Time stamp counter.
    pub tsc_mode: TscMode,
    /// Emulated timers.
    pub timer_mode: Option<TimerMode>,
    /// ACPI tables for the guest?
    pub has_acpi: bool,
    /// Must it stay on this machine?
    pub is_pinned_to_host: bool,
}

/// Most vCPUs of one guest.
const MAX_VCPUS: u32 = 128;
/// Most memory of one guest: 16 TiB.
const MAX_MEMORY_MIB: u64 = 16 << 20;
/// Xen's command line buffer and Linux's.
const MAX_COMMAND_LINE: usize = 2047;

impl Config {
    /// Reads and checks every option. `None` when something that cannot be done
    /// without is missing or wrong; the reason is among the problems.
    #[must_use]
    pub fn read(document: &Document, source: &Source, problems: &mut Problems) -> Option<Self> {
        Self::read_settings(&mut Settings::new(document, source, problems))
    }

    pub(crate) fn read_settings(s: &mut Settings<'_>) -> Option<Self> {
        let name = read_name(s);
        let kind = read_kind(s);
        let (vcpus, max_vcpus) = read_vcpus(s);
        let memory = read_memory(s);
        let timer_words = [
            ("delay_for_missed_ticks", TimerMode::DelayForMissedTicks),
            (
                "no_delay_for_missed_ticks",
                TimerMode::NoDelayForMissedTicks,
            ),
            ("no_missed_ticks_pending", TimerMode::NoMissedTicksPending),
            ("one_missed_tick_pending", TimerMode::OneMissedTickPending),
        ];
        let tsc_words = [
            ("default", TscMode::Default),
            ("always_emulate", TscMode::AlwaysEmulate),
            ("native", TscMode::Native),
            ("native_paravirt", TscMode::NativeParavirt),
        ];
        let mut action = |name, default| s.word(name, Action::WORDS, false).unwrap_or(default);
        let (on_poweroff, on_reboot, on_watchdog, on_crash, on_soft_reset) = (
            action("on_poweroff", Action::Destroy),
            action("on_reboot", Action::Restart),
            action("on_watchdog", Action::Destroy),
            action("on_crash", Action::Destroy),
            action("on_soft_reset", Action::SoftReset),
        );
        let config = Self {
            kind: kind?,
            uuid: read_uuid(s),
            pool: s.text("pool"),
            vcpus,
            max_vcpus,
            cpus: read_cpus(s, "cpus", max_vcpus),
            cpus_soft: read_cpus(s, "cpus_soft", max_vcpus),
            weight: read_u16(s, "cpu_weight", 1, 65535),
            cap: read_u16(s, "cap", 0, 65535),
            memory_mib: memory.map_or(0, |(now, _)| now),
            max_memory_mib: memory.map_or(0, |(_, max)| max),
            kernel: s.text("kernel"),
            ramdisk: s.text("ramdisk"),
            command_line: read_command_line(s),
            on_poweroff,
            on_reboot,
            on_watchdog,
            on_crash,
            on_soft_reset,
            max_grant_frames: s.number_u32("max_grant_frames", 4, 65536),
            max_maptrack_frames: s.number_u32("max_maptrack_frames", 0, 65536),
            max_grant_version: s.number_u32("max_grant_version", 1, 2),
            max_event_channels: s.number_u32("max_event_channels", 1, 131_071),
            disks: read_disks(s),
            vifs: read_vifs(s),
            tsc_mode: s.word("tsc_mode", &tsc_words, true).unwrap_or_default(),
            timer_mode: s.word("timer_mode", &timer_words, true),
            has_acpi: s.boolean("acpi").unwrap_or(true),
            is_pinned_to_host: s.boolean("nomigrate").unwrap_or(false),
            name: name?,
        };
        if config.ramdisk.is_some() && config.kernel.is_none() {
            s.error(
                "ramdisk",
                "a ramdisk without a kernel has no use",
                "add kernel = \"/boot/vmlinuz-...\"",
            );
        }
        Some(config)
    }
}

fn read_name(s: &mut Settings<'_>) -> Option<String> {
    let Some(name) = s.text("name") else {
        s.error(
            "name",
            "the guest has no name",
            "add a line: name = \"guest1\"",
        );
        return None;
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+:@".contains(c);
    if name.bytes().all(|b| b.is_ascii_digit()) {
        s.error(
            "name",
            format!("the name '{name}' would be taken for a domain number"),
            "add a letter",
        );
        return None;
    }
    if !name.chars().all(is_plain) || name.len() > 255 {
        s.error(
            "name",
            format!("'{name}' cannot be a name"),
            "use at most 255 letters, digits and - _ . + : @",
        );
        return None;
    }
    Some(name)
}

fn read_kind(s: &mut Settings<'_>) -> Option<GuestKind> {
    let kinds = [
        ("pv", GuestKind::Pv),
        ("pvh", GuestKind::Pvh),
        ("hvm", GuestKind::Hvm),
    ];
    let builders = [
        ("generic", GuestKind::Pv),
        ("linux", GuestKind::Pv),
        ("hvm", GuestKind::Hvm),
    ];
    let builder = s.word("builder", &builders, false);
    if s.is_set("type") {
        let kind = s.word("type", &kinds, false);
        if builder.is_some() && builder != kind {
            s.warning(
                "builder",
                "'type' says something else and wins",
                "remove builder =, which is deprecated",
            );
        }
        return kind;
    }
    if builder.is_some() {
        s.warning(
            "builder",
            "'builder' is deprecated",
            "write type = \"pvh\", \"pv\" or \"hvm\"",
        );
    }
    // What xl takes when nothing is said.
    Some(builder.unwrap_or(GuestKind::Pv))
}

fn read_uuid(s: &mut Settings<'_>) -> Option<Uuid> {
    let text = s.text("uuid")?;
    let uuid = Uuid::parse(&text);
    if uuid.is_none() {
        s.error(
            "uuid",
            format!("'{text}' is no UUID"),
            "write 8-4-4-4-12 hexadecimal digits, or leave it out to get one",
        );
    }
    uuid
}

fn read_u16(s: &mut Settings<'_>, name: &str, least: u32, most: u32) -> Option<u16> {
    let number = s.number_u32(name, least, most)?;
    u16::try_from(number).ok()
}

fn read_vcpus(s: &mut Settings<'_>) -> (u32, u32) {
    let vcpus = s.number_u32("vcpus", 1, MAX_VCPUS);
    let max = s.number_u32("maxvcpus", 1, MAX_VCPUS);
    match (vcpus, max) {
        (None, None) => (1, 1),
        (Some(vcpus), None) => (vcpus, vcpus),
        (None, Some(max)) => (max, max),
        (Some(vcpus), Some(max)) => {
            if vcpus > max {
                s.error(
                    "vcpus",
                    format!("{vcpus} vCPUs are more than maxvcpus = {max}"),
                    "raise maxvcpus or lower vcpus",
                );
            }
            (vcpus, max.max(vcpus))
        }
    }
}

fn read_memory(s: &mut Settings<'_>) -> Option<(u64, u64)> {
    let memory = s.number("memory", 1, MAX_MEMORY_MIB);
    let max = s.number("maxmem", 1, MAX_MEMORY_MIB);
    match (memory, max) {
        (Some(memory), None) => Some((memory, memory)),
        (None, Some(max)) if !s.is_set("memory") => Some((max, max)),
        (Some(memory), Some(max)) => {
            if memory > max {
                s.error(
                    "memory",
                    format!("memory = {memory} is more than maxmem = {max}"),
                    "raise maxmem or lower memory",
                );
            }
            Some((memory, max))
        }
        _ => {
            if !s.is_set("memory") {
                s.error(
                    "memory",
                    "the guest has no memory",
                    "add a line: memory = 512 (MiB)",
                );
            }
            None
        }
    }
}

fn read_cpus(s: &mut Settings<'_>, name: &str, max_vcpus: u32) -> Vec<CpuList> {
    let vcpus = usize::try_from(max_vcpus).unwrap_or(1);
    if s.is_list(name) {
        let atoms = s.list(name);
        if atoms.len() > vcpus {
            s.warning(
                name,
                format!("{} entries, but only {vcpus} vCPUs", atoms.len()),
                "remove the last ones",
            );
        }
        let mut lists = Vec::new();
        for atom in atoms.iter().take(vcpus) {
            lists.extend(read_cpu_list(s, &atom.text, atom.span));
        }
        return lists;
    }
    let Some(atom) = s.atom(name) else {
        return Vec::new();
    };
    let list = read_cpu_list(s, &atom.text, atom.span);
    list.map_or_else(Vec::new, |list| vec![list; vcpus])
}

fn read_cpu_list(s: &mut Settings<'_>, text: &str, span: Span) -> Option<CpuList> {
    match CpuList::parse(text) {
        Ok(list) => Some(list),
        Err(what) => {
            s.problems.error(
                span,
                what,
                "write for instance \"all\", \"0-3,^1\" or \"node:0\"",
            );
            None
        }
    }
}

fn read_command_line(s: &mut Settings<'_>) -> String {
    let (cmdline, root, extra) = (s.text("cmdline"), s.text("root"), s.text("extra"));
    let line = match cmdline {
        Some(line) => {
            for name in ["root", "extra"] {
                if s.is_set(name) {
                    s.warning(
                        name,
                        format!("'{name}' is not used, as 'cmdline' gives the whole command line"),
                        "put it into cmdline =",
                    );
                }
            }
            line
        }
        None => {
            let root = root.map(|root| format!("root={root}"));
            let words: Vec<String> = root.into_iter().chain(extra).collect();
            words.join(" ")
        }
    };
    if line.len() > MAX_COMMAND_LINE {
        let name = if s.is_set("cmdline") {
            "cmdline"
        } else {
            "extra"
        };
        s.error(
            name,
            format!("the command line has {} characters", line.len()),
            format!("kernels take at most {MAX_COMMAND_LINE}"),
        );
    }
    line
}

fn read_disks(s: &mut Settings<'_>) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for atom in s.list("disk") {
        let Some(disk) = disk::parse(&atom, s.problems) else {
            continue;
        };
        if disks.iter().any(|d| d.vdev.number == disk.vdev.number) {
            s.problems.error(
                atom.span,
                format!("two disks are called '{}' in the guest", disk.vdev.name),
                "give each its own name: xvda, xvdb, ...",
            );
        }
        disks.push(disk);
    }
    disks
}

fn read_vifs(s: &mut Settings<'_>) -> Vec<Vif> {
    let mut vifs: Vec<Vif> = Vec::new();
    for atom in s.list("vif") {
        let Some(vif) = vif::parse(&atom, s.problems) else {
            continue;
        };
        if vif.mac.is_some() && vifs.iter().any(|v| v.mac == vif.mac) {
            s.problems.error(
                atom.span,
                "two cards have the same MAC address",
                "change one, or leave mac= out to get one",
            );
        }
        vifs.push(vif);
    }
    vifs
}

/// Amounts of memory as `xl mem-set` takes them: MiB, or with a unit of b, k, m, g, t.
#[must_use]
pub fn parse_memory_kib(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number = number
        .parse::<u64>()
        .ok()
        .or_else(|| parse_number(number))?;
    match unit {
        "b" | "B" => Some(number >> 10),
        "k" | "K" => Some(number),
        "" | "m" | "M" => number.checked_mul(1 << 10),
        "g" | "G" => number.checked_mul(1 << 20),
        "t" | "T" => number.checked_mul(1 << 30),
        _ => None,
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
