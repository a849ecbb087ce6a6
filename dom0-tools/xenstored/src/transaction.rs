//! Transactions: a clone of the tree, what was looked at, and what was changed.
//!
//! A commit succeeds when everything that the transaction looked at is in the live tree as it
//! was in the clone. Then its changes are done again on the live tree, or, when nothing at all
//! has changed there, its tree becomes the live one. So committed transactions and single
//! requests have an order in which each of them saw exactly what it would have seen alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use xen_abi::DomId;
use xenstore::path::components;

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

/// An open transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    base: Tree,
    /// The tree as the transaction sees it.
    pub tree: Tree,
    seen: BTreeSet<(String, Aspect)>,
    steps: Vec<Step>,
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

    /// Notes that something was looked at.
    pub fn see(&mut self, path: &str, aspect: Aspect) {
        if !self.is_lost {
            self.seen.insert((path.to_owned(), aspect));
        }
    }

    /// Notes that a path was looked up: the node, or if it is missing, the nearest above it,
    /// whose permissions decided. As the transaction sees it: the node, or as an error the
    /// nearest above it.
    pub fn look_up(&mut self, path: &str) -> Result<Arc<Node>, Arc<Node>> {
        self.see(path, Aspect::Node);
        let found = self.tree.find(path);
        // Also where it is gone by a change of this transaction's.
        let depths = [self.base.find(path).err(), found.err()].into_iter();
        let depth = depths.flatten().map(|(_, depth)| depth).min();
        let found = found.cloned().map_err(|(above, _)| Arc::clone(above));
        let Some(depth) = depth else {
            return found;
        };
        // Those that are missing, and the one above them.
        let missing = components(path).count() + 1 - depth;
        let mut path = path;
        for _ in 0..missing {
            path = match path.rsplit_once('/') {
                Some(("", _)) | None => "/",
                Some((above, _)) => above,
            };
            self.see(path, Aspect::Node);
        }
        found
    }

    /// Does a change on its tree.
    pub fn change(&mut self, step: Step, generation: Generation) {
        self.tree
            .apply(&step.path, &step.change, step.owner, generation);
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
