//! Step 5: are the images what CRIU writes, and what this crate believes them to be?

use std::path::PathBuf;

use thaw_config::Policy;
use thaw_criu::Images;
use thaw_snapshot::Manifest;
use thaw_store::Entry;

use super::Reason;
use super::fetch::Fetched;
use crate::key::Bundle;
use crate::timeline::Timeline;

/// A snapshot that may be shown to CRIU, once it has been given the identity of the clone.
#[derive(Debug)]
pub(super) struct Verified {
    /// CRIU's files except memory pages.
    pub(super) images: Images,
    pub(super) entry: Entry,
    pub(super) manifest: Manifest,
    pub(super) bundle: Bundle,
    pub(super) policy: Policy,
    pub(super) upper: PathBuf,
}

pub(super) async fn check(fetched: Fetched, timeline: &mut Timeline) -> Result<Verified, Reason> {
    let stage = timeline.stage("verify");
    let checked = tokio::task::spawn_blocking(move || {
        let Fetched {
            entry,
            manifest,
            bundle,
            policy,
            upper,
        } = fetched;
        let images = entry.images().map_err(Reason::Entry)?;
        thaw_criu::check(&images).map_err(Reason::Images)?;
        Ok(Verified {
            images,
            entry,
            manifest,
            bundle,
            policy,
            upper,
        })
    });
    let verified = checked
        .await
        .map_err(|_error| Reason::Thread { step: "verify" })??;
    timeline.end(stage);
    Ok(verified)
}
