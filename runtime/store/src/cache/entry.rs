//! A snapshot in the cache.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use thaw_snapshot::{Blobs, Digest};
use thiserror::Error;

use super::{META, ROOTFS, plain_name, seal};

/// Most images in one archive. CRIU writes some ten per process.
const MAX_IMAGES: usize = 100_000;

/// A snapshot whose bytes were verified. Its files may be deleted by others at any time: open what must stay, and
/// take a failure to open as "not cached".
#[derive(Debug, Clone)]
pub struct Entry {
    id: Digest,
    directory: PathBuf,
    meta_digest: Digest,
    meta_size: u64,
    rootfs: bool,
    pages: Vec<String>,
}

/// Why the images of an entry can't be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The archive can't be read; it may have been deleted.
    #[error("could not read {path}")]
    Read {
        /// The archive.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The archive is not the one that was verified.
    #[error("{path} changed after it was verified")]
    Changed {
        /// The archive.
        path: PathBuf,
    },
    /// The archive is not well formed.
    #[error("could not parse {path} as an archive")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What the library says.
        #[source]
        source: io::Error,
    },
    /// An entry is not a plain file: a directory, a link, a device, an extension.
    #[error("image archive entry {name:?} is not a plain file")]
    Kind {
        /// The entry.
        name: String,
    },
    /// An entry's name is not that of an image.
    #[error("image archive entry {name:?} has a name that no image has")]
    Name {
        /// The entry.
        name: String,
    },
    /// Two entries have one name.
    #[error("image archive entry {name:?} comes twice")]
    Duplicate {
        /// The entry.
        name: String,
    },
    /// An entry says it is longer than the archive.
    #[error("image archive entry {name:?} is cut off")]
    Short {
        /// The entry.
        name: String,
    },
    /// More entries than any dump has.
    #[error("the image archive has more than {limit} entries")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

impl Entry {
    pub(super) fn new(id: Digest, directory: PathBuf, blobs: &Blobs) -> Self {
        Self {
            id,
            directory,
            meta_digest: blobs.meta.raw_digest,
            meta_size: blobs.meta.raw_size,
            rootfs: blobs.rootfs.is_some(),
            pages: blobs.pages.files.iter().map(|file| file.name.clone()).collect(),
        }
    }

    /// The manifest's id.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The directory that holds the files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The CRIU images without the page files, by name. The archive is hashed again as it is read.
    ///
    /// # Errors
    /// When it can't be read, changed since it was verified, or holds anything but plain images.
    pub fn images(&self) -> Result<BTreeMap<String, Vec<u8>>, EntryError> {
        let path = self.directory.join(META);
        let read = |source| EntryError::Read {
            path: path.clone(),
            source,
        };
        let file = seal::open(&path).map_err(read)?;
        let mut bytes = Vec::with_capacity(usize::try_from(self.meta_size).unwrap_or(0) + 1);
        file.take(self.meta_size + 1)
            .read_to_end(&mut bytes)
            .map_err(read)?;
        if Digest::of(&bytes) != self.meta_digest {
            return Err(EntryError::Changed { path });
        }
        parse(&bytes, &path)
    }

    /// The archive of root filesystem changes, if the snapshot has one.
    pub fn rootfs(&self) -> Option<PathBuf> {
        self.rootfs.then(|| self.directory.join(ROOTFS))
    }

    /// Name and place of each page file.
    pub fn pages(&self) -> Vec<(String, PathBuf)> {
        self.pages
            .iter()
            .map(|name| (name.clone(), self.directory.join(name)))
            .collect()
    }
}

/// Reads an image archive. The author of a snapshot may be hostile: entries stay in memory, so nothing can reach
/// the file system, and the sum of their sizes is bounded by the archive's.
pub(crate) fn parse(archive: &[u8], path: &Path) -> Result<BTreeMap<String, Vec<u8>>, EntryError> {
    let broken = |source| EntryError::Archive {
        path: path.to_owned(),
        source,
    };
    let mut images = BTreeMap::new();
    let mut reader = tar::Archive::new(archive);
    // Raw: long names, sparse maps and other extensions come as entries of their own kind, and are refused.
    for entry in reader.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(EntryError::Kind { name });
        }
        if !plain_name(&name) {
            return Err(EntryError::Name { name });
        }
        if images.len() == MAX_IMAGES {
            return Err(EntryError::TooMany { limit: MAX_IMAGES });
        }
        let size = entry.header().entry_size().map_err(broken)?;
        let mut image = Vec::new();
        entry.read_to_end(&mut image).map_err(broken)?;
        if image.len() as u64 != size {
            return Err(EntryError::Short { name });
        }
        if images.insert(name.clone(), image).is_some() {
            return Err(EntryError::Duplicate { name });
        }
    }
    Ok(images)
}
