//! `top`: who uses how much, again and again; also under the name of Xen's `xentop`, with its
//! options and columns.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};

use xen_abi::VcpuId;
use xencall::DomainInfo;

use super::list::seconds;
use super::traffic::{self, Traffic};
use crate::context::{Context, Result};
use crate::json::{Json, object};
use crate::output::say;

/// What is shown.
#[derive(Clone, Copy, Debug, Default)]
struct View {
    has_networks: bool,
    has_disks: bool,
    has_vcpus: bool,
    is_header_repeated: bool,
    is_name_full: bool,
}

/// `top [-bnxrvfz] [-i ITERATIONS] [-d SECONDS]`.
pub(crate) fn top(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "top",
        "bnxrvfzVi:d:",
        &[
            ("batch", 'b'),
            ("iterations", 'i'),
            ("delay", 'd'),
            ("networks", 'n'),
            ("vbds", 'x'),
            ("repeat-header", 'r'),
            ("vcpus", 'v'),
            ("full-name", 'f'),
            // Domains are sorted by number anyway.
            ("dom0-first", 'z'),
            ("version", 'V'),
        ],
        (0, 0)
    );
    if args.has('V') {
        say!("xentop {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    let mut view = View {
        has_networks: args.has('n'),
        has_disks: args.has('x'),
        has_vcpus: args.has('v'),
        is_header_repeated: args.has('r'),
        is_name_full: args.has('f'),
    };
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
        } else if is_batch {
            say!("{}", now.table(&before, view).trim_end_matches('\n'));
            std::io::stdout().flush()?;
        } else {
            // Home, and clear what is below; one blank line less than the terminal has.
            let text = format!("{}{}", now.summary(), now.table(&before, view));
            print!("\x1b[H\x1b[J");
            say!("{text}\n  Networks  vBds  VCPUs  Repeat header  Full name  Quit");
            std::io::stdout().flush()?;
        }
        before = now;
        left = left.map(|left| left - 1);
        let end = Instant::now() + delay;
        match &keys {
            _ if left == Some(0) => {}
            Some(keys) => match keys.wait(end) {
                Some(b'q' | b'Q' | 0x1b) => return Ok(()),
                Some(key) => view.toggle(key),
                None => {}
            },
            None => std::thread::sleep(delay),
        }
    }
}

impl View {
    fn toggle(&mut self, key: u8) {
        let what = match key {
            b'n' | b'N' => &mut self.has_networks,
            b'b' | b'B' => &mut self.has_disks,
            b'v' | b'V' => &mut self.has_vcpus,
            b'r' | b'R' => &mut self.is_header_repeated,
            b'f' | b'F' => &mut self.is_name_full,
            _ => return,
        };
        *what = !*what;
    }
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

    /// Waits for a key until `end`. Nobody at the keyboard any more means q.
    fn wait(&self, end: Instant) -> Option<u8> {
        let stdin = std::io::stdin();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else {
                return None;
            };
            let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(_) => continue,
            }
            let mut key = [0; 1];
            return match rustix::io::read(stdin.as_fd(), &mut key) {
                Ok(1) => Some(key[0]),
                _ => Some(b'q'),
            };
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
    /// Nanoseconds of each vCPU that is online.
    vcpu_times: Vec<(u32, u64)>,
    ssid: u32,
    traffic: Traffic,
}

/// The letters of xentop, which has another order than `xl list`.
fn state(info: &DomainInfo) -> String {
    let is_crashed = info.shutdown_reason() == Some(xen_abi::sched::SHUTDOWN_crash);
    let letters = [
        (info.is_dying(), 'd'),
        (info.is_shutdown(), 's'),
        (info.is_blocked(), 'b'),
        (is_crashed, 'c'),
        (info.is_paused(), 'p'),
        (info.is_running(), 'r'),
    ];
    letters
        .iter()
        .map(|(is, letter)| if *is { *letter } else { '-' })
        .collect()
}

/// Heading and least width.
const COLUMNS: &[(&str, usize)] = &[
    ("NAME", 10),
    ("STATE", 6),
    ("CPU(sec)", 10),
    ("CPU(%)", 6),
    ("MEM(k)", 10),
    ("MEM(%)", 6),
    ("MAXMEM(k)", 10),
    ("MAXMEM(%)", 9),
    ("VCPUS", 5),
    ("NETS", 4),
    ("NETTX(k)", 8),
    ("NETRX(k)", 8),
    ("VBDS", 4),
    ("VBD_OO", 8),
    ("VBD_RD", 8),
    ("VBD_WR", 8),
    ("VBD_RSECT", 10),
    ("VBD_WSECT", 10),
    ("SSID", 4),
];

#[derive(Default)]
struct Snapshot {
    at: Option<Instant>,
    version: String,
    total_kib: u64,
    free_kib: u64,
    cpus: u32,
    mhz: u32,
    rows: BTreeMap<u16, Row>,
}

