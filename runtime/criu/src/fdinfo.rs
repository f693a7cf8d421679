//! `fdinfo-<id>.img`: the file tables, which say by which number a task knows a file.

use std::collections::BTreeMap;

use crate::image::{self, ReadError, in_record, magic};
use crate::wire::Message;
use crate::{Images, core, pstree};

/// `core.proto: task_kobj_ids_entry.files_id`.
const FILES_ID: u32 = 2;
/// `fdinfo.proto: fdinfo_entry` id and fd.
const ID: u32 = 1;
const FD: u32 = 4;

/// One task that has a file open, and the number under which it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Pid inside the container.
    pub pid: i32,
    /// Descriptor in that process.
    pub fd: i32,
}

/// For each file that a task has open, by its id in `files.img`, the first task that has it. A file that is only mapped
/// or on its way through a socket is not there.
///
/// # Errors
/// The process tree or an image cannot be read.
pub fn holders(images: &Images) -> Result<BTreeMap<u32, Holder>, ReadError> {
    let mut holders = BTreeMap::new();
    for task in pstree::tasks(images)? {
        if core::is_dead(images, task.pid)? {
            continue;
        }
        let ids = format!("ids-{}.img", task.pid);
        let table = image::single(images, &ids, magic::IDS)?
            .required_uint32(FILES_ID)
            .map_err(in_record(&ids, 0))?;
        let file = format!("fdinfo-{table}.img");
        if !images.contains_key(&file) {
            continue;
        }
        for (index, record) in image::records_of(images, &file, magic::FDINFO)?
            .into_iter()
            .enumerate()
        {
            let number = |field| Message::required_uint32(record, field).map_err(in_record(&file, index));
            let (id, fd) = (number(ID)?, number(FD)?.cast_signed());
            holders.entry(id).or_insert(Holder { pid: task.pid, fd });
        }
    }
    Ok(holders)
}
