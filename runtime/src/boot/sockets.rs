//! Which address each socket of the clone gets.
//!
//! A socket of the donor that was bound to an address of the donor's can't be bound in the clone: CRIU's `bind` would
//! fail, and with it the restore. It moves to an address of the clone's where there is one. Where the client gives the
//! network only after Create (Docker, nerdctl, `ctr --cni`), nobody knows the address yet, so it moves to the
//! unspecified one, which is every address that will come.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thaw_config::TcpMode;
use thaw_criu::sockets::{self, InetSocket, Rebind};
use thaw_criu::{Images, fdinfo};

use super::Reason;
use super::reconnect::{Peer, Reconnect};
use crate::network::Interfaces;

/// A socket that can't be had in the clone's network.
#[derive(Debug, thiserror::Error)]
#[error("the socket at {src} is bound to the interface {device:?}, which is not there")]
pub struct UnmovableSocket {
    /// Its address at the donor.
    pub src: SocketAddr,
    /// The interface.
    pub device: String,
}

/// What a new network namespace holds before its client has seen it.
pub(super) fn before_the_client() -> Interfaces {
    Interfaces {
        devices: BTreeSet::from(["lo".to_owned()]),
        addresses: Vec::new(),
    }
}

/// Whether established connections are restored; `auto` keeps them when every one of them has its local address in
/// the clone's namespace.
pub(super) fn keep_connections(images: &Images, mode: TcpMode, here: &Interfaces) -> Result<bool, Reason> {
    let connections = sockets::established_tcp(images).map_err(Reason::Facts)?;
    Ok(match mode {
        _ if connections.is_empty() => false,
        TcpMode::Established => true,
        TcpMode::Close => false,
        TcpMode::Auto => connections.iter().all(|connection| {
            let local = connection.src.ip().to_canonical();
            local.is_loopback() || is_here(local, here)
        }),
    })
}

/// Moves every socket that needs it; answers the connected ones, which are let go until the clone has its network:
/// there may be no route to the other end yet, and `connect` would fail.
pub(super) fn rebind(images: &mut Images, donor: &[IpAddr], here: &Interfaces) -> Result<Reconnect, Reason> {
    let all = sockets::inet(images).map_err(Reason::Facts)?;
    for socket in &all {
        if let Some(device) = &socket.device
            && !here.devices.contains(device)
        {
            return Err(Reason::Socket(UnmovableSocket {
                src: socket.src,
                device: device.clone(),
            }));
        }
    }
    let holders = fdinfo::holders(images).map_err(Reason::Facts)?;
    let peers = all.iter().filter(|socket| leaves(socket)).filter_map(|socket| {
        let dst = SocketAddr::new(socket.dst.ip().to_canonical(), socket.dst.port());
        Some(Peer {
            holder: *holders.get(&socket.id)?,
            dst: socket.dst,
            donor: donor.contains(&dst.ip()),
        })
    });
    let reconnect = Reconnect::new(peers.collect());
    sockets::rebind(images, |socket| decide(socket, here)).map_err(Reason::Edit)?;
    Ok(reconnect)
}

/// A connected datagram socket whose other end is not this very host.
fn leaves(socket: &InetSocket) -> bool {
    socket.is_connected_datagram() && !socket.dst.ip().to_canonical().is_loopback()
}

fn decide(socket: &InetSocket, here: &Interfaces) -> Option<Rebind> {
    if socket.is_connection() {
        // CRIU closes it before it would bind, or its address is here.
        return None;
    }
    let old = socket.src.ip();
    let new = if stays(old, here) {
        old
    } else {
        replacement(old, socket.device.as_deref(), here)
    };
    let rebind = Rebind {
        src: new,
        disconnect: leaves(socket),
        v6only: new.is_unspecified() && !old.is_unspecified(),
    };
    (new != old || rebind.disconnect).then_some(rebind)
}

/// Addresses that mean the same everywhere, or that are here.
fn stays(ip: IpAddr, here: &Interfaces) -> bool {
    let ip = ip.to_canonical();
    ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_multicast()
        || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
        || is_here(ip, here)
}

