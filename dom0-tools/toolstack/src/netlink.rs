//! Interfaces by rtnetlink: into a bridge, up, MTU, name. No shell, no `ip`.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use crate::error::Result;

const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFF_UP: u32 = 1;

/// A change of one interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkChange {
    pub(crate) index: i32,
    pub(crate) master: Option<u32>,
    pub(crate) mtu: Option<u32>,
    pub(crate) name: Option<String>,
    pub(crate) is_up: Option<bool>,
}

impl LinkChange {
    fn message(&self) -> Vec<u8> {
        let mut out = vec![0; 16];
        // struct ifinfomsg
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.index.to_ne_bytes());
        let (flags, change) = match self.is_up {
            Some(true) => (IFF_UP, IFF_UP),
            Some(false) => (0, IFF_UP),
            None => (0, 0),
        };
        out.extend_from_slice(&flags.to_ne_bytes());
        out.extend_from_slice(&u32::to_ne_bytes(change));
        let mut attribute = |kind: u16, value: &[u8]| {
            // Values are names and numbers.
            let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&length.to_ne_bytes());
            out.extend_from_slice(&kind.to_ne_bytes());
            out.extend_from_slice(value);
            out.resize(out.len().next_multiple_of(4), 0);
        };
        if let Some(mtu) = self.mtu {
            attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(master) = self.master {
            attribute(IFLA_MASTER, &master.to_ne_bytes());
        }
        if let Some(name) = &self.name {
            let mut bytes = name.clone().into_bytes();
            bytes.push(0);
            attribute(IFLA_IFNAME, &bytes);
        }
        let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
        out[..4].copy_from_slice(&length.to_ne_bytes());
        out[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        out[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        out[8..12].copy_from_slice(&1_u32.to_ne_bytes());
        out
    }

    /// Asks the kernel for it.
    pub(crate) fn apply(&self) -> Result<()> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0.
            None,
        )?;
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&socket, &self.message(), SendFlags::empty(), &kernel)?;
        let mut reply = [0; 4096];
        let (_, length) = recv(&socket, reply.as_mut_slice(), RecvFlags::empty())?;
        acknowledged(reply.get(..length).unwrap_or_default())
    }
}

/// The kernel's answer: an error number, 0 for none.
fn acknowledged(reply: &[u8]) -> Result<()> {
    let kind = reply
        .get(4..6)
        .and_then(|b| b.try_into().ok())
        .map(u16::from_ne_bytes);
    let code = reply
        .get(16..20)
        .and_then(|b| b.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => {
            Err(std::io::Error::from_raw_os_error(code.saturating_neg()).into())
        }
        _ => Err(std::io::Error::other("the kernel's answer is no acknowledgement").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_header_body_and_aligned_attributes() {
        let change = LinkChange {
            index: 7,
            master: Some(3),
            name: Some("ab".into()),
            is_up: Some(true),
            ..LinkChange::default()
        };
        let message = change.message();
        assert_eq!(message.len(), 32 + 8 + 8);
        assert_eq!(message[..4], 48_u32.to_ne_bytes());
        assert_eq!(message[20..24], 7_i32.to_ne_bytes());
        assert_eq!(message[24..32], [1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(message[32..40], [8, 0, 10, 0, 3, 0, 0, 0]);
        assert_eq!(message[40..48], [7, 0, 3, 0, b'a', b'b', 0, 0]);
    }

    #[test]
    fn answers_are_errors_or_not() {
        let answer = |code: i32| {
            let mut bytes = vec![0; 36];
            bytes[4] = 2;
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert!(acknowledged(&answer(0)).is_ok());
        let error = acknowledged(&answer(-19)).unwrap_err().to_string();
        assert!(error.contains("No such device"), "{error}");
        assert!(acknowledged(&[]).is_err());
    }
}
