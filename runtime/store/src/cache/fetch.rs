//! Bringing a snapshot from the store to the cache.

use std::fs::{self, File, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use thaw_snapshot::{Blobs, Digest, Manifest, ManifestError};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{Cache, CacheError, Entry, archives, file, pages, seal};
use crate::store::{BlobRead, Store, StoreError};

/// How often a fetch looks whether another one that fetches the same snapshot is done.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// The longest that a fetch waits for its temporary directory to go: for a worker that is in the middle of a step, and
/// for the kernel to free gigabytes. What stays longer is swept by a later fetch.
const REMOVAL: Duration = Duration::from_secs(1);

/// A snapshot that is in the cache now.
#[derive(Debug)]
pub struct Fetched {
    /// The snapshot.
    pub entry: Entry,
    /// Bytes that came from the store: 0 when another fetch of the same snapshot had just brought it.
    pub bytes: u64,
}

/// Why a snapshot could not be brought here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The store does not have a blob that the manifest names.
    #[error("the store has no blob {digest}")]
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// Bytes came that do not have the digest that the manifest says.
    #[error("the bytes of {what} do not have the digest {expected}")]
    WrongDigest {
        /// What they should have been.
        what: String,
        /// Their digest according to the manifest.
        expected: Digest,
    },
    /// A blob in the store is shorter than the manifest says.
    #[error("blob {digest} has {found} of {expected} bytes")]
    Truncated {
        /// The blob.
        digest: Digest,
        /// Bytes according to the manifest.
        expected: u64,
        /// Bytes in the store.
        found: u64,
    },
    /// Something is larger than the manifest says, or than thaw takes.
    #[error("{what} has {size} bytes, more than {limit}")]
    TooLarge {
        /// What.
        what: String,
        /// Its size.
        size: u64,
        /// The limit that it breaks.
        limit: u64,
    },
    /// Verified bytes can't be decompressed to the size that the manifest says.
    #[error("could not decompress {what} to {raw_size} bytes")]
    Decompress {
        /// What.
        what: String,
        /// Size according to the manifest.
        raw_size: u64,
        /// What the library says.
        #[source]
        source: io::Error,
    },
    /// The manifest breaks a rule of the format.
    #[error("the manifest breaks a rule of the format")]
    Manifest(#[source] ManifestError),
    /// The disk has not enough room.
    #[error("{path} is on a disk without room for {needed} bytes")]
    DiskFull {
        /// The directory.
        path: PathBuf,
        /// Bytes of the snapshot.
        needed: u64,
    },
    /// A file can't be written.
    #[error("could not write {path}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The cache can't be used.
    #[error("could not use the cache")]
    Cache(#[source] CacheError),
    /// The store gave no answer.
    #[error("could not read from the store")]
    Store(#[source] StoreError),
    /// Time is up.
    #[error("the snapshot was not here by its deadline")]
    Deadline,
    /// A thread that verifies died.
    #[error("a worker died while it verified {what}")]
    Worker {
        /// What it worked on.
        what: String,
    },
}

impl FetchError {
    /// A failed write, with a full disk told apart.
    pub(super) fn disk(path: &Path, needed: u64, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, needed },
            _ => Self::Disk { path, source },
        }
    }
}

impl Cache {
    /// Brings the snapshot of `manifest` here, unless it is here, and verifies every byte: compressed bytes against
    /// their digest before they are decompressed, and what comes out against its size and, for the archives, its
    /// digest. Of the memory blob each chunk is verified; its own digest then adds nothing and is not computed.
    ///
    /// When several processes fetch the same snapshot, one does and the others wait for it. On any failure, and
    /// soon after the future is dropped, nothing is left behind.
    ///
    /// # Errors
    /// See [`FetchError`]. [`FetchError::Deadline`] when `deadline` passes; cleaning up may take up to a second more.
    pub async fn fetch(
        &self,
        store: &dyn Store,
        manifest: &Manifest,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        let mut removed = None;
        let work = self.fetch_unbounded(store, manifest, &mut removed);
        let result = tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or(Err(FetchError::Deadline));
        if let Some(removed) = removed {
            // A process that ended first would leave the directory.
            let _gone_or_late = tokio::time::timeout(REMOVAL, removed).await;
        }
        result
    }

    /// Sets `removed` to what tells that nothing temporary is left, once there is something.
    async fn fetch_unbounded(
        &self,
        store: &dyn Store,
        manifest: &Manifest,
        removed: &mut Option<oneshot::Receiver<()>>,
    ) -> Result<Fetched, FetchError> {
        // Sizes are bounded and file names are plain from here on.
        manifest.validate().map_err(FetchError::Manifest)?;
        let id = manifest.id();
        let _lock = self.lock(&id).await?;
        if let Some(entry) = self.get_blocking(manifest).await? {
            return Ok(Fetched { entry, bytes: 0 });
        }
        self.sweep();
        let (workspace, receiver) = self.room_for(&manifest.blobs)?;
        *removed = Some(receiver);
        let (archives, chunks) = futures::future::try_join(
            file::fetch_all(store, &manifest.blobs, &workspace),
            pages::fetch(store, &manifest.blobs.pages, &workspace),
        )
        .await?;
        let cache = self.clone();
        let wanted = manifest.clone();
        let entry = blocking("the seal", move |_waiting| {
            cache.install(&wanted, &workspace, chunks)
        })
        .await?;
        Ok(Fetched {
            entry,
            bytes: archives + manifest.blobs.pages.size,
        })
    }

    async fn get_blocking(&self, manifest: &Manifest) -> Result<Option<Entry>, FetchError> {
        let cache = self.clone();
        let manifest = manifest.clone();
        blocking("the cache", move |_waiting| {
            cache.get(&manifest).map_err(FetchError::Cache)
        })
        .await
    }

    /// Waits until nobody else fetches the same snapshot. The lock spares work only: it may be deleted at any
    /// time, and the rename at the end decides who wins. The kernel drops it with the process.
    async fn lock(&self, id: &Digest) -> Result<File, FetchError> {
        let path = self.temporary().join(format!("{}.lock", id.hex()));
        let fail = |source| FetchError::Disk {
            path: path.clone(),
            source,
        };
        let file = File::create(&path).map_err(fail)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(fs::TryLockError::Error(error)) => return Err(fail(error)),
            }
        }
    }

    /// A temporary directory, on a disk that has room for everything, and what tells when it is removed.
    fn room_for(&self, blobs: &Blobs) -> Result<(Arc<Workspace>, oneshot::Receiver<()>), FetchError> {
        let path = self.temporary();
        let raw: u64 = archives(blobs)
            .map(|(_, blob)| blob.raw_size.saturating_add(blob.size))
            .sum();
        let needed = raw.saturating_add(blobs.pages.files.iter().map(|file| file.size).sum());
        let room = nix::sys::statvfs::statvfs(&path).map_err(|errno| FetchError::Disk {
            path: path.clone(),
            source: errno.into(),
        })?;
        if room.blocks_available().saturating_mul(room.fragment_size()) < needed {
            return Err(FetchError::DiskFull { path, needed });
        }
        let directory = tempfile::Builder::new()
            .prefix("fetch-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&path)
            .map_err(|source| FetchError::disk(&path, needed, source))?;
        Ok(Workspace::new(directory))
    }

    /// Seals what was fetched and gives it its name.
    fn install(
        &self,
        manifest: &Manifest,
        workspace: &Workspace,
        chunks: Vec<String>,
    ) -> Result<Entry, FetchError> {
        let id = manifest.id();
        seal::write(workspace.path(), &manifest.blobs, chunks).map_err(FetchError::Cache)?;
        let target = self.directory(&id);
        // Twice: if a damaged entry stands in the way, looking at it removes it.
        for _attempt in 0..2 {
            match fs::rename(workspace.path(), &target) {
                // The directory is the entry now; there is nothing to remove under its old name.
                Ok(()) => return Ok(Entry::new(id, target, &manifest.blobs)),
                Err(error) if is_taken(&error) => {
                    if let Some(entry) = self.get(manifest).map_err(FetchError::Cache)? {
                        return Ok(entry);
                    }
                }
                Err(source) => return Err(FetchError::Disk { path: target, source }),
            }
        }
        Err(FetchError::Disk {
            path: target,
            source: io::ErrorKind::DirectoryNotEmpty.into(),
        })
    }
}

