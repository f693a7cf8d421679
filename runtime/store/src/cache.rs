//! What this node holds of the store: verified, decompressed, content-addressed, safe to delete at any time.
//!
//! ```text
//! <root>/snapshots/<manifest id>/meta.tar       CRIU images without the pages
//!                               /rootfs.tar     changes of the root filesystem, if there are any
//!                               /pages-N.img    memory
//!                               /seal.json      what each file looked like when its bytes were verified
//! <root>/tmp/                                   what is being fetched, and locks
//! ```
//!
//! An entry is built in `tmp` and renamed into place, so that it is whole or not there. Nothing is flushed to disk:
//! the seal names the boot it was made in, and after another boot every byte is hashed again before use.
//!
//! Do not make hard links to an entry's files: a link moves the change time, and the next look hashes everything
//! again. Symbolic links and bind mounts are fine.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thaw_snapshot::{Blob, Digest, Manifest};
use thiserror::Error;

mod seal;
pub(crate) mod fetch;
pub(crate) mod file;
pub(crate) mod pages;
pub(crate) mod entry;

pub use entry::{Entry, EntryError};
pub use fetch::{FetchError, Fetched};

use seal::Verdict;

const META: &str = "meta.tar";
const ROOTFS: &str = "rootfs.tar";
const SEAL: &str = "seal.json";

/// Temporary directories and locks older than this belong to nobody: no fetch may take as long.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The cache of one node. Cheap to open and to clone; several processes may use one directory.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// A snapshot in the cache, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedSnapshot {
    /// The manifest's id.
    pub id: Digest,
    /// Bytes on disk, as the file sizes say.
    pub size: u64,
    /// When it came here.
    pub fetched: SystemTime,
}

/// Why the cache can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A file or directory can't be read, made or removed.
    #[error("could not {attempt} {path}")]
    Disk {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Others may write to the directory, so nothing in it stays verified.
    #[error("{path} may be written by others than its owner")]
    Insecure {
        /// The directory.
        path: PathBuf,
    },
}

impl CacheError {
    fn disk(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk {
            attempt,
            path,
            source,
        }
    }
}

impl Cache {
    /// Opens the cache in the directory `root`, making what is missing.
    ///
    /// # Errors
    /// When the directory can't be made, or others may write to it.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        let cache = Self {
            root: root.to_owned(),
        };
        for directory in [cache.root.clone(), cache.snapshots(), cache.temporary()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(CacheError::disk("make the directory", &directory))?;
            let metadata = fs::metadata(&directory).map_err(CacheError::disk("look at", &directory))?;
            if metadata.mode() & 0o022 != 0 {
                return Err(CacheError::Insecure { path: directory });
            }
        }
        Ok(cache)
    }

    /// The snapshot of `manifest`, if it is here and unchanged since its bytes were verified. That costs a stat per
    /// file; when a stat differs, or the machine was booted since, the bytes are hashed again, which blocks for
    /// about a second per GiB. What turns out to be damaged is removed.
    ///
    /// # Errors
    /// When the disk fails. Damage is `None`, not an error.
    pub fn get(&self, manifest: &Manifest) -> Result<Option<Entry>, CacheError> {
        let id = manifest.id();
        let directory = self.directory(&id);
        match seal::check(&directory, &manifest.blobs)? {
            Verdict::Absent => Ok(None),
            Verdict::Intact => Ok(Some(Entry::new(id, directory, &manifest.blobs))),
            Verdict::Damaged => {
                log::warn!("cached snapshot {id} is damaged: removing it");
                self.remove(&id)?;
                Ok(None)
            }
        }
    }

    /// All snapshots that are here, damaged or not, in the order of their ids.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn list(&self) -> Result<Vec<CachedSnapshot>, CacheError> {
        let directory = self.snapshots();
        let fail = |e| CacheError::disk("list", &directory)(e);
        let mut found = Vec::new();
        for entry in directory.read_dir().map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| format!("sha256:{name}").parse().ok());
            // Removed while we look: not there.
            if let (Some(id), Ok(metadata)) = (id, entry.metadata()) {
                let fetched = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push(CachedSnapshot {
                    id,
                    size: size_of(&entry.path()),
                    fetched,
                });
            }
        }
        found.sort_by_key(|snapshot| snapshot.id);
        Ok(found)
    }

    /// Removes a snapshot; says whether it was there. Processes that have its files open keep them.
    ///
    /// # Errors
    /// When the directory can't be removed.
    pub fn remove(&self, id: &Digest) -> Result<bool, CacheError> {
        let directory = self.directory(id);
        let grave = tempfile::Builder::new()
            .prefix("remove-")
            .tempdir_in(self.temporary())
            .map_err(CacheError::disk("make a directory in", &self.temporary()))?;
        // Renamed first, so that nobody ever finds half an entry.
        match fs::rename(&directory, grave.path()) {
            Ok(()) => {
                grave.close().map_err(CacheError::disk("remove", &directory))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CacheError::disk("remove", &directory)(error)),
        }
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn directory(&self, id: &Digest) -> PathBuf {
        self.snapshots().join(id.hex())
    }

    /// Removes what crashed fetches left. Failures don't matter: the next fetch tries again.
    fn sweep(&self) {
        let Ok(entries) = self.temporary().read_dir() else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                let path = entry.path();
                let removed = if metadata.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                if let Err(error) = removed {
                    log::debug!("could not sweep {}: {error}", path.display());
                }
            }
        }
    }
}

/// Whether `name` may be the name of an image file: ASCII letters, digits, `.`, `_`, `-`, no dot in front, at most
/// the 100 bytes that the name field of a tar header holds.
pub(crate) fn plain_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.bytes().all(plain)
}

fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = directory.read_dir() else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// What the archives of a snapshot are called here.
fn archives(blobs: &thaw_snapshot::Blobs) -> impl Iterator<Item = (&'static str, &Blob)> {
    std::iter::once((META, &blobs.meta)).chain(blobs.rootfs.as_ref().map(|blob| (ROOTFS, blob)))
}
