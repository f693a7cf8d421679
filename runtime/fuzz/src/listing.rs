//! Paths as a listing of the store shows them, and the paths of keys.
//!
//! The input is text: each line is a path, and the scope and platform of a key.

use std::path::{Component, Path};

use thaw_snapshot::{Digest, Key};
use thaw_store::{KeyPath, parsers};

pub(crate) fn run(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        if let Ok(path) = KeyPath::parse(line) {
            assert_eq!(path.as_str(), line, "it names another object");
            stays_inside(&path);
        }
        of_key(line);
    }
}

/// In a directory it is one file below that of the keys, four steps down.
fn stays_inside(path: &KeyPath) {
    let Some(file) = parsers::file_of(path) else {
        return;
    };
    let below = file.strip_prefix(Path::new("/v1/keys"));
    let parts: Vec<_> = below.iter().flat_map(|rest| rest.components()).collect();
    let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    assert!(parts.len() == 4 && plain, "{path} is {}", file.display());
}

/// Whatever a key is called, a listing shows its document, and not its lease.
fn of_key(name: &str) {
    let key = Key {
        scope: name.to_owned(),
        platform: name.chars().rev().collect(),
        config: Digest::of(b"image"),
        fingerprint: Digest::of(name.as_bytes()),
    };
    let path = KeyPath::of(&key);
    assert_eq!(KeyPath::parse(path.as_str()).as_ref(), Ok(&path));
    stays_inside(&path);
    let lease = KeyPath::of_lease(&key);
    assert!(lease.as_str().starts_with("v1/leases/"), "{lease}");
    assert!(KeyPath::parse(lease.as_str()).is_err(), "{lease} is listed");
}
