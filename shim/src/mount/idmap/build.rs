//! Building an id-mapped mount where nobody sees it, and attaching it when it is whole.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::mount::mount;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use thaw_runtime::rootfs::compact_overlay;

use super::super::{Mount, Parsed, attach};
use crate::sys;

/// Mounts `one` at `at` with the ids of its files mapped as `namespace` has them.
pub(in crate::mount) fn mount_mapped(
    one: &Mount,
    at: &Path,
    parsed: &Parsed,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let at = at.canonicalize()?;
    let built = apart(|| {
        if one.kind == "overlay" {
            overlay_on_mapped(one, &at, parsed, namespace)
        } else {
            attach(one, &at, parsed)?;
            let tree = tree(&at)?;
            sys::map_ids(tree.as_fd(), namespace, false)?;
            Ok(tree)
        }
    })?;
    put(built.as_fd(), &at)
}

/// Does `work` on a thread with a mount namespace of its own. What it mounts goes with the thread, whoever ends it;
/// what is unmounted elsewhere is unmounted here too, where it is shared.
fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            thaw_runc::leave_mounts()?;
            work()
        });
        work.join()
            .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

/// The mapped copy of the directory of all layers goes to `at`, and the overlay, whose lower directories are in it, on
/// top. The upper directory needs no mapping: what is in it belongs to ids of the host from the start.
fn overlay_on_mapped(
    one: &Mount,
    at: &Path,
    parsed: &Parsed,
    namespace: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let (common, data) = compact_overlay(&parsed.data)
        .filter(|(common, _)| common != "/")
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "lower directories of an id-mapped overlay",
            )
        })?;
    let layers = tree(Path::new(&common))?;
    sys::map_ids(layers.as_fd(), namespace, true)?;
    put(layers.as_fd(), at)?;
    // The working directory is this thread's own.
    nix::unistd::chdir(at)?;
    mount(
        Some(one.source.as_str()),
        at,
        Some("overlay"),
        parsed.flags,
        Some(data.as_str()),
    )?;
    tree(at)
}

/// A copy of the mounts at and below `path`, attached nowhere.
fn tree(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

fn put(tree: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    Ok(move_mount(
        tree,
        "",
        CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}
