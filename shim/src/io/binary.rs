//! A logging program: reads the container's output from descriptors 3 and 4, says on 5 that it is ready.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::Owner;
use super::target::Program;
use crate::sys;

/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to see the end of its input by itself.
const SEE_END: Duration = Duration::from_millis(500);
/// From SIGTERM to SIGKILL, as under the stock shim.
const STOP: Duration = Duration::from_secs(12);

/// A logging program that runs.
pub(super) struct Logger {
    /// Where standard output is to be written.
    pub(super) stdout: OwnedFd,
    /// Where standard error is to be written.
    pub(super) stderr: OwnedFd,
    pid: i32,
    /// In a lock only because futures need not be `Sync`, which streams must.
    exit: Mutex<thaw_runc::Exit>,
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Logger {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(
        program: &Program,
        owner: &Owner,
        spawner: &dyn thaw_runc::Spawner,
    ) -> io::Result<Self> {
        let (out_read, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (err_read, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        let (ready, ready_write) = pipe2(OFlag::O_CLOEXEC)?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.args)
            .env_clear()
            .env("CONTAINER_ID", &owner.id)
            .env("CONTAINER_NAMESPACE", &owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::pass_fds(&mut command, vec![out_read, err_read, ready_write])?;
        let (child, exit) = spawner.spawn(&mut command)?;
        // Our copies of its ends go, or we would never see it close the last one.
        drop(command);
        let logger = Self {
            stdout,
            stderr,
            pid: child.id().cast_signed(),
            exit: Mutex::new(exit),
        };
        match wait_ready(ready, program.must_answer).await {
            Ok(()) => Ok(logger),
            Err(error) => {
                logger.stop().await;
                Err(error)
            }
        }
    }

    /// Lets it see the end of its input, and then makes it stop.
    pub(super) async fn stop(self) {
        let Self {
            stdout,
            stderr,
            pid,
            exit,
        } = self;
        let mut exit = exit.into_inner().unwrap_or_else(PoisonError::into_inner);
        drop((stdout, stderr));
        for (patience, signal) in [(SEE_END, 15), (STOP, 9)] {
            if tokio::time::timeout(patience, &mut exit).await.is_ok() {
                return;
            }
            // Only fails when it has just ended.
            sys::kill(pid, signal).ok();
        }
    }
}

async fn wait_ready(pipe: OwnedFd, must_answer: bool) -> io::Result<()> {
    let mut byte = [0];
    let mut pipe = Receiver::from_owned_fd(pipe)?;
    match tokio::time::timeout(READY, pipe.read(&mut byte)).await?? {
        0 if must_answer => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
