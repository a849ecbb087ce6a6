//! Requests: one function each, named after its message.

use std::borrow::Cow;
use std::sync::Arc;

use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::path::{self, absolute};
use xenstore::wire::{Kind, Message, PAYLOAD_MAX, TxId, join, strings};
use xenstore::{Access, Permission, StoreError};

use crate::outbox::Cause;
use crate::state::{ConnId, Host, RELEASE_DOMAIN, State};
use crate::transaction::{Aspect, Step, Transaction};
use crate::tree::{Change, Node};
use crate::work;

type Reply = Result<Vec<u8>, StoreError>;

const OK: &[u8] = b"OK\0";

/// The only string of a payload.
fn one(payload: &[u8]) -> Result<&str, StoreError> {
    match strings(payload) {
        (list, []) if list.len() == 1 => text(list.first().copied()),
        _ => Err(StoreError::EINVAL),
    }
}

fn text(bytes: Option<&[u8]>) -> Result<&str, StoreError> {
    let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.ok_or(StoreError::EINVAL)
}

fn number<T: std::str::FromStr>(bytes: Option<&[u8]>) -> Result<T, StoreError> {
    text(bytes)?.parse().map_err(|_| StoreError::EINVAL)
}

/// A domain's number; the reserved ones are none.
fn domain(bytes: Option<&[u8]>) -> Result<DomId, StoreError> {
    let domain = DomId(number(bytes)?);
    (domain < DomId::FIRST_RESERVED)
        .then_some(domain)
        .ok_or(StoreError::EINVAL)
}

/// Does it change nothing, so that the journal need not know it?
#[must_use]
pub fn is_only_reading(message: &Message) -> bool {
    message.tx == TxId::NONE
        && matches!(
            message.kind,
            Kind::READ
                | Kind::DIRECTORY
                | Kind::DIRECTORY_PART
                | Kind::GET_PERMS
                | Kind::GET_DOMAIN_PATH
                | Kind::IS_DOMAIN_INTRODUCED
        )
}

impl State {
    pub(crate) fn message(&mut self, id: ConnId, message: &Message, host: &mut dyn Host) {
        let conn = self.conns.get(&id);
        let before = conn.map_or(0, |conn| conn.out.end());
        let guest = conn.filter(|conn| !conn.is_privileged());
        self.asking = guest.map(|conn| (id, Cause::clone(&conn.causes)));
        let reply = self.dispatch(id, message, host);
        self.asking = None;
        self.dirty.insert(id);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let (kind, payload) = match reply {
            Ok(payload) if payload.len() <= PAYLOAD_MAX => (message.kind, payload),
            Ok(_) => (Kind::ERROR, join(&[StoreError::E2BIG.name()])),
            Err(error) => (Kind::ERROR, join(&[error.name()])),
        };
        // The reply comes before the events that the request has caused.
        let reply = Message {
            kind,
            request: message.request,
            tx: message.tx,
            payload,
        };
        conn.out.reply(&reply, before);
    }

    fn dispatch(&mut self, id: ConnId, message: &Message, host: &mut dyn Host) -> Reply {
        let payload = message.payload.as_slice();
        let tx = message.tx;
        if tx != TxId::NONE {
            let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
            if !conn.transactions.contains_key(&tx) {
                return Err(StoreError::ENOENT);
            }
        }
        match message.kind {
            Kind::DIRECTORY => self.directory(id, tx, payload),
            Kind::DIRECTORY_PART => self.directory_part(id, tx, payload),
            Kind::READ => self.read(id, tx, payload),
            Kind::WRITE => self.write(id, tx, payload),
            Kind::MKDIR => self.mkdir(id, tx, payload),
            Kind::RM => self.rm(id, tx, payload),
            Kind::GET_PERMS => self.get_perms(id, tx, payload),
            Kind::SET_PERMS => self.set_perms(id, tx, payload),
            Kind::WATCH => self.watch(id, payload),
            Kind::UNWATCH => self.unwatch(id, payload),
            Kind::RESET_WATCHES => {
                self.reset(id);
                Ok(OK.to_vec())
            }
            Kind::TRANSACTION_START => self.transaction_start(id, tx),
            Kind::TRANSACTION_END => self.transaction_end(id, tx, payload),
            Kind::GET_DOMAIN_PATH => {
                let list = strings(payload).0;
                let domain = domain(list.first().copied())?;
                Ok(join(&[path::of_domain(domain)]))
            }
            Kind::IS_DOMAIN_INTRODUCED => self.is_domain_introduced(id, payload),
            Kind::INTRODUCE | Kind::RELEASE | Kind::RESUME | Kind::SET_TARGET | Kind::CONTROL => {
                let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
                if !conn.is_privileged() {
                    return Err(StoreError::EACCES);
                }
                self.privileged(message.kind, payload, host)
            }
            _ => Err(StoreError::ENOSYS),
        }
    }

