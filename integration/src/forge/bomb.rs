//! Blobs that are small in the store and large when they are unpacked.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{edit, hex, plant};

/// Most bytes of a chunk before compression that the format allows.
const CHUNK: usize = 16 << 20;

/// So many GiB of zeros, packed. A stream is frames one after the other, so one of them is made and repeated.
///
/// # Errors
/// When it can't be compressed.
pub fn zeros(gib: usize) -> Result<Vec<u8>> {
    let frame = zstd::bulk::compress(&vec![0; 64 << 20], 19)?;
    Ok(frame.repeat(gib * 16))
}

/// Makes the memory of the only snapshot so many GiB of zeros, every digest and every size right.
///
/// # Errors
/// When it can't be written.
pub fn zero_pages(store: &Path, gib: usize) -> Result<()> {
    let frame = zstd::bulk::compress(&vec![0; CHUNK], 19)?;
    let count = (gib << 30) / CHUNK;
    let chunk = json!({"digest": format!("sha256:{}", hex(&frame)), "size": frame.len(), "raw_size": CHUNK});
    let packed = frame.repeat(count);
    let digest = plant(store, &packed)?;
    edit(store, |manifest| {
        let pages = &mut manifest["blobs"]["pages"];
        let names = pages["files"].as_array().cloned().unwrap_or_default();
        let mut files: Vec<Value> = names;
        for file in &mut files {
            file["size"] = 0.into();
        }
        if let Some(first) = files.first_mut() {
            first["size"] = (gib << 30).into();
        }
        *pages =
            json!({"digest": digest, "size": packed.len(), "files": files, "chunks": vec![chunk; count]});
    })
}
