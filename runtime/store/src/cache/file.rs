//! Fetching the archives: blobs of one frame, whose digest is known only when all of it is here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use thaw_snapshot::{Blob, Blobs, Digest};

use super::archives;
use super::fetch::{FetchError, Waiting, Workspace, blocking, read_range};
use crate::store::Store;

/// Bytes per request, and the most of an archive that is held in memory.
const PIECE: u64 = 8 << 20;

/// Largest window of a frame, as a power of two. A frame says how much memory its reader needs; level 3 needs 2 MiB.
const MAX_WINDOW_LOG: u32 = 24;

/// Fetches every archive of a snapshot into `workspace`; returns the bytes that came.
pub(super) async fn fetch_all(
    store: &dyn Store,
    blobs: &Blobs,
    workspace: &Arc<Workspace>,
) -> Result<u64, FetchError> {
    let mut bytes = 0;
    for (name, blob) in archives(blobs) {
        fetch(store, blob, workspace, name).await?;
        bytes += blob.size;
    }
    Ok(bytes)
}

async fn fetch(
    store: &dyn Store,
    blob: &Blob,
    workspace: &Arc<Workspace>,
    name: &'static str,
) -> Result<(), FetchError> {
    let expected = blob.clone();
    let held = workspace.clone();
    if blob.size <= PIECE {
        let bytes = read_range(store, &blob.digest, blob.size, 0..blob.size).await?;
        return blocking(name, move |waiting| {
            verify(name, &expected, Digest::of(&bytes))?;
            decompress(name, &expected, bytes.as_ref(), &held.path().join(name), waiting)
        })
        .await;
    }
    let packed = download(store, blob, workspace, name).await?;
    blocking(name, move |waiting| {
        let file = File::open(&packed).map_err(|e| FetchError::disk(&packed, 0, e))?;
        decompress(name, &expected, file, &held.path().join(name), waiting)?;
        std::fs::remove_file(&packed).map_err(|e| FetchError::disk(&packed, 0, e))
    })
    .await
}

/// Brings a large blob to a file, which is returned, and verifies its digest.
async fn download(
    store: &dyn Store,
    blob: &Blob,
    workspace: &Workspace,
    name: &'static str,
) -> Result<PathBuf, FetchError> {
    let path = workspace.path().join(format!("{name}.zst"));
    let mut state = (create(&path, 0o600)?, Sha256::new());
    let mut start = 0;
    while start < blob.size {
        let end = blob.size.min(start + PIECE);
        let bytes = read_range(store, &blob.digest, blob.size, start..end).await?;
        // The file is open and exists: this worker adds nothing to the directory.
        let at = path.clone();
        state = blocking(name, move |_waiting| append(state, &bytes, &at)).await?;
        start = end;
    }
    verify(name, blob, Digest::from_hasher(state.1))?;
    Ok(path)
}

fn append(
    (mut file, mut hasher): (File, Sha256),
    bytes: &Bytes,
    path: &Path,
) -> Result<(File, Sha256), FetchError> {
    hasher.update(bytes);
    file.write_all(bytes)
        .map_err(|e| FetchError::disk(path, bytes.len() as u64, e))?;
    Ok((file, hasher))
}

fn verify(name: &str, blob: &Blob, found: Digest) -> Result<(), FetchError> {
    if found == blob.digest {
        return Ok(());
    }
    Err(FetchError::WrongDigest {
        what: name.to_owned(),
        expected: blob.digest,
    })
}

/// Decompresses verified bytes to a new read-only file. Stops at the size that the manifest says, so that a small
/// blob can't fill the disk.
pub(crate) fn decompress(
    name: &str,
    blob: &Blob,
    packed: impl Read,
    target: &Path,
    waiting: &Waiting,
) -> Result<(), FetchError> {
    let broken = |source| FetchError::Decompress {
        what: name.to_owned(),
        raw_size: blob.raw_size,
        source,
    };
    let mut decoder = zstd::Decoder::new(packed).map_err(broken)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(broken)?;
    let mut file = create(target, 0o400)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut written = 0;
    loop {
        waiting.check()?;
        let length = decoder.read(&mut buffer).map_err(broken)?;
        if length == 0 {
            break;
        }
        written += length as u64;
        if written > blob.raw_size {
            return Err(FetchError::TooLarge {
                what: name.to_owned(),
                size: written,
                limit: blob.raw_size,
            });
        }
        hasher.update(&buffer[..length]);
        file.write_all(&buffer[..length])
            .map_err(|e| FetchError::disk(target, blob.raw_size, e))?;
    }
    if written != blob.raw_size {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    if Digest::from_hasher(hasher) != blob.raw_digest {
        return Err(FetchError::WrongDigest {
            what: name.to_owned(),
            expected: blob.raw_digest,
        });
    }
    Ok(())
}

pub(super) fn create(path: &Path, mode: u32) -> Result<File, FetchError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|e| FetchError::disk(path, 0, e))
}
