//! Reads from the directory of a `file://` store, without the object store client.
//!
//! The client opens on one thread, then streams in pieces of 8 KiB, each handed over anew (object_store 0.14,
//! `local.rs`). A look-up is on the way of every container start on the node, so here it is one hand-over, one `open`
//! and one `read`. Everything here may block for as long as a network file system likes: see [`on_thread`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::error::Elapsed;

use super::BlobRead;

/// A small file as a whole.
pub(super) enum SmallFile {
    /// Its bytes.
    Bytes(Bytes),
    /// There is none.
    Missing,
    /// It has more bytes than the limit.
    TooLarge,
}

/// Runs `work` on a thread that may block, and waits for it no longer than `limit`. A file system that hangs then holds
/// up that one thread; the caller's, which may be the only one of a shim, goes on and its deadlines hold.
pub(super) async fn on_thread<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>, Elapsed> {
    let done = tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await?;
    Ok(done.map_err(io::Error::other).and_then(|done| done))
}

pub(super) fn read_small(path: &Path, limit: u64) -> io::Result<SmallFile> {
    let Some((file, size)) = open_regular(path)? else {
        return Ok(SmallFile::Missing);
    };
    if size > limit {
        return Ok(SmallFile::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Ok(SmallFile::TooLarge);
    }
    Ok(SmallFile::Bytes(bytes.into()))
}

pub(super) fn read_range(path: &Path, size: u64, range: Range<u64>) -> io::Result<BlobRead> {
    let Some((file, found)) = open_regular(path)? else {
        return Ok(BlobRead::Missing);
    };
    if found != size {
        return Ok(BlobRead::WrongSize(found));
    }
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(BlobRead::Bytes(bytes.into()))
}

/// Size in bytes of a regular file, or `None` when there is none. It is not opened: that would block on a FIFO.
pub(super) fn size(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => Err(not_regular()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a regular file. A FIFO or device in its place must neither block us nor be read.
fn open_regular(path: &Path) -> io::Result<Option<(File, u64)>> {
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(not_regular());
    }
    Ok(Some((file, metadata.len())))
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}
