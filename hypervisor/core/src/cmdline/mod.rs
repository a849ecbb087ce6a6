//! Xen-style command line: text in, typed options and complaints out.
//!
//! [`parse`] takes any bytes: a user may have typed them, a boot loader may have
//! cut them. Words are separated by white space (control characters count as
//! such) outside of double quotes. A word that is not known is named in a
//! complaint and otherwise ignored; a value that cannot be used leaves the
//! option at its default and is complained about with the remedy. Nothing is
//! allocated, so this can run before there is a heap.
//!
//! Names, forms and defaults are those of `docs/misc/xen-command-line.pandoc` of Xen
//! 4.20. What follows ` -- ` is for dom0's kernel. When an option is given twice
//! the last one counts.

mod options;
mod serial;
#[cfg(test)]
mod tests;
mod unused;
mod value;

pub use options::{
    BootScrub, ConsoleSet, Dom0Flags, Dom0Mem, Dom0MemError, Dom0Memory, IommuOptions, LogLevels,
    MemSize, Options, RebootMethod, SchedulerKind, Timestamps, VcpuCount, Watchdog,
};
pub use serial::{Parity, SerialConfig};

use value::{Bad, boolean, number, size, unquote};

/// Complaints beyond this many are only counted.
pub const MAX_COMPLAINTS: usize = 24;

/// What is wrong with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Nobody knows it.
    Unknown,
    /// Known to Xen, without effect here, and why.
    NoEffect(&'static str),
    /// A value that cannot be used, and what to write instead.
    BadValue(&'static str),
}

/// One thing to tell the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint<'a> {
    /// The option as typed.
    pub name: &'a [u8],
    /// Its value as typed, empty when there is none.
    pub value: &'a [u8],
    /// What is wrong.
    pub problem: Problem,
}

impl Complaint<'_> {
    /// Should the hypervisor refuse to start dom0?
    ///
    /// A size of dom0 that we cannot read must not become some other size.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.problem, Problem::BadValue(_))
            && matches!(self.name, b"dom0_mem" | b"dom0_max_vcpus" | b"dom0")
    }
}

/// User's bytes, cut to a sensible length and made printable.
struct Printable<'a>(&'a [u8]);

impl core::fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        use core::fmt::Write;
        const MAX: usize = 40;
        for &byte in self.0.iter().take(MAX) {
            f.write_char(match byte {
                b' '..=b'~' => char::from(byte),
                _ => '?',
            })?;
        }
        if self.0.len() > MAX {
            f.write_str("...")?;
        }
        Ok(())
    }
}

impl core::fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (name, value) = (Printable(self.name), Printable(self.value));
        let equals = if self.value.is_empty() { "" } else { "=" };
        match self.problem {
            Problem::Unknown => write!(
                f,
                "command line: {name}{equals}{value} is not known and ignored"
            ),
            Problem::NoEffect(why) => {
                write!(
                    f,
                    "command line: {name}{equals}{value} has no effect: {why}"
                )
            }
            Problem::BadValue(remedy) => {
                write!(f, "command line: {name}={value} cannot be used: {remedy}")
            }
        }
    }
}

/// What there is to complain about, in the order of the command line.
#[derive(Clone, Debug)]
pub struct Complaints<'a> {
    list: [Option<Complaint<'a>>; MAX_COMPLAINTS],
    count: usize,
}

impl<'a> Complaints<'a> {
    const fn new() -> Self {
        Self {
            list: [None; MAX_COMPLAINTS],
            count: 0,
        }
    }

    fn add(&mut self, complaint: Complaint<'a>) {
        // Fatal ones must not get lost behind noise.
        let at = if complaint.is_fatal() {
            self.count.min(MAX_COMPLAINTS - 1)
        } else {
            self.count
        };
        if let Some(slot) = self.list.get_mut(at)
            && !slot.is_some_and(|old| old.is_fatal())
        {
            *slot = Some(complaint);
        }
        self.count += 1;
    }

    /// The first [`MAX_COMPLAINTS`].
    pub fn iter(&self) -> impl Iterator<Item = &Complaint<'a>> {
        self.list.iter().flatten()
    }

    /// How many there are beyond those.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.count.saturating_sub(MAX_COMPLAINTS)
    }

    /// Is there nothing to complain about?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first one that forbids to start dom0.
    #[must_use]
    pub fn fatal(&self) -> Option<&Complaint<'a>> {
        self.iter().find(|complaint| complaint.is_fatal())
    }
}

