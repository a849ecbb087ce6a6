//! Control commands (`xenstore-control`): for people, so they answer in sentences.

use std::fmt::Write as _;

use xen_abi::DomId;
use xenstore::StoreError;
use xenstore::wire::join;

use crate::state::State;

const HELP: &str = "\
check                    counts and indices are consistent?
help                     this list
log [on|off]             not kept: the log is standard error
memreport                sizes of what the daemon holds
print <text>             a line in the log
quota                    the limits
quota set <name> <value> changes one
quota <domid>            what a domain uses
live-update              not needed: stop the daemon in any way and start the new one
";

impl State {
    pub(crate) fn control(&mut self, arguments: &[&[u8]]) -> Result<Vec<u8>, StoreError> {
        let words: Option<Vec<&str>> = arguments
            .iter()
            .map(|word| std::str::from_utf8(word).ok())
            .collect();
        let words = words.ok_or(StoreError::EINVAL)?;
        let answer = match words.as_slice() {
            ["help"] => HELP.to_owned(),
            ["check"] => self.check(),
            ["log", ..] | ["logfile", _] => "OK".to_owned(),
            ["memreport", ..] => self.report(),
            ["print", text @ ..] => {
                self.log.push(text.join(" "));
                "OK".to_owned()
            }
            ["quota"] => {
                let mut out = String::new();
                for (name, value) in self.quotas.list() {
                    // Writing to a String does not fail.
                    let _ = writeln!(out, "{name:<20} {value:>8}");
                }
                out
            }
            ["quota", "set", name, value] => {
                let value = value.parse().map_err(|_| StoreError::EINVAL)?;
                if !self.quotas.set(name, value) {
                    return Err(StoreError::EINVAL);
                }
                "OK".to_owned()
            }
            ["quota", domain] => {
                let domain = DomId(domain.parse().map_err(|_| StoreError::EINVAL)?);
                self.usage(domain)
            }
            ["live-update", ..] => return Err(StoreError::ENOSYS),
            _ => return Err(StoreError::EINVAL),
        };
        Ok(join(&[answer]))
    }

    fn check(&self) -> String {
        let mut watches: usize = 0;
        for (id, conn) in &self.conns {
            for (path, token) in &conn.watches {
                let absolute = xenstore::path::absolute(path, conn.domain);
                let entry = (*id, path.clone(), token.clone());
                let set = self.watchers.get(absolute.as_ref());
                if !set.is_some_and(|set| set.contains(&entry)) {
                    return format!("watch {path} of {} is not indexed", conn.domain);
                }
                watches += 1;
            }
        }
        let indexed: usize = self
            .watchers
            .values()
            .map(std::collections::BTreeSet::len)
            .sum();
        if indexed != watches {
            return format!("{indexed} watches are indexed, {watches} are there");
        }
        if &self.tree.recount() != self.tree.counts() {
            return "the number of nodes of a domain is wrong".to_owned();
        }
        "OK".to_owned()
    }

    fn usage(&self, domain: DomId) -> String {
        let of = self.conns.values().filter(|conn| conn.domain == domain);
        let (mut watches, mut transactions) = (0, 0);
        for conn in of {
            watches += conn.watches.len();
            transactions += conn.transactions.len();
        }
        format!(
            "nodes {}\nwatches {watches}\ntransactions {transactions}\n",
            self.tree.owned(domain)
        )
    }

    fn report(&self) -> String {
        let nodes: u32 = self.tree.counts().values().sum();
        let of = |count: fn(&crate::state::Conn) -> usize| -> usize {
            self.conns.values().map(count).sum()
        };
        format!(
            "nodes {nodes}\nconnections {}\ndomains {}\nwatches {}\ntransactions {}\nbytes to be sent {}\n",
            self.conns.len(),
            self.domains.len(),
            of(|conn| conn.watches.len()),
            of(|conn| conn.transactions.len()),
            of(|conn| conn.out.len()),
        )
    }
}
