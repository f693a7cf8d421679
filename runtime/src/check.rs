//! Is a snapshot in the store whole, and would it fit this node? Asked before anybody tries it.

use std::time::{Duration, Instant};

use thaw_config::NodeConfig;
use thaw_runc::PlainSpawner;
use thaw_snapshot::matching::mismatches;
use thaw_snapshot::{Manifest, Mismatch};
use thaw_store::{Cache, Store};

use crate::boot::{Reason, check_images, place};
use crate::host::{self, HostError};

/// No snapshot takes longer on a link that is worth having; somebody who waits can interrupt it before.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Brings the whole snapshot here, checks every byte against its digest, and the CRIU images against what CRIU writes.
/// Nothing of it stays.
///
/// # Errors
/// What a start would say of it.
pub async fn whole(config: &NodeConfig, store: &dyn Store, manifest: &Manifest) -> Result<(), Reason> {
    let temporary = config.cache.join("tmp");
    // Makes the folders, and refuses those that others may write to.
    Cache::open(&config.cache).map_err(Reason::Cache)?;
    let place = tempfile::tempdir_in(&temporary).map_err(|source| Reason::Prepare {
        path: temporary,
        source,
    })?;
    let cache = Cache::open(place.path()).map_err(Reason::Cache)?;
    let fetched = cache.fetch(store, manifest, Instant::now() + PATIENCE).await;
    let entry = fetched.map_err(Reason::Fetch)?.entry;
    let images = entry.images().map_err(Reason::Entry)?;
    check_images(&images, manifest)
}

/// All that keeps the snapshot from being restored on this node, whatever the container. Empty when nothing does.
///
/// # Errors
/// The node has no CRIU or no runc, or they don't tell their version.
pub async fn fits_here(config: &NodeConfig, manifest: &Manifest) -> Result<Vec<Mismatch>, HostError> {
    let host = host::facts(&config.state, &config.criu, &config.runc, &PlainSpawner).await?;
    Ok(mismatches(manifest, place(&host, None)))
}
