//! One reaper for all: it learns every exit from `waitpid(-1)`, tells those who wait for a child of their own, and
//! hands all other exits on, which are those of container processes.
//!
//! The table is locked while a child is started and while exits are collected, so no exit can fall between the start
//! and the entry in the table, and `std`'s own wait for a failed `exec` is not robbed of its child.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

/// The end of a process that is not one of our own helpers.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Its pid.
    pub pid: i32,
    /// How it ended.
    pub status: ExitStatus,
    /// When it was collected.
    pub at: SystemTime,
}

/// The one that waits.
pub struct Reaper {
    helpers: Mutex<HashMap<i32, oneshot::Sender<ExitStatus>>>,
    others: mpsc::UnboundedSender<Exit>,
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper").finish_non_exhaustive()
    }
}

impl Reaper {
    /// A reaper, and where it hands on the exits of container processes, in the order it collected them.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Exit>) {
        let (others, exits) = mpsc::unbounded_channel();
        (
            Self {
                helpers: Mutex::default(),
                others,
            },
            exits,
        )
    }

    fn helpers(&self) -> MutexGuard<'_, HashMap<i32, oneshot::Sender<ExitStatus>>> {
        // The map is whole between any two statements that hold the lock.
        self.helpers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects everything that has ended; called for each SIGCHLD.
    pub fn collect(&self) {
        let mut helpers = self.helpers();
        while let Ok(Some((pid, status))) = thaw_runc::reap(None, false) {
            match helpers.remove(&pid) {
                // Nobody waits any more: the call ran into its deadline.
                Some(waiter) => drop(waiter.send(status)),
                None => drop(self.others.send(Exit {
                    pid,
                    status,
                    at: SystemTime::now(),
                })),
            }
        }
    }
}

impl thaw_runc::Spawner for Reaper {
    fn spawn(&self, command: &mut Command) -> io::Result<(Child, thaw_runc::Exit)> {
        let mut helpers = self.helpers();
        let child = command.spawn()?;
        let (sender, receiver) = oneshot::channel();
        helpers.insert(child.id().cast_signed(), sender);
        drop(helpers);
        Ok((
            child,
            Box::pin(async move { receiver.await.map_err(io::Error::other) }),
        ))
    }
}
