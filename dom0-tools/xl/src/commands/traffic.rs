//! What dom0's backends count of each guest's cards and disks, as its kernel shows it.

use std::collections::BTreeMap;
use std::path::Path;

const CARDS: &str = "/sys/class/net";
const BACKENDS: &str = "/sys/bus/xen-backend/devices";

/// A guest's card, seen from dom0 (xentop's view as well): what dom0 sends, the guest receives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    /// Bytes, packets, errors, drops.
    pub(crate) received: [u64; 4],
    /// The same.
    pub(crate) sent: [u64; 4],
}

/// A guest's disk. Backends in user space count nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Number that the guest and xenstore use.
    pub(crate) number: u32,
    /// Requests for which there were no resources, reads, writes, sectors read, sectors written.
    pub(crate) counts: Option<[u64; 5]>,
}

/// Cards and disks of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) cards: BTreeMap<u32, Card>,
    pub(crate) disks: Vec<Disk>,
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn numbers<const N: usize>(folder: &Path, names: [&str; N]) -> Option<[u64; N]> {
    let mut all = [0; N];
    for (value, name) in all.iter_mut().zip(names) {
        *value = number(&folder.join(name))?;
    }
    Some(all)
}

/// Domain and number in `backend/vif/3/0` or, with another separator, `vbd-3-51712`.
fn owner(text: &str, prefix: &str, separator: char) -> Option<(u16, u32)> {
    let (domain, device) = text.strip_prefix(prefix)?.split_once(separator)?;
    Some((domain.parse().ok()?, device.parse().ok()?))
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    all.sort();
    all
}

/// All of it, by domain.
pub(crate) fn read() -> BTreeMap<u16, Traffic> {
    read_from(Path::new(CARDS), Path::new(BACKENDS))
}

fn read_from(cards: &Path, backends: &Path) -> BTreeMap<u16, Traffic> {
    let mut all: BTreeMap<u16, Traffic> = BTreeMap::new();
    for path in entries(cards) {
        // Also where the card was given another name.
        let node = std::fs::read_to_string(path.join("device/nodename")).unwrap_or_default();
        let Some((domain, device)) = owner(node.trim(), "backend/vif/", '/') else {
            continue;
        };
        let folder = path.join("statistics");
        let received = ["rx_bytes", "rx_packets", "rx_errors", "rx_dropped"];
        let sent = ["tx_bytes", "tx_packets", "tx_errors", "tx_dropped"];
        let card = Card {
            received: numbers(&folder, received).unwrap_or_default(),
            sent: numbers(&folder, sent).unwrap_or_default(),
        };
        all.entry(domain).or_default().cards.insert(device, card);
    }
    for path in entries(backends) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((domain, number)) = owner(&name, "vbd-", '-') else {
            continue;
        };
        let names = ["oo_req", "rd_req", "wr_req", "rd_sect", "wr_sect"];
        let counts = numbers(&path.join("statistics"), names);
        let disk = Disk { number, counts };
        all.entry(domain).or_default().disks.push(disk);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_domain() {
        let top = std::env::temp_dir().join(format!("xl-traffic-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = top.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("net/renamed/device/nodename", "backend/vif/3/1");
        for (at, name) in ["bytes", "packets", "errors", "dropped"].iter().enumerate() {
            write(
                &format!("net/renamed/statistics/rx_{name}"),
                &format!("{at}\n"),
            );
            write(&format!("net/renamed/statistics/tx_{name}"), "9\n");
        }
        write("net/eth0/statistics/rx_bytes", "1");
        for name in ["oo_req", "rd_req", "wr_req", "rd_sect", "wr_sect"] {
            write(&format!("bus/vbd-3-51712/statistics/{name}"), "7\n");
        }
        write("bus/vbd-4-51728/nodename", "");
        let all = read_from(&top.join("net"), &top.join("bus"));
        std::fs::remove_dir_all(&top).unwrap();
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [3, 4]);
        assert_eq!(all[&3].cards[&1].received, [0, 1, 2, 3]);
        assert_eq!(all[&3].cards[&1].sent, [9; 4]);
        assert_eq!(all[&3].disks[0].counts, Some([7; 5]));
        assert_eq!(all[&4].disks[0].counts, None);
        assert_eq!(all[&4].disks[0].number, 51728);
    }
}
