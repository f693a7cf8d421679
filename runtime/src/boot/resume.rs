//! Letting a held container run.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Announce;
use super::reconnect::Reconnect;
use crate::task::{inner_pid, tree};

/// A restored container whose processes are stopped (CRIU's `leave-stopped`).
#[derive(Debug)]
pub struct Held {
    pid: i32,
    stopped: Vec<i32>,
    reconnect: Reconnect,
    announce: Option<Announce>,
}

/// Why a held container does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// Its init has gone.
    #[error("the restored process {pid} has ended")]
    Gone {
        /// Its host pid.
        pid: i32,
    },
    /// A process can't be continued.
    #[error("continue process {pid}")]
    Continue {
        /// Its host pid.
        pid: i32,
        /// What the kernel answered.
        #[source]
        source: Errno,
    },
}

impl Held {
    pub(super) fn new(pid: i32, stopped: Vec<i32>) -> Self {
        Self {
            pid,
            stopped,
            reconnect: Reconnect::default(),
            announce: None,
        }
    }

    pub(super) fn with(mut self, reconnect: Reconnect, announce: Option<Announce>) -> Self {
        self.reconnect = reconnect;
        self.announce = announce;
        self
    }

    /// What is to be done when it runs, if the container asked for something.
    pub fn take_announce(&mut self) -> Option<Announce> {
        self.announce.take()
    }

    /// Lets every process run, except those that were stopped when the donor was frozen. Init comes last, so that
    /// its children are there when it asks for them.
    ///
    /// # Errors
    /// [`ResumeError::Gone`] when init has been killed meanwhile, otherwise what `kill` answered.
    pub fn resume(self) -> Result<(), ResumeError> {
        let tasks = tree(self.pid);
        self.reconnect.run(self.pid, &tasks);
        for pid in tasks.into_iter().rev() {
            if !self.stopped.is_empty() && inner_pid(pid).is_some_and(|inner| self.stopped.contains(&inner)) {
                continue;
            }
            match kill(Pid::from_raw(pid), Signal::SIGCONT) {
                Ok(()) => {}
                Err(Errno::ESRCH) if pid == self.pid => return Err(ResumeError::Gone { pid }),
                Err(Errno::ESRCH) => {}
                Err(source) => return Err(ResumeError::Continue { pid, source }),
            }
        }
        Ok(())
    }
}
