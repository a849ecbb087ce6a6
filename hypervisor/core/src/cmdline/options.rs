//! The options, typed, with their defaults, and how the compound ones are read.

use super::items;
use super::serial::SerialConfig;
use super::value::{Bad, boolean, number, number_prefix, size_prefix};
use log::LevelFilter;

/// Everything that the command line can say.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Memory of dom0.
    pub dom0_mem: Dom0Mem,
    /// Number of dom0's vCPUs.
    pub dom0_max_vcpus: VcpuCount,
    /// Pin each of dom0's vCPUs to the CPU of its number.
    pub dom0_vcpus_pin: bool,
    /// `dom0=`.
    pub dom0: Dom0Flags,
    /// First serial port, if it is to be used.
    pub com1: Option<SerialConfig>,
    /// Second serial port, if it is to be used.
    pub com2: Option<SerialConfig>,
    /// Where messages go.
    pub console: ConsoleSet,
    /// Wait until each message is out.
    pub sync_console: bool,
    /// Keep what guests write to their console in the ring.
    pub console_to_ring: bool,
    /// Bytes of the ring that keeps messages.
    pub conring_size: u64,
    /// Which of our messages are shown.
    pub loglvl: LogLevels,
    /// Which messages about and of guests are shown.
    pub guest_loglvl: LogLevels,
    /// What stands before each line.
    pub console_timestamps: Timestamps,
    /// The scheduler of the first CPU pool.
    pub sched: SchedulerKind,
    /// `iommu=`.
    pub iommu: IommuOptions,
    /// Stay after a panic.
    pub noreboot: bool,
    /// How to reboot.
    pub reboot: RebootMethod,
    /// NMI watchdog.
    pub watchdog: Watchdog,
    /// Use at most this many CPUs.
    pub maxcpus: Option<u32>,
    /// Use one CPU only.
    pub nosmp: bool,
    /// Use all threads of a core.
    pub smt: bool,
    /// Use the x2APIC where there is one.
    pub x2apic: bool,
    /// Debug keys that break the hypervisor, to test its reports.
    pub debug_faults: bool,
    /// Keep writing to the screen after dom0 has started (`vga=keep`).
    pub vga_keep: bool,
    /// Letter that switches the input with Ctrl, thrice (`conswitch=`).
    pub conswitch: Option<u8>,
    /// Leave the input with the debug keys when dom0 starts (`conswitch=ax`).
    pub conswitch_stay: bool,
    /// When memory that is free at boot is zeroed.
    pub bootscrub: BootScrub,
    /// Ignore memory above this address.
    pub mem: Option<u64>,
    /// CPUID features to hide or show, for `cpu_policy`.
    pub cpuid: &'a [u8],
    /// To be appended to the command line of dom0's kernel.
    pub dom0_extra: &'a [u8],
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            dom0_mem: Dom0Mem::default(),
            dom0_max_vcpus: VcpuCount::default(),
            dom0_vcpus_pin: false,
            dom0: Dom0Flags::default(),
            com1: None,
            com2: None,
            console: ConsoleSet::default(),
            sync_console: false,
            console_to_ring: false,
            conring_size: 128 << 10,
            loglvl: LogLevels {
                always: LevelFilter::Info,
                limited: LevelFilter::Info,
            },
            guest_loglvl: LogLevels {
                always: LevelFilter::Off,
                limited: LevelFilter::Warn,
            },
            console_timestamps: Timestamps::None,
            sched: SchedulerKind::Credit2,
            iommu: IommuOptions::default(),
            noreboot: false,
            reboot: RebootMethod::Default,
            watchdog: Watchdog::default(),
            maxcpus: None,
            nosmp: false,
            smt: true,
            x2apic: true,
            debug_faults: false,
            vga_keep: false,
            conswitch: None,
            conswitch_stay: false,
            bootscrub: BootScrub::Idle,
            mem: None,
            cpuid: &[],
            dom0_extra: &[],
        }
    }
}

/// When memory that is free at boot is zeroed; none is handed out before it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootScrub {
    /// By idle CPUs.
    Idle,
    /// Before dom0 starts.
    Boot,
    /// When it is handed out.
    Late,
}