    fn privileged(&mut self, kind: Kind, payload: &[u8], host: &mut dyn Host) -> Reply {
        let (list, _) = strings(payload);
        let field = |at: usize| list.get(at).copied();
        match kind {
            Kind::INTRODUCE => {
                let port: u32 = number(field(2))?;
                if port == 0 || list.len() < 3 {
                    return Err(StoreError::EINVAL);
                }
                let gfn = Gfn(number(field(1))?);
                self.introduce(domain(field(0))?, gfn, EvtchnPort(port), host)?;
            }
            Kind::RELEASE => {
                if !self.release(domain(field(0))?) {
                    return Err(StoreError::ENOENT);
                }
                self.fire_special(RELEASE_DOMAIN);
            }
            Kind::RESUME => {
                let known = self.domains.get_mut(&domain(field(0))?);
                known.ok_or(StoreError::ENOENT)?.is_shut_down = false;
            }
            Kind::SET_TARGET => {
                let target = domain(field(1))?;
                let known = self.domains.get(&domain(field(0))?);
                let conn = known.ok_or(StoreError::ENOENT)?.conn;
                if !self.domains.contains_key(&target) {
                    return Err(StoreError::ENOENT);
                }
                self.set_target(conn, Some(target));
            }
            _ => return self.control(&list),
        }
        Ok(OK.to_vec())
    }

