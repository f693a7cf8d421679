//! Whether system call filters come back with the tasks.

use crate::image::{ReadError, in_record, magic, records_of};
use crate::wire::{Message, WireError};
use crate::{Images, core, pstree};

/// The file.
const FILE: &str = "seccomp.img";
/// `seccomp.proto: seccomp_entry.seccomp_filters`.
const FILTERS: u32 = 1;
/// `seccomp.proto: seccomp_filter.flags`.
const FLAGS: u32 = 3;
/// `core.proto: thread_core_entry.seccomp_mode`: 0 is off.
const MODE: u32 = 11;
/// `core.proto: thread_core_entry.seccomp_filter`.
const FILTER: u32 = 12;

/// SECCOMP_FILTER_FLAG_TSYNC (`linux/seccomp.h`).
const TSYNC: u32 = 1;

/// What the images hold of seccomp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seccomp {
    /// Number of filters in `seccomp.img`.
    pub filters: usize,
    /// Ids of the threads that come back under a filter (or in strict mode).
    pub filtered: Vec<i32>,
    /// Ids of the threads that come back without one.
    pub free: Vec<i32>,
}

/// How one thread was dumped.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// A zombie: nothing of it runs again.
    None,
    /// No filter of its own.
    Off,
    /// Under the filter of this number, or in strict mode.
    On(Option<u32>),
}

/// Says which threads come back under a filter and which do not.
///
/// Where all threads of a process have the same filters, CRIU writes them for the first one only and marks them to be
/// spread over the others (`criu/seccomp.c: try_use_tsync`).
///
/// # Errors
/// The process tree or an image cannot be read.
pub fn of(images: &Images) -> Result<Seccomp, ReadError> {
    let flags = filter_flags(images)?;
    let mut found = Seccomp {
        filters: flags.len(),
        filtered: Vec::new(),
        free: Vec::new(),
    };
    for task in pstree::tasks(images)? {
        let leader = mode(images, task.pid)?;
        let spread = matches!(leader, Mode::On(Some(filter))
            if usize::try_from(filter).ok().and_then(|at| flags.get(at)).is_some_and(|flags| flags & TSYNC != 0));
        let others = task.threads.iter().copied().filter(|id| *id != task.pid);
        for id in std::iter::once(task.pid).chain(others) {
            match mode(images, id)? {
                Mode::None => {}
                Mode::On(_) => found.filtered.push(id),
                Mode::Off if spread => found.filtered.push(id),
                Mode::Off => found.free.push(id),
            }
        }
    }
    Ok(found)
}

/// Whether any thread comes back under a filter.
///
/// # Errors
/// As [`of`].
pub fn present(images: &Images) -> Result<bool, ReadError> {
    of(images).map(|found| !found.filtered.is_empty())
}

fn mode(images: &Images, id: i32) -> Result<Mode, ReadError> {
    core::read(images, id, |core| {
        let Some(thread) = core::thread(core)? else {
            return Ok(Mode::None);
        };
        Ok(match thread.uint32(MODE)?.unwrap_or(0) {
            0 => Mode::Off,
            _ => Mode::On(thread.uint32(FILTER)?),
        })
    })
}

/// The flags of every filter, by its number.
fn filter_flags(images: &Images) -> Result<Vec<u32>, ReadError> {
    let mut all = Vec::new();
    if !images.contains_key(FILE) {
        return Ok(all);
    }
    for (index, record) in records_of(images, FILE, magic::SECCOMP)?.into_iter().enumerate() {
        for field in record.fields() {
            let flags = || -> Result<Option<u32>, WireError> {
                let field = field?;
                if field.number != FILTERS {
                    return Ok(None);
                }
                Ok(Some(Message::parse(field.bytes()?)?.uint32(FLAGS)?.unwrap_or(0)))
            };
            all.extend(flags().map_err(in_record(FILE, index))?);
        }
    }
    Ok(all)
}