impl BootScrub {
    pub(super) fn parse(value: Option<&[u8]>) -> Result<Self, Bad> {
        match value {
            Some(b"idle") => Ok(Self::Idle),
            _ => match value.map_or(Some(true), boolean) {
                Some(true) => Ok(Self::Boot),
                Some(false) => Ok(Self::Late),
                None => Err(Bad("write idle, yes or no")),
            },
        }
    }
}

/// A size that may be relative: `1G`, `-512M`, `25%`, `1G+25%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemSize {
    /// Subtract it from what there is.
    pub negative: bool,
    /// Bytes.
    pub bytes: u64,
    /// Hundredths of the host's memory, below 100.
    pub percent: u8,
}

const MEMORY: Bad = Bad(
    "write sizes such as 2G, 512M, -256M, 25% or 1G+25%, with min: or max: before those that are bounds, separated by commas",
);

impl MemSize {
    fn parse(text: &[u8]) -> Result<Self, Bad> {
        let (negative, mut text) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let mut size = Self {
            negative,
            ..Self::default()
        };
        // A lone fraction has no size before it.
        if let Some((percent, rest)) = number_prefix(text)
            && rest == b"%"
        {
            size.percent = fraction(percent)?;
            return Ok(size);
        }
        (size.bytes, text) = size_prefix(text).ok_or(MEMORY)?;
        match text {
            [] => Ok(size),
            [b'+', text @ ..] => match number_prefix(text) {
                Some((percent, b"%")) => {
                    size.percent = fraction(percent)?;
                    Ok(size)
                }
                _ => Err(MEMORY),
            },
            _ => Err(MEMORY),
        }
    }

    /// Bytes on a machine with `total` bytes, of which `available` are free.
    #[must_use]
    pub fn resolve(&self, total: u64, available: u64) -> u64 {
        let part = u128::from(total) * u128::from(self.percent) / 100;
        // At most 99 % of a u64: it fits.
        let part = u64::try_from(part).unwrap_or(u64::MAX);
        let size = self.bytes.saturating_add(part);
        if self.negative {
            available.saturating_sub(size)
        } else {
            size
        }
    }
}

fn fraction(percent: u64) -> Result<u8, Bad> {
    u8::try_from(percent)
        .ok()
        .filter(|&percent| percent < 100)
        .ok_or(Bad("write a fraction below 100%"))
}

/// `dom0_mem=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dom0Mem {
    /// How much; everything but a reserve when absent.
    pub size: Option<MemSize>,
    /// At least this much.
    pub min: Option<MemSize>,
    /// At most this much, now and by ballooning.
    pub max: Option<MemSize>,
}

/// Dom0's memory on a given machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dom0Memory {
    /// Bytes at its start, whole pages.
    pub initial: u64,
    /// Most that it may balloon to; `None` for no limit.
    pub max: Option<u64>,
}

/// Why dom0 cannot have the memory that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dom0MemError {
    /// Nothing, or less than a kernel can start with.
    TooSmall {
        /// Bytes asked for.
        wanted: u64,
    },
    /// More than there is.
    TooLarge {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that are free.
        available: u64,
    },
}

impl core::fmt::Display for Dom0MemError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::TooSmall { wanted } => write!(
                f,
                "dom0_mem gives dom0 {} KiB, too little to start: write dom0_mem=512M or more, or leave it out",
                wanted >> 10
            ),
            Self::TooLarge { wanted, available } => write!(
                f,
                "dom0_mem asks for {} MiB of {} MiB that are free: write a smaller dom0_mem, or leave it out",
                wanted >> 20,
                available >> 20
            ),
        }
    }
}

impl core::error::Error for Dom0MemError {}

impl Dom0Mem {
    /// Less than this cannot hold a kernel.
    pub const SMALLEST: u64 = 32 << 20;

    pub(super) fn parse(text: &[u8]) -> Result<Self, Bad> {
        let mut mem = Self::default();
        for item in items(text) {
            if let Some(item) = item.strip_prefix(b"min:") {
                mem.min = Some(MemSize::parse(item)?);
            } else if let Some(item) = item.strip_prefix(b"max:") {
                mem.max = Some(MemSize::parse(item)?);
            } else {
                mem.size = Some(MemSize::parse(item)?);
            }
        }
        Ok(mem)
    }

