//! The rules of the format that types can't say.

use std::collections::BTreeSet;

use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::manifest::{Blob, Pages};
use crate::{FORMAT_VERSION, Manifest, canonical};

/// Most bytes of page data in a chunk.
pub const MAX_CHUNK: u32 = 16 << 20;
/// Most bytes by which compression may make a chunk larger.
pub const MAX_CHUNK_GROWTH: u32 = 64 << 10;
/// Most chunks of a snapshot.
pub const MAX_CHUNKS: usize = 1_000_000;
/// Most bytes of page data.
pub const MAX_PAGES: u64 = 1 << 40;
/// Most bytes of the tar of CRIU images.
pub const MAX_META: u64 = 256 << 20;
/// Most bytes of the tar of the root filesystem's changes.
pub const MAX_ROOTFS: u64 = 64 << 30;

/// Most bytes of a name or a version in the facts.
pub const MAX_NAME: usize = 1024;
/// Most items of a list in the facts, such as CPU features or addresses.
pub const MAX_LIST: usize = 4096;
/// Most masked paths: a reader looks for each of them on its machine. Container managers name about a dozen.
pub const MAX_MASKED_PATHS: usize = 128;

/// Which rule of the format a manifest breaks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// `format` is not the version of this build.
    #[error("format version {0} is not known")]
    Format(u32),
    /// `created` is not RFC 3339 in UTC with a `Z` at its end.
    #[error("the time of creation is not RFC 3339 in UTC")]
    Created,
    /// The fingerprint's document does not have the hash that the key says.
    #[error("the fingerprint's document does not have the hash in the key")]
    Fingerprint,
    /// The config of the image is not the one in the key.
    #[error("the image's config is not the one in the key")]
    Config,
    /// A name is empty where it may not be, or longer than 1024 bytes; or a list is longer than 4096.
    #[error("{0} is empty or too long")]
    Name(&'static str),
    /// There are more than [`MAX_MASKED_PATHS`].
    #[error("there are {0} masked paths")]
    MaskedPaths(usize),
    /// A masked path is not one that [`may_be_masked`] takes.
    #[error("the masked path {0:?} is not a plain path in /proc or /sys")]
    MaskedPath(String),
    /// The page size is not a power of two from 4 KiB to 64 KiB.
    #[error("page size {0} is not one that a processor has")]
    PageSize(u64),
    /// A blob is empty, or has more bytes than its kind may have.
    #[error("the {blob} blob has a size of {size} bytes, {raw_size} before compression")]
    BlobSize {
        /// `meta` or `rootfs`.
        blob: &'static str,
        /// Compressed.
        size: u64,
        /// Before compression.
        raw_size: u64,
    },
    /// A chunk is empty, or larger than a chunk may be.
    #[error("chunk {index} has a size of {size} bytes, {raw_size} before compression")]
    ChunkSize {
        /// Place in the list.
        index: usize,
        /// Compressed.
        size: u32,
        /// Before compression.
        raw_size: u32,
    },
    /// More than [`MAX_CHUNKS`].
    #[error("there are {0} chunks")]
    Chunks(usize),
    /// The chunks do not add up to the size of the pages blob.
    #[error("the chunks take {chunks} bytes and the pages blob {blob}")]
    PagesSize {
        /// Sum of the chunks.
        chunks: u64,
        /// Size of the blob.
        blob: u64,
    },
    /// The page files do not add up to the chunks' data, or that is more than [`MAX_PAGES`].
    #[error("the page files take {files} bytes and the chunks hold {chunks}")]
    PagesRawSize {
        /// Sum of the files.
        files: u64,
        /// Sum of the chunks before compression.
        chunks: u64,
    },
    /// A page file's name is not `pages-<number>.img`, or comes twice.
    #[error("{0:?} is not the name of a page file, or comes twice")]
    PageFileName(String),
    /// A page file's size is not a multiple of the page size.
    #[error("page file {0} does not hold whole pages")]
    PageFileSize(String),
}

impl Manifest {
    /// Checks every rule of the format that can be checked without the blobs.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.format != FORMAT_VERSION {
            return Err(ManifestError::Format(self.format));
        }
        let created =
            OffsetDateTime::parse(&self.created, &Rfc3339).map_err(|_not_a_time| ManifestError::Created)?;
        if !(self.created.ends_with('Z') && created.offset().is_utc()) {
            return Err(ManifestError::Created);
        }
        if canonical::digest(&self.fingerprint) != self.key.fingerprint {
            return Err(ManifestError::Fingerprint);
        }
        if self.image.config != self.key.config {
            return Err(ManifestError::Config);
        }
        self.validate_facts()?;
        check_blob("meta", &self.blobs.meta, MAX_META)?;
        if let Some(rootfs) = &self.blobs.rootfs {
            check_blob("rootfs", rootfs, MAX_ROOTFS)?;
        }
        check_files(&self.blobs.pages, self.host.page_size)?;
        check_chunks(&self.blobs.pages)
    }

    fn validate_facts(&self) -> Result<(), ManifestError> {
        let host = &self.host;
        if !host.page_size.is_power_of_two() || !(4096..=65536).contains(&host.page_size) {
            return Err(ManifestError::PageSize(host.page_size));
        }
        let names = [
            ("scope", &self.key.scope),
            ("platform", &self.key.platform),
            ("kernel version", &host.kernel),
            ("CRIU version", &host.criu),
            ("runc version", &host.runc),
            ("cgroup version", &host.cgroup),
            ("LSM kind", &host.lsm),
            ("donor id", &self.donor.id),
        ];
        for (what, name) in names {
            if name.is_empty() || name.len() > MAX_NAME {
                return Err(ManifestError::Name(what));
            }
        }
        let maybe_empty = [
            ("image name", &self.image.name),
            ("hostname", &self.donor.hostname),
            ("CPU vendor", &host.cpu.vendor),
        ];
        for (what, name) in maybe_empty {
            if name.len() > MAX_NAME {
                return Err(ManifestError::Name(what));
            }
        }
        let features = &host.cpu.features;
        if features.len() > MAX_LIST
            || features
                .iter()
                .any(|name| name.is_empty() || name.len() > MAX_NAME)
        {
            return Err(ManifestError::Name("CPU feature"));
        }
        if self.donor.addresses.len() > MAX_LIST {
            return Err(ManifestError::Name("list of addresses"));
        }
        let stale = &self.donor.stale_env;
        if stale.len() > MAX_LIST || stale.iter().any(|name| name.len() > MAX_NAME) {
            return Err(ManifestError::Name("variable"));
        }
        check_masked(&self.donor.masked_paths)
    }
}

