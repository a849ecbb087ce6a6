//! The children of a node, in order of their names, shared in pieces: a copy copies the list of
//! pieces, and a change one piece. So a transaction that makes one domain's node does not copy a
//! list of all domains.

use std::sync::Arc;

use crate::tree::Node;
use crate::work;

/// Children in a piece at most.
const PIECE: usize = 64;

type Child = (Arc<str>, Arc<Node>);

/// Nodes by name.
#[derive(Clone, Debug, Default)]
pub struct Children {
    /// In order; none is empty.
    pieces: Vec<Arc<Vec<Child>>>,
}

impl PartialEq for Children {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Children {}

impl Children {
    /// The piece that a name is in, or would be.
    fn piece(&self, name: &str) -> usize {
        let is_not_behind = |piece: &Arc<Vec<Child>>| {
            let first = piece.first();
            first.is_some_and(|(first, _)| &**first <= name)
        };
        let after = self.pieces.partition_point(is_not_behind);
        after.saturating_sub(1)
    }

    /// The piece, and the place in it where the name is, or would be.
    fn find(&self, name: &str) -> (usize, Result<usize, usize>) {
        let piece = self.piece(name);
        let at = self.pieces.get(piece).map_or(Err(0), |children| {
            children.binary_search_by(|(other, _)| (**other).cmp(name))
        });
        (piece, at)
    }

    /// A piece to be changed: a copy, if somebody else sees it too.
    fn own(&mut self, piece: usize) -> Option<&mut Vec<Child>> {
        let children = self.pieces.get_mut(piece)?;
        if Arc::strong_count(children) > 1 {
            work::count(children.len());
        }
        Some(Arc::make_mut(children))
    }

    /// How many pieces a copy of all has to copy.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The child of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Node>> {
        let (piece, at) = self.find(name);
        self.pieces.get(piece)?.get(at.ok()?).map(|(_, node)| node)
    }

    /// The child of this name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Arc<Node>> {
        let (piece, at) = self.find(name);
        let child = self.own(piece)?.get_mut(at.ok()?)?;
        Some(&mut child.1)
    }

    /// The child of this name, to be changed; where there is none, a new one.
    pub fn get_or_insert(
        &mut self,
        name: &str,
        new: impl FnOnce() -> Arc<Node>,
    ) -> Option<&mut Arc<Node>> {
        let (mut piece, mut place) = self.find(name);
        if self.pieces.is_empty() {
            self.pieces.push(Arc::default());
        }
        if let Err(at) = &mut place
            && self.pieces.get(piece)?.len() == PIECE
        {
            let half = self.own(piece)?.split_off(PIECE / 2);
            self.pieces.insert(piece + 1, Arc::new(half));
            if *at > PIECE / 2 {
                *at -= PIECE / 2;
                piece += 1;
            }
        }
        let children = self.own(piece)?;
        let at = match place {
            Ok(at) => at,
            Err(at) => {
                children.insert(at, (name.into(), new()));
                at
            }
        };
        Some(&mut children.get_mut(at)?.1)
    }

    /// Puts a child in, in place of the one of that name.
    pub fn insert(&mut self, name: &str, node: Arc<Node>) {
        if let Some(child) = self.get_or_insert(name, || Arc::clone(&node)) {
            *child = node;
        }
    }

    /// Takes a child out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Node>> {
        let (piece, at) = self.find(name);
        let at = at.ok()?;
        let children = self.own(piece)?;
        let (_, node) = children.remove(at);
        let left = children.len();
        let next = self.pieces.get(piece + 1).map(|next| next.len());
        if left == 0 {
            self.pieces.remove(piece);
        } else if next.is_some_and(|next| left + next <= PIECE / 2) {
            let next = self.pieces.remove(piece + 1);
            work::count(next.len());
            self.own(piece)?.extend(next.iter().cloned());
        }
        Some(node)
    }

    /// Names and nodes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Node>)> {
        let all = self.pieces.iter().flat_map(|piece| piece.iter());
        all.map(|(name, node)| (&**name, node))
    }

    /// Names.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// Nodes.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.iter().map(|(_, node)| node)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn node(generation: u64) -> Arc<Node> {
        Arc::new(Node::new(&[], [].into(), generation))
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((any::<bool>(), 0u16..400), 1..1500)) {
            let (mut children, mut model) = (Children::default(), BTreeMap::new());
            let mut before = Vec::new();
            for (at, (adds, name)) in (0u64..).zip(steps) {
                let name = name.to_string();
                if adds {
                    children.insert(&name, node(at));
                    model.insert(name.clone(), node(at));
                } else {
                    prop_assert_eq!(children.remove(&name), model.remove(&name));
                }
                prop_assert_eq!(children.get(&name), model.get(&name));
                if at % 100 == 0 {
                    before.push((children.clone(), model.clone()));
                }
            }
            before.push((children, model));
            for (children, model) in before {
                let expected = model.iter().map(|(name, node)| (name.as_str(), node));
                prop_assert!(children.iter().eq(expected));
                let is_small = |piece: &Arc<Vec<Child>>| (1..=PIECE).contains(&piece.len());
                prop_assert!(children.pieces.iter().all(is_small));
                prop_assert!(children.pieces() <= 2 + model.len() / (PIECE / 8));
            }
        }
    }

    #[test]
    fn a_change_copies_one_piece() {
        let mut children = Children::default();
        for name in 1000..2000 {
            children.insert(&name.to_string(), node(1));
        }
        let before = children.clone();
        let copied = work::of(|| children.insert("1500", node(2)));
        assert!((1..=PIECE).contains(&copied), "{copied}");
        assert_eq!(before.get("1500"), Some(&node(1)));
        assert_eq!(children.get_mut("1500"), Some(&mut node(2)));
    }
}