    /// The absolute path of a node that a client names.
    fn node_path<'a>(&self, id: ConnId, path: &'a str) -> Result<Cow<'a, str>, StoreError> {
        let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
        if !path::is_valid(path) || path.starts_with('@') {
            return Err(StoreError::EINVAL);
        }
        let path = absolute(path, conn.domain);
        (path.len() <= path::ABSOLUTE_MAX)
            .then_some(path)
            .ok_or(StoreError::EINVAL)
    }

    /// The node at `path` as the transaction sees it. `ENOENT` is told only to those who may do
    /// `wanted` with the nearest node above.
    fn look_up(
        &mut self,
        id: ConnId,
        tx: TxId,
        path: &str,
        wanted: Access,
    ) -> Result<Arc<Node>, StoreError> {
        let nodes = self.quotas.transaction_nodes as usize;
        let size = self.quotas.transaction_size as usize;
        let is_full = |of: &Transaction| of.nodes() >= nodes || of.size() >= size;
        let conn = self.conns.get_mut(&id).ok_or(StoreError::EIO)?;
        let is_privileged = conn.is_privileged();
        let found = match conn.transactions.get_mut(&tx) {
            Some(transaction) if !is_privileged && is_full(transaction) => {
                return Err(StoreError::ENOSPC);
            }
            Some(transaction) => transaction.look_up(path),
            None => {
                let found = self.tree.find(path);
                found.cloned().map_err(|(above, _)| Arc::clone(above))
            }
        };
        let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
        let (Ok(node) | Err(node)) = &found;
        if self.node_access(conn, node).allows(wanted) {
            found.map_err(|_| StoreError::ENOENT)
        } else {
            Err(StoreError::EACCES)
        }
    }

    fn see_children(&mut self, id: ConnId, tx: TxId, path: &str) {
        let conn = self.conns.get_mut(&id);
        if let Some(transaction) = conn.and_then(|conn| conn.transactions.get_mut(&tx)) {
            transaction.see(path, Aspect::Children);
        }
    }

    /// Does a change, in the transaction or for all to see.
    fn change(&mut self, id: ConnId, tx: TxId, step: Step) {
        let generation = self.tick();
        let conn = self.conns.get_mut(&id);
        match conn.and_then(|conn| conn.transactions.get_mut(&tx)) {
            Some(transaction) => transaction.change(step, generation),
            None => {
                let removed = self
                    .tree
                    .apply(&step.path, &step.change, step.owner, generation);
                self.fire(&step.path, removed.as_deref());
            }
        }
    }

    fn directory(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let path = self.node_path(id, one(payload)?)?;
        let node = self.look_up(id, tx, &path, Access::Read)?;
        self.see_children(id, tx, &path);
        let names: Vec<&str> = node.children.keys().collect();
        work::count(names.len());
        Ok(join(&names))
    }

    fn directory_part(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let (list, _) = strings(payload);
        if list.len() != 2 {
            return Err(StoreError::EINVAL);
        }
        let path = self.node_path(id, text(list.first().copied())?)?;
        let offset: usize = number(list.get(1).copied())?;
        let node = self.look_up(id, tx, &path, Access::Read)?;
        self.see_children(id, tx, &path);
        let mut reply = join(&[node.children_generation.to_string()]);
        let mut at = 0;
        for name in node.children.keys() {
            work::count(1);
            let end = at + name.len() + 1;
            if at >= offset {
                // Room for the name, its zero byte, and the one that ends the last part.
                if reply.len() + name.len() + 2 > PAYLOAD_MAX {
                    return Ok(reply);
                }
                reply.extend_from_slice(name.as_bytes());
                reply.push(0);
            }
            at = end;
        }
        reply.push(0);
        Ok(reply)
    }

    fn read(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let path = self.node_path(id, one(payload)?)?;
        let node = self.look_up(id, tx, &path, Access::Read)?;
        Ok(node.value.to_vec())
    }

    /// May the connection make the missing nodes on the way to `path`? And who will own them.
    fn may_make(&self, id: ConnId, tx: TxId, path: &str) -> Result<Option<DomId>, StoreError> {
        let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
        if conn.is_privileged() {
            return Ok(None);
        }
        let tree = conn.transactions.get(&tx).map_or(&self.tree, |t| &t.tree);
        let nodes = tree.owned(conn.domain).saturating_add(tree.missing(path));
        if tree.get(path).is_none() && nodes > self.quotas.nodes {
            return Err(StoreError::ENOSPC);
        }
        Ok(Some(conn.domain))
    }

    fn write(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let end = payload.iter().position(|byte| *byte == 0);
        let (name, value) = end
            .and_then(|end| Some((payload.get(..end)?, payload.get(end + 1..)?)))
            .ok_or(StoreError::EINVAL)?;
        let path = self.node_path(id, text(Some(name))?)?;
        match self.look_up(id, tx, &path, Access::Write) {
            Ok(_) | Err(StoreError::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let owner = self.may_make(id, tx, &path)?;
        if owner.is_some() && value.len() > self.quotas.node_size as usize {
            return Err(StoreError::ENOSPC);
        }
        let step = Step {
            path: path.into_owned(),
            change: Change::Write(value.into()),
            owner,
        };
        self.change(id, tx, step);
        Ok(OK.to_vec())
    }

    fn mkdir(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let path = self.node_path(id, one(payload)?)?;
        match self.look_up(id, tx, &path, Access::Write) {
            Ok(_) => return Ok(OK.to_vec()),
            Err(StoreError::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let owner = self.may_make(id, tx, &path)?;
        let step = Step {
            path: path.into_owned(),
            change: Change::Make,
            owner,
        };
        self.change(id, tx, step);
        Ok(OK.to_vec())
    }

    fn rm(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let path = self.node_path(id, one(payload)?)?;
        match self.look_up(id, tx, &path, Access::Write) {
            Ok(_) if path == "/" => return Err(StoreError::EINVAL),
            Ok(_) => {}
            Err(StoreError::ENOENT) => {
                // Gone already is as good, if what is above it exists.
                let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
                let parent = if parent.is_empty() { "/" } else { parent };
                let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
                let tree = conn.transactions.get(&tx).map_or(&self.tree, |t| &t.tree);
                return tree
                    .get(parent)
                    .map(|_| OK.to_vec())
                    .ok_or(StoreError::ENOENT);
            }
            Err(error) => return Err(error),
        }
        let step = Step {
            path: path.into_owned(),
            change: Change::Remove,
            owner: None,
        };
        self.change(id, tx, step);
        Ok(OK.to_vec())
    }

    fn get_perms(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let name = one(payload)?;
        if let Some(permissions) = self.special.get(name) {
            let list: Vec<String> = permissions.iter().map(ToString::to_string).collect();
            return Ok(join(&list));
        }
        let path = self.node_path(id, name)?;
        let node = self.look_up(id, tx, &path, Access::Read)?;
        let list: Vec<String> = node.permissions.iter().map(ToString::to_string).collect();
        Ok(join(&list))
    }

    fn set_perms(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let (list, rest) = strings(payload);
        let [name, entries @ ..] = list.as_slice() else {
            return Err(StoreError::EINVAL);
        };
        let permissions: Option<Vec<Permission>> = entries
            .iter()
            .map(|entry| Permission::parse(entry))
            .collect();
        let permissions = permissions
            .filter(|list| !list.is_empty() && rest.is_empty())
            .ok_or(StoreError::EINVAL)?;
        if permissions
            .iter()
            .any(|p| p.domain >= DomId::FIRST_RESERVED)
        {
            return Err(StoreError::EINVAL);
        }
        let name = text(Some(name))?;
        let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
        let is_privileged = conn.is_privileged();
        if self.special.contains_key(name) {
            if !is_privileged {
                return Err(StoreError::EACCES);
            }
            self.special.insert(name.to_owned(), permissions);
            return Ok(OK.to_vec());
        }
        let path = self.node_path(id, name)?;
        let node = self.look_up(id, tx, &path, Access::Write)?;
        let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
        if !self.owns(conn, &node) {
            return Err(StoreError::EACCES);
        }
        if !is_privileged {
            if permissions.len() > self.quotas.node_permissions as usize {
                return Err(StoreError::ENOSPC);
            }
            let owner = permissions.first().map(|p| p.domain);
            if owner != Some(node.owner()) {
                return Err(StoreError::EPERM);
            }
        }
        let step = Step {
            path: path.into_owned(),
            change: Change::Permissions(permissions.into()),
            owner: None,
        };
        self.change(id, tx, step);
        Ok(OK.to_vec())
    }

    fn watch(&mut self, id: ConnId, payload: &[u8]) -> Reply {
        let (list, _) = strings(payload);
        let [path, token] = list.as_slice() else {
            return Err(StoreError::EINVAL);
        };
        let (path, token) = (text(Some(path))?, text(Some(token))?);
        if !path::is_special(path) {
            self.node_path(id, path)?;
        }
        let limit = self.quotas.watches as usize;
        let conn = self.conns.get_mut(&id).ok_or(StoreError::EIO)?;
        // The event has the watched path and the token, and must fit as well.
        if path.len() + token.len() + path::ABSOLUTE_MAX / 4 > PAYLOAD_MAX
            || token.len() > path::RELATIVE_MAX / 2
        {
            return Err(StoreError::EINVAL);
        }
        if !conn.is_privileged() && conn.watches.len() >= limit {
            return Err(StoreError::E2BIG);
        }
        if !conn.watches.insert((path.to_owned(), token.to_owned())) {
            return Err(StoreError::EEXIST);
        }
        // Events of an earlier watch with this token may be for nobody.
        conn.out.forget();
        let domain = conn.domain;
        self.index(domain, id, path, token);
        self.send_event(id, path, token);
        Ok(OK.to_vec())
    }

    fn unwatch(&mut self, id: ConnId, payload: &[u8]) -> Reply {
        let (list, _) = strings(payload);
        let [path, token] = list.as_slice() else {
            return Err(StoreError::EINVAL);
        };
        let (path, token) = (text(Some(path))?, text(Some(token))?);
        let conn = self.conns.get_mut(&id).ok_or(StoreError::EIO)?;
        if !conn.watches.remove(&(path.to_owned(), token.to_owned())) {
            return Err(StoreError::ENOENT);
        }
        let domain = conn.domain;
        self.unindex(domain, id, path, token);
        Ok(OK.to_vec())
    }

    fn transaction_start(&mut self, id: ConnId, tx: TxId) -> Reply {
        if tx != TxId::NONE {
            return Err(StoreError::EBUSY);
        }
        let limit = self.quotas.transactions as usize;
        let conn = self.conns.get_mut(&id).ok_or(StoreError::EIO)?;
        if !conn.is_privileged() && conn.transactions.len() >= limit {
            return Err(StoreError::ENOSPC);
        }
        loop {
            conn.last_tx = conn.last_tx.wrapping_add(1);
            let new = TxId(conn.last_tx);
            if new != TxId::NONE && !conn.transactions.contains_key(&new) {
                conn.transactions.insert(new, Transaction::new(&self.tree));
                return Ok(join(&[new.0.to_string()]));
            }
        }
    }

    fn transaction_end(&mut self, id: ConnId, tx: TxId, payload: &[u8]) -> Reply {
        let is_commit = match one(payload)? {
            "T" => true,
            "F" => false,
            _ => return Err(StoreError::EINVAL),
        };
        let conn = self.conns.get_mut(&id).ok_or(StoreError::EIO)?;
        let domain = conn.domain;
        let is_privileged = conn.is_privileged();
        let transaction = conn.transactions.remove(&tx).ok_or(StoreError::ENOENT)?;
        if !is_commit {
            return Ok(OK.to_vec());
        }
        let generation = self.tick();
        let before = self.tree.clone();
        let mut after = before.clone();
        let steps = transaction
            .commit(&mut after, generation)
            .ok_or(StoreError::EAGAIN)?;
        let owned = after.owned(domain);
        if !is_privileged && owned > self.quotas.nodes && owned > before.owned(domain) {
            return Err(StoreError::ENOSPC);
        }
        self.tree = after;
        self.fire_steps(&steps, &before);
        Ok(OK.to_vec())
    }

    fn is_domain_introduced(&self, id: ConnId, payload: &[u8]) -> Reply {
        let asked: u16 = number(strings(payload).0.first().copied())?;
        let asked = DomId(asked);
        let conn = self.conns.get(&id).ok_or(StoreError::EIO)?;
        let is_known =
            asked == DomId::SELF || asked == conn.domain || self.domains.contains_key(&asked);
        Ok(if is_known { b"T\0" } else { b"F\0" }.to_vec())
    }
}
