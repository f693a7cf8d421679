//! Who starts child processes, and who hears of their end.
//!
//! A shim is the subreaper of its containers and learns every exit from one `waitpid(-1)` loop, which would steal
//! the status of a child that somebody else waits for. The command line tool has no such loop. So the driver asks
//! for a [`Spawner`] and never waits for a process itself.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus};

/// Resolves when the process has ended.
pub type Exit = Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send>>;

/// Starts processes and tells when they end.
pub trait Spawner: fmt::Debug + Send + Sync {
    /// Starts `command`. The child's pipes are in the [`Child`]; nobody may call `wait` on it.
    ///
    /// # Errors
    /// What `fork` or `exec` answered.
    fn spawn(&self, command: &mut Command) -> io::Result<(Child, Exit)>;
}

/// For programs without a reaper of their own: a blocking wait on a thread of the runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainSpawner;

impl Spawner for PlainSpawner {
    fn spawn(&self, command: &mut Command) -> io::Result<(Child, Exit)> {
        let child = command.spawn()?;
        let pid = child.id().cast_signed();
        let waiter = tokio::task::spawn_blocking(move || crate::sys::reap(Some(pid), true));
        Ok((
            child,
            Box::pin(async move {
                let ended = waiter.await.map_err(io::Error::other)??;
                ended
                    .map(|(_, status)| status)
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            }),
        ))
    }
}
