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
        let mut child = command.spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        let waiter = tokio::task::spawn_blocking(move || wait(pid));
        (child.stdin, child.stdout, child.stderr) = pipes;
        Ok((child, Box::pin(async move { waiter.await.map_err(io::Error::other)? })))
    }
}

fn wait(pid: nix::unistd::Pid) -> io::Result<ExitStatus> {
    use nix::sys::wait::{WaitStatus, waitpid};
    use std::os::unix::process::ExitStatusExt;
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(ExitStatus::from_raw(signal as i32)),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
