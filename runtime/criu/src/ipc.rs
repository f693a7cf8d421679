//! `ipcns-{shm,msg,sem}-<id>.img`: System V shared memory, queues and semaphores.

use crate::{Images, image};

/// Length of the two magic numbers: a file of this length holds no record.
const EMPTY: usize = 8;

/// Whether the dump holds System V objects. They belong to the ipc namespace, in a pod that of all its containers, and
/// can't be put into one that is in use.
pub fn has_sysv_ipc(images: &Images) -> bool {
    ["ipcns-shm", "ipcns-msg", "ipcns-sem"].into_iter().any(|stem| {
        image::numbered(images, stem)
            .any(|(file, _)| images.get(file).is_some_and(|bytes| bytes.len() > EMPTY))
    })
}
