//! Connecting datagram sockets again, while the processes still stand still.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use rustix::net::{RecvFlags, SocketType, recv, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use thaw_criu::fdinfo::Holder;

use super::sockets::replacement;
use crate::network::interfaces;
use crate::task::inner_pid;

/// The most packets that are taken off a socket; a full receive buffer of the usual size holds fewer.
const MOST_PACKETS: usize = 10_000;

/// A connected datagram socket of the donor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Who has it.
    pub(super) holder: Holder,
    /// The other end.
    pub(super) dst: SocketAddr,
    /// The other end was the donor itself.
    pub(super) donor: bool,
}

/// Sockets that were let go so that CRIU does not try to connect where there is no route yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Reconnect(Vec<Peer>);

impl Reconnect {
    pub(super) fn new(peers: Vec<Peer>) -> Self {
        Self(peers)
    }

    /// Connects them, now that the client has given the container its network. `tasks` are the processes below
    /// `init`. One that can't be connected stays so, and its owner sees that with the next packet that it sends.
    pub(super) fn run(&self, init: i32, tasks: &[i32]) {
        for peer in &self.0 {
            if let Err(error) = connect(*peer, init, tasks) {
                log::warn!("connect a socket of the snapshot to {} again: {error}", peer.dst);
            }
        }
    }
}

fn connect(peer: Peer, init: i32, tasks: &[i32]) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let holder = tasks
        .iter()
        .find(|pid| inner_pid(**pid) == Some(peer.holder.pid))
        .and_then(|pid| Pid::from_raw(*pid))
        .ok_or_else(gone)?;
    let process = pidfd_open(holder, PidfdFlags::empty())?;
    let socket = pidfd_getfd(&process, peer.holder.fd, PidfdGetfdFlags::empty())?;
    if !matches!(
        sockopt::socket_type(&socket)?,
        SocketType::DGRAM | SocketType::RAW
    ) {
        // The images say so, and are not to be believed: connecting a stream could take minutes.
        return Err(io::ErrorKind::InvalidData.into());
    }
    let socket = UdpSocket::from(socket);
    let mut dst = peer.dst;
    if peer.donor {
        let here = interfaces(Path::new(&format!("/proc/{init}/ns/net")))?;
        dst.set_ip(replacement(dst.ip(), None, &here));
    }
    socket.connect(dst)?;
    drain(&socket)
}

/// Takes off what has come while anybody could send: a connected socket hears its other end only, and its owner
/// relies on that.
fn drain(socket: &UdpSocket) -> io::Result<()> {
    for _ in 0..MOST_PACKETS {
        match recv(socket, &mut [0u8; 1], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            // An answer by ICMP to an earlier packet; it has been taken off too.
            Err(rustix::io::Errno::CONNREFUSED) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
