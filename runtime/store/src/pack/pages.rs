//! The pages blob.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use sha2::{Digest as _, Sha256};
use thaw_snapshot::{Chunk, Digest, PageFile, Pages};

use super::{ImageFile, LEVEL, PackError, read_error, write_error};

/// Bytes of memory in one chunk. Large enough that compression and requests are efficient, small enough that a
/// fault can wait for one.
const CHUNK: u64 = 4 << 20;

/// Chunks that are compressed at the same time. Captures run beside the application; two threads finish soon
/// enough without taking the machine from it.
const WORKERS: usize = 2;

/// The number in `pages-N.img`, or `None` for any other name.
pub(super) fn page_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("pages-")?.strip_suffix(".img")?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || digits.len() > 10 {
        return None;
    }
    digits.parse().ok()
}

/// Cuts the page files into chunks and writes them one after the other. `advance` hears of bytes done.
pub(super) fn pack(
    files: &[ImageFile],
    out: &Path,
    advance: &dyn Fn(u64),
) -> Result<(Pages, PathBuf), PackError> {
    let path = out.join("pages.zst");
    let mut blob = File::create(&path).map_err(|e| write_error(&path, e))?;
    let mut hasher = Sha256::new();
    let total: u64 = files.iter().map(|file| file.size).sum();
    let starts: Vec<u64> = (0..total)
        .step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX))
        .collect();
    let mut chunks = Vec::with_capacity(starts.len());
    for batch in starts.chunks(WORKERS) {
        for frame in compress_batch(files, batch, total) {
            let frame = frame?;
            hasher.update(&frame.bytes);
            blob.write_all(&frame.bytes).map_err(|e| write_error(&path, e))?;
            chunks.push(frame.chunk);
        }
        advance(batch.last().map_or(total, |start| total.min(start + CHUNK)));
    }
    let pages = Pages {
        digest: Digest::from_hasher(hasher),
        size: chunks.iter().map(|chunk| u64::from(chunk.size)).sum(),
        files: files
            .iter()
            .map(|file| PageFile {
                name: file.name.clone(),
                size: file.size,
            })
            .collect(),
        chunks,
    };
    Ok((pages, path))
}

struct Frame {
    bytes: Vec<u8>,
    chunk: Chunk,
}

/// One thread per chunk: starting one costs microseconds, a chunk takes tens of milliseconds.
fn compress_batch(files: &[ImageFile], starts: &[u64], total: u64) -> Vec<Result<Frame, PackError>> {
    thread::scope(|scope| {
        let work = |start: u64| {
            let length = CHUNK.min(total - start);
            scope.spawn(move || compress_chunk(files, start, length))
        };
        let threads: Vec<_> = starts.iter().map(|start| work(*start)).collect();
        let died = || PackError::Compress {
            bytes: 0,
            source: io::Error::other("the thread died"),
        };
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_panic| Err(died())))
            .collect()
    })
}

fn compress_chunk(files: &[ImageFile], start: u64, length: u64) -> Result<Frame, PackError> {
    let raw = read_span(files, start, length)?;
    // The one-shot interface writes the content size into the frame's header.
    let bytes = zstd::bulk::compress(&raw, LEVEL).map_err(|source| PackError::Compress {
        bytes: raw.len(),
        source,
    })?;
    // Neither can overflow: a chunk has 4 MiB, and incompressible data grows by less than a percent.
    let chunk = Chunk {
        digest: Digest::of(&bytes),
        size: bytes.len() as u32,
        raw_size: raw.len() as u32,
    };
    Ok(Frame { bytes, chunk })
}

/// Reads `length` bytes at `start` of the concatenation of `files`.
fn read_span(files: &[ImageFile], start: u64, length: u64) -> Result<Vec<u8>, PackError> {
    let mut span = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut filled = 0;
    let mut file_start = 0;
    for image in files {
        let file_end = file_start + image.size;
        let at = start + filled as u64;
        if at < file_end && filled < span.len() {
            let take = usize::try_from(file_end - at)
                .unwrap_or(usize::MAX)
                .min(span.len() - filled);
            image
                .file
                .read_exact_at(&mut span[filled..filled + take], at - file_start)
                .map_err(|e| read_error(&image.path, e))?;
            filled += take;
        }
        file_start = file_end;
    }
    Ok(span)
}
