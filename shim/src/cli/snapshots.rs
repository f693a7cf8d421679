//! Finding snapshots by the start of their id.

use serde::Serialize;
use thaw_snapshot::{Digest, Manifest};
use thaw_store::Store;

use super::failure::Failure;

/// How much of an id is shown: as with container ids.
const SHORT: usize = 12;

/// A snapshot with its id.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    pub(super) id: Digest,
    /// Path of its key document in the store.
    pub(super) document: String,
    pub(super) manifest: Manifest,
}

impl Snapshot {
    /// The start of the id that tables show.
    pub(super) fn short(&self) -> String {
        self.id.hex().chars().take(SHORT).collect()
    }

    /// Memory of the processes in bytes.
    pub(super) fn memory(&self) -> u64 {
        self.manifest.memory()
    }

    /// What it takes in the store, in bytes.
    pub(super) fn stored(&self) -> u64 {
        let blobs = &self.manifest.blobs;
        let rootfs = blobs.rootfs.as_ref().map_or(0, |blob| blob.size);
        blobs
            .meta
            .size
            .saturating_add(blobs.pages.size)
            .saturating_add(rootfs)
    }
}

/// All snapshots of the store, the newest first. What can't be read is warned of.
pub(super) async fn all(store: &dyn Store) -> Result<Vec<Snapshot>, Failure> {
    let listing = thaw_store::list(store).await?;
    for (path, error) in listing.unreadable {
        log::warn!("left out {path}: {:#}", anyhow::Error::from(error));
    }
    let with_id = |(path, manifest): (thaw_store::KeyPath, Manifest)| Snapshot {
        id: manifest.id(),
        document: path.to_string(),
        manifest,
    };
    let mut snapshots: Vec<Snapshot> = listing.snapshots.into_iter().map(with_id).collect();
    snapshots.sort_by(|a, b| b.manifest.created.cmp(&a.manifest.created).then(a.id.cmp(&b.id)));
    Ok(snapshots)
}

/// The one snapshot whose id begins with `prefix` (with or without `sha256:`).
pub(super) fn find<'a>(snapshots: &'a [Snapshot], prefix: &str) -> Result<&'a Snapshot, Failure> {
    let wanted = prefix.strip_prefix("sha256:").unwrap_or(prefix);
    if wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Failure::usage(format!(
            "{prefix:?} is not the start of a snapshot's id: see `thaw ls`"
        )));
    }
    let wanted = wanted.to_lowercase();
    let found: Vec<&Snapshot> = snapshots
        .iter()
        .filter(|snapshot| snapshot.id.hex().starts_with(&wanted))
        .collect();
    match found.as_slice() {
        [] => Err(Failure::not_found(format!("no snapshot begins with {wanted}"))),
        [first, rest @ ..] if rest.iter().all(|other| other.id == first.id) => Ok(first),
        several => {
            let ids: Vec<String> = several.iter().map(|snapshot| snapshot.short()).collect();
            Err(Failure::usage(format!(
                "{wanted} begins more than one id: {}",
                ids.join(", ")
            )))
        }
    }
}
