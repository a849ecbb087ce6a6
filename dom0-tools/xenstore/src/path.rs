//! Paths of nodes.
//!
//! Absolute (`/a/b`), relative to the connection's own `/local/domain/N` (`a/b`), or one of
//! the special watches (`@releaseDomain`). No empty component, no `/` at the end.

use std::borrow::Cow;

use xen_abi::DomId;
use xen_abi::xs_wire::{XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX};

/// The longest absolute path, without the zero byte.
pub const ABSOLUTE_MAX: usize = XENSTORE_ABS_PATH_MAX as usize;
/// The longest relative path.
pub const RELATIVE_MAX: usize = XENSTORE_REL_PATH_MAX as usize;

/// A domain's own directory.
#[must_use]
pub fn of_domain(domain: DomId) -> String {
    format!("/local/domain/{}", domain.0)
}

const fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'@')
}

/// Is it a path of a node, as a client may write it (not a special one)?
#[must_use]
pub fn is_valid(path: &str) -> bool {
    if path == "/" {
        return true;
    }
    let longest = if path.starts_with('/') {
        ABSOLUTE_MAX
    } else {
        RELATIVE_MAX
    };
    !path.is_empty()
        && path.len() <= longest
        && path.bytes().all(is_allowed)
        && !path.ends_with('/')
        && !path.contains("//")
}

/// Is it the name of a special watch?
#[must_use]
pub fn is_special(path: &str) -> bool {
    path.starts_with('@') && path.len() > 1 && is_valid(path) && !path.contains('/')
}

/// The path, absolute: as it is, or below `/local/domain/N`.
#[must_use]
pub fn absolute(path: &str, domain: DomId) -> Cow<'_, str> {
    if path.starts_with('/') || path.starts_with('@') {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(format!("{}/{path}", of_domain(domain)))
    }
}

/// Components of an absolute path; none for the root.
pub fn components(path: &str) -> impl Iterator<Item = &str> {
    // Names are short: looking at each byte is quicker than a search made for long texts.
    let mut rest = path;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let end = rest.bytes().position(|byte| byte == b'/');
            let part = rest.get(..end.unwrap_or(rest.len()))?;
            rest = end.and_then(|end| rest.get(end + 1..)).unwrap_or_default();
            if !part.is_empty() {
                return Some(part);
            }
        }
    })
}

/// Is `path` the node `of`, or below it?
#[must_use]
pub fn is_below(path: &str, of: &str) -> bool {
    let rest = match of {
        "/" => return path.starts_with('/'),
        of => path.strip_prefix(of),
    };
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        for good in ["/", "/a", "/a/b-c_d@e/F0", "name", "device/vif/0"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "/a/", "//", "/a//b", "/a b", "/ä", "a\0", "/a.b"] {
            assert!(!is_valid(bad), "{bad:?}");
        }
        assert!(is_special("@releaseDomain") && !is_special("@") && !is_special("@a/b"));
        assert!(is_valid(&format!("/{}", "a".repeat(ABSOLUTE_MAX - 1))));
        assert!(!is_valid(&format!("/{}", "a".repeat(ABSOLUTE_MAX))));
        assert!(!is_valid(&"a".repeat(RELATIVE_MAX + 1)));
    }

    #[test]
    fn relative_ones_belong_to_the_domain() {
        assert_eq!(absolute("name", DomId(3)), "/local/domain/3/name");
        assert_eq!(absolute("/name", DomId(3)), "/name");
        assert_eq!(absolute("@releaseDomain", DomId(3)), "@releaseDomain");
    }

    #[test]
    fn below_means_whole_components() {
        assert!(is_below("/a/b", "/a") && is_below("/a", "/a") && is_below("/a", "/"));
        assert!(!is_below("/ab", "/a") && !is_below("/a", "/a/b") && !is_below("@x", "/"));
        assert_eq!(components("/a/b").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(components("/").count(), 0);
    }
}
