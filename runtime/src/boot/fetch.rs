//! Step 4: the snapshot, whole and verified, on this node.

use std::path::PathBuf;
use std::time::Instant;

use thaw_config::Policy;
use thaw_snapshot::Manifest;
use thaw_store::{Cache, Entry};

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
            let fetched = cache
                .fetch(&*store, &manifest, deadline)
                .await
                .map_err(Reason::Fetch)?;
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