/// rename(2): "newpath is a nonempty directory" is one of two errors.
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}

/// The directory that a fetch fills. Each worker holds it, so that it is removed when the last of them has ended:
/// removed under a worker's hands, it would stay with the file that the worker makes meanwhile.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    /// The directory, and what tells that it is gone. Taken only by the drop.
    held: Option<(TempDir, oneshot::Sender<()>)>,
}

impl Workspace {
    fn new(directory: TempDir) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let workspace = Self {
            path: directory.path().to_owned(),
            held: Some((directory, sender)),
        };
        (Arc::new(workspace), receiver)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    /// The kernel frees gigabytes slowly: not on a thread that serves others.
    fn drop(&mut self) {
        let held = self.held.take();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(held))),
            Err(_outside) => drop(held),
        }
    }
}

/// Tells work on a thread that nobody waits for it any more. A thread can't be ended from outside, and what it unpacks
/// may be a thousand times what came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// Fails when nobody waits. To be asked before every step of some megabytes.
    pub(super) fn check(&self) -> Result<(), FetchError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(FetchError::Deadline);
        }
        Ok(())
    }
}

/// Sets the mark when the future that holds it is dropped.
struct Gone(Waiting);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce(&Waiting) -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let gone = Gone(Waiting::default());
    let waiting = gone.0.clone();
    match tokio::task::spawn_blocking(move || work(&waiting)).await {
        Ok(result) => result,
        Err(_died) => Err(FetchError::Worker {
            what: what.to_owned(),
        }),
    }
}

/// Reads exactly `range` of a blob that has `size` bytes.
pub(super) async fn read_range(
    store: &dyn Store,
    digest: &Digest,
    size: u64,
    range: Range<u64>,
) -> Result<Bytes, FetchError> {
    match store
        .read_blob(digest, size, range)
        .await
        .map_err(FetchError::Store)?
    {
        BlobRead::Bytes(bytes) => Ok(bytes),
        BlobRead::Missing => Err(FetchError::Missing { digest: *digest }),
        BlobRead::WrongSize(found) if found < size => Err(FetchError::Truncated {
            digest: *digest,
            expected: size,
            found,
        }),
        BlobRead::WrongSize(found) => Err(FetchError::TooLarge {
            what: format!("blob {digest}"),
            size: found,
            limit: size,
        }),
    }
}
