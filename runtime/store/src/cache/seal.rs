//! The seal: how a later look knows, without hashing, that files are still the bytes that were verified.
//!
//! A write to a file moves its change time, and no call sets that back. So a file whose inode, size and times are
//! those of the seal has the bytes of the seal. Two things break the argument and are handled: a power cut can lose
//! data that was never flushed while the times survive (so a seal is good for one boot), and the clock behind the
//! change time moves in steps of some milliseconds (so the seal is made after the last write, and the files are
//! read-only to all but root).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thaw_snapshot::{Blobs, Digest, Pages};

use super::{CacheError, SEAL, archives};

const FORMAT: u32 = 1;

/// Largest seal that is read, in bytes: some 80 per chunk of 4 MiB, so this is a terabyte of memory.
const MAX_SEAL: u64 = 32 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    format: u32,
    /// The kernel's id of the boot in which the bytes were verified.
    boot: String,
    files: BTreeMap<String, Stamp>,
    /// BLAKE3 of each chunk of memory, before compression. The manifest has digests of the compressed bytes only;
    /// BLAKE3 because SHA-256 of a whole memory costs seconds where the processor has no instructions for it.
    chunks: Vec<String>,
}

/// A file as the kernel shows it. Times in nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: i64,
    ctime: i64,
    /// SHA-256 of the bytes, for the archives; the memory files have `chunks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No such entry.
    Absent,
    /// All bytes are as verified.
    Intact,
    /// Something is missing or differs.
    Damaged,
}

/// The hash of a chunk of memory as the seal has it.
pub(super) fn chunk_hash(raw: &[u8]) -> String {
    blake3::hash(raw).to_hex().to_string()
}

/// Seals the files in `directory`, which were verified as they were written. `chunks` are the hashes of all chunks
/// in order.
pub(super) fn write(directory: &Path, blobs: &Blobs, chunks: Vec<String>) -> Result<(), CacheError> {
    let mut files = BTreeMap::new();
    for (name, size, digest) in expected(blobs) {
        let path = directory.join(name);
        let metadata = fs::symlink_metadata(&path).map_err(CacheError::disk("look at", &path))?;
        let found = stamp(&metadata, digest);
        if found.size != size {
            let error = io::Error::new(
                io::ErrorKind::InvalidData,
                "the size changed after it was written",
            );
            return Err(CacheError::disk("seal", &path)(error));
        }
        files.insert(name.to_owned(), found);
    }
    store(
        directory,
        &Seal {
            format: FORMAT,
            boot: boot_id()?,
            files,
            chunks,
        },
    )
}

/// Looks whether the entry in `directory` still is what was verified, hashing only what the seal can't vouch for.
pub(super) fn check(directory: &Path, blobs: &Blobs) -> Result<Verdict, CacheError> {
    let seal = match load(directory) {
        Ok(Some(seal)) => seal,
        Ok(None) if directory.exists() => return Ok(Verdict::Damaged),
        Ok(None) => return Ok(Verdict::Absent),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Verdict::Damaged),
        Err(error) => return Err(CacheError::disk("read the seal of", directory)(error)),
    };
    if seal.format != FORMAT || seal.files.len() != expected(blobs).count() {
        return Ok(Verdict::Damaged);
    }
    let mut unchanged = seal.boot == boot_id()?;
    for (name, size, digest) in expected(blobs) {
        let path = directory.join(name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verdict::Damaged),
            Err(error) => return Err(CacheError::disk("look at", &path)(error)),
        };
        if !metadata.is_file() || metadata.len() != size {
            return Ok(Verdict::Damaged);
        }
        unchanged &= seal.files.get(name) == Some(&stamp(&metadata, digest));
    }
    if unchanged {
        return Ok(Verdict::Intact);
    }
    if !same_bytes(directory, blobs, &seal.chunks)? {
        return Ok(Verdict::Damaged);
    }
    write(directory, blobs, seal.chunks)?;
    Ok(Verdict::Intact)
}

/// Name, size and, where the manifest has it, digest of every file of an entry.
fn expected(blobs: &Blobs) -> impl Iterator<Item = (&str, u64, Option<Digest>)> {
    archives(blobs)
        .map(|(name, blob)| (name, blob.raw_size, Some(blob.raw_digest)))
        .chain(
            blobs
                .pages
                .files
                .iter()
                .map(|file| (file.name.as_str(), file.size, None)),
        )
}

fn stamp(metadata: &fs::Metadata, digest: Option<Digest>) -> Stamp {
    let nanoseconds = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
    Stamp {
        dev: metadata.dev(),
        ino: metadata.ino(),
        size: metadata.len(),
        mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        digest,
    }
}

fn same_bytes(directory: &Path, blobs: &Blobs, chunks: &[String]) -> Result<bool, CacheError> {
    for (name, blob) in archives(blobs) {
        let path = directory.join(name);
        let digest = hash_file(&path).map_err(CacheError::disk("hash", &path))?;
        if digest != blob.raw_digest {
            return Ok(false);
        }
    }
    same_pages(directory, &blobs.pages, chunks)
}

fn hash_file(path: &Path) -> io::Result<Digest> {
    let mut file = open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_hasher(hasher)),
            length => hasher.update(&buffer[..length]),
        }
    }
}

fn same_pages(directory: &Path, pages: &Pages, chunks: &[String]) -> Result<bool, CacheError> {
    if chunks.len() != pages.chunks.len() {
        return Ok(false);
    }
    let mut files = Vec::with_capacity(pages.files.len());
    for file in &pages.files {
        let path = directory.join(&file.name);
        files.push((open(&path).map_err(CacheError::disk("open", &path))?, file.size));
    }
    let mut buffer = Vec::new();
    let mut start = 0;
    for (chunk, hash) in pages.chunks.iter().zip(chunks) {
        buffer.resize(chunk.raw_size as usize, 0);
        match read_span(&files, start, &mut buffer) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(CacheError::disk("read pages in", directory)(error)),
        }
        if chunk_hash(&buffer) != *hash {
            return Ok(false);
        }
        start += u64::from(chunk.raw_size);
    }
    Ok(true)
}

/// Fills `buffer` from `start` of the concatenation of `files`.
fn read_span(files: &[(File, u64)], start: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    let mut file_start = 0;
    for (file, size) in files {
        let at = start + filled as u64;
        let end = file_start + size;
        if at >= file_start && at < end && filled < buffer.len() {
            let take = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len() - filled);
            file.read_exact_at(&mut buffer[filled..filled + take], at - file_start)?;
            filled += take;
        }
        file_start = end;
    }
    if filled == buffer.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
}

fn load(directory: &Path) -> io::Result<Option<Seal>> {
    let file = match open(&directory.join(SEAL)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_SEAL).read_to_end(&mut text)?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn store(directory: &Path, seal: &Seal) -> Result<(), CacheError> {
    let fail = |error| CacheError::disk("seal", directory)(error);
    let text = serde_json::to_vec(seal).map_err(|error| fail(error.into()))?;
    let mut file = tempfile::NamedTempFile::with_prefix_in("seal-", directory).map_err(fail)?;
    file.write_all(&text).map_err(fail)?;
    file.persist(directory.join(SEAL))
        .map(|_file| ())
        .map_err(|error| fail(error.error))
}

fn boot_id() -> Result<String, CacheError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .map_err(CacheError::disk("read", path))
}
