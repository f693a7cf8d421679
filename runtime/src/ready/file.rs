//! The file by which an application says itself that it is ready.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Its place in the container.
pub(super) const PATH: &str = "/run/thaw/ready";

/// Is it there? Links in the container lead nowhere else than into the container.
pub(super) fn exists(pid: i32) -> io::Result<bool> {
    let root = File::open(format!("/proc/{pid}/root"))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&root, PATH.trim_start_matches('/'), how) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
