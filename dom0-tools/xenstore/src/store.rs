//! The operations on nodes.

use std::io::Write as _;

use xen_abi::DomId;

use crate::error::{Error, Result, StoreError};
use crate::perms::Permission;
use crate::wire::{Kind, join, strings};

/// A request that may go out together with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

impl Request {
    fn new(kind: Kind, payload: Vec<u8>) -> Self {
        Self { kind, payload }
    }

    /// As [`Store::read`].
    #[must_use]
    pub fn read(path: &str) -> Self {
        Self::new(Kind::READ, join(&[path]))
    }

    /// As [`Store::write`].
    #[must_use]
    pub fn write(path: &str, value: &[u8]) -> Self {
        let payload = [path.as_bytes(), b"\0", value].concat();
        Self::new(Kind::WRITE, payload)
    }

    /// As [`Store::rm`].
    #[must_use]
    pub fn rm(path: &str) -> Self {
        Self::new(Kind::RM, join(&[path]))
    }

    /// As [`Store::set_permissions`].
    #[must_use]
    pub fn set_permissions(path: &str, permissions: &[Permission]) -> Self {
        let mut payload = join(&[path]);
        for permission in permissions {
            // A vector takes everything.
            _ = write!(payload, "{permission}\0");
        }
        Self::new(Kind::SET_PERMS, payload)
    }
}

/// What a connection or a transaction on it can do with nodes.
pub trait Store {
    /// Sends a request and gives the payload of the reply.
    ///
    /// # Errors
    /// The daemon's refusal; a broken connection.
    fn request(&mut self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>>;

    /// Does all requests, in order, and gives what each got. A connection sends them together,
    /// and the daemon does them in one go: for many this is much quicker.
    ///
    /// # Errors
    /// A broken connection.
    fn requests(&mut self, requests: &[Request]) -> Result<Vec<Result<Vec<u8>>>>;

    /// The values of nodes as text; `None` for those that do not exist.
    ///
    /// # Errors
    /// `EACCES`; a value that is not UTF-8.
    fn try_read_all<const N: usize>(&mut self, paths: [&str; N]) -> Result<[Option<String>; N]> {
        let replies = self.requests(&paths.map(Request::read))?;
        let mut values = [const { None }; N];
        for (value, reply) in values.iter_mut().zip(replies) {
            *value = match reply {
                Ok(bytes) => {
                    Some(String::from_utf8(bytes).map_err(|_| Error::Protocol("not text"))?)
                }
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
        }
        Ok(values)
    }

    /// The value of a node.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    fn read(&mut self, path: &str) -> Result<Vec<u8>> {
        self.request(Kind::READ, &join(&[path]))
    }

    /// The value of a node as text.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`; a value that is not UTF-8.
    fn read_string(&mut self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path)?).map_err(|_| Error::Protocol("not text"))
    }

    /// The value of a node as text; `None` when there is no such node.
    ///
    /// # Errors
    /// `EACCES`; a value that is not UTF-8.
    fn try_read(&mut self, path: &str) -> Result<Option<String>> {
        match self.read_string(path) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the value of a node, and makes it and what is above it where they are missing.
    ///
    /// # Errors
    /// `EACCES`, `ENOSPC`, `E2BIG`.
    fn write(&mut self, path: &str, value: &[u8]) -> Result<()> {
        let request = Request::write(path, value);
        self.request(request.kind, &request.payload).map(drop)
    }

    /// [`write`](Self::write) of text.
    ///
    /// # Errors
    /// As there.
    fn write_string(&mut self, path: &str, value: &str) -> Result<()> {
        self.write(path, value.as_bytes())
    }

    /// Makes a node, and what is above it, if missing.
    ///
    /// # Errors
    /// `EACCES`, `ENOSPC`.
    fn mkdir(&mut self, path: &str) -> Result<()> {
        self.request(Kind::MKDIR, &join(&[path])).map(drop)
    }

    /// Removes a node and all below it. It need not exist.
    ///
    /// # Errors
    /// `EACCES`; `ENOENT` only when what is above it does not exist.
    fn rm(&mut self, path: &str) -> Result<()> {
        self.request(Kind::RM, &join(&[path])).map(drop)
    }

    /// Names of the node's children.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    fn directory(&mut self, path: &str) -> Result<Vec<String>> {
        let list = match self.request(Kind::DIRECTORY, &join(&[path])) {
            Ok(list) => list,
            Err(error) if error.store_error() == Some(StoreError::E2BIG) => {
                directory_in_parts(self, path)?
            }
            Err(error) => return Err(error),
        };
        let (names, _) = strings(&list);
        Ok(names.into_iter().map(text).collect())
    }

    /// Does the node exist, and may we see it?
    ///
    /// # Errors
    /// Others than `ENOENT`.
    fn exists(&mut self, path: &str) -> Result<bool> {
        match self.request(Kind::GET_PERMS, &join(&[path])) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Permissions of a node; the first names its owner.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    fn permissions(&mut self, path: &str) -> Result<Vec<Permission>> {
        let list = self.request(Kind::GET_PERMS, &join(&[path]))?;
        let (entries, _) = strings(&list);
        entries
            .into_iter()
            .map(|entry| Permission::parse(entry).ok_or(Error::Protocol("not a permission")))
            .collect()
    }

    /// Sets them.
    ///
    /// # Errors
    /// `EACCES` for others than the owner; `EPERM` when a guest gives its node away.
    fn set_permissions(&mut self, path: &str, permissions: &[Permission]) -> Result<()> {
        let request = Request::set_permissions(path, permissions);
        self.request(request.kind, &request.payload).map(drop)
    }

    /// The directory of a domain.
    ///
    /// # Errors
    /// A broken connection.
    fn domain_path(&mut self, domain: DomId) -> Result<String> {
        let reply = self.request(Kind::GET_DOMAIN_PATH, &join(&[domain.0.to_string()]))?;
        Ok(text(strings(&reply).0.first().copied().unwrap_or_default()))
    }
}

impl<S: Store + ?Sized> Store for &mut S {
    fn request(&mut self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>> {
        (**self).request(kind, payload)
    }

    fn requests(&mut self, requests: &[Request]) -> Result<Vec<Result<Vec<u8>>>> {
        (**self).requests(requests)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The list of children that does not fit into a message, from its parts. They begin with
/// the node's generation; when that changes in between, all of it is read again.
fn directory_in_parts<S: Store + ?Sized>(store: &mut S, path: &str) -> Result<Vec<u8>> {
    let mut list: Vec<u8> = Vec::new();
    let mut generation: Option<Vec<u8>> = None;
    loop {
        let offset = list.len().to_string();
        let part = store.request(Kind::DIRECTORY_PART, &join(&[path, &offset]))?;
        let end = part.iter().position(|byte| *byte == 0);
        let (now, names) = end
            .and_then(|end| part.split_at_checked(end + 1))
            .ok_or(Error::Protocol("a part without generation"))?;
        if generation.as_deref().is_some_and(|before| before != now) {
            generation = None;
            list.clear();
            continue;
        }
        generation = Some(now.to_vec());
        list.extend_from_slice(names);
        // The last part ends with an empty name.
        if names.is_empty() || list.ends_with(b"\0\0") || list == b"\0" {
            list.pop();
            return Ok(list);
        }
    }
}
