//! Fetching memory: several ranges at a time, each verified, decompressed and written in its place on its own.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use thaw_snapshot::{Chunk, Digest, Pages};

use super::fetch::{FetchError, Waiting, Workspace, blocking, read_range};
use super::file::create;
use super::seal::chunk_hash;
use crate::store::Store;

/// Bytes of the blob per request: enough that a round trip to a store in the same region costs little beside it.
const REQUEST: u64 = 4 << 20;

/// Requests at the same time. Each holds its bytes and one chunk: with the format's largest chunks that is 128 MiB
/// in all, with those that this build writes 32 MiB.
const LANES: usize = 4;

/// Fetches all memory into `workspace`; returns the hash of each chunk for the seal.
pub(super) async fn fetch(
    store: &dyn Store,
    pages: &Pages,
    workspace: &Workspace,
) -> Result<Vec<String>, FetchError> {
    // Its workers write to files that are here and open now: they add nothing to the directory.
    let target = Arc::new(Target::create(pages, workspace.path())?);
    let mut lanes = Vec::new();
    for request in plan(&pages.chunks) {
        lanes.push(fetch_one(
            store,
            &pages.digest,
            pages.size,
            request,
            target.clone(),
        ));
    }
    let mut hashed: Vec<(usize, Vec<String>)> = futures::stream::iter(lanes)
        .buffer_unordered(LANES)
        .try_collect()
        .await?;
    hashed.sort_by_key(|(first, _)| *first);
    Ok(hashed.into_iter().flat_map(|(_, hashes)| hashes).collect())
}

/// What [`fetch`] does with the bytes of a whole blob.
#[cfg(feature = "parsers")]
pub(crate) fn unpack_all(pages: &Pages, blob: &Bytes, directory: &Path) -> Result<(), FetchError> {
    let target = Target::create(pages, directory)?;
    for request in plan(&pages.chunks) {
        let part = request.range.start as usize..request.range.end as usize;
        unpack(&request, &blob.slice(part), &target, &Waiting::default())?;
    }
    Ok(())
}

/// Consecutive chunks that are asked for together.
#[derive(Debug)]
struct Request {
    /// Index of the first chunk.
    first: usize,
    chunks: Vec<Chunk>,
    /// Where they are in the blob.
    range: Range<u64>,
    /// Where they begin in the concatenated page files.
    raw_start: u64,
}

fn plan(chunks: &[Chunk]) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    let mut at = 0;
    let mut raw_at = 0;
    for (index, chunk) in chunks.iter().enumerate() {
        let end = at + u64::from(chunk.size);
        match requests.last_mut() {
            Some(last) if end - last.range.start <= REQUEST => {
                last.chunks.push(chunk.clone());
                last.range.end = end;
            }
            _ => requests.push(Request {
                first: index,
                chunks: vec![chunk.clone()],
                range: at..end,
                raw_start: raw_at,
            }),
        }
        at = end;
        raw_at += u64::from(chunk.raw_size);
    }
    requests
}

async fn fetch_one(
    store: &dyn Store,
    digest: &Digest,
    size: u64,
    request: Request,
    target: Arc<Target>,
) -> Result<(usize, Vec<String>), FetchError> {
    let bytes = read_range(store, digest, size, request.range.clone()).await?;
    blocking("memory pages", move |waiting| {
        unpack(&request, &bytes, &target, waiting)
    })
    .await
}

/// Verifies, decompresses and writes the chunks of one request.
fn unpack(
    request: &Request,
    bytes: &Bytes,
    target: &Target,
    waiting: &Waiting,
) -> Result<(usize, Vec<String>), FetchError> {
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(|source| FetchError::Decompress {
        what: "memory pages".into(),
        raw_size: 0,
        source,
    })?;
    let mut raw = Vec::new();
    let mut hashes = Vec::with_capacity(request.chunks.len());
    let mut rest: &[u8] = bytes;
    let mut raw_start = request.raw_start;
    for (index, chunk) in request.chunks.iter().enumerate() {
        waiting.check()?;
        let what = || format!("chunk {}", request.first + index);
        let broken = |source| FetchError::Decompress {
            what: what(),
            raw_size: chunk.raw_size.into(),
            source,
        };
        let (frame, behind) = rest
            .split_at_checked(chunk.size as usize)
            .ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))?;
        rest = behind;
        if Digest::of(frame) != chunk.digest {
            return Err(FetchError::WrongDigest {
                what: what(),
                expected: chunk.digest,
            });
        }
        raw.resize(chunk.raw_size as usize, 0);
        // The buffer has the size that the manifest says: the library refuses what would not fit.
        let length = decompressor
            .decompress_to_buffer(frame, &mut raw[..])
            .map_err(broken)?;
        if length != raw.len() {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        hashes.push(chunk_hash(&raw));
        target.write(raw_start, &raw)?;
        raw_start += u64::from(chunk.raw_size);
    }
    Ok((request.first, hashes))
}

/// The page files that are being written.
#[derive(Debug)]
struct Target {
    files: Vec<TargetFile>,
}

#[derive(Debug)]
struct TargetFile {
    file: File,
    path: PathBuf,
    /// Where it is in the concatenation.
    span: Range<u64>,
}

impl Target {
    fn create(pages: &Pages, directory: &Path) -> Result<Self, FetchError> {
        let mut files = Vec::with_capacity(pages.files.len());
        let mut start = 0;
        for page_file in &pages.files {
            // Validation of the manifest left only names of page files.
            let path = directory.join(&page_file.name);
            let file = create(&path, 0o400)?;
            file.set_len(page_file.size)
                .map_err(|e| FetchError::disk(&path, page_file.size, e))?;
            files.push(TargetFile {
                file,
                path,
                span: start..start + page_file.size,
            });
            start += page_file.size;
        }
        Ok(Self { files })
    }

    /// Writes at `start` of the concatenation; a chunk may reach over several files.
    fn write(&self, start: u64, bytes: &[u8]) -> Result<(), FetchError> {
        let end = start + bytes.len() as u64;
        for target in &self.files {
            let from = start.max(target.span.start);
            let to = end.min(target.span.end);
            if from < to {
                let part = &bytes[(from - start) as usize..(to - start) as usize];
                target
                    .file
                    .write_all_at(part, from - target.span.start)
                    .map_err(|e| FetchError::disk(&target.path, part.len() as u64, e))?;
            }
        }
        Ok(())
    }
}
