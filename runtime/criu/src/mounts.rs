//! `mountpoints-<id>.img`: the mount tree.

use crate::image::{self, ReadError, in_record, magic};
use crate::wire::{Message, WireError};
use crate::{Images, ids};

/// One mount (`mnt.proto: mnt_entry`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Field 2.
    pub mnt_id: u32,
    /// Field 4.
    pub parent_id: u32,
    /// Field 5: MS_ flags.
    pub flags: u32,
    /// Field 6: what of its file system is mounted.
    pub root: String,
    /// Field 7: where, as the container sees it, without a leading dot.
    pub mountpoint: String,
    /// Field 1, or field 14 where CRIU has no number for it; empty when it knows neither.
    pub fstype: String,
    /// Field 8.
    pub source: String,
    /// Field 9: what the file system was told, as the kernel lists it.
    pub options: String,
    /// Field 13 or 18: it comes from outside, and the restore must say from where.
    pub external: bool,
    /// Field 18: the name under which the restore must say so; runc uses the mountpoint.
    pub external_key: Option<String>,
}

/// Names of `mnt.proto: fstype`, by number; numbers that are not in use are empty.
const FSTYPES: [&str; 24] = [
    "",
    "proc",
    "sysfs",
    "devtmpfs",
    "binfmt_misc",
    "tmpfs",
    "devpts",
    "simfs",
    "pstore",
    "securityfs",
    "fusectl",
    "debugfs",
    "cgroup",
    "aufs",
    "mqueue",
    "fuse",
    "",
    "overlay",
    "autofs",
    "tracefs",
    "",
    "",
    "",
    "cgroup2",
];

/// The mounts of the root task's mount namespace, in the order of the file: children before their parents.
///
/// # Errors
/// The process tree, the task's ids or the image cannot be read.
pub fn list(images: &Images) -> Result<Vec<Mount>, ReadError> {
    let file = file(images)?;
    let mut mounts = Vec::new();
    for (index, record) in image::records_of(images, &file, magic::MOUNTPOINTS)?
        .into_iter()
        .enumerate()
    {
        mounts.push(read(record).map_err(in_record(&file, index))?);
    }
    Ok(mounts)
}

/// The file of the root task's mount namespace.
pub(crate) fn file(images: &Images) -> Result<String, ReadError> {
    let id = ids::of_root(images)?.mnt.unwrap_or(0);
    Ok(format!("mountpoints-{id}.img"))
}

pub(crate) fn read(record: Message<'_>) -> Result<Mount, WireError> {
    let fsname = record.string(14)?.unwrap_or_default();
    let number = usize::try_from(record.required_uint32(1)?).unwrap_or(usize::MAX);
    let known = FSTYPES.get(number).copied().filter(|name| !name.is_empty());
    let external_key = record.string(18)?.map(str::to_owned);
    let mountpoint = record.required_lossy(7)?;
    Ok(Mount {
        mnt_id: record.required_uint32(2)?,
        parent_id: record.required_uint32(4)?,
        flags: record.required_uint32(5)?,
        root: record.required_lossy(6)?,
        mountpoint: mountpoint
            .strip_prefix('.')
            .map_or(mountpoint.clone(), str::to_owned),
        fstype: known.unwrap_or(fsname).to_owned(),
        source: record.required_lossy(8)?,
        options: record.required_lossy(9)?,
        external: record.flag(13)? || external_key.is_some(),
        external_key,
    })
}
