//! Giving sockets other local addresses.

use std::net::IpAddr;

use super::{DST_ADDR, DST_PORT, Family, ISK, InetSocket, SRC_ADDR, STATE, V6ONLY, read_socket};
use crate::Images;
use crate::files::{self, INETSK};
use crate::image::{self, EditError, magic};
use crate::wire::{self, Message, Value, WireError};

/// TCP_CLOSE (`net/tcp_states.h`): the state of a datagram socket that is not connected.
const CLOSE: u64 = 7;

/// What becomes of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebind {
    /// The new local address, of the socket's family; the port stays.
    pub src: IpAddr,
    /// Forget the other end, so that CRIU does not connect.
    pub disconnect: bool,
    /// Take IPv6 only, as an address of that family did by itself. No effect on AF_INET.
    pub v6only: bool,
}

/// Gives each internet socket what `decide` says of it; `None` leaves it as it is (`inet_sk_entry`, fields 6, 8, 11,
/// 12 and 15).
///
/// # Errors
/// The image cannot be read, or an address is of another family than its socket; the images are as they were then.
pub fn rebind<F>(images: &mut Images, decide: F) -> Result<(), EditError>
where
    F: Fn(&InetSocket) -> Option<Rebind>,
{
    image::rewrite(images, files::FILE, magic::FILES, |record| {
        let unchanged = || Ok(record.as_bytes().to_vec());
        if files::kind(record)? != INETSK {
            return unchanged();
        }
        let isk = record.required_message(ISK)?;
        let socket = read_socket(isk)?;
        match decide(&socket) {
            None => unchanged(),
            Some(rebind) => {
                let edited = edit(isk, socket.family, rebind)?;
                wire::set(record.as_bytes(), ISK, Value::Bytes(&edited))
            }
        }
    })?;
    Ok(())
}

fn edit(isk: Message<'_>, family: Family, rebind: Rebind) -> Result<Vec<u8>, WireError> {
    let mut edited = set_address(isk.as_bytes(), SRC_ADDR, &words(family, rebind.src)?)?;
    if rebind.disconnect {
        let none = vec![0; if family == Family::V4 { 1 } else { 4 }];
        edited = set_address(&edited, DST_ADDR, &none)?;
        edited = wire::set(&edited, DST_PORT, Value::Varint(0))?;
        edited = wire::set(&edited, STATE, Value::Varint(CLOSE))?;
    }
    if rebind.v6only && family == Family::V6 {
        edited = wire::set(&edited, V6ONLY, Value::Varint(1))?;
    }
    Ok(edited)
}

/// An address as [`super::address`] reads it.
fn words(family: Family, ip: IpAddr) -> Result<Vec<u32>, WireError> {
    let bytes = match (family, ip) {
        (Family::V4, IpAddr::V4(ip)) => ip.octets().to_vec(),
        (Family::V6, IpAddr::V6(ip)) => ip.octets().to_vec(),
        (Family::V4, IpAddr::V6(_)) | (Family::V6, IpAddr::V4(_)) => return Err(WireError::Range(SRC_ADDR)),
    };
    let (words, _) = bytes.as_chunks::<4>();
    Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

/// A repeated number stands at the end, once for each word, as CRIU writes it.
fn set_address(isk: &[u8], number: u32, words: &[u32]) -> Result<Vec<u8>, WireError> {
    let mut edited = wire::clear(isk, &[number])?;
    for word in words {
        wire::push(&mut edited, number, Value::Varint((*word).into()));
    }
    Ok(edited)
}
