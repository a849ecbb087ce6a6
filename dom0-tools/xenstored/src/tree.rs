//! The tree of nodes, persistent: a clone is two reference counts, and shares what neither changes.
//!
//! A change copies the nodes on the way from the root to it, and only those that a clone (an
//! open transaction) still shares; without one, it happens in place.  A copied node copies
//! the list of the pieces that its children are in, and the piece that changes.
//!
//! Every change gets a new generation number. A node keeps three: of its value and existence, of
//! its permissions, of the list of its children.  So two transactions that make different
//! children in one directory do not conflict, and a permission that was given to a domain
//! before it was released does not hold for the next one of that number.

use std::collections::BTreeMap;
use std::sync::Arc;

use xen_abi::DomId;
use xenstore::path::components;
use xenstore::{Access, Permission};

use crate::children::Children;
use crate::work;

/// Number of a change.
pub type Generation = u64;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Any bytes.
    pub value: Arc<[u8]>,
    /// Never empty.
    pub permissions: Arc<[Permission]>,
    /// By name.
    pub children: Children,
    /// When it was made, or its value last written.
    pub generation: Generation,
    /// When its permissions were last set.
    pub permissions_generation: Generation,
    /// When it last got or lost a child.
    pub children_generation: Generation,
}

impl Node {
    /// A new one.
    #[must_use]
    pub fn new(value: &[u8], permissions: Arc<[Permission]>, generation: Generation) -> Self {
        Self {
            value: value.into(),
            permissions,
            children: Children::default(),
            generation,
            permissions_generation: generation,
            children_generation: generation,
        }
    }

    /// The domain that it counts for.
    #[must_use]
    pub fn owner(&self) -> DomId {
        self.permissions.first().map_or(DomId(0), |p| p.domain)
    }
}

/// A change of the tree. Missing nodes on the way are made by [`Change::Write`] and `Make`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the value.
    Write(Arc<[u8]>),
    /// Makes the node if it is missing.
    Make,
    /// Removes the node and all below it.
    Remove,
    /// Sets the permissions.
    Permissions(Arc<[Permission]>),
}

/// The tree and how many nodes each domain owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: Arc<Node>,
    owned: Arc<BTreeMap<DomId, u32>>,
}

impl Tree {
    /// An empty root that only dom0 may use.
    #[must_use]
    pub fn new() -> Self {
        let permissions = [Permission::new(DomId(0), Access::None)];
        Self {
            root: Arc::new(Node::new(&[], permissions.into(), 1)),
            owned: Arc::new(BTreeMap::from([(DomId(0), 1)])),
        }
    }

