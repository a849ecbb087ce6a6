//! `top`: who uses how much, again and again.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use xen_abi::sched::SHUTDOWN_crash;
use xencall::DomainInfo;

use super::list::seconds;
use super::traffic::{self, Traffic};
use crate::context::{Context, Result};
use crate::json::{Json, object};
use crate::output::say;

/// `top [-bf] [-i ITERATIONS] [-d SECONDS]`.
pub(crate) fn top(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "top",
        "bfi:d:",
        &[
            ("batch", 'b'),
            ("full-name", 'f'),
            ("iterations", 'i'),
            ("delay", 'd')
        ],
        (0, 0)
    );
    let delay = Duration::from_secs(args.number('d')?.unwrap_or(3).max(1));
    let mut left: Option<u64> = args.number('i')?;
    let is_json = args.has(crate::args::JSON);
    let is_batch = is_json || args.has('b') || !isatty(std::io::stdout());
    let keys = (!is_batch).then(Keys::new);
    let mut before = Snapshot::default();
    loop {
        if left == Some(0) {
            return Ok(());
        }
        let now = Snapshot::take(context)?;
        if is_json {
            say!("{}", now.json(&before));
        } else {
            let text = now.text(&before, args.has('f'));
            if !is_batch {
                // Home, and clear what is below.
                print!("\x1b[H\x1b[J{}", now.summary());
            }
            say!("{}", text.trim_end());
            std::io::stdout().flush()?;
        }
        before = now;
        left = left.map(|left| left - 1);
        match &keys {
            _ if left == Some(0) => {}
            Some(keys) if keys.wait(delay) => return Ok(()),
            Some(_) => {}
            None => std::thread::sleep(delay),
        }
    }
}

/// The columns of xentop.
const HEAD: &str = "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS \
                    NETTX(k) NETRX(k) VBDS   VBD_OO   VBD_RD   VBD_WR  VBD_RSECT  VBD_WSECT SSID";

/// The state in the order of xentop's letters.
fn letters(info: &DomainInfo) -> String {
    let letters = [
        (info.is_dying(), 'd'),
        (info.is_shutdown(), 's'),
        (info.is_blocked(), 'b'),
        (info.shutdown_reason() == Some(SHUTDOWN_crash), 'c'),
        (info.is_paused(), 'p'),
        (info.is_running(), 'r'),
    ];
    let letters = letters.map(|(is, letter)| if is { letter } else { '-' });
    letters.iter().collect()
}

/// The keyboard, letter by letter.
struct Keys(Option<rustix::termios::Termios>);

impl Keys {
    fn new() -> Self {
        let stdin = std::io::stdin();
        let Ok(old) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut settings = old.clone();
        settings
            .local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO);
        _ = tcsetattr(&stdin, OptionalActions::Now, &settings);
        Self(Some(old))
    }

    /// Waits; was it q?
    fn wait(&self, delay: Duration) -> bool {
        let stdin = std::io::stdin();
        let end = Instant::now() + delay;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else {
                return true;
            };
            let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(_) => continue,
            }
            let mut key = [0; 1];
            match rustix::io::read(stdin.as_fd(), &mut key) {
                Ok(0) | Err(_) => return true,
                Ok(_) if matches!(key, [b'q' | b'Q']) => return true,
                Ok(_) => {}
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(old) = &self.0 {
            _ = tcsetattr(std::io::stdin(), OptionalActions::Now, old);
        }
    }
}

struct Row {
    name: String,
    state: String,
    cpu_time: u64,
    kib: u64,
    max_kib: Option<u64>,
    vcpus: u32,
    traffic: Traffic,
}

#[derive(Default)]
struct Snapshot {
    at: Option<Instant>,
    total_kib: u64,
    free_kib: u64,
    cpus: u32,
    mhz: u32,
    rows: BTreeMap<u16, Row>,
}

