//! What a snapshot is, and when it fits.
//!
//! A snapshot is a manifest (this crate's [`Manifest`], JSON) and the blobs it names by digest. The manifest lives
//! under a [`Key`] that says what makes two starts alike; the blobs live under their digests. Nothing here does
//! I/O: bytes come in, checked values come out, so that every rule can be tested without a machine.
//!
//! `docs/format.md` is the contract that this crate implements.

mod digest;
mod canonical;
mod key;
mod manifest;
mod document;
mod validate;
pub mod fingerprint;
pub mod matching;

pub use digest::{Digest, ParseDigestError};
pub use document::{DocumentError, MAX_DOCUMENT, MAX_VARIANTS};
pub use fingerprint::Fingerprint;
pub use manifest::{
    Blob, Blobs, Chunk, CpuFacts, DonorFacts, FORMAT_VERSION, HostFacts, ImageFacts, Key, KeyDocument,
    Manifest, PageFile, Pages,
};
pub use matching::Mismatch;
pub use validate::{
    MAX_CHUNK, MAX_CHUNK_GROWTH, MAX_CHUNKS, MAX_LIST, MAX_MASKED_PATHS, MAX_META, MAX_NAME, MAX_PAGES,
    MAX_ROOTFS, ManifestError, may_be_masked,
};
