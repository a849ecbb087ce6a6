//! Transactions: a clone of the tree, what was looked at, and what was changed.
//!
//! A commit succeeds when everything that the transaction looked at is in the live tree as it
//! was in the clone. Then its changes are done again on the live tree, or, when nothing at all
//! has changed there, its tree becomes the live one. So committed transactions and single
//! requests have an order in which each of them saw exactly what it would have seen alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use xen_abi::DomId;

use crate::tree::{Change, Generation, Node, Tree};

/// What of a node was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Whether it exists, its value, its permissions.
    Node,
    /// Which children it has.
    Children,
}

/// A change and who pays for new nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub path: String,
    /// What.
    pub change: Change,
    /// Owner of nodes that have to be made.
    pub owner: Option<DomId>,
}

/// What an entry of a transaction's lists takes besides its bytes, about.
const ENTRY: usize = 64;

/// The first so many names of an absolute path.
fn front(path: &str, names: usize) -> &str {
    let end = path.match_indices('/').nth(names).map(|(at, _)| at);
    match (names, end) {
        (0, _) => "/",
        (_, end) => end.and_then(|end| path.get(..end)).unwrap_or(path),
    }
}

/// An open transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    base: Tree,
    /// The tree as the transaction sees it.
    pub tree: Tree,
    seen: BTreeSet<(String, Aspect)>,
    steps: Vec<Step>,
    size: usize,
    /// It cannot be committed any more.
    is_lost: bool,
}

impl Transaction {
    /// Begins one on the live tree.
    #[must_use]
    pub fn new(live: &Tree) -> Self {
        Self {
            base: live.clone(),
            tree: live.clone(),
            seen: BTreeSet::new(),
            steps: Vec::new(),
            size: 0,
            is_lost: false,
        }
    }

    /// One that will end in a conflict.
    #[must_use]
    pub fn lost(live: &Tree) -> Self {
        Self {
            is_lost: true,
            ..Self::new(live)
        }
    }

    /// Makes it one that will end in a conflict, and lets go of its trees.
    pub fn lose(&mut self, live: &Tree) {
        *self = Self::lost(live);
    }

    /// It will end in a conflict.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Nodes that it has looked at or changed.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.seen.len().max(self.steps.len())
    }

    /// Bytes that it keeps: paths and values, and some for each of them.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Notes that something was looked at.
    pub fn see(&mut self, path: &str, aspect: Aspect) {
        if !self.is_lost && self.seen.insert((path.to_owned(), aspect)) {
            self.size += ENTRY + path.len();
        }
    }

    /// Notes that a path was looked up: the node, or if it is missing, the nearest above it,
    /// whose permissions decided, and that nothing is below that on the way. As the transaction
    /// sees it: the node, or as an error the nearest above it.
    pub fn look_up(&mut self, path: &str) -> Result<Arc<Node>, Arc<Node>> {
        let depth = |tree: &Tree| tree.find(path).err().map(|(_, depth)| depth);
        // Also before the changes of this transaction: they may have made what is above.
        let depths = [depth(&self.tree), depth(&self.base)];
        if depths == [None; 2] {
            self.see(path, Aspect::Node);
        }
        for depth in depths.into_iter().flatten() {
            self.see(front(path, depth - 1), Aspect::Node);
            self.see(front(path, depth), Aspect::Node);
        }
        let found = self.tree.find(path);
        found.cloned().map_err(|(above, _)| Arc::clone(above))
    }

    /// Does a change on its tree.
    pub fn change(&mut self, step: Step, generation: Generation) {
        self.tree
            .apply(&step.path, &step.change, step.owner, generation);
        let value = match &step.change {
            Change::Write(value) => value.len(),
            Change::Permissions(list) => size_of_val(&**list),
            Change::Make | Change::Remove => 0,
        };
        self.size += ENTRY + step.path.len() + value;
        self.steps.push(step);
    }

    fn is_as_seen(&self, live: &Tree, path: &str, aspect: Aspect) -> bool {
        match (self.base.get(path), live.get(path)) {
            (None, None) => true,
            (Some(then), Some(now)) => match aspect {
                Aspect::Node => {
                    then.generation == now.generation
                        && then.permissions_generation == now.permissions_generation
                }
                Aspect::Children => then.children_generation == now.children_generation,
            },
            _ => false,
        }
    }

    /// Does its changes on the live tree; `None`, and nothing done, on a conflict.
    /// Gives the changes.
    #[must_use]
    pub fn commit(self, live: &mut Tree, generation: Generation) -> Option<Vec<Step>> {
        if self.is_lost {
            return None;
        }
        if self.base.is_same(live) {
            *live = self.tree;
            return Some(self.steps);
        }
        let seen = self.seen.iter();
        if !seen
            .into_iter()
            .all(|(path, aspect)| self.is_as_seen(live, path, *aspect))
        {
            return None;
        }
        for step in &self.steps {
            live.apply(&step.path, &step.change, step.owner, generation);
        }
        Some(self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &str) -> Step {
        Step {
            path: path.to_owned(),
            change: Change::Write([1].into()),
            owner: None,
        }
    }

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for (path, generation) in paths.iter().zip(2..) {
            tree.apply(path, &write(path).change, None, generation);
        }
        tree
    }

    /// Looks a path up in a transaction on `live`; may it be committed when `other` was made?
    fn is_committed(live: &[&str], looked_up: &str, other: &str) -> bool {
        let mut live = tree(live);
        let mut transaction = Transaction::new(&live);
        assert!(transaction.look_up(looked_up).is_err());
        live.apply(other, &write(other).change, None, 100);
        transaction.commit(&mut live, 101).is_some()
    }

    #[test]
    fn a_deep_path_that_is_missing_takes_no_more_than_a_short_one() {
        let path = "/a".repeat(1536);
        let mut transaction = Transaction::new(&tree(&["/a/a"]));
        assert!(transaction.look_up(&path).is_err());
        assert_eq!((transaction.nodes(), transaction.size()), (2, 128 + 4 + 6));
        // And it counts what it keeps.
        transaction.change(write(&path), 3);
        assert_eq!(transaction.size(), 138 + 64 + 3072 + 1);
    }

    #[test]
    fn what_is_made_above_a_path_that_was_missing_is_a_conflict() {
        let live = ["/a/b", "/x"];
        for other in ["/a/b/c/d/e", "/a/b/c/d", "/a/b/c", "/a/b"] {
            assert!(!is_committed(&live, "/a/b/c/d/e", other), "{other}");
        }
        for other in ["/a/b/z", "/a/y", "/x", "/x/c"] {
            assert!(is_committed(&live, "/a/b/c/d/e", other), "{other}");
        }
        assert!(!is_committed(&[], "/a/b", "/a"));
        assert!(is_committed(&[], "/a/b", "/b"));
    }

    #[test]
    fn names_at_the_front_of_a_path() {
        let all = [0, 1, 2, 3].map(|names| front("/a/bc/d", names));
        assert_eq!(all, ["/", "/a", "/a/bc", "/a/bc/d"]);
    }
}