impl Snapshot {
    fn take(context: &mut Context) -> Result<Self> {
        let phys = context.xen()?.physinfo()?;
        let mut rows = BTreeMap::new();
        let mut traffic = traffic::all();
        for info in context.xen()?.domains()? {
            let row = Row {
                name: context.name(info.domain())?,
                state: letters(&info),
                cpu_time: info.0.cpu_time,
                kib: info.0.tot_pages << 2,
                // Without a limit it is all ones.
                max_kib: (info.0.max_pages < 1 << 40).then_some(info.0.max_pages << 2),
                // Those that are not online, too.
                vcpus: info.0.max_vcpu_id.wrapping_add(1),
                traffic: traffic.remove(&info.domain().0).unwrap_or_default(),
            };
            rows.insert(info.domain().0, row);
        }
        Ok(Self {
            at: Some(Instant::now()),
            total_kib: phys.total_pages << 2,
            free_kib: phys.free_pages << 2,
            cpus: phys.nr_cpus,
            mhz: phys.cpu_khz / 1000,
            rows,
        })
    }

    /// Percent of a CPU that a domain used since `before`.
    fn percent(&self, id: u16, row: &Row, before: &Self) -> f64 {
        let (Some(now), Some(then)) = (self.at, before.at) else {
            return 0.0;
        };
        let used = before
            .rows
            .get(&id)
            .map_or(0, |old| row.cpu_time.saturating_sub(old.cpu_time));
        let passed = now.duration_since(then).as_secs_f64();
        if passed > 0.0 {
            seconds(used) * 100.0 / passed
        } else {
            0.0
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    fn share(&self, kib: u64) -> f64 {
        if self.total_kib == 0 {
            0.0
        } else {
            kib as f64 * 100.0 / self.total_kib as f64
        }
    }

    /// What stands above the list on a terminal.
    fn summary(&self) -> String {
        let used = self.total_kib.saturating_sub(self.free_kib);
        format!(
            "{} domains\nMem: {}k total, {used}k used, {}k free    CPUs: {} @ {}MHz\n",
            self.rows.len(),
            self.total_kib,
            self.free_kib,
            self.cpus,
            self.mhz
        )
    }

    /// The list, in xentop's columns.
    fn text(&self, before: &Self, is_full: bool) -> String {
        use std::fmt::Write as _;
        let mut out = format!("{HEAD}\n");
        for (id, row) in &self.rows {
            let (max, max_share) = match row.max_kib {
                Some(max) => (max.to_string(), format!("{:.1}", self.share(max))),
                None => ("no limit".to_owned(), "n/a".to_owned()),
            };
            let end = if is_full { usize::MAX } else { 10 };
            let name: String = row.name.chars().take(end).collect();
            let [waits, reads, writes, read_sectors, written_sectors] = row.traffic.requests;
            // Writing to a string cannot fail.
            _ = writeln!(
                out,
                "{name:>10} {:>6} {:>10} {:>6.1} {:>10} {:>6.1} {max:>10} {max_share:>9} {:>5} \
                 {:>4} {:>8} {:>8} {:>4} {waits:>8} {reads:>8} {writes:>8} {read_sectors:>10} \
                 {written_sectors:>10} {:>4}",
                row.state,
                row.cpu_time / 1_000_000_000,
                self.percent(*id, row, before),
                row.kib,
                self.share(row.kib),
                row.vcpus,
                row.traffic.nets,
                row.traffic.sent / 1024,
                row.traffic.received / 1024,
                row.traffic.disks,
                0,
            );
        }
        out
    }

    fn json(&self, before: &Self) -> Json {
        let rows = self.rows.iter().map(|(id, row)| {
            object! {
                "domid": *id, "name": row.name.as_str(), "state": row.state.as_str(),
                "cpu_time_ns": row.cpu_time,
                "cpu_percent": format!("{:.1}", self.percent(*id, row, before)),
                "memory_kib": row.kib, "vcpus": row.vcpus,
            }
        });
        object! {
            "total_kib": self.total_kib, "free_kib": self.free_kib, "cpus": self.cpus,
            "domains": rows.collect::<Vec<_>>(),
        }
    }
}
