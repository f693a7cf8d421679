//! `core-<id>.img`: one task or thread.

use std::collections::BTreeMap;

use crate::image::{self, ReadError, in_record, magic};
use crate::wire::{Message, WireError};
use crate::{Images, pstree};

/// `core.proto: core_entry.tc`, of the first thread of a process only.
const TC: u32 = 3;
/// `core.proto: core_entry.thread_core`.
const THREAD_CORE: u32 = 5;
/// `core.proto: task_core_entry.task_state`.
const TASK_STATE: u32 = 1;

/// `core.proto: task_core_entry.rlimits`.
const LIMITS: u32 = 8;

/// `compel/include/uapi/task-state.h: COMPEL_TASK_DEAD`; CRIU writes it for a zombie (`criu/cr-dump.c: dump_zombies`).
const DEAD: u32 = 2;
/// `compel/include/uapi/task-state.h: COMPEL_TASK_STOPPED`.
const STOPPED: u32 = 3;

/// Whether a process was stopped (SIGSTOP and the like) when it was dumped: it must stay so when the others are let run
/// (`core_entry`, field 3; `task_core_entry`, field 1).
///
/// # Errors
/// Its image cannot be read.
pub fn is_stopped(images: &Images, pid: i32) -> Result<bool, ReadError> {
    Ok(state(images, pid)? == STOPPED)
}

/// Whether a process had ended and nobody had asked for its status yet: of a zombie there is `core-<pid>.img` and
/// nothing else.
///
/// # Errors
/// Its image cannot be read.
pub fn is_dead(images: &Images, pid: i32) -> Result<bool, ReadError> {
    Ok(state(images, pid)? == DEAD)
}

fn state(images: &Images, pid: i32) -> Result<u32, ReadError> {
    read(images, pid, |core| {
        core.required_message(TC)?.required_uint32(TASK_STATE)
    })
}

/// Ids, inside the container, of the processes that were stopped when they were dumped.
///
/// # Errors
/// The process tree or an image cannot be read.
pub fn stopped(images: &Images) -> Result<Vec<i32>, ReadError> {
    let mut stopped = Vec::new();
    for task in pstree::tasks(images)? {
        if is_stopped(images, task.pid)? {
            stopped.push(task.pid);
        }
    }
    Ok(stopped)
}

/// A resource limit of a process, in its own unit; no limit is [`u64::MAX`] (`rlimit.proto: rlimit_entry`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Field 1.
    pub soft: u64,
    /// Field 2.
    pub hard: u64,
}

/// The resource limits of every process that has any, by pid; a limit stands at the place of its number
/// (`task_core_entry`, field 8; `task_rlimits_entry`, field 1).
///
/// # Errors
/// The process tree or an image cannot be read.
pub fn limits(images: &Images) -> Result<BTreeMap<i32, Vec<Limit>>, ReadError> {
    let mut all = BTreeMap::new();
    for task in pstree::tasks(images)? {
        let limits = read(images, task.pid, |core| {
            let Some(limits) = core.required_message(TC)?.message(LIMITS)? else {
                return Ok(Vec::new());
            };
            let each = limits.messages(1)?.into_iter().map(|limit| {
                Ok(Limit {
                    soft: limit.required_uint64(1)?,
                    hard: limit.required_uint64(2)?,
                })
            });
            each.collect()
        })?;
        all.insert(task.pid, limits);
    }
    Ok(all)
}

/// Name of the file of a task or thread.
pub(crate) fn file(id: i32) -> String {
    format!("core-{id}.img")
}

/// Gives the entry of a task or thread to `look`.
pub(crate) fn read<'a, T, F>(images: &'a Images, id: i32, look: F) -> Result<T, ReadError>
where
    F: FnOnce(Message<'a>) -> Result<T, WireError>,
{
    let file = file(id);
    let record = image::single(images, &file, magic::CORE)?;
    look(record).map_err(in_record(&file, 0))
}

/// The part that every thread has; a zombie has none.
pub(crate) fn thread(core: Message<'_>) -> Result<Option<Message<'_>>, WireError> {
    core.message(THREAD_CORE)
}