/// Reads a command line.
#[must_use]
pub fn parse(line: &[u8]) -> (Options<'_>, Complaints<'_>) {
    let mut options = Options::default();
    let mut complaints = Complaints::new();
    let mut rest = line;
    while let Some((word, tail)) = next_word(rest) {
        rest = tail;
        if word == b"--" {
            options.dom0_extra = rest.trim_ascii();
            break;
        }
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (&word[..at], Some(unquote(&word[at + 1..]))),
            None => (unquote(word), None),
        };
        if let Err(problem) = options.set(name, value) {
            complaints.add(Complaint {
                name,
                value: value.unwrap_or(&[]),
                problem,
            });
        }
    }
    (options, complaints)
}

fn is_space(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

/// The next word and what follows it; spaces within double quotes do not end it.
fn next_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = line.iter().position(|&byte| !is_space(byte))?;
    let line = &line[start..];
    let mut quoted = false;
    let end = line.iter().position(|&byte| {
        quoted ^= byte == b'"';
        !quoted && is_space(byte)
    });
    Some(line.split_at(end.unwrap_or(line.len())))
}

/// Items of a comma-separated list.
fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',')
}

/// A list item that may be `name`, `no-name` or `name=<boolean>`.
fn flag(item: &[u8]) -> Option<(&[u8], bool)> {
    match item.iter().position(|&byte| byte == b'=') {
        Some(at) => Some((&item[..at], boolean(&item[at + 1..])?)),
        None => Some(match item.strip_prefix(b"no-") {
            Some(name) => (name, false),
            None => (item, true),
        }),
    }
}

const BOOLEAN: Problem = Problem::BadValue("write yes or no");
const INTEGER: Problem = Problem::BadValue("write a number");
const SIZE: Problem = Problem::BadValue("write a size such as 16k or 1M");

/// The value of a boolean option; its name alone switches it on.
fn switch(value: Option<&[u8]>) -> Result<bool, Problem> {
    value.map_or(Some(true), boolean).ok_or(BOOLEAN)
}

fn integer(value: Option<&[u8]>) -> Result<u32, Problem> {
    value
        .and_then(number)
        .and_then(|number| u32::try_from(number).ok())
        .ok_or(INTEGER)
}

fn bad(Bad(remedy): Bad) -> Problem {
    Problem::BadValue(remedy)
}

impl<'a> Options<'a> {
    fn set(&mut self, name: &'a [u8], value: Option<&'a [u8]>) -> Result<(), Problem> {
        // `no-x` is `x=no` for switches; options that are called so come first.
        if let (Some(name), None) = (name.strip_prefix(b"no-"), value)
            && name != b"real-mode"
        {
            return self.set_switch(name, Some(b"no"));
        }
        let text = value.unwrap_or(&[]);
        match name {
            b"dom0_mem" => self.dom0_mem = Dom0Mem::parse(text).map_err(bad)?,
            b"dom0_max_vcpus" => self.dom0_max_vcpus = VcpuCount::parse(text).map_err(bad)?,
            b"com1" => self.com1 = Some(SerialConfig::parse(1, text).map_err(bad)?),
            b"com2" => self.com2 = Some(SerialConfig::parse(2, text).map_err(bad)?),
            b"console" => self.console = ConsoleSet::parse(text).map_err(bad)?,
            b"loglvl" => self.loglvl = LogLevels::parse(text).map_err(bad)?,
            b"guest_loglvl" => self.guest_loglvl = LogLevels::parse(text).map_err(bad)?,
            b"console_timestamps" => {
                self.console_timestamps = Timestamps::parse(value).map_err(bad)?;
            }
            b"conring_size" => {
                self.conring_size = size(text)
                    .filter(|&size| (4096..=1 << 26).contains(&size))
                    .ok_or(SIZE)?;
            }
            b"sched" => self.sched = SchedulerKind::parse(text).map_err(bad)?,
            b"reboot" => self.set_reboot(text)?,
            b"watchdog" => self.watchdog = Watchdog::parse(value).map_err(bad)?,
            b"watchdog_timeout" => self.watchdog.set_timeout(integer(value)?),
            b"maxcpus" => {
                self.maxcpus = Some(integer(value)?).filter(|&count| count != 0);
            }
            b"bootscrub" => self.bootscrub = BootScrub::parse(value).map_err(bad)?,
            b"mem" => self.mem = Some(size(text).filter(|&size| size != 0).ok_or(SIZE)?),
            b"cpuid" => self.cpuid = text,
            b"iommu" if value.is_some_and(|text| boolean(text).is_none()) => {
                return self.set_iommu(text);
            }
            b"dom0" => return self.set_dom0(text),
            // What Debian's GRUB scripts write, and what only concerns real mode.
            b"placeholder" | b"no-real-mode" | b"edd" | b"edid" => {}
            b"vga" => return self.set_vga(text),
            b"conswitch" => return self.set_conswitch(text),
            b"ucode" => return Err(Problem::NoEffect("dom0's kernel loads microcode")),
            _ => return self.set_switch(name, value),
        }
        Ok(())
    }

