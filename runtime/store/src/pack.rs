//! From a CRIU image directory to blobs.
//!
//! Page files become one blob of chunks that stand for themselves, so that a reader can fetch, verify and
//! decompress any of them alone. Everything else is small and becomes one archive.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use thaw_snapshot::{Blobs, Digest};
use thiserror::Error;

mod archive;
mod pages;

use pages::page_number;

/// Zstandard level of all blobs: level 3 compresses a heap to about a quarter at hundreds of MB/s per core, and
/// higher levels gain a few percent for a multiple of the time that the capture takes.
const LEVEL: i32 = 3;

/// Logs and counters of CRIU: they differ from dump to dump and no restore reads them.
const LEFT_OUT: [&str; 4] = ["dump.log", "stats-dump", "restore.log", "stats-restore"];

/// Told how far packing is.
pub trait Progress: Sync {
    /// `done` of `total` bytes (before compression) are packed.
    fn advance(&self, done: u64, total: u64);
}

/// Says nothing.
impl Progress for () {
    fn advance(&self, _done: u64, _total: u64) {}
}

/// The blobs of a snapshot, on this machine's disk.
#[derive(Debug, Clone)]
pub struct Packed {
    /// What the manifest says about them.
    pub blobs: Blobs,
    /// Each blob's file.
    pub files: Vec<(Digest, PathBuf)>,
}

/// Why a directory could not be packed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackError {
    /// A file or directory can't be read.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A blob can't be written.
    #[error("could not write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A chunk of memory can't be compressed.
    #[error("could not compress {bytes} bytes of memory pages")]
    Compress {
        /// Size before compression.
        bytes: usize,
        /// What the library says.
        #[source]
        source: io::Error,
    },
    /// Something in the directory that CRIU does not write there: a link, a directory, a device, a strange name.
    #[error("{path} is not a plain image file")]
    Strange {
        /// The file.
        path: PathBuf,
    },
}

/// Packs the image directory `images`, and the archive of root filesystem changes if there is one, into blob files
/// in the directory `out`, which must exist. Blocks for as long as compression takes.
///
/// # Errors
/// When something can't be read, written, or is not what CRIU writes. What was written so far stays in `out`.
pub fn pack(
    images: &Path,
    rootfs_tar: Option<&Path>,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Packed, PackError> {
    let found = scan(images)?;
    let rootfs_size = match rootfs_tar {
        Some(path) => path.metadata().map_err(|e| read_error(path, e))?.len(),
        None => 0,
    };
    let small: u64 = found.small.iter().map(|file| file.size).sum();
    let pages: u64 = found.pages.iter().map(|file| file.size).sum();
    let total = small + pages + rootfs_size;

    let (meta, meta_file) = archive::pack_images(&found.small, out)?;
    progress.advance(small, total);
    let mut files = vec![(meta.digest, meta_file)];
    let rootfs = match rootfs_tar {
        None => None,
        Some(tar) => {
            let (blob, file) = archive::compress(tar, &out.join("rootfs.tar.zst"))?;
            files.push((blob.digest, file));
            Some(blob)
        }
    };
    progress.advance(small + rootfs_size, total);
    let (pages, pages_file) = pages::pack(&found.pages, out, &|done| {
        progress.advance(small + rootfs_size + done, total);
    })?;
    files.push((pages.digest, pages_file));
    Ok(Packed {
        blobs: Blobs { meta, rootfs, pages },
        files,
    })
}

/// A file of the image directory, held open so that what was listed is what is read.
#[derive(Debug)]
struct ImageFile {
    name: String,
    path: PathBuf,
    file: File,
    size: u64,
}

#[derive(Debug, Default)]
struct Found {
    /// Page files by number.
    pages: Vec<ImageFile>,
    /// All other images by name.
    small: Vec<ImageFile>,
}

fn scan(images: &Path) -> Result<Found, PackError> {
    let mut found = Found::default();
    for entry in images.read_dir().map_err(|e| read_error(images, e))? {
        let entry = entry.map_err(|e| read_error(images, e))?;
        let path = entry.path();
        let strange = || PackError::Strange { path: path.clone() };
        let name = entry.file_name().into_string().map_err(|_name| strange())?;
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        let kind = entry.file_type().map_err(|e| read_error(&path, e))?;
        if !kind.is_file() || !crate::cache::plain_name(&name) {
            return Err(strange());
        }
        let file = File::open(&path).map_err(|e| read_error(&path, e))?;
        let size = file.metadata().map_err(|e| read_error(&path, e))?.len();
        let list = if page_number(&name).is_some() {
            &mut found.pages
        } else {
            &mut found.small
        };
        list.push(ImageFile {
            name,
            path,
            file,
            size,
        });
    }
    found.pages.sort_by_key(|file| page_number(&file.name));
    found.small.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read_error(path: &Path, source: io::Error) -> PackError {
    PackError::Read {
        path: path.to_owned(),
        source,
    }
}

fn write_error(path: &Path, source: io::Error) -> PackError {
    PackError::Write {
        path: path.to_owned(),
        source,
    }
}
