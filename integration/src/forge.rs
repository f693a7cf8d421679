//! A snapshot in a `file://` store, bent: what a broken disk or a hostile writer would leave there.

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
    let mut found = Vec::new();
    find_files(&store.join("v1/keys"), &mut found)?;
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!("{} key documents in {}", found.len(), store.display()),
    }
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

fn replace(store: &Path, name: &str, tar: &[u8]) -> Result<()> {
    let packed = zstd::encode_all(tar, 1)?;
    let digest = hex(&packed);
    fs::write(store.join("v1/blobs/sha256").join(&digest), &packed)?;
    edit(store, |manifest| {
        manifest["blobs"][name] = json!({
            "digest": format!("sha256:{digest}"),
            "size": packed.len(),
            "raw_digest": format!("sha256:{}", hex(tar)),
            "raw_size": tar.len(),
        });
    })
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A tar with one regular file whose name is taken as it is.
#[must_use]
pub fn tar_with(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    // `set_path` would refuse a name that leads out.
    let field = &mut header.as_old_mut().name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

/// Changes files of the `meta` blob, and gives it digests that are right.
///
/// # Errors
/// When it can't be read or written.
pub fn replace_meta(store: &Path, mut change: impl FnMut(&str, &mut Vec<u8>)) -> Result<()> {
    let raw = zstd::decode_all(fs::File::open(blob(store, "meta")?)?)?;
    let mut out = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&raw[..]).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        change(&name, &mut content);
        let mut header = entry.header().clone();
        header.set_size(content.len() as u64);
        out.append_data(&mut header, &name, &content[..])?;
    }
    replace(store, "meta", &out.into_inner()?)
}
