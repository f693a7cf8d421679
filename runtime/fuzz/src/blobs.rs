//! Compressed blobs whose digests are right: archives, and the chunks of memory.
//!
//! The input of an archive is `a`, two bytes with the size that the manifest says (little endian), and the blob. That of pages is
//! `p`, a byte with the number of files, then for each chunk two bytes with its compressed and two with its raw size, and its
//! bytes.

use std::fs;

use thaw_snapshot::{Blob, Chunk, Digest, PageFile, Pages};
use thaw_store::parsers;

use crate::scratch;

/// The reader of archives works in pieces of this many bytes, and may be one ahead of what is written.
const PIECE: u64 = 256 << 10;

pub(crate) fn run(data: &[u8]) {
    match data.split_first() {
        Some((b'a', rest)) => archive(rest),
        Some((b'p', rest)) => pages(rest),
        _ => {}
    }
}

fn archive(data: &[u8]) {
    let Some((said, packed)) = data.split_first_chunk::<2>() else {
        return;
    };
    let raw_size = u64::from(u16::from_le_bytes(*said));
    // What a reader without any care would get, as far as that is bounded: it gives the digest that lets the reader go on.
    let raw = zstd::bulk::decompress(packed, usize::from(u16::MAX)).unwrap_or_default();
    let blob = Blob {
        digest: Digest::of(packed),
        size: packed.len() as u64,
        raw_digest: Digest::of(&raw),
        raw_size,
    };
    let folder = scratch::folder();
    let target = folder.path().join("archive.tar");
    let done = parsers::archive(&blob, packed, &target);
    let written = fs::metadata(&target).map_or(0, |found| found.len());
    assert!(
        written <= raw_size + PIECE,
        "{written} bytes written, {raw_size} announced"
    );
    if done.is_ok() {
        assert_eq!(
            Digest::of(&fs::read(&target).unwrap_or_default()),
            blob.raw_digest
        );
        assert_eq!(written, raw_size);
    }
}

fn pages(data: &[u8]) {
    let Some((number, mut rest)) = data.split_first() else {
        return;
    };
    let mut blob = Vec::new();
    let mut chunks = Vec::new();
    while let Some((sizes, after)) = rest.split_first_chunk::<4>() {
        let word = |at: usize| u16::from_le_bytes([sizes[at], sizes[at + 1]]);
        let (frame, after) = after.split_at(usize::from(word(0)).min(after.len()));
        blob.extend_from_slice(frame);
        chunks.push(Chunk {
            digest: Digest::of(frame),
            size: frame.len() as u32,
            raw_size: u32::from(word(2)),
        });
        rest = after;
    }
    let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.raw_size)).sum();
    let count = u64::from(number % 8) + 1;
    let files: Vec<_> = (0..count)
        .map(|n| PageFile {
            name: format!("pages-{n}.img"),
            size: total * (n + 1) / count - total * n / count,
        })
        .collect();
    let pages = Pages {
        digest: Digest::of(&blob),
        size: blob.len() as u64,
        files,
        chunks,
    };
    let folder = scratch::folder();
    if parsers::pages(&pages, blob, folder.path()).is_ok() {
        for file in &pages.files {
            let size = fs::metadata(folder.path().join(&file.name)).map_or(0, |found| found.len());
            assert_eq!(
                size, file.size,
                "{} has another size than the manifest says",
                file.name
            );
        }
    }
}
