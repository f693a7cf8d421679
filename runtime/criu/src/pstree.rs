//! `pstree.img`: the process tree.

use std::collections::BTreeSet;

use crate::image::{self, ReadError, in_record, magic};
use crate::wire::{Message, WireError};
use crate::{Images, core};

/// The file.
pub(crate) const FILE: &str = "pstree.img";

/// One process (`pstree.proto: pstree_entry`). Ids are those inside the container's pid namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Field 1.
    pub pid: i32,
    /// Field 2; 0 for the root.
    pub ppid: i32,
    /// Field 3.
    pub pgid: i32,
    /// Field 4.
    pub sid: i32,
    /// Field 5: ids of all threads, the first one included.
    pub threads: Vec<i32>,
}

/// All processes, the root first.
///
/// # Errors
/// The image cannot be read, has no single root in front, or has an id that is zero, out of range or there twice.
pub fn tasks(images: &Images) -> Result<Vec<Task>, ReadError> {
    let mut tasks = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, record) in image::records_of(images, FILE, magic::PSTREE)?
        .into_iter()
        .enumerate()
    {
        let mut task = read(record).map_err(in_record(FILE, index))?;
        // CRIU 4.2 writes an uninitialized number as the one thread of a zombie, and does not read it back.
        if task.threads.len() == 1 && task.threads != [task.pid] && core::is_dead(images, task.pid)? {
            task.threads = vec![task.pid];
        }
        for id in std::iter::once(task.pid).chain(task.threads.iter().copied().filter(|id| *id != task.pid)) {
            if id <= 0 || !seen.insert(id) {
                return Err(ReadError::Pid(id as u32));
            }
        }
        tasks.push(task);
    }
    let one_root =
        tasks.first().is_some_and(|task| task.ppid == 0) && tasks.iter().skip(1).all(|task| task.ppid != 0);
    if one_root { Ok(tasks) } else { Err(ReadError::Root) }
}

/// Id of the root task.
///
/// # Errors
/// As [`tasks`].
pub fn root(images: &Images) -> Result<i32, ReadError> {
    tasks(images)?.first().map(|task| task.pid).ok_or(ReadError::Root)
}

/// Ids of all processes and all their threads, in ascending order.
///
/// # Errors
/// As [`tasks`].
pub fn pids(images: &Images) -> Result<Vec<i32>, ReadError> {
    let ids: BTreeSet<i32> = tasks(images)?
        .into_iter()
        .flat_map(|task| task.threads.into_iter().chain([task.pid]))
        .collect();
    Ok(ids.into_iter().collect())
}

fn read(record: Message<'_>) -> Result<Task, WireError> {
    // CRIU writes them as unsigned although they are pid_t.
    let id = |number| record.required_uint32(number).map(|value| value as i32);
    let threads = record.repeated_uint32(5)?;
    Ok(Task {
        pid: id(1)?,
        ppid: id(2)?,
        pgid: id(3)?,
        sid: id(4)?,
        threads: threads.into_iter().map(|value| value as i32).collect(),
    })
}