fn check_masked(paths: &[String]) -> Result<(), ManifestError> {
    if paths.len() > MAX_MASKED_PATHS {
        return Err(ManifestError::MaskedPaths(paths.len()));
    }
    for path in paths {
        if path.len() > MAX_NAME {
            return Err(ManifestError::Name("masked path"));
        }
        if !may_be_masked(path) {
            return Err(ManifestError::MaskedPath(path.clone()));
        }
    }
    Ok(())
}

/// Whether `path` may stand among the masked paths of a manifest. A reader looks for them on its own machine, so they
/// are of the kernel: in `/proc` or `/sys`, of plain parts, and not of a process, whose links (`/proc/PID/root`, `cwd`,
/// `fd`; `man 5 proc`) lead anywhere, also to a network file system that hangs.
pub fn may_be_masked(path: &str) -> bool {
    let of_processes =
        |part: &str| matches!(part, "self" | "thread-self") || part.bytes().all(|byte| byte.is_ascii_digit());
    let rest = match (path.strip_prefix("/proc/"), path.strip_prefix("/sys/")) {
        (Some(rest), _) if !rest.split('/').next().is_some_and(of_processes) => rest,
        (_, Some(rest)) => rest,
        _ => return false,
    };
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
    path.len() <= MAX_NAME && rest.split('/').all(plain)
}

fn check_blob(name: &'static str, blob: &Blob, most: u64) -> Result<(), ManifestError> {
    // Data that does not compress grows by less than one part in 256 (zstd's ZSTD_compressBound).
    let bound = blob
        .raw_size
        .saturating_add(blob.raw_size / 256 + u64::from(MAX_CHUNK_GROWTH));
    if blob.size == 0 || blob.raw_size == 0 || blob.raw_size > most || blob.size > bound {
        return Err(ManifestError::BlobSize {
            blob: name,
            size: blob.size,
            raw_size: blob.raw_size,
        });
    }
    Ok(())
}

fn check_files(pages: &Pages, page_size: u64) -> Result<(), ManifestError> {
    let mut seen = BTreeSet::new();
    for file in &pages.files {
        if !is_page_file(&file.name) || !seen.insert(file.name.as_str()) {
            return Err(ManifestError::PageFileName(file.name.clone()));
        }
        if file.size % page_size != 0 {
            return Err(ManifestError::PageFileSize(file.name.clone()));
        }
    }
    Ok(())
}

fn check_chunks(pages: &Pages) -> Result<(), ManifestError> {
    if pages.chunks.len() > MAX_CHUNKS {
        return Err(ManifestError::Chunks(pages.chunks.len()));
    }
    for (index, chunk) in pages.chunks.iter().enumerate() {
        let fits = (1..=MAX_CHUNK).contains(&chunk.raw_size)
            && (1..=chunk.raw_size + MAX_CHUNK_GROWTH).contains(&chunk.size);
        if !fits {
            return Err(ManifestError::ChunkSize {
                index,
                size: chunk.size,
                raw_size: chunk.raw_size,
            });
        }
    }
    // At most a million chunks of at most 16 MiB: no overflow.
    let size: u64 = pages.chunks.iter().map(|chunk| u64::from(chunk.size)).sum();
    let raw_size: u64 = pages.chunks.iter().map(|chunk| u64::from(chunk.raw_size)).sum();
    if size != pages.size {
        return Err(ManifestError::PagesSize {
            chunks: size,
            blob: pages.size,
        });
    }
    let files = pages
        .files
        .iter()
        .fold(0u64, |sum, file| sum.saturating_add(file.size));
    if files != raw_size || raw_size > MAX_PAGES {
        return Err(ManifestError::PagesRawSize {
            files,
            chunks: raw_size,
        });
    }
    Ok(())
}

/// `pages-<number>.img`, the number as CRIU prints it (`criu/image-desc.c`).
fn is_page_file(name: &str) -> bool {
    let digits = name
        .strip_prefix("pages-")
        .and_then(|rest| rest.strip_suffix(".img"))
        .unwrap_or_default();
    (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
}
