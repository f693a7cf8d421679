//! `ids-<pid>.img`: which namespaces each task lives in.

use crate::image::{self, EditError, ReadError, in_record, magic};
use crate::wire::{self, Message, Value, WireError};
use crate::{Images, inventory, pstree};

/// `core.proto: task_kobj_ids_entry.ipc_ns_id`.
const IPC_NS_ID: u32 = 7;
/// `core.proto: task_kobj_ids_entry.uts_ns_id`.
const UTS_NS_ID: u32 = 8;

/// CRIU's own numbers for the namespaces of a task (`core.proto: task_kobj_ids_entry`, fields 5 to 12).
///
/// They also name the files with the content of a namespace, as in `utsns-<uts>.img`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamespaceIds {
    /// Field 5.
    pub pid: Option<u32>,
    /// Field 6.
    pub net: Option<u32>,
    /// Field 7.
    pub ipc: Option<u32>,
    /// Field 8.
    pub uts: Option<u32>,
    /// Field 9.
    pub mnt: Option<u32>,
    /// Field 10.
    pub user: Option<u32>,
    /// Field 11.
    pub cgroup: Option<u32>,
    /// Field 12.
    pub time: Option<u32>,
}

pub(crate) fn read(message: Message<'_>) -> Result<NamespaceIds, WireError> {
    Ok(NamespaceIds {
        pid: message.uint32(5)?,
        net: message.uint32(6)?,
        ipc: message.uint32(IPC_NS_ID)?,
        uts: message.uint32(UTS_NS_ID)?,
        mnt: message.uint32(9)?,
        user: message.uint32(10)?,
        cgroup: message.uint32(11)?,
        time: message.uint32(12)?,
    })
}

/// The namespaces of one task.
///
/// # Errors
/// Its `ids-<pid>.img` cannot be read.
pub fn of(images: &Images, pid: i32) -> Result<NamespaceIds, ReadError> {
    let file = format!("ids-{pid}.img");
    let record = image::single(images, &file, magic::IDS)?;
    read(record).map_err(in_record(&file, 0))
}

/// The namespaces of the root task.
///
/// # Errors
/// The process tree or the task's `ids` image cannot be read.
pub fn of_root(images: &Images) -> Result<NamespaceIds, ReadError> {
    of(images, pstree::root(images)?)
}

/// Puts every task into the uts namespace of whoever restores it: for containers that join a pod's.
///
/// CRIU then makes no such namespace and, above all, does not write the donor's names into the one that the pod already
/// has (`criu/uts_ns.c: prepare_utsns` runs after the join).
///
/// # Errors
/// The inventory or an `ids` image cannot be read, or the inventory does not name that namespace.
pub fn share_uts_with_root(images: &mut Images) -> Result<(), EditError> {
    let host = inventory::root_ids(images)?.uts;
    set_all(images, UTS_NS_ID, host.ok_or(EditError::NoRootId("uts"))?)
}

/// Puts every task into the ipc namespace of whoever restores it: CRIU then writes neither the donor's settings nor its
/// objects into the one that is joined (`criu/ipc_ns.c: prepare_ipc_ns`).
///
/// # Errors
/// The inventory or an `ids` image cannot be read, or the inventory does not name that namespace.
pub fn share_ipc_with_root(images: &mut Images) -> Result<(), EditError> {
    let host = inventory::root_ids(images)?.ipc;
    set_all(images, IPC_NS_ID, host.ok_or(EditError::NoRootId("ipc"))?)
}

/// Sets one id of every task.
fn set_all(images: &mut Images, number: u32, id: u32) -> Result<(), EditError> {
    let files: Vec<String> = image::numbered(images, "ids")
        .map(|(name, _)| name.to_owned())
        .collect();
    // Edited apart, so that a failure half-way leaves the caller's images whole.
    let mut edited = Images::new();
    for file in files {
        edited.insert(file.clone(), image::get(images, &file)?.to_vec());
        image::rewrite(&mut edited, &file, magic::IDS, |record| {
            wire::set(record.as_bytes(), number, Value::Varint(id.into()))
        })?;
    }
    images.append(&mut edited);
    Ok(())
}
