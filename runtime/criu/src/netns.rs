//! `netns-<id>.img`: where the network namespace comes from.

use crate::image::{self, EditError, ReadError, in_record, magic};
use crate::wire::{self, Value};
use crate::{Images, ids, inventory};

/// `netdev.proto: netns_entry.ext_key`.
const EXT_KEY: u32 = 8;

/// The key under which runc hands CRIU a namespace that the container joins by path
/// (runc `libcontainer/criu_linux.go: handleRestoringNamespaces`).
pub const RUNC_KEY: &str = "extRootNetNS";

/// Whether the restore expects a network namespace from outside, under [`RUNC_KEY`] (`netns_entry`, field 8).
///
/// # Errors
/// An image cannot be read.
pub fn is_external(images: &Images) -> Result<bool, ReadError> {
    let Some(id) = ids::of_root(images)?.net else {
        return Ok(false);
    };
    let file = name(id);
    if !images.contains_key(&file) {
        return Ok(false);
    }
    let record = image::single(images, &file, magic::NETNS)?;
    Ok(record.bytes(EXT_KEY).map_err(in_record(&file, 0))? == Some(RUNC_KEY.as_bytes()))
}

/// Says whether the restored container joins a network namespace by path (`true`) or gets a new, empty one (`false`).
///
/// A dump of a container that joined one holds an image with the key, a dump of one with an empty namespace holds no
/// such image; so this writes the one or deletes the other (`criu/net.c: dump_net_ns`). A dump that shares the
/// namespace of the host has neither, and `false` leaves it so.
///
/// # Errors
/// An image cannot be read, or a dump that shares the network namespace of the host is to join another.
pub fn set_external(images: &mut Images, external: bool) -> Result<(), EditError> {
    let host = inventory::root_ids(images)?.net;
    let own = ids::of_root(images)?.net.filter(|id| Some(*id) != host);
    let Some(id) = own else {
        return if external {
            Err(EditError::NoNamespace("network"))
        } else {
            Ok(())
        };
    };
    let file = name(id);
    if !external {
        images.remove(&file);
        return Ok(());
    }
    images
        .entry(file.clone())
        .or_insert_with(|| image::encode(magic::NETNS, [[].as_slice()]));
    image::rewrite(images, &file, magic::NETNS, |record| {
        wire::set(record.as_bytes(), EXT_KEY, Value::Bytes(RUNC_KEY.as_bytes()))
    })?;
    Ok(())
}

fn name(id: u32) -> String {
    format!("netns-{id}.img")
}
