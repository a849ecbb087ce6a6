//! Limits that keep one guest from taking the store away from the others. dom0 has none.

/// The limits, by the names that `xenstore-control quota` uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Nodes that a domain owns.
    pub nodes: u32,
    /// Watches of a connection.
    pub watches: u32,
    /// Open transactions of a connection.
    pub transactions: u32,
    /// Nodes that a transaction looks at or changes.
    pub transaction_nodes: u32,
    /// Bytes that a transaction keeps: what it has looked at and what it changes.
    pub transaction_size: u32,
    /// Bytes of a node: value, names of its children.
    pub node_size: u32,
    /// Permissions of a node.
    pub node_permissions: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            nodes: 1000,
            watches: 128,
            transactions: 10,
            transaction_nodes: 1024,
            transaction_size: 256 << 10,
            node_size: 2048,
            node_permissions: 5,
        }
    }
}

impl Quotas {
    fn field(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "nodes" => &mut self.nodes,
            "watches" => &mut self.watches,
            "transactions" => &mut self.transactions,
            "transaction-nodes" => &mut self.transaction_nodes,
            "transaction-size" => &mut self.transaction_size,
            "node-size" => &mut self.node_size,
            "node-permissions" => &mut self.node_permissions,
            _ => return None,
        })
    }

    /// Sets one; false when there is none of that name.
    pub fn set(&mut self, name: &str, value: u32) -> bool {
        let field = self.field(name);
        let is_known = field.is_some();
        if let Some(field) = field {
            *field = value;
        }
        is_known
    }

    /// All of them, with their names.
    #[must_use]
    pub fn list(&self) -> [(&'static str, u32); 7] {
        [
            ("nodes", self.nodes),
            ("watches", self.watches),
            ("transactions", self.transactions),
            ("transaction-nodes", self.transaction_nodes),
            ("transaction-size", self.transaction_size),
            ("node-size", self.node_size),
            ("node-permissions", self.node_permissions),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_the_list_can_be_set() {
        let mut quotas = Quotas::default();
        for (at, (name, _)) in Quotas::default().list().into_iter().enumerate() {
            assert!(quotas.set(name, at as u32 + 7));
            assert_eq!(quotas.list()[at], (name, at as u32 + 7));
        }
        assert!(!quotas.set("beer", 1));
    }
}