    fn set_switch(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<(), Problem> {
        let field = match name {
            b"noreboot" => &mut self.noreboot,
            b"nosmp" => &mut self.nosmp,
            b"smt" => &mut self.smt,
            b"x2apic" => &mut self.x2apic,
            b"sync_console" => &mut self.sync_console,
            b"console_to_ring" => &mut self.console_to_ring,
            b"debug_faults" => &mut self.debug_faults,
            b"dom0_vcpus_pin" => &mut self.dom0_vcpus_pin,
            b"iommu" => &mut self.iommu.enable,
            b"watchdog" => {
                self.watchdog = Watchdog::parse(value).map_err(bad)?;
                return Ok(());
            }
            b"bootscrub" => {
                self.bootscrub = BootScrub::parse(value).map_err(bad)?;
                return Ok(());
            }
            b"edd" | b"edid" => return Ok(()),
            _ => return Err(Problem::Unknown),
        };
        *field = switch(value)?;
        Ok(())
    }

    fn set_reboot(&mut self, text: &[u8]) -> Result<(), Problem> {
        for item in items(text) {
            match item {
                // Whether the firmware tests memory again is for dom0's kernel to say.
                b"w" | b"warm" | b"c" | b"cold" => {}
                b"n" | b"no" => self.noreboot = true,
                _ => self.reboot = RebootMethod::parse(item).map_err(bad)?,
            }
        }
        Ok(())
    }

    /// `vga=[<mode>][,keep]`
    fn set_vga(&mut self, text: &[u8]) -> Result<(), Problem> {
        for item in items(text) {
            match item {
                b"keep" => self.vga_keep = true,
                b"" | b"current" => {}
                _ => return Err(Problem::NoEffect("the boot loader sets the screen's mode")),
            }
        }
        Ok(())
    }

    /// `conswitch=<letter>[x]`
    fn set_conswitch(&mut self, text: &[u8]) -> Result<(), Problem> {
        let (letter, stay) = match text {
            [letter] => (*letter, false),
            [letter, b'x'] => (*letter, true),
            _ => {
                return Err(Problem::BadValue(
                    "write a letter, and x after it if wanted",
                ));
            }
        };
        (self.conswitch, self.conswitch_stay) = (Some(letter), stay);
        Ok(())
    }

    fn set_iommu(&mut self, text: &[u8]) -> Result<(), Problem> {
        const FORMS: Problem = Problem::BadValue(
            "write yes, no, or some of verbose, debug, force, required, intremap, dom0-strict, each with no- before it to switch it off",
        );
        for item in items(text) {
            if let Some(on) = boolean(item) {
                self.iommu.enable = on;
                continue;
            }
            let (name, on) = flag(item).ok_or(FORMS)?;
            match name {
                b"force" | b"required" => self.iommu.required = on,
                b"verbose" => self.iommu.verbose = on,
                b"debug" => self.iommu.debug = on,
                b"intremap" => self.iommu.intremap = on,
                b"dom0-strict" => self.iommu.dom0_strict = on,
                b"dom0-passthrough" => self.iommu.dom0_strict = !on,
                b"quarantine"
                | b"sharept"
                | b"superpages"
                | b"intpost"
                | b"crash-disable"
                | b"snoop"
                | b"qinval"
                | b"igfx"
                | b"amd-iommu-perdev-intremap" => {
                    return Err(Problem::NoEffect("that part of it is always as it must be"));
                }
                _ => return Err(FORMS),
            }
        }
        Ok(())
    }

    fn set_dom0(&mut self, text: &[u8]) -> Result<(), Problem> {
        const FORMS: Problem = Problem::BadValue("write pvh, and verbose or msr-relaxed if wanted");
        for item in items(text) {
            match flag(item).ok_or(FORMS)? {
                (b"pvh", true) => {}
                (b"verbose", on) => self.dom0.verbose = on,
                (b"msr-relaxed", on) => self.dom0.msr_relaxed = on,
                (b"pf-fixup" | b"cpuid-faulting" | b"shadow", _) => {
                    return Err(Problem::NoEffect("dom0 is always PVH with nested paging"));
                }
                (b"pv", true) => {
                    return Err(Problem::BadValue("dom0 is always PVH: leave it out"));
                }
                _ => return Err(FORMS),
            }
        }
        Ok(())
    }
}
