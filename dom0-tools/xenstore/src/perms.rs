//! Permissions of a node: a list whose first entry names the owner and what all others may,
//! and whose other entries name domains and what they may.

use std::fmt;

use xen_abi::DomId;

/// What may be done with a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Nothing.
    #[default]
    None,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    Both,
}

impl Access {
    /// Reading is allowed.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Writing is allowed.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }

    /// Everything that `wanted` needs is allowed.
    #[must_use]
    pub const fn allows(self, wanted: Self) -> bool {
        (self.reads() || !wanted.reads()) && (self.writes() || !wanted.writes())
    }

    const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }
}

/// An entry: `r5` lets domain 5 read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permission {
    /// What.
    pub access: Access,
    /// Who.
    pub domain: DomId,
}

impl Permission {
    /// An entry.
    #[must_use]
    pub const fn new(domain: DomId, access: Access) -> Self {
        Self { access, domain }
    }

    /// `n0`, `r5`, `w5`, `b5`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (letter, number) = text.split_first()?;
        let access = match letter {
            b'n' => Access::None,
            b'r' => Access::Read,
            b'w' => Access::Write,
            b'b' => Access::Both,
            _ => return None,
        };
        if !number.first()?.is_ascii_digit() {
            return None;
        }
        let domain = std::str::from_utf8(number).ok()?.parse().ok()?;
        Some(Self {
            access,
            domain: DomId(domain),
        })
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.access.letter(), self.domain.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["n0", "r1", "w32751", "b7"] {
            let permission = Permission::parse(text.as_bytes()).unwrap();
            assert_eq!(permission.to_string(), text);
        }
        for bad in ["", "r", "x1", "r-1", "r+1", "r65536", "r1 ", "1"] {
            assert_eq!(Permission::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn access_covers_what_is_wanted() {
        assert!(Access::Both.allows(Access::Write) && Access::Read.allows(Access::None));
        assert!(!Access::Read.allows(Access::Both) && !Access::None.allows(Access::Read));
    }
}
