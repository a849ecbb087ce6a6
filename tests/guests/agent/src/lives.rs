//! In dom0: hostile guests (`tests/guests/hostile`), one after the other, until they have made
//! enough hypercalls. When one has ended, however it did, it is destroyed and the next one is
//! started with the next seed.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xen_abi::{DomId, Gfn};
use xencall::{SharedPages, Xen};

/// Where the guest counts (its `link.ld`).
const PAGE: Gfn = Gfn(0x1234);
const MAGIC: u64 = u64::from_le_bytes(*b"hostile!");
const VCPUS: usize = 2;

/// What the lives are to be like.
pub(crate) struct Plan {
    /// The domain's name.
    pub(crate) name: String,
    /// Seed of the first life.
    pub(crate) seed: u64,
    /// Calls of all lives.
    pub(crate) calls: u64,
    /// Calls of one vCPU in one life.
    pub(crate) life: u64,
    /// Who is not to be harmed.
    pub(crate) victim: u16,
    /// A life without progress for so long is over.
    pub(crate) patience: Duration,
    /// More lines of the configuration.
    pub(crate) more: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    calls: u64,
    exits: u64,
    traps: u64,
}

impl Counts {
    /// `None` when what stands in the page is not the guest's counts any more: it may have had its
    /// own hypercalls write there.
    fn read(page: &SharedPages) -> Result<Option<Self>> {
        let word = |at: usize| -> Result<u64> {
            let mut bytes = [0; 8];
            page.read(8 * at, &mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        if word(0)? != MAGIC {
            return Ok(None);
        }
        let mut sum = Self::default();
        for vcpu in 0..VCPUS {
            sum.calls += word(1 + 4 * vcpu)?;
            sum.exits += word(2 + 4 * vcpu)?;
            sum.traps += word(3 + 4 * vcpu)?;
        }
        Ok(Some(sum))
    }
}

fn xl(words: &[&str]) -> Result<String> {
    let out = Command::new("xl").args(words).output().context("xl")?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "xl {}: {said}", words.join(" "));
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// One life; which domain it was, what it did, and how it ended.
fn live(xen: &Xen, plan: &Plan, seed: u64) -> Result<(DomId, Counts, String)> {
    // `malice::LIFE_FRAMES`.
    let frames = 1 << 19;
    let path = format!("/tmp/{}.cfg", plan.name);
    let config = format!(
        "name = \"{}\"\ntype = \"pvh\"\nmemory = 32\nvcpus = 2\nkernel = \"/var/lib/radon/hostile.elf\"\n\
         extra = \"seed={seed} calls={} victim={} frames={frames}\"\n\
         on_poweroff = \"preserve\"\non_reboot = \"preserve\"\non_crash = \"preserve\"\n\
         on_watchdog = \"preserve\"\n{}\n",
        plan.name, plan.life, plan.victim, plan.more
    );
    std::fs::write(&path, config)?;
    xl(&["create", "-q", &path])?;
    let d = DomId(xl(&["domid", &plan.name])?.parse().context("xl domid")?);
    let page = xen.map_foreign(d, &[PAGE])?;
    let mut counts = Counts::default();
    let mut moved = Instant::now();
    let end = loop {
        std::thread::sleep(Duration::from_millis(100));
        let info = match xen.domain_info(d) {
            Ok(info) => info,
            Err(error) => break format!("gone: {error}"),
        };
        match Counts::read(&page)? {
            Some(now) if now != counts => {
                moved = Instant::now();
                counts = now;
            }
            Some(_) => {}
            // A kernel that was never seen to count has not been loaded where it should be.
            None => {
                ensure!(counts.calls > 0, "the guest's page is not there");
                break "counts overwritten".to_owned();
            }
        }
        match info.shutdown_reason() {
            Some(0) => break "done".to_owned(),
            Some(reason) => break format!("reason {reason}"),
            None if moved.elapsed() > plan.patience => break "stuck".to_owned(),
            None => {}
        }
    };
    drop(page);
    xl(&["destroy", &plan.name])?;
    Ok((d, counts, end))
}

/// All lives; the last line sums up.
pub(crate) fn all(plan: &Plan) -> Result<()> {
    let xen = Xen::open()?;
    let start = Instant::now();
    let (mut sum, mut ends) = (Counts::default(), BTreeMap::<String, u32>::new());
    let mut seed = plan.seed;
    while sum.calls < plan.calls {
        let (d, counts, end) = live(&xen, plan, seed).with_context(|| format!("seed {seed}"))?;
        println!(
            "seed {seed} as {d}: {} calls, {} exits, {} traps, {end}",
            counts.calls, counts.exits, counts.traps
        );
        sum.calls += counts.calls;
        sum.exits += counts.exits;
        sum.traps += counts.traps;
        *ends.entry(end).or_default() += 1;
        seed = seed.wrapping_add(1);
    }
    let ends: Vec<String> = ends.iter().map(|(end, n)| format!("{n} {end}")).collect();
    println!(
        "over: seeds {} to {}, {} calls, {} exits, {} traps, {} s; {}",
        plan.seed,
        seed.wrapping_sub(1),
        sum.calls,
        sum.exits,
        sum.traps,
        start.elapsed().as_secs(),
        ends.join(", ")
    );
    Ok(())
}
