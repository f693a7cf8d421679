//! The socket on which runc hands over the pty.

use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::sys::receive_fd;

/// The stock shim's limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket in a directory of its own; both are removed with it. It is not in the bundle, whose path is too long for
/// a socket address.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    /// Removed with what is in it.
    _dir: TempDir,
    path: PathBuf,
}

impl ConsoleSocket {
    pub(super) fn bind() -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pty-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let path = dir.path().join("pty.sock");
        let listener = UnixListener::bind(&path)?;
        Ok(Self {
            listener,
            _dir: dir,
            path,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The pty of the latest runc call. An earlier call, a restore that failed, may have sent one too.
    pub(super) async fn receive(self) -> io::Result<OwnedFd> {
        let first = tokio::time::timeout(PATIENCE, self.listener.accept()).await??;
        let mut last = first.0.into_std()?;
        while let Ok(Ok((next, _))) = tokio::time::timeout(Duration::ZERO, self.listener.accept()).await {
            last = next.into_std()?;
        }
        last.set_nonblocking(false)?;
        last.set_read_timeout(Some(PATIENCE))?;
        receive_fd(&last)
    }
}
