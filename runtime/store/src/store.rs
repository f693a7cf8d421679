//! What thaw asks of an object store.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use thaw_snapshot::{Digest, Key};

mod error;
mod open;
mod local;
mod update;
mod object;

pub use error::StoreError;
pub use open::{OpenError, StoreOptions, open};
pub use update::KeyVersion;

#[cfg(test)]
pub(crate) use object::ObjectBackend;
#[cfg(test)]
pub(crate) use open::s3;

/// Where all key documents live.
const KEY_PREFIX: &str = "v1/keys";

/// Where the leases on keys live.
const LEASE_PREFIX: &str = "v1/leases";

/// The place of a key document in the store, or of a lease on a key. Holds: below `v1/keys/` or `v1/leases/`, ends in
/// `.json`, four plain segments, none of them empty or a relative step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPath(object_store::path::Path);

/// Why a string is not the place of a key document.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{path:?} is not the path of a key document")]
pub struct KeyPathError {
    /// The offending path.
    pub path: String,
}

impl KeyPath {
    /// The place of `key`.
    pub fn of(key: &Key) -> Self {
        // The key's own encoding leaves nothing that the client library would encode again.
        Self(object_store::path::Path::from(key.path()))
    }

    /// The place of the lease on `key`.
    pub fn of_lease(key: &Key) -> Self {
        let path = key.path();
        let name = path.strip_prefix(KEY_PREFIX).unwrap_or(&path);
        Self(object_store::path::Path::from(format!("{LEASE_PREFIX}{name}")))
    }

    /// Takes a path as a listing shows it; leases are not listed.
    ///
    /// # Errors
    /// When it is not one that [`KeyPath::of`] makes.
    pub fn parse(path: &str) -> Result<Self, KeyPathError> {
        let refuse = || KeyPathError {
            path: path.chars().take(512).collect(),
        };
        let rest = path
            .strip_prefix(KEY_PREFIX)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(refuse)?;
        let segments: Vec<&str> = rest.split('/').collect();
        let plain = |s: &&str| !s.is_empty() && *s != "." && *s != ".." && !s.chars().any(char::is_control);
        if segments.len() != 4 || !segments.iter().all(plain) || !rest.ends_with(".json") {
            return Err(refuse());
        }
        object_store::path::Path::parse(path)
            .map(Self)
            .map_err(|_error| refuse())
    }

    /// The path, relative to the root of the store.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }

    pub(crate) fn as_object(&self) -> &object_store::path::Path {
        &self.0
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to do when a key document is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// Leave the one that is there. This is how one capture per key wins in a cluster.
    IfAbsent,
    /// Take its place.
    Replace,
    /// Take its place if it is still the one that was read, otherwise leave it: it was written again, or removed. A
    /// server that knows no conditions replaces it.
    IfStill(KeyVersion),
}

/// What became of a key document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It stands in the store.
    Published,
    /// Another one was there first and still stands.
    AlreadyThere,
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was sent.
    Sent,
    /// The store had it, in the right size.
    AlreadyThere,
}

/// The answer to a ranged read of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobRead {
    /// Exactly the bytes of the range.
    Bytes(Bytes),
    /// The store has no such blob.
    Missing,
    /// The store's blob has another size than the caller knows it to have: this one, in bytes.
    WrongSize(u64),
}

/// An object store. Absence is a value in every answer, never an error. No method verifies content: that is the
/// business of who reads.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// The URL of the store, for messages; holds no credentials.
    fn url(&self) -> &str;

    /// The bytes of a key document, or `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] when it has more than `limit` bytes, otherwise when the store gave no answer.
    async fn get_key(&self, key: &KeyPath, limit: u64) -> Result<Option<Bytes>, StoreError>;

    /// As [`Store::get_key`], with the version for [`PutMode::IfStill`].
    ///
    /// # Errors
    /// As [`Store::get_key`].
    async fn get_key_version(
        &self,
        key: &KeyPath,
        limit: u64,
    ) -> Result<Option<(Bytes, KeyVersion)>, StoreError>;

    /// Writes a key document in one piece: readers see the old one or the new one.
    ///
    /// # Errors
    /// When the store did not take it.
    async fn put_key(&self, key: &KeyPath, document: Bytes, mode: PutMode) -> Result<Published, StoreError>;

    /// Paths of all key documents. Objects with other names are left out.
    ///
    /// # Errors
    /// When the store gave no full answer.
    async fn list_keys(&self) -> Result<Vec<KeyPath>, StoreError>;

    /// Removes a key document; one that is not there is fine.
    ///
    /// # Errors
    /// When the store did not remove it.
    async fn delete_key(&self, key: &KeyPath) -> Result<(), StoreError>;

    /// Size of a blob in bytes, or `None` when there is none.
    ///
    /// # Errors
    /// When the store gave no answer.
    async fn head_blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError>;

    /// Reads `range` of a blob that should have `size` bytes in all. The caller bounds the range: it is held in
    /// memory.
    ///
    /// # Errors
    /// When the store gave no full answer.
    async fn read_blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobRead, StoreError>;

    /// Sends `file` as the blob `digest`, unless the store has one of that name and size.
    ///
    /// # Errors
    /// [`StoreError::Source`] when the file can't be read, otherwise when the store did not take it.
    async fn put_blob(&self, digest: &Digest, file: &Path) -> Result<Uploaded, StoreError>;

    /// Removes a blob; one that is not there is fine.
    ///
    /// # Errors
    /// When the store did not remove it.
    async fn delete_blob(&self, digest: &Digest) -> Result<(), StoreError>;
}
