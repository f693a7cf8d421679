//! What takes bytes of a store apart, without the store: for the fuzz targets, and for nobody else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use thaw_snapshot::{Blob, Pages};

use crate::cache::fetch::Waiting;
use crate::cache::{entry, file, pages};
use crate::{EntryError, FetchError, KeyPath};

/// The images in an archive whose digest was right.
///
/// # Errors
/// As [`crate::Entry::images`].
pub fn images(archive: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, EntryError> {
    entry::parse(archive, Path::new("meta.tar"))
}

/// Decompresses an archive whose digest was right to the new file `target`.
///
/// # Errors
/// As [`crate::Cache::fetch`].
pub fn archive(blob: &Blob, packed: &[u8], target: &Path) -> Result<(), FetchError> {
    file::decompress("archive", blob, packed, target, &Waiting::default())
}

/// Verifies and unpacks a blob of the length that `pages` says into page files in `directory`.
///
/// # Errors
/// As [`crate::Cache::fetch`].
pub fn pages(pages: &Pages, blob: Vec<u8>, directory: &Path) -> Result<(), FetchError> {
    pages::unpack_all(pages, &Bytes::from(blob), directory)
}

/// The file of a key document in a directory store whose root is `/`; `None` when no file can have such a name.
pub fn file_of(key: &KeyPath) -> Option<PathBuf> {
    LocalFileSystem::new().path_to_filesystem(key.as_object()).ok()
}
