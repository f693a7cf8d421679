//! Which process is whose.
//!
//! A process may end before runc has told us its pid. So while anything is being started, exits that nobody knows are
//! kept, and looked through when the pid is known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::container::Container;
use crate::reaper::Exit;

/// Whose process it is.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) container: Arc<Container>,
    /// Empty for init.
    pub(super) exec_id: String,
}

#[derive(Debug, Default)]
struct Table {
    live: HashMap<i32, Target>,
    starting: usize,
    early: Vec<Exit>,
}

/// The live processes of all containers.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Table>);

impl Registry {
    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is whole between any two statements that hold the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on exits that nobody knows are kept, until the guard goes.
    pub(super) fn starting(&self) -> Starting<'_> {
        self.table().starting += 1;
        Starting(self)
    }

    /// Makes a pid known, and answers its exit when it has ended already.
    pub(super) fn add(&self, pid: i32, target: Target) -> Option<Exit> {
        let mut table = self.table();
        if let Some(at) = table.early.iter().position(|exit| exit.pid == pid) {
            return Some(table.early.swap_remove(at));
        }
        table.live.insert(pid, target);
        None
    }

    /// Whose exit it is; the pid is forgotten, because the kernel may give it to another process now.
    pub(super) fn take(&self, exit: &Exit) -> Option<Target> {
        let mut table = self.table();
        let target = table.live.remove(&exit.pid);
        if target.is_none() && table.starting > 0 {
            table.early.push(*exit);
        }
        target
    }
}

/// Something is being started.
#[derive(Debug)]
pub(super) struct Starting<'a>(&'a Registry);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut table = self.0.table();
        table.starting -= 1;
        if table.starting == 0 {
            table.early.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::SystemTime;

    use super::*;

    fn exit(pid: i32) -> Exit {
        Exit {
            pid,
            status: ExitStatus::from_raw(0),
            at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn strangers_are_kept_only_while_something_starts() {
        let registry = Registry::default();
        assert!(registry.take(&exit(1)).is_none());
        assert!(registry.table().early.is_empty());
        let (first, second) = (registry.starting(), registry.starting());
        assert!(registry.take(&exit(2)).is_none());
        drop(first);
        assert_eq!(registry.table().early.len(), 1);
        drop(second);
        assert!(registry.table().early.is_empty());
    }
}
