//! Step 4: the snapshot, whole and verified, on this node.

use std::path::PathBuf;
use std::time::Instant;

use thaw_config::Policy;
use thaw_snapshot::Manifest;
use thaw_store::{Cache, Entry, FetchError};

use super::lookup::Candidate;
use super::{Boot, Reason};
use crate::key::Bundle;
use crate::timeline::Timeline;

/// A snapshot of which every byte has been checked against its digest.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) entry: Entry,
    pub(super) manifest: Manifest,
    pub(super) bundle: Bundle,
    pub(super) policy: Policy,
    pub(super) upper: PathBuf,
}

pub(super) async fn local(
    boot: &Boot,
    candidate: Candidate,
    timeline: &mut Timeline,
) -> Result<Fetched, Reason> {
    let Candidate {
        store,
        manifest,
        bundle,
        policy,
        upper,
    } = candidate;
    timeline.stage("fetch");
    let root = boot.config.cache.clone();
    let wanted = manifest.clone();
    let cached = tokio::task::spawn_blocking(move || {
        let cache = Cache::open(&root)?;
        Ok((cache.get(&wanted)?, cache))
    });
    let (entry, cache) = cached
        .await
        .map_err(|_error| Reason::Thread { step: "cache" })?
        .map_err(Reason::Cache)?;
    let entry = match entry {
        Some(entry) => entry,
        None => {
            let deadline = Instant::now() + boot.config.deadlines.fetch;
            let fetched = cache.fetch(&**store.store().await?, &manifest, deadline).await;
            let fetched = fetched.map_err(|error| {
                if let FetchError::Store(error) = &error {
                    store.failed(error);
                }
                Reason::Fetch(error)
            })?;
            timeline.bytes.fetched = fetched.bytes;
            fetched.entry
        }
    };
    Ok(Fetched {
        entry,
        manifest,
        bundle,
        policy,
        upper,
    })
}

/// Throws what the cache has away: it is not what it was when it came here.
pub(super) async fn forget(boot: &Boot, candidate: &Candidate) {
    let (root, id) = (boot.config.cache.clone(), candidate.manifest.id());
    log::warn!("the cached snapshot {id} has changed: it is fetched again");
    let work = tokio::task::spawn_blocking(move || Cache::open(&root).and_then(|cache| cache.remove(&id)));
    if let Ok(Err(error)) = work.await {
        log::warn!("remove {id} from the cache: {}", crate::words::chain(&error));
    }
}
