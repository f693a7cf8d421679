//! A snapshot in a `file://` store, bent: what a broken disk or a hostile writer would leave there.

mod tar_file;
mod bomb;

pub use bomb::{zero_pages, zeros};
pub use tar_file::Tar;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The only key document of a store.
///
/// # Errors
/// When there is none, or more than one.
pub fn document(store: &Path) -> Result<PathBuf> {
    match documents(store)?.as_slice() {
        [one] => Ok(one.clone()),
        found => bail!("{} key documents in {}", found.len(), store.display()),
    }
}

/// All key documents of a store.
///
/// # Errors
/// When it can't be read.
pub fn documents(store: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    find_files(&store.join("v1/keys"), &mut found)?;
    Ok(found)
}

/// A key document.
///
/// # Errors
/// When it is not JSON.
pub fn read(document: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(document)?)?)
}

fn find_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Changes the manifest of the only snapshot of a store.
///
/// # Errors
/// When the document is not what it should be.
pub fn edit(store: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let path = document(store)?;
    let mut value: Value = serde_json::from_slice(&fs::read(&path)?)?;
    change(value.pointer_mut("/variants/0").context("no variant")?);
    Ok(fs::write(path, serde_json::to_vec(&value)?)?)
}

/// The file of a blob: `meta`, `rootfs` or `pages`.
///
/// # Errors
/// When the snapshot has no such blob.
pub fn blob(store: &Path, name: &str) -> Result<PathBuf> {
    let value: Value = serde_json::from_slice(&fs::read(document(store)?)?)?;
    let found = value
        .pointer(&format!("/variants/0/blobs/{name}/digest"))
        .and_then(Value::as_str);
    let hex = found
        .and_then(|digest| digest.strip_prefix("sha256:"))
        .context("no such blob")?;
    Ok(store.join("v1/blobs/sha256").join(hex))
}

/// Puts another tar in the place of the root filesystem changes, with digests that are right.
///
/// # Errors
/// When it can't be written.
pub fn replace_rootfs(store: &Path, tar: &[u8]) -> Result<()> {
    replace(store, "rootfs", tar)
}

/// Puts another tar in the place of the metadata archive, with digests that are right.
///
/// # Errors
/// When it can't be written.
pub fn replace_meta_tar(store: &Path, tar: &[u8]) -> Result<()> {
    replace(store, "meta", tar)
}

fn replace(store: &Path, name: &str, tar: &[u8]) -> Result<()> {
    let packed = zstd::encode_all(tar, 1)?;
    replace_packed(store, name, &packed, tar.len() as u64, &hex(tar))
}

/// Puts packed bytes in the place of an archive, `meta` or `rootfs`. Their own digest is right, and the manifest says
/// this of what is in them.
///
/// # Errors
/// When it can't be written.
pub fn replace_packed(store: &Path, name: &str, packed: &[u8], raw_size: u64, raw_hex: &str) -> Result<()> {
    let digest = plant(store, packed)?;
    edit(store, |manifest| {
        manifest["blobs"][name] = json!({
            "digest": digest,
            "size": packed.len(),
            "raw_digest": format!("sha256:{raw_hex}"),
            "raw_size": raw_size,
        });
    })
}

/// Puts bytes among the blobs, and answers their digest.
///
/// # Errors
/// When they can't be written.
pub fn plant(store: &Path, bytes: &[u8]) -> Result<String> {
    let digest = hex(bytes);
    fs::write(store.join("v1/blobs/sha256").join(&digest), bytes)?;
    Ok(format!("sha256:{digest}"))
}

/// Gives the memory another content, in one chunk for every 4 MiB, with digests that are right.
///
/// # Errors
/// When it can't be read or written.
pub fn replace_pages(store: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut raw = Vec::new();
    // Chunks are frames, and frames one after the other are a stream.
    zstd::stream::copy_decode(fs::File::open(blob(store, "pages")?)?, &mut raw)?;
    change(&mut raw);
    let mut packed = Vec::new();
    let mut chunks = Vec::new();
    for part in raw.chunks(4 << 20) {
        let frame = zstd::bulk::compress(part, 1)?;
        chunks.push(
            json!({"digest": format!("sha256:{}", hex(&frame)), "size": frame.len(), "raw_size": part.len()}),
        );
        packed.extend(frame);
    }
    let digest = plant(store, &packed)?;
    edit(store, |manifest| {
        let pages = &mut manifest["blobs"]["pages"];
        pages["digest"] = digest.into();
        pages["size"] = packed.len().into();
        pages["chunks"] = chunks.into();
    })
}

/// Names of the files in the metadata archive.
///
/// # Errors
/// When it can't be read.
pub fn images(store: &Path) -> Result<Vec<String>> {
    let raw = zstd::decode_all(fs::File::open(blob(store, "meta")?)?)?;
    tar::Archive::new(&raw[..])
        .entries()?
        .map(|entry| Ok(entry?.path()?.display().to_string()))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Changes files of the `meta` blob, and gives it digests that are right.
///
/// # Errors
/// When it can't be read or written.
pub fn replace_meta(store: &Path, mut change: impl FnMut(&str, &mut Vec<u8>)) -> Result<()> {
    filter_meta(store, |name, content| {
        change(name, content);
        true
    })
}

/// As [`replace_meta`]; files for which `keep` says `false` are left out.
///
/// # Errors
/// As [`replace_meta`].
pub fn filter_meta(store: &Path, mut keep: impl FnMut(&str, &mut Vec<u8>) -> bool) -> Result<()> {
    let raw = zstd::decode_all(fs::File::open(blob(store, "meta")?)?)?;
    let mut out = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&raw[..]).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if !keep(&name, &mut content) {
            continue;
        }
        let mut header = entry.header().clone();
        header.set_size(content.len() as u64);
        out.append_data(&mut header, &name, &content[..])?;
    }
    replace(store, "meta", &out.into_inner()?)
}
