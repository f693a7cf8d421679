//! Sockets: of which kind, and with whom.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::Refusal;
use crate::network;

/// Kinds that CRIU does not know, by the name that the kernel gives them (`struct proto`).
const KINDS: [&str; 13] = [
    "MPTCP", "MPTCPv6", "SCTP", "SCTPv6", "AF_VSOCK", "ALG", "XDP", "SMC", "SMC6", "TIPC", "RDS", "KCM",
    "CAN_RAW",
];

/// The attribute of every socket that holds that name.
const PROTOCOL: &str = "system.sockprotoname";

pub(super) fn check(pid: i32, fd: u32, place: &Path) -> Result<(), Refusal> {
    let Ok(Some(name)) = xattr::get_deref(place, PROTOCOL) else {
        return Ok(());
    };
    let protocol = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
    if KINDS.contains(&protocol.as_str()) {
        return Err(Refusal::Socket { pid, fd, protocol });
    }
    Ok(())
}

/// The sockets that the container holds, by inode.
#[derive(Debug, Default)]
pub(super) struct Unix(BTreeMap<u32, (i32, u32)>);

impl Unix {
    /// `link` is `socket:[INODE]`.
    pub(super) fn note(&mut self, pid: i32, fd: u32, link: &Path) {
        let text = link.to_string_lossy();
        let inode = text
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
            self.0.insert(inode, (pid, fd));
        }
    }

    /// Is every stream of ours connected to one of ours? Where the kernel does not tell, CRIU will.
    pub(super) fn check(&self, init: i32) -> Result<(), Refusal> {
        let netns = PathBuf::from(format!("/proc/{init}/ns/net"));
        let streams = match network::visit(&netns, CloneFlags::CLONE_NEWNET, streams) {
            Ok(streams) => streams,
            Err(error) => {
                log::debug!("list the unix sockets of the container: {error}");
                return Ok(());
            }
        };
        for stream in &streams {
            let held = self.0.get(&stream.inode);
            if let (Some(&(pid, fd)), Some(peer)) = (held, stream.peer)
                && !self.0.contains_key(&peer)
            {
                return Err(Refusal::UnixOutside { pid, fd });
            }
        }
        Ok(())
    }
}

/// A unix stream of a network namespace.
#[derive(Debug, PartialEq, Eq)]
struct Stream {
    inode: u32,
    /// Inode of the other end, unless that is gone or waits to be accepted.
    peer: Option<u32>,
}

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP` of `linux/netlink.h`.
const DUMP: u16 = 0x301;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `UDIAG_SHOW_PEER` of `linux/unix_diag.h`.
const SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`.
const PEER: u16 = 2;
/// `TCP_ESTABLISHED`, the state of a connected stream.
const ESTABLISHED: u32 = 1;
/// `SOCK_DGRAM`.
const DATAGRAM: u8 = 2;
/// Sizes of `struct nlmsghdr` and of `struct unix_diag_msg` in bytes.
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// The connected streams of this thread's network namespace (`man 7 sock_diag`).
fn streams() -> io::Result<Vec<Stream>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &request(), &kernel, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if count == 0 || !take(&buffer[..count], &mut found)? {
            return Ok(found);
        }
    }
}

/// `struct nlmsghdr` and `struct unix_diag_req`, in the byte order of this machine.
fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(40_u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.push(1); // AF_UNIX
    bytes.extend([0; 3]);
    bytes.extend((1_u32 << ESTABLISHED).to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(SHOW_PEER.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// Takes the messages of one datagram; `false` when that was all.
fn take(mut bytes: &[u8], found: &mut Vec<Stream>) -> io::Result<bool> {
    let short = || io::Error::from(io::ErrorKind::InvalidData);
    while !bytes.is_empty() {
        let length = number(bytes, 0).ok_or_else(short)? as usize;
        let kind = half(bytes, 4).ok_or_else(short)?;
        let body = bytes.get(HEADER..length).ok_or_else(short)?;
        match kind {
            DONE => return Ok(false),
            ERROR => return Err(io::Error::from(io::ErrorKind::Unsupported)),
            // A datagram socket may send to outside.
            _ if body.get(1) == Some(&DATAGRAM) => {}
            _ => found.push(stream(body).ok_or_else(short)?),
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(true)
}

/// `struct unix_diag_msg` and its attributes.
fn stream(body: &[u8]) -> Option<Stream> {
    let inode = number(body, 4)?;
    let mut peer = None;
    let mut rest = body.get(MESSAGE..)?;
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        if kind == PEER {
            peer = number(rest, 4).filter(|peer| *peer != 0);
        }
        rest = rest.get(aligned(usize::from(length)).max(4)..)?;
    }
    Some(Stream { inode, peer })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn inode(stream: &UnixStream) -> u32 {
        use std::os::unix::fs::MetadataExt as _;
        let link = format!("/proc/self/fd/{}", stream.as_raw_fd());
        u32::try_from(std::fs::metadata(link).unwrap().ino()).unwrap()
    }

    #[test]
    fn both_ends_of_a_pair_are_listed() {
        let (one, other) = UnixStream::pair().unwrap();
        let found = streams().unwrap();
        assert!(found.contains(&Stream {
            inode: inode(&one),
            peer: Some(inode(&other)),
        }));
    }

    #[test]
    fn short_answers_are_refused() {
        assert!(take(&[1, 2, 3], &mut Vec::new()).is_err());
        assert!(take(&[255; 20], &mut Vec::new()).is_err());
    }
}
