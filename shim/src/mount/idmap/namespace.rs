//! A user namespace that nobody lives in: it only says which id is which.
//!
//! Only a process without threads can make one, so this program is called once more, makes one, and waits while its
//! mapping is written from outside. An open descriptor keeps the namespace when that process has ended. It waits on
//! a pipe from the shim, so it also ends when the shim is killed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::FutureExt as _;
use nix::sched::{CloneFlags, unshare};
use thaw_runc::{Exit, Spawner};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::IdMap;
use crate::sys;

/// The first argument with which this program is called to make a user namespace.
pub const USER_NAMESPACE_VERB: &str = "hold-user-namespace";

/// How long it may take, which is a few milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the helper may take to see that it is no longer needed.
const SEE_END: Duration = Duration::from_secs(2);
/// The most that is read of what it says when it fails.
const WORDS: u64 = 1024;

/// Why there is no user namespace for the id mapping.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The helper can't be started, or its answer not be read.
    #[error("call {} to make a user namespace for the id mapping of the root file system", program.display())]
    Call {
        /// This program.
        program: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The kernel refused; `user.max_user_namespaces` may be 0.
    #[error("make a user namespace for the id mapping of the root file system: {words}")]
    Refused {
        /// What the helper said.
        words: String,
    },
    /// It did not answer.
    #[error("make a user namespace for the id mapping of the root file system within {PATIENCE:?}")]
    Deadline,
    /// The kernel does not take the mapping.
    #[error("write the id mapping to {file}")]
    Map {
        /// The file in `/proc`.
        file: String,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// It can't be opened.
    #[error("open the user namespace of process {pid}")]
    Open {
        /// The helper.
        pid: u32,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The helper ended before its namespace was open, so whose namespace that is can't be known.
    #[error("keep process {pid} until its user namespace is open")]
    Ended {
        /// The helper.
        pid: u32,
    },
}

/// What can keep the helper from its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// The kernel refused.
    #[error("unshare the user namespace")]
    Unshare(#[source] nix::Error),
    /// The shim is gone.
    #[error("say that it is made")]
    Say(#[source] io::Error),
    /// Standard input can't be read.
    #[error("wait until it is no longer needed")]
    Wait(#[source] io::Error),
}

/// The helper: moves into a new user namespace, says so with one byte, and stays until its input ends.
///
/// # Errors
/// See [`HoldError`].
pub fn hold_user_namespace(mut input: impl Read, mut output: impl Write) -> Result<(), HoldError> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(HoldError::Unshare)?;
    output
        .write_all(b"\n")
        .and_then(|()| output.flush())
        .map_err(HoldError::Say)?;
    io::copy(&mut input, &mut io::sink()).map_err(HoldError::Wait)?;
    Ok(())
}

/// A new user namespace with this mapping. `program` is this program.
pub(super) async fn open(
    map: &IdMap,
    program: &Path,
    spawner: &dyn Spawner,
) -> Result<OwnedFd, NamespaceError> {
    let call = |source| NamespaceError::Call {
        program: program.to_owned(),
        source,
    };
    let mut command = Command::new(program);
    command
        .arg(USER_NAMESPACE_VERB)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (mut child, mut exit) = spawner.spawn(&mut command).map_err(call)?;
    let pid = child.id();
    let opened = match tokio::time::timeout(PATIENCE, refusal(&mut child)).await {
        Err(_elapsed) => Err(NamespaceError::Deadline),
        Ok(Err(source)) => Err(call(source)),
        Ok(Ok(Some(words))) => Err(NamespaceError::Refused { words }),
        Ok(Ok(None)) => map_and_open(pid, map).and_then(|namespace| {
            // Until its exit is collected nobody else has its pid.
            let alive = (&mut exit).now_or_never().is_none();
            alive.then_some(namespace).ok_or(NamespaceError::Ended { pid })
        }),
    };
    // Its standard input ends with this.
    drop(child);
    end(pid, exit).await;
    opened
}

/// `None` when the namespace is made, otherwise why not.
async fn refusal(child: &mut Child) -> io::Result<Option<String>> {
    let (Some(said), Some(complaint)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let mut said = Receiver::from_owned_fd(said.into())?;
    if said.read(&mut [0]).await? == 1 {
        return Ok(None);
    }
    let mut words = Vec::new();
    let complaint = Receiver::from_owned_fd(complaint.into())?;
    complaint.take(WORDS).read_to_end(&mut words).await?;
    Ok(Some(String::from_utf8_lossy(&words).trim().to_owned()))
}

/// Writes the mapping of the new namespace of a process, and opens the namespace.
pub(super) fn map_and_open(pid: u32, map: &IdMap) -> Result<OwnedFd, NamespaceError> {
    for (name, text) in [("uid_map", map.users()), ("gid_map", map.groups())] {
        let file = format!("/proc/{pid}/{name}");
        // In one call of `write`, as the kernel asks for.
        fs::write(&file, text).map_err(|source| NamespaceError::Map { file, source })?;
    }
    File::open(format!("/proc/{pid}/ns/user"))
        .map(OwnedFd::from)
        .map_err(|source| NamespaceError::Open { pid, source })
}

async fn end(pid: u32, mut exit: Exit) {
    if tokio::time::timeout(SEE_END, &mut exit).await.is_err() {
        // Only fails when it has just ended.
        sys::kill(pid.cast_signed(), 9).ok();
    }
}
