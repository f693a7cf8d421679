//! `inventory.img`: what the dump as a whole is like.

use crate::Images;
use crate::ids::{self, NamespaceIds};
use crate::image::{self, EditError, ReadError, in_record, magic};
use crate::wire::{self, Value};

/// The file.
pub(crate) const FILE: &str = "inventory.img";

/// `inventory.proto: inventory_entry.img_version`.
const IMG_VERSION: u32 = 1;
/// `inventory.proto: inventory_entry.root_ids`.
const ROOT_IDS: u32 = 3;
/// `inventory.proto: inventory_entry.lsmtype`.
const LSMTYPE: u32 = 6;
/// `inventory.proto: inventory_entry.tcp_close`.
const TCP_CLOSE: u32 = 10;
/// `inventory.proto: inventory_entry.network_lock_method`.
const NETWORK_LOCK_METHOD: u32 = 11;

/// How CRIU keeps packets out while it restores sockets (`criu/include/cr_options.h: NETWORK_LOCK_METHOD`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkLock {
    /// With `iptables-restore`; what CRIU takes when the field is absent.
    Iptables,
    /// With `nft`.
    Nftables,
    /// Not at all: right when no TCP connection is restored.
    Skip,
    /// A number that this build does not know.
    Unknown(u32),
}

impl NetworkLock {
    fn number(self) -> u32 {
        match self {
            Self::Iptables => 0,
            Self::Nftables => 1,
            Self::Skip => 2,
            Self::Unknown(number) => number,
        }
    }
}

/// The Linux security module that was active at the dump (`inventory.proto: lsmtype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lsm {
    /// None of the two.
    None,
    /// SELinux.
    Selinux,
    /// AppArmor.
    Apparmor,
    /// A number that this build does not know.
    Unknown(u32),
}

/// How the restore will lock the network (`inventory_entry`, field 11).
///
/// # Errors
/// The inventory cannot be read.
pub fn network_lock(images: &Images) -> Result<NetworkLock, ReadError> {
    Ok(match optional(images, NETWORK_LOCK_METHOD)?.unwrap_or(0) {
        0 => NetworkLock::Iptables,
        1 => NetworkLock::Nftables,
        2 => NetworkLock::Skip,
        other => NetworkLock::Unknown(other),
    })
}

/// Sets how the restore locks the network (`inventory_entry`, field 11).
///
/// An option on the restore has no effect: CRIU goes by the image (`criu/cr-restore.c`, measured with 4.2.1).
///
/// # Errors
/// The inventory cannot be read.
pub fn set_network_lock(images: &mut Images, lock: NetworkLock) -> Result<(), EditError> {
    image::single(images, FILE, magic::INVENTORY)?;
    image::rewrite(images, FILE, magic::INVENTORY, |record| {
        wire::set(
            record.as_bytes(),
            NETWORK_LOCK_METHOD,
            Value::Varint(lock.number().into()),
        )
    })?;
    Ok(())
}

/// Whether the dump was taken with `tcp-close`, which a restore must then ask for as well (`inventory_entry`, field 10).
///
/// # Errors
/// The inventory cannot be read.
pub fn tcp_close(images: &Images) -> Result<bool, ReadError> {
    Ok(optional(images, TCP_CLOSE)?.unwrap_or(0) != 0)
}

/// The security module that was active at the dump (`inventory_entry`, field 6).
///
/// # Errors
/// The inventory cannot be read.
pub fn lsm(images: &Images) -> Result<Lsm, ReadError> {
    Ok(match optional(images, LSMTYPE)?.unwrap_or(0) {
        0 => Lsm::None,
        1 => Lsm::Selinux,
        2 => Lsm::Apparmor,
        other => Lsm::Unknown(other),
    })
}

/// Version of the frame: 2 is the one that this crate knows (`inventory_entry`, field 1; `magic.h: CRTOOLS_IMAGES_V1_1`).
///
/// # Errors
/// The inventory cannot be read.
pub fn version(images: &Images) -> Result<u32, ReadError> {
    image::single(images, FILE, magic::INVENTORY)?
        .required_uint32(IMG_VERSION)
        .map_err(in_record(FILE, 0))
}

/// The namespaces of the process that took the dump (`inventory_entry`, field 3): a task with the same id shares the
/// host's.
///
/// # Errors
/// The inventory cannot be read.
pub fn root_ids(images: &Images) -> Result<NamespaceIds, ReadError> {
    let record = image::single(images, FILE, magic::INVENTORY)?;
    let root_ids = record.required_message(ROOT_IDS).map_err(in_record(FILE, 0))?;
    ids::read(root_ids).map_err(in_record(FILE, 0))
}

fn optional(images: &Images, number: u32) -> Result<Option<u32>, ReadError> {
    image::single(images, FILE, magic::INVENTORY)?
        .uint32(number)
        .map_err(in_record(FILE, 0))
}