    /// Nothing has changed since `other` was cloned from it, or the other way round.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// The node at an absolute path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Arc<Node>> {
        components(path).try_fold(&self.root, |node, name| {
            work::count(1);
            node.children.get(name)
        })
    }

    /// The node at an absolute path, or else the nearest above it that exists.
    ///
    /// # Errors
    /// That one, and how many nodes there are down to it, itself included.
    pub fn find(&self, path: &str) -> Result<&Arc<Node>, (&Arc<Node>, usize)> {
        let mut node = &self.root;
        for (name, depth) in components(path).zip(1..) {
            work::count(1);
            match node.children.get(name) {
                Some(child) => node = child,
                None => return Err((node, depth)),
            }
        }
        Ok(node)
    }

    /// Nodes that a domain owns.
    #[must_use]
    pub fn owned(&self, domain: DomId) -> u32 {
        self.owned.get(&domain).copied().unwrap_or(0)
    }

    /// Nodes on the way to `path` that are missing, itself included.
    #[must_use]
    pub fn missing(&self, path: &str) -> u32 {
        let mut node = Some(&self.root);
        let mut missing = 0;
        for name in components(path) {
            node = node.and_then(|node| node.children.get(name));
            missing += u32::from(node.is_none());
        }
        missing
    }

    /// Owners counted anew, to be compared with what was counted along.
    #[must_use]
    pub fn recount(&self) -> BTreeMap<DomId, u32> {
        fn walk(node: &Node, counts: &mut BTreeMap<DomId, u32>) {
            *counts.entry(node.owner()).or_default() += 1;
            for child in node.children.values() {
                walk(child, counts);
            }
        }
        let mut counts = BTreeMap::new();
        walk(&self.root, &mut counts);
        counts
    }

    /// How many nodes each domain owns, as counted along.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<DomId, u32> {
        &self.owned
    }

    fn count(&mut self, domain: DomId, difference: i64) {
        let owned = Arc::make_mut(&mut self.owned);
        let count = owned.entry(domain).or_default();
        let new = i64::from(*count).saturating_add(difference).max(0);
        *count = u32::try_from(new).unwrap_or(u32::MAX);
        if *count == 0 {
            owned.remove(&domain);
        }
    }

    /// Does a change. New nodes have the permissions of the nearest node above; `owner`, if
    /// given, becomes their owner. Gives the removed node for [`Change::Remove`].
    pub fn apply(
        &mut self,
        path: &str,
        change: &Change,
        owner: Option<DomId>,
        generation: Generation,
    ) -> Option<Arc<Node>> {
        match change {
            Change::Write(_) | Change::Make => {
                let value = match change {
                    Change::Write(value) => Some(value),
                    _ => None,
                };
                let Made { node, made } = make(&mut self.root, path, owner, generation);
                if let Some(value) = value {
                    node.value = Arc::clone(value);
                    node.generation = generation;
                }
                for domain in made {
                    self.count(domain, 1);
                }
                None
            }
            Change::Permissions(permissions) => {
                let mut node = &mut self.root;
                for name in components(path) {
                    node = own(node).children.get_mut(name)?;
                }
                let node = own(node);
                let before = node.owner();
                node.permissions = Arc::clone(permissions);
                node.permissions_generation = generation;
                let after = node.owner();
                self.count(before, -1);
                self.count(after, 1);
                None
            }
            Change::Remove => {
                self.get(path)?;
                let (parent, name) = path.rsplit_once('/')?;
                let mut node = &mut self.root;
                for name in components(parent) {
                    node = own(node).children.get_mut(name)?;
                }
                let parent = own(node);
                let removed = parent.children.remove(name)?;
                parent.children_generation = generation;
                self.uncount(&removed);
                Some(removed)
            }
        }
    }

    fn uncount(&mut self, node: &Node) {
        work::count(1);
        self.count(node.owner(), -1);
        for child in node.children.values() {
            self.uncount(child);
        }
    }

    /// Puts a node with its generations back (from the journal); what is above it exists.
    pub fn restore(&mut self, path: &str, node: Node) {
        let owner = node.owner();
        let Some((parent, name)) = path.rsplit_once('/').filter(|_| path != "/") else {
            let before = self.root.owner();
            self.root = Arc::new(node);
            self.count(before, -1);
            self.count(owner, 1);
            return;
        };
        let mut above = &mut self.root;
        for name in components(parent) {
            match Arc::make_mut(above).children.get_mut(name) {
                Some(child) => above = child,
                None => return,
            }
        }
        Arc::make_mut(above).children.insert(name, Arc::new(node));
        self.count(owner, 1);
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// A node to be changed: a copy, if somebody else sees it too.
fn own(node: &mut Arc<Node>) -> &mut Node {
    let is_shared = Arc::strong_count(node) > 1;
    work::count(1 + if is_shared { node.children.pieces() } else { 0 });
    Arc::make_mut(node)
}

struct Made<'a> {
    node: &'a mut Node,
    /// Owners of the nodes that were made.
    made: Vec<DomId>,
}

fn make<'a>(
    root: &'a mut Arc<Node>,
    path: &str,
    owner: Option<DomId>,
    generation: Generation,
) -> Made<'a> {
    let mut made = Vec::new();
    let mut node = own(root);
    for name in components(path) {
        let (above, above_generation) = (&node.permissions, &mut node.children_generation);
        let child = node.children.get_or_insert(name, || {
            *above_generation = generation;
            let mut permissions = Arc::clone(above);
            if let Some(owner) = owner
                && let Some(first) = Arc::make_mut(&mut permissions).first_mut()
            {
                first.domain = owner;
            }
            let child = Node::new(&[], permissions, generation);
            made.push(child.owner());
            Arc::new(child)
        });
        let Some(child) = child else {
            unreachable!("it is there, or was made");
        };
        node = own(child);
    }
    Made { node, made }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(tree: &mut Tree, path: &str, value: &[u8], generation: u64) {
        tree.apply(path, &Change::Write(value.into()), None, generation);
    }

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut tree = Tree::new();
        write(&mut tree, "/a/b", b"1", 2);
        let before = tree.clone();
        assert!(before.is_same(&tree));
        write(&mut tree, "/a/c", b"2", 3);
        assert!(!before.is_same(&tree));
        assert!(before.get("/a/c").is_none());
        let shared = |tree: &Tree| Arc::as_ptr(tree.get("/a/b").unwrap());
        assert_eq!(shared(&before), shared(&tree));
        assert_eq!(tree.get("/a").unwrap().children_generation, 3);
        assert_eq!(tree.get("/a").unwrap().generation, 2);
    }

    #[test]
    fn owners_are_counted() {
        let mut tree = Tree::new();
        tree.apply("/a/b/c", &Change::Make, Some(DomId(5)), 2);
        assert_eq!((tree.owned(DomId(5)), tree.missing("/a/b/x/y")), (3, 2));
        let to = Change::Permissions([Permission::new(DomId(6), Access::Read)].into());
        tree.apply("/a/b", &to, None, 3);
        assert_eq!((tree.owned(DomId(5)), tree.owned(DomId(6))), (2, 1));
        assert_eq!(&tree.recount(), tree.counts());
        assert!(tree.apply("/a/b", &Change::Remove, None, 4).is_some());
        assert!(tree.apply("/a/b", &Change::Remove, None, 5).is_none());
        assert!(tree.apply("/", &Change::Remove, None, 5).is_none());
        assert_eq!(&tree.recount(), tree.counts());
        assert_eq!(tree.owned(DomId(6)), 0);
    }
}