    /// Bytes for dom0 on a machine with `total` bytes of RAM, of which `available` are free.
    ///
    /// Without a size dom0 gets all but a sixteenth, or all but 128 MiB if that is more.
    ///
    /// # Errors
    /// When that is too little to start, or more than is available.
    pub fn resolve(&self, total: u64, available: u64) -> Result<Dom0Memory, Dom0MemError> {
        let bytes = |size: MemSize| size.resolve(total, available);
        let reserve = (available / 16).min(128 << 20);
        let max = self.max.map(bytes);
        let mut wanted = self.size.map_or(available - reserve, bytes);
        wanted = wanted.max(self.min.map_or(0, bytes));
        wanted = wanted.min(max.unwrap_or(u64::MAX)) & !0xfff;
        if wanted < Self::SMALLEST {
            Err(Dom0MemError::TooSmall { wanted })
        } else if wanted > available {
            Err(Dom0MemError::TooLarge { wanted, available })
        } else {
            Ok(Dom0Memory {
                initial: wanted,
                max: max.map(|max| max & !0xfff),
            })
        }
    }
}

/// `dom0_max_vcpus=`: bounds on one vCPU per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuCount {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
}

impl Default for VcpuCount {
    fn default() -> Self {
        Self {
            min: 1,
            max: u32::MAX,
        }
    }
}

impl VcpuCount {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Bad> {
        const FORM: Bad = Bad("write a number from 1 up, or bounds such as 2-8, 2- or -8");
        let count = |text: &[u8], default| match text {
            [] => Ok(default),
            _ => number(text)
                .and_then(|count| u32::try_from(count).ok())
                .filter(|&count| count != 0)
                .ok_or(FORM),
        };
        let this = match text.iter().position(|&byte| byte == b'-') {
            Some(dash) => {
                let (min, max) = (&text[..dash], &text[dash + 1..]);
                if min.is_empty() && max.is_empty() {
                    return Err(FORM);
                }
                Self {
                    min: count(min, 1)?,
                    max: count(max, u32::MAX)?,
                }
            }
            None if text.is_empty() => return Err(FORM),
            None => {
                let n = count(text, 1)?;
                Self { min: n, max: n }
            }
        };
        (this.min <= this.max).then_some(this).ok_or(FORM)
    }

    /// How many vCPUs on a machine with `cpus` CPUs, if a domain can have `limit`.
    #[must_use]
    pub fn resolve(&self, cpus: u32, limit: u32) -> u32 {
        cpus.clamp(self.min, self.max).min(limit).max(1)
    }
}

/// Flags of `dom0=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dom0Flags {
    /// Tell more while dom0 is built.
    pub verbose: bool,
    /// Unknown MSRs read as 0 instead of raising #GP.
    pub msr_relaxed: bool,
}

/// `console=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleSet {
    /// First serial port.
    pub com1: bool,
    /// Second serial port.
    pub com2: bool,
    /// Screen.
    pub vga: bool,
}

impl Default for ConsoleSet {
    fn default() -> Self {
        Self {
            com1: true,
            com2: false,
            vga: true,
        }
    }
}

impl ConsoleSet {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Bad> {
        let mut set = Self {
            com1: false,
            com2: false,
            vga: false,
        };
        for item in items(text) {
            match item {
                b"com1" => set.com1 = true,
                b"com2" => set.com2 = true,
                b"vga" => set.vga = true,
                b"none" => {}
                _ => return Err(Bad("write some of com1, com2 and vga, or none")),
            }
        }
        Ok(set)
    }
}

/// `loglvl=` and `guest_loglvl=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevels {
    /// Shown always.
    pub always: LevelFilter,
    /// Shown unless there are too many; not below `always`.
    pub limited: LevelFilter,
}

impl LogLevels {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Bad> {
        let mut parts = text.splitn(2, |&byte| byte == b'/');
        let always = level(parts.next().unwrap_or(&[]))?;
        let limited = parts.next().map_or(Ok(always), level)?;
        Ok(Self {
            always: always.min(limited),
            limited: limited.max(always),
        })
    }
}

fn level(text: &[u8]) -> Result<LevelFilter, Bad> {
    Ok(match text {
        b"none" => LevelFilter::Off,
        b"error" => LevelFilter::Error,
        b"warning" => LevelFilter::Warn,
        b"info" => LevelFilter::Info,
        b"debug" => LevelFilter::Debug,
        b"all" => LevelFilter::Trace,
        _ => {
            return Err(Bad(
                "write none, error, warning, info, debug or all, and after a / the level up to which messages are limited",
            ));
        }
    })
}

