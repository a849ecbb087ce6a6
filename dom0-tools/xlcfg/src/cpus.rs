//! CPU lists: `all`, `0-3,5,^1`, `nodes:0-1,^node:1`.

use std::ops::RangeInclusive;

/// CPUs or nodes that a word names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    All,
    Cpus(RangeInclusive<u32>),
    Nodes(RangeInclusive<u32>),
}

/// One word of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    is_removed: bool,
    kind: Kind,
}

/// A list as written; what it means depends on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<Term>);

/// No machine has more.
const MAX_CPU: u32 = 4095;

fn range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let number = |text: &str| {
        let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_plain && number <= MAX_CPU => Ok(number),
            _ => Err(format!("'{text}' is no number of a CPU or node")),
        }
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if last < first {
        return Err(format!("'{text}' runs backwards"));
    }
    Ok(first..=last)
}

impl CpuList {
    /// Reads a list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for word in text.split(',').map(str::trim) {
            let (is_removed, rest) = match word.strip_prefix('^') {
                Some(rest) => (true, rest),
                None => (false, word),
            };
            let nodes = rest
                .strip_prefix("nodes:")
                .or_else(|| rest.strip_prefix("node:"));
            let kind = match (nodes, rest) {
                (None | Some("all"), "all") | (Some("all"), _) => {
                    if is_removed {
                        return Err("'^' cannot stand before 'all'".to_owned());
                    }
                    Kind::All
                }
                (Some(nodes), _) => Kind::Nodes(range(nodes)?),
                (None, cpus) => Kind::Cpus(range(cpus)?),
            };
            terms.push(Term { is_removed, kind });
        }
        Ok(Self(terms))
    }

    /// The CPUs of a machine that the list names: `true` for each that is meant.
    /// `node_of` has the node of each CPU.
    #[must_use]
    pub fn resolve(&self, node_of: &[u32]) -> Vec<bool> {
        let mut chosen = vec![false; node_of.len()];
        for term in &self.0 {
            for (cpu, slot) in chosen.iter_mut().enumerate() {
                let is_meant = match &term.kind {
                    Kind::All => true,
                    Kind::Cpus(cpus) => u32::try_from(cpu).is_ok_and(|cpu| cpus.contains(&cpu)),
                    Kind::Nodes(nodes) => node_of.get(cpu).is_some_and(|n| nodes.contains(n)),
                };
                if is_meant {
                    *slot = !term.is_removed;
                }
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of four.
    const NODES: [u32; 8] = [0, 0, 0, 0, 1, 1, 1, 1];

    fn chosen(text: &str) -> Vec<usize> {
        let list = CpuList::parse(text).unwrap();
        let all = list.resolve(&NODES);
        (0..all.len()).filter(|&cpu| all[cpu]).collect()
    }

    #[test]
    fn the_manuals_examples() {
        assert_eq!(chosen("0-3,5,^1"), [0, 2, 3, 5]);
        assert_eq!(chosen("all,^7"), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(chosen("1,node:1,^6"), [1, 4, 5, 7]);
        assert_eq!(chosen("all,^nodes:1"), [0, 1, 2, 3]);
        assert_eq!(chosen("3,2-3,^3"), [2]);
        assert_eq!(chosen("9"), [0; 0]);
    }

    #[test]
    fn mistakes_are_named() {
        for text in [
            "", "a", "3-1", "1-", "^all", "node:", "1,,2", "+1", "99999", "1-2-3",
        ] {
            assert!(CpuList::parse(text).is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        /// Against the obvious model: words one after the other over a set.
        #[test]
        fn words_act_in_order(words in proptest::collection::vec((0_u32..8, 0_u32..8, proptest::bool::ANY), 1..6)) {
            let mut model = std::collections::BTreeSet::new();
            let mut text = Vec::new();
            for &(a, b, is_removed) in &words {
                let (first, last) = (a.min(b), a.max(b));
                for cpu in first..=last {
                    if is_removed { model.remove(&(cpu as usize)); } else { model.insert(cpu as usize); }
                }
                text.push(format!("{}{first}-{last}", if is_removed { "^" } else { "" }));
            }
            proptest::prop_assert_eq!(chosen(&text.join(",")), model.into_iter().collect::<Vec<_>>());
        }
    }
}