fn is_here(ip: IpAddr, here: &Interfaces) -> bool {
    here.addresses.iter().any(|(_, there)| *there == ip)
}

/// An address of the clone's in the place of `old`, which was the donor's; the unspecified one when there is none of the
/// family.
///
/// With several to choose from it is the one that begins like `old`, since donor and clone are mostly in the same
/// networks; then the one of the oldest interface.
pub(super) fn replacement(old: IpAddr, device: Option<&str>, here: &Interfaces) -> IpAddr {
    let plain = old.to_canonical();
    let mut best: Option<(u32, IpAddr)> = None;
    for (name, candidate) in &here.addresses {
        let fits = device.is_none_or(|device| device == name)
            && !candidate.is_loopback()
            && is_link_local(*candidate) == is_link_local(plain);
        if fits
            && let Some(common) = common_prefix(plain, *candidate)
            && best.is_none_or(|(longest, _)| common > longest)
        {
            best = Some((common, *candidate));
        }
    }
    let new = match (best, plain) {
        (Some((_, found)), _) => found,
        (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (None, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    };
    match (old, new) {
        // An IPv4 address on an AF_INET6 socket.
        (IpAddr::V6(_), IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
        _ => new,
    }
}

/// Only IPv6 has addresses that mean nothing without their interface.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Number of leading bits that two addresses of one family share.
fn common_prefix(a: IpAddr, b: IpAddr) -> Option<u32> {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some((a.to_bits() ^ b.to_bits()).leading_zeros()),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some((a.to_bits() ^ b.to_bits()).leading_zeros()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(addresses: &[(&str, &str)]) -> Interfaces {
        Interfaces {
            devices: addresses.iter().map(|(name, _)| (*name).to_owned()).collect(),
            addresses: addresses
                .iter()
                .map(|(name, ip)| ((*name).to_owned(), ip.parse().unwrap()))
                .collect(),
        }
    }

    fn moved(old: &str, device: Option<&str>, here: &Interfaces) -> String {
        replacement(old.parse().unwrap(), device, here).to_string()
    }

    #[test]
    fn the_address_that_begins_alike() {
        let here = here(&[
            ("lo", "127.0.0.1"),
            ("eth0", "10.244.1.5"),
            ("net1", "192.168.7.3"),
            ("net1", "192.168.7.4"),
            ("eth0", "fe80::1"),
            ("eth0", "fd00::5"),
        ]);
        assert_eq!(moved("10.244.0.9", None, &here), "10.244.1.5");
        assert_eq!(moved("192.168.5.1", None, &here), "192.168.7.3");
        assert_eq!(moved("192.168.5.1", Some("eth0"), &here), "10.244.1.5");
        assert_eq!(moved("fd00:1::2", None, &here), "fd00::5");
        assert_eq!(moved("fe80::9", Some("eth0"), &here), "fe80::1");
        assert_eq!(moved("fe80::9", Some("net1"), &here), "::");
        assert_eq!(moved("::ffff:10.244.0.9", None, &here), "::ffff:10.244.1.5");
    }

    #[test]
    fn every_address_where_there_is_none_yet() {
        let none = before_the_client();
        assert_eq!(moved("10.1.2.3", None, &none), "0.0.0.0");
        assert_eq!(moved("fd00::1", None, &none), "::");
        assert_eq!(moved("::ffff:10.1.2.3", None, &none), "::ffff:0.0.0.0");
    }

    #[test]
    fn what_means_the_same_everywhere_stays() {
        let none = before_the_client();
        for ip in [
            "0.0.0.0",
            "::",
            "127.0.0.53",
            "::1",
            "224.0.0.251",
            "ff02::fb",
            "255.255.255.255",
        ] {
            assert!(stays(ip.parse().unwrap(), &none), "{ip}");
        }
        assert!(!stays("10.1.2.3".parse().unwrap(), &none));
        assert!(stays(
            "::ffff:10.1.2.3".parse().unwrap(),
            &here(&[("eth0", "10.1.2.3")])
        ));
    }
}