/// `console_timestamps=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamps {
    /// Nothing.
    None,
    /// Date and time.
    Date,
    /// Date and time with milliseconds.
    DateMs,
    /// Seconds since boot.
    Boot,
    /// The raw counter.
    Raw,
}

impl Timestamps {
    pub(super) fn parse(value: Option<&[u8]>) -> Result<Self, Bad> {
        Ok(match value {
            None | Some(b"date") => Self::Date,
            Some(b"none") => Self::None,
            Some(b"datems") => Self::DateMs,
            Some(b"boot") => Self::Boot,
            Some(b"raw") => Self::Raw,
            Some(text) => match boolean(text) {
                Some(true) => Self::Date,
                Some(false) => Self::None,
                None => return Err(Bad("write none, date, datems, boot or raw")),
            },
        })
    }
}

/// `sched=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerKind {
    /// Weights, caps, affinity.
    Credit2,
    /// Each vCPU has a CPU of its own.
    Null,
    /// Budgets and periods.
    Rtds,
}

impl SchedulerKind {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Bad> {
        match text {
            b"credit2" => Ok(Self::Credit2),
            b"null" => Ok(Self::Null),
            b"rtds" => Ok(Self::Rtds),
            b"credit" | b"arinc653" => Err(Bad("it is not offered: write credit2, null or rtds")),
            _ => Err(Bad("write credit2, null or rtds")),
        }
    }
}

/// `iommu=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuOptions {
    /// Use IOMMUs where there are any.
    pub enable: bool,
    /// Refuse to start without one.
    pub required: bool,
    /// Tell more.
    pub verbose: bool,
    /// Tell everything.
    pub debug: bool,
    /// Remap interrupts.
    pub intremap: bool,
    /// Confine dom0's devices to dom0's own memory.
    pub dom0_strict: bool,
}

impl Default for IommuOptions {
    fn default() -> Self {
        Self {
            enable: true,
            required: false,
            verbose: false,
            debug: false,
            intremap: true,
            dom0_strict: true,
        }
    }
}

/// `reboot=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebootMethod {
    /// ACPI if it can, else what works.
    Default,
    /// Triple fault.
    Triple,
    /// Keyboard controller.
    Keyboard,
    /// The FADT's reset register.
    Acpi,
    /// Port 0xcf9.
    Pci,
    /// Port 0xcf9, full power cycle.
    Power,
    /// EFI's runtime service.
    Efi,
}

impl RebootMethod {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Bad> {
        Ok(match text {
            b"t" | b"triple" => Self::Triple,
            b"k" | b"kbd" => Self::Keyboard,
            b"a" | b"acpi" => Self::Acpi,
            b"p" | b"pci" => Self::Pci,
            b"P" | b"Power" => Self::Power,
            b"e" | b"efi" => Self::Efi,
            _ => return Err(Bad("write triple, kbd, acpi, pci, Power, efi or no")),
        })
    }
}

/// `watchdog` and `watchdog_timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// Is it on?
    pub enable: bool,
    /// Seconds after which a CPU counts as stuck.
    pub timeout: u32,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            enable: false,
            timeout: 5,
        }
    }
}

impl Watchdog {
    /// On, off, or on with a number of seconds.
    pub(super) fn parse(value: Option<&[u8]>) -> Result<Self, Bad> {
        const FORM: Bad = Bad("write yes, no, or a number of seconds up to 3600");
        let mut this = Self {
            enable: true,
            ..Self::default()
        };
        match value {
            None | Some(b"force") => {}
            Some(text) => match boolean(text) {
                Some(enable) => this.enable = enable,
                None => {
                    this.timeout = number(text)
                        .and_then(|seconds| u32::try_from(seconds).ok())
                        .filter(|&seconds| seconds <= 3600)
                        .ok_or(FORM)?;
                }
            },
        }
        Ok(this)
    }

    /// 0 switches it off.
    pub(super) fn set_timeout(&mut self, seconds: u32) {
        if seconds == 0 {
            self.enable = false;
        } else {
            self.timeout = seconds;
        }
    }
}
