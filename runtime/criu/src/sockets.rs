//! Internet sockets, out of `files.img`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Images;
use crate::files::{self, INETSK};
use crate::image::{self, ReadError, in_record, magic};
use crate::wire::{Message, WireError};

mod rebind;

pub use rebind::{Rebind, rebind};

/// `fdinfo.proto: file_entry.isk`.
const ISK: u32 = 4;

/// `sk-inet.proto: inet_sk_entry` state, src_port, dst_port, src_addr, dst_addr, opts, v6only, ifname.
const STATE: u32 = 6;
const SRC_PORT: u32 = 7;
const DST_PORT: u32 = 8;
const SRC_ADDR: u32 = 11;
const DST_ADDR: u32 = 12;
const OPTS: u32 = 14;
const V6ONLY: u32 = 15;
const IFNAME: u32 = 17;
/// `sk-opts.proto: sk_opts_entry.so_bound_dev`.
const BOUND_DEV: u32 = 15;

/// IPPROTO_TCP (`linux/in.h`).
const TCP: u32 = 6;
/// IPPROTO_MPTCP (`linux/in.h`).
const MPTCP: u32 = 262;
/// AF_INET and AF_INET6 (`linux/socket.h`).
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Address family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

/// What a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proto {
    /// TCP, multipath TCP included.
    Tcp,
    /// UDP.
    Udp,
    /// Anything else, by its IPPROTO number.
    Other(u32),
}

/// State of a socket, in the kernel's words for TCP (`net/tcp_states.h`); UDP uses the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Connected.
    Established,
    /// Neither connected nor listening.
    Close,
    /// Accepts connections.
    Listen,
    /// On the way up or down, by the kernel's number.
    Other(u32),
}

/// One internet socket (`sk-inet.proto: inet_sk_entry`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InetSocket {
    /// Field 1: what the file tables call it.
    pub id: u32,
    /// Field 2: names its `tcp-stream-<ino in hex>.img`.
    pub ino: u32,
    /// Field 3.
    pub family: Family,
    /// Field 5.
    pub proto: Proto,
    /// Field 6.
    pub state: State,
    /// Fields 11 and 7: the local end.
    pub src: SocketAddr,
    /// Fields 12 and 8: the other end; unspecified when there is none.
    pub dst: SocketAddr,
    /// Field 14 (`so_bound_dev`) or 17: the interface that it is bound to.
    pub device: Option<String>,
}

impl InetSocket {
    /// A TCP connection, whether up or on its way up or down: what `tcp-established` and `tcp-close` are about.
    pub fn is_connection(&self) -> bool {
        self.proto == Proto::Tcp && !matches!(self.state, State::Close | State::Listen)
    }

    /// A connected socket without a connection: the kernel remembers the other end, and nobody there knows of it.
    pub fn is_connected_datagram(&self) -> bool {
        self.proto != Proto::Tcp && self.dst.port() != 0
    }
}

/// All internet sockets of the dump.
///
/// # Errors
/// `files.img` cannot be read, or an entry is not what the schema says.
pub fn inet(images: &Images) -> Result<Vec<InetSocket>, ReadError> {
    let mut sockets = Vec::new();
    for (index, record) in image::records_of(images, files::FILE, magic::FILES)?
        .into_iter()
        .enumerate()
    {
        let read = || -> Result<Option<InetSocket>, WireError> {
            if files::kind(record)? != INETSK {
                return Ok(None);
            }
            read_socket(record.required_message(ISK)?).map(Some)
        };
        sockets.extend(read().map_err(in_record(files::FILE, index))?);
    }
    Ok(sockets)
}

/// The TCP connections of the dump: see [`InetSocket::is_connection`].
///
/// # Errors
/// As [`inet`].
pub fn established_tcp(images: &Images) -> Result<Vec<InetSocket>, ReadError> {
    let mut sockets = inet(images)?;
    sockets.retain(InetSocket::is_connection);
    Ok(sockets)
}

fn read_socket(isk: Message<'_>) -> Result<InetSocket, WireError> {
    let family = match isk.required_uint32(3)? {
        AF_INET => Family::V4,
        AF_INET6 => Family::V6,
        _ => return Err(WireError::Range(3)),
    };
    let proto = match isk.required_uint32(5)? {
        TCP | MPTCP => Proto::Tcp,
        17 => Proto::Udp,
        other => Proto::Other(other),
    };
    let state = match isk.required_uint32(STATE)? {
        1 => State::Established,
        7 => State::Close,
        10 => State::Listen,
        other => State::Other(other),
    };
    Ok(InetSocket {
        id: isk.required_uint32(1)?,
        ino: isk.required_uint32(2)?,
        family,
        proto,
        state,
        src: address(isk, family, SRC_ADDR, SRC_PORT)?,
        dst: address(isk, family, DST_ADDR, DST_PORT)?,
        device: device(isk)?,
    })
}

/// CRIU looks for the interface by its name, and fails where there is none (`criu/sk-inet.c: inet_bind`,
/// `criu/sockets.c: restore_bound_dev`).
fn device(isk: Message<'_>) -> Result<Option<String>, WireError> {
    let bound = match isk.message(OPTS)? {
        Some(options) => options.bytes(BOUND_DEV)?,
        None => None,
    };
    let name = bound.or(isk.bytes(IFNAME)?).filter(|name| !name.is_empty());
    Ok(name.map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()))
}

/// An address is one or four words in network order, kept as the machine reads them: their little-endian bytes are
/// the address. The port is in host order (`criu/sk-inet.c: dump_sockaddr`).
fn address(isk: Message<'_>, family: Family, words: u32, port: u32) -> Result<SocketAddr, WireError> {
    let bytes: Vec<u8> = isk
        .repeated_uint32(words)?
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    let ip = match family {
        Family::V4 => bytes
            .first_chunk::<4>()
            .filter(|_| bytes.len() == 4)
            .map(|ip| IpAddr::V4(Ipv4Addr::from(*ip))),
        Family::V6 => bytes
            .first_chunk::<16>()
            .filter(|_| bytes.len() == 16)
            .map(|ip| IpAddr::V6(Ipv6Addr::from(*ip))),
    };
    let port = u16::try_from(isk.required_uint32(port)?).map_err(|_out_of_range| WireError::Range(port))?;
    Ok(SocketAddr::new(ip.ok_or(WireError::Range(words))?, port))
}
