//! What domains' devices have moved, as dom0's kernel counts it: cards in `/proc/net/dev`, disks in
//! the backends' statistics.

use std::collections::BTreeMap;
use std::path::Path;

const NET: &str = "/proc/net/dev";
const BACKENDS: &str = "/sys/bus/xen-backend/devices";

/// The devices of one domain, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) nets: u32,
    /// Bytes, as dom0's end of the cards counts them.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) disks: u32,
    /// Waits for grants, requests and sectors, in the order of [`STATISTICS`].
    pub(crate) requests: [u64; 5],
}

/// Files of a disk's statistics.
const STATISTICS: [&str; 5] = ["oo_req", "rd_req", "wr_req", "rd_sect", "wr_sect"];

/// Of all domains that have any.
pub(crate) fn all() -> BTreeMap<u16, Traffic> {
    let mut all = BTreeMap::new();
    // Without them there are no such devices.
    cards(&std::fs::read_to_string(NET).unwrap_or_default(), &mut all);
    disks(Path::new(BACKENDS), &mut all);
    all
}

fn cards(text: &str, all: &mut BTreeMap<u16, Traffic>) {
    for line in text.lines() {
        let Some((name, counts)) = line.trim().split_once(':') else {
            continue;
        };
        let Some(domain) = card_of(name) else {
            continue;
        };
        let counts: Vec<u64> = counts
            .split_whitespace()
            .map(|count| count.parse().unwrap_or(0))
            .collect();
        let of = all.entry(domain).or_default();
        of.nets += 1;
        of.received += counts.first().copied().unwrap_or(0);
        of.sent += counts.get(8).copied().unwrap_or(0);
    }
}

/// The domain of `vifDOMAIN.NUMBER`.
fn card_of(name: &str) -> Option<u16> {
    let (domain, number) = name.strip_prefix("vif")?.split_once('.')?;
    number.parse::<u32>().ok()?;
    domain.parse().ok()
}

fn disks(folder: &Path, all: &mut BTreeMap<u16, Traffic>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let domain = name
            .to_str()
            .and_then(|name| name.strip_prefix("vbd-")?.split_once('-'))
            .and_then(|(domain, _)| domain.parse().ok());
        let Some(domain) = domain else { continue };
        let of: &mut Traffic = all.entry(domain).or_default();
        of.disks += 1;
        for (sum, file) in of.requests.iter_mut().zip(STATISTICS) {
            let text = std::fs::read_to_string(entry.path().join("statistics").join(file));
            *sum += text.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_added_up_by_domain() {
        let text = "Inter-|   Receive    |  Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1\n\
                    vif3.0: 100 2 0 0 0 0 0 0 2000 3 0 0 0 0 0 0\n  vif3.1:1 2 0 0 0 0 0 0 20 3\nvif4.x: 1 2\n";
        let mut all = BTreeMap::new();
        cards(text, &mut all);
        let of = all.remove(&3).unwrap();
        assert_eq!((of.nets, of.received, of.sent), (2, 101, 2020));
        assert!(all.is_empty());
    }

    #[test]
    fn disks_are_added_up_by_domain() {
        let folder = std::env::temp_dir().join(format!("radon-xl-{}", std::process::id()));
        for disk in ["vbd-3-51712", "vbd-3-51728", "vif-3-0"] {
            let statistics = folder.join(disk).join("statistics");
            std::fs::create_dir_all(&statistics).unwrap();
            std::fs::write(statistics.join("rd_req"), "7\n").unwrap();
        }
        let mut all = BTreeMap::new();
        disks(&folder, &mut all);
        std::fs::remove_dir_all(&folder).unwrap();
        let of = all.remove(&3).unwrap();
        assert_eq!((of.disks, of.requests), (2, [0, 14, 0, 0, 0]));
        assert!(all.is_empty());
    }
}
