//! What a snapshot is, and when it fits.
//!
//! A snapshot is a manifest (this crate's [`Manifest`], JSON) and the blobs it names by digest. The manifest lives
//! under a [`Key`] that says what makes two starts alike; the blobs live under their digests. Nothing here does
//! I/O: bytes come in, checked values come out, so that every rule can be tested without a machine.
//!
//! `docs/format.md` is the contract that this crate implements.

mod digest;
mod manifest;

pub use digest::{Digest, ParseDigestError};
pub use manifest::{
    Blob, Blobs, Chunk, CpuFacts, DonorFacts, HostFacts, ImageFacts, Key, KeyDocument, Manifest, PageFile, Pages,
    FORMAT_VERSION,
};
