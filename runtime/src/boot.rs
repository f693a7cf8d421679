//! Bringing a container up: from a snapshot when one fits, the ordinary way otherwise.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What containerd asked for, in plain words.
#[derive(Debug, Clone)]
pub struct Request {
    /// containerd namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// Bundle directory; holds `config.json`, and the rootfs is mounted at `rootfs` in it.
    pub bundle: PathBuf,
    /// The process gets a pty.
    pub terminal: bool,
    /// The client feeds standard input.
    pub stdin: bool,
    /// containerd's gRPC socket.
    pub containerd: PathBuf,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
}

/// The root filesystem of the container: mounted by boot, and put back as new when a restore fails.
pub trait Rootfs: fmt::Debug + Send + Sync {
    /// Mounts it at the bundle's `rootfs`.
    ///
    /// # Errors
    /// What `mount` answered; what was mounted before the failure is unmounted again.
    fn mount(&self) -> io::Result<()>;

    /// Unmounts everything at and below the bundle's `rootfs`; no error when nothing is mounted.
    ///
    /// # Errors
    /// What `umount` answered.
    fn unmount(&self) -> io::Result<()>;

    /// The overlay's upper directory, when the root filesystem is an overlay that this shim mounts.
    fn upper(&self) -> Option<&Path>;
}

/// The standard streams that runc gets; asked for once per runc call, since a failed restore is followed by a create.
pub trait Streams: fmt::Debug + Send + Sync {
    /// stdin, stdout, stderr for runc: pipe ends or `/dev/null`; all null for a terminal.
    ///
    /// # Errors
    /// What duplicating a descriptor answered.
    fn stdio(&self) -> io::Result<[Stdio; 3]>;

    /// The socket on which runc hands over the pty, when the process gets one.
    fn console_socket(&self) -> Option<&Path>;
}
