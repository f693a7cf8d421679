//! Step 4: the snapshot, whole and verified, on this node.

use std::path::PathBuf;
use std::time::Instant;

use thaw_config::Policy;
use thaw_snapshot::Manifest;
use thaw_store::{Cache, CacheError, Entry, FetchError};
use tokio::time::timeout_at;

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
    let deadline = Instant::now() + boot.config.deadlines.fetch;
    let root = boot.config.cache.clone();
    let wanted = manifest.clone();
    let cached = until(deadline, move || {
        let cache = Cache::open(&root)?;
        Ok((cache.get(&wanted)?, cache))
    });
    let (entry, cache) = cached.await?;
    let entry = match entry {
        Some(entry) => entry,
        None => {
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

/// Does something with the cache on a thread. After a reboot that hashes the whole snapshot, on a disk that may be slow.
/// When the deadline passes the thread goes on: the next start finds what it has done.
async fn until<T: Send + 'static>(
    deadline: Instant,
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, Reason> {
    let done = timeout_at(deadline.into(), tokio::task::spawn_blocking(work)).await;
    done.map_err(|_elapsed| Reason::Fetch(FetchError::Deadline))?
        .map_err(|_died| Reason::Thread { step: "cache" })?
        .map_err(Reason::Cache)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_cache_that_takes_too_long_is_a_fetch_that_does() {
        let (let_go, hung) = mpsc::channel::<()>();
        let hanging = until(Instant::now() + Duration::from_millis(50), move || {
            hung.recv().ok();
            Ok(())
        });
        assert_eq!(hanging.await.unwrap_err().code(), "fetch_timeout");
        drop(let_go);
        let soon = Instant::now() + Duration::from_secs(60);
        assert_eq!(until(soon, || Ok(7)).await.unwrap(), 7);
    }
}