impl Snapshot {
    fn take(context: &mut Context) -> Result<Self> {
        let phys = context.xen()?.physinfo()?;
        let version = context.xen()?.version()?;
        let mut traffic = traffic::read();
        let mut rows = BTreeMap::new();
        for info in context.xen()?.domains()? {
            let d = info.domain();
            let xen = context.xen()?;
            let vcpu_times = (0..=info.0.max_vcpu_id)
                .filter_map(|vcpu| Some((vcpu, xen.vcpu_info(d, VcpuId(vcpu)).ok()?)))
                .filter(|(_, vcpu)| vcpu.is_online)
                .map(|(number, vcpu)| (number, vcpu.cpu_time))
                .collect();
            let row = Row {
                name: context.name(d)?,
                state: state(&info),
                cpu_time: info.0.cpu_time,
                kib: info.0.tot_pages << 2,
                // Without a limit it is 32 ones.
                max_kib: (info.0.max_pages < u64::from(u32::MAX)).then_some(info.0.max_pages << 2),
                // Those that are not online, too, as xentop does.
                vcpus: info.0.max_vcpu_id.wrapping_add(1),
                vcpu_times,
                ssid: info.0.ssidref,
                traffic: traffic.remove(&d.0).unwrap_or_default(),
            };
            rows.insert(d.0, row);
        }
        Ok(Self {
            at: Some(Instant::now()),
            version: format!("{}.{}{}", version.major, version.minor, version.extra),
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

    /// What stands above the table.
    fn summary(&self) -> String {
        // Each domain counts once, by the first of these that it is.
        let mut counts = [0; 6];
        for row in self.rows.values() {
            let is = |letter: &u8| row.state.as_bytes().contains(letter);
            if let Some(at) = b"rbpscd".iter().position(is) {
                counts[at] += 1;
            }
        }
        let [running, blocked, paused, shutdown, crashed, dying] = counts;
        let used = self.total_kib.saturating_sub(self.free_kib);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        format!(
            "xentop - {:02}:{:02}:{:02}   Xen {}\n\
             {} domains: {running} running, {blocked} blocked, {paused} paused, {crashed} crashed, \
             {dying} dying, {shutdown} shutdown \n\
             Mem: {}k total, {used}k used, {}k free    CPUs: {} @ {}MHz\n",
            now / 3600 % 24,
            now / 60 % 60,
            now % 60,
            self.version,
            self.rows.len(),
            self.total_kib,
            self.free_kib,
            self.cpus,
            self.mhz
        )
    }

    fn cells(&self, id: u16, row: &Row, before: &Self, view: View) -> Vec<String> {
        let (max, max_share) = match row.max_kib {
            Some(max) => (max.to_string(), format!("{:.1}", self.share(max))),
            None => ("no limit".to_owned(), "n/a".to_owned()),
        };
        let name = match view.is_name_full {
            true => row.name.clone(),
            false => row.name.chars().take(10).collect(),
        };
        let bytes = |of: fn(&super::traffic::Card) -> u64| -> String {
            let sum: u64 = row.traffic.cards.values().map(of).sum();
            (sum / 1024).to_string()
        };
        let disks = &row.traffic.disks;
        let counted: Vec<&[u64; 5]> = disks.iter().filter_map(|d| d.counts.as_ref()).collect();
        let count = |at: usize| -> String {
            if counted.is_empty() && !disks.is_empty() {
                return "-".to_owned();
            }
            let values = counted.iter().filter_map(|counts| counts.get(at));
            values.sum::<u64>().to_string()
        };
        vec![
            name,
            row.state.clone(),
            (row.cpu_time / 1_000_000_000).to_string(),
            format!("{:.1}", self.percent(id, row, before)),
            row.kib.to_string(),
            format!("{:.1}", self.share(row.kib)),
            max,
            max_share,
            row.vcpus.to_string(),
            row.traffic.cards.len().to_string(),
            bytes(|card| card.sent[0]),
            bytes(|card| card.received[0]),
            disks.len().to_string(),
            count(0),
            count(1),
            count(2),
            count(3),
            count(4),
            row.ssid.to_string(),
        ]
    }

    fn table(&self, before: &Self, view: View) -> String {
        let rows: Vec<(&Row, Vec<String>)> = self
            .rows
            .iter()
            .map(|(id, row)| (row, self.cells(*id, row, before, view)))
            .collect();
        let width = |at: usize, least: usize| {
            let widths = rows.iter().filter_map(|(_, cells)| cells.get(at));
            widths.map(String::len).max().unwrap_or(0).max(least)
        };
        let widths: Vec<usize> = COLUMNS
            .iter()
            .enumerate()
            .map(|(at, (_, least))| width(at, *least))
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| -> String {
            let cells = cells
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:>width$}"));
            cells.collect::<Vec<_>>().join(" ") + "\n"
        };
        let header = line(&mut COLUMNS.iter().map(|(name, _)| *name));
        let mut out = String::new();
        for (at, (row, cells)) in rows.iter().enumerate() {
            if at == 0 || view.is_header_repeated {
                out.push_str(&header);
            }
            out.push_str(&line(&mut cells.iter().map(String::as_str)));
            row.details(view, &mut out);
        }
        out
    }

    fn json(&self, before: &Self) -> Json {
        let rows = self.rows.iter().map(|(id, row)| {
            let nets = row.traffic.cards.iter().map(|(devid, card)| {
                object! {
                    "devid": *devid, "rx_bytes": card.received[0], "tx_bytes": card.sent[0],
                }
            });
            let vbds = row.traffic.disks.iter().map(|disk| {
                let mut json = object! {"vdev": disk.number};
                if let Some([oo, rd, wr, rsect, wsect]) = disk.counts {
                    json.add("oo", oo);
                    json.add("rd", rd);
                    json.add("wr", wr);
                    json.add("rsect", rsect);
                    json.add("wsect", wsect);
                }
                json
            });
            object! {
                "domid": *id, "name": row.name.as_str(), "state": row.state.as_str(),
                "cpu_time_ns": row.cpu_time,
                "cpu_percent": format!("{:.1}", self.percent(*id, row, before)),
                "memory_kib": row.kib, "vcpus": row.vcpus,
                "nets": nets.collect::<Vec<_>>(), "vbds": vbds.collect::<Vec<_>>(),
            }
        });
        object! {
            "total_kib": self.total_kib, "free_kib": self.free_kib, "cpus": self.cpus,
            "domains": rows.collect::<Vec<_>>(),
        }
    }
}

impl Row {
    /// The lines below a domain's own.
    fn details(&self, view: View, out: &mut String) {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        if view.has_vcpus {
            out.push_str("VCPUs(sec): ");
            for (at, (vcpu, time)) in self.vcpu_times.iter().enumerate() {
                if at != 0 && at % 5 == 0 {
                    out.push_str("\n        ");
                }
                _ = write!(out, " {vcpu:>2}: {:>10}s", time / 1_000_000_000);
            }
            out.push('\n');
        }
        if view.has_networks {
            for (at, card) in self.traffic.cards.values().enumerate() {
                let line = |[bytes, packets, errors, drops]: [u64; 4]| {
                    format!("{bytes:>8}bytes {packets:>8}pkts {errors:>8}err {drops:>8}drop")
                };
                let (received, sent) = (line(card.received), line(card.sent));
                _ = writeln!(out, "Net{at} RX: {received}  TX: {sent}");
            }
        }
        if view.has_disks {
            for disk in &self.traffic.disks {
                let count = |at: usize| match &disk.counts {
                    Some(counts) => counts.get(at).copied().unwrap_or(0).to_string(),
                    None => "-".to_owned(),
                };
                _ = writeln!(
                    out,
                    "VBD BlkBack {:>4} [{:>2x}:{:>2x}]  OO: {:>8}   RD: {:>8}   WR: {:>8}   RSECT: {:>10}   WSECT: {:>10}",
                    disk.number,
                    disk.number >> 8 & 0xfff,
                    disk.number & 0xff,
                    count(0),
                    count(1),
                    count(2),
                    count(3),
                    count(4)
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::traffic::{Card, Disk};
    use super::*;

    fn snapshot() -> Snapshot {
        let traffic = Traffic {
            cards: [(
                0,
                Card {
                    received: [2048, 2, 0, 0],
                    sent: [4096, 3, 0, 1],
                },
            )]
            .into(),
            disks: vec![Disk {
                number: 51712,
                counts: Some([0, 5, 6, 40, 12_345_678_901]),
            }],
        };
        let row = |name: &str, traffic| Row {
            name: name.to_owned(),
            state: "--b---".to_owned(),
            cpu_time: 5_000_000_000,
            kib: 196_608,
            max_kib: Some(197_632),
            vcpus: 1,
            vcpu_times: vec![(0, 5_000_000_000)],
            ssid: 0,
            traffic,
        };
        Snapshot {
            total_kib: 2_096_128,
            free_kib: 1024,
            cpus: 1,
            rows: [
                (0, row("Domain-0", Traffic::default())),
                (1, row("a-rather-long-name", traffic)),
            ]
            .into(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_table_has_xentops_columns() {
        let view = View {
            has_networks: true,
            has_disks: true,
            has_vcpus: true,
            ..View::default()
        };
        let text = snapshot().table(&Snapshot::default(), view);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS NETTX(k) NETRX(k) VBDS   VBD_OO   VBD_RD   VBD_WR  VBD_RSECT   VBD_WSECT SSID",
                "  Domain-0 --b---          5    0.0     196608    9.4     197632       9.4     1    0        0        0    0        0        0        0          0           0    0",
                "VCPUs(sec):   0:          5s",
                "a-rather-l --b---          5    0.0     196608    9.4     197632       9.4     1    1        4        2    1        0        5        6         40 12345678901    0",
                "VCPUs(sec):   0:          5s",
                "Net0 RX:     2048bytes        2pkts        0err        0drop  TX:     4096bytes        3pkts        0err        1drop",
                "VBD BlkBack 51712 [ca: 0]  OO:        0   RD:        5   WR:        6   RSECT:         40   WSECT: 12345678901",
            ]
        );
    }

    #[test]
    fn the_summary_counts_states() {
        let text = snapshot().summary();
        assert!(
            text.contains(
                "2 domains: 0 running, 2 blocked, 0 paused, 0 crashed, 0 dying, 0 shutdown"
            ),
            "{text}"
        );
    }
}
