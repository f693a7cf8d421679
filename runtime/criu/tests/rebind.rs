//! Moving sockets to other addresses, on images that CRIU 4.2.1 really wrote.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its fixture must fail")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use proptest::prelude::*;

use thaw_criu::sockets::{self, Family, InetSocket, Rebind, State};
use thaw_criu::{Images, check, fdinfo};

fn load() -> Images {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/python");
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap);
    files
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn to(src: IpAddr) -> Rebind {
    Rebind {
        src,
        disconnect: false,
        v6only: false,
    }
}

fn of_family(socket: &InetSocket, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
    match socket.family {
        Family::V4 => v4.into(),
        Family::V6 => v6.into(),
    }
}

#[test]
fn nothing_decided_is_nothing_changed() {
    let before = load();
    let mut after = before.clone();
    sockets::rebind(&mut after, |_| None).unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_connected_socket_is_let_go() {
    let mut images = load();
    let clone = Ipv4Addr::new(10, 9, 8, 7);
    let of_client = |socket: &InetSocket| socket.state == State::Established;
    sockets::rebind(&mut images, |socket| {
        of_client(socket).then_some(Rebind {
            src: clone.into(),
            disconnect: true,
            v6only: false,
        })
    })
    .unwrap();
    let moved: Vec<_> = sockets::inet(&images)
        .unwrap()
        .into_iter()
        .filter(|socket| socket.src.ip() == clone)
        .collect();
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0].src.to_string(), "10.9.8.7:8080");
    assert_eq!(moved[0].dst.to_string(), "0.0.0.0:0");
    assert_eq!(moved[0].state, State::Close);
    assert!(!moved[0].is_connected_datagram());
    check(&images).unwrap();
}

#[test]
fn an_address_of_another_family_is_refused() {
    let before = load();
    let mut images = before.clone();
    let six: IpAddr = Ipv6Addr::LOCALHOST.into();
    let refused = sockets::rebind(&mut images, |socket| {
        (socket.family == Family::V4).then_some(to(six))
    });
    assert!(refused.is_err());
    assert_eq!(before, images);
}

#[test]
fn each_socket_has_a_holder() {
    let images = load();
    let holders = fdinfo::holders(&images).unwrap();
    for socket in sockets::inet(&images).unwrap() {
        let holder = holders[&socket.id];
        assert_eq!(holder.pid, 1);
        assert!(holder.fd > 2, "{holder:?}");
    }
}

proptest! {
    #[test]
    fn only_what_was_decided_changes(a in any::<u32>(), b in any::<u128>(), v6only in any::<bool>()) {
        let (v4, v6) = (Ipv4Addr::from(a), Ipv6Addr::from(b));
        let mut images = load();
        let before = sockets::inet(&images).unwrap();
        let decide = |socket: &InetSocket| Some(Rebind { src: of_family(socket, v4, v6), disconnect: false, v6only });
        sockets::rebind(&mut images, decide).unwrap();
        check(&images).unwrap();
        let after = sockets::inet(&images).unwrap();
        prop_assert_eq!(before.len(), after.len());
        for (was, is) in before.iter().zip(&after) {
            prop_assert_eq!(is.src.ip(), of_family(was, v4, v6));
            prop_assert_eq!(is.src.port(), was.src.port());
            let mut same = was.clone();
            same.src = is.src;
            prop_assert_eq!(&same, is);
        }
        // And back again: the fields stand in another order, the facts are those of the donor.
        let back = |socket: &InetSocket| before.iter().find(|was| was.id == socket.id).map(|was| to(was.src.ip()));
        sockets::rebind(&mut images, back).unwrap();
        prop_assert_eq!(sockets::inet(&images).unwrap(), before);
    }
}
