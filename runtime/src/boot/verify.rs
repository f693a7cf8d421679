//! Step 5: are the images what CRIU writes, do they go with their pages, and carry no right and no mount beyond the live
//! spec?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thaw_config::Policy;
use thaw_criu::{Images, pagemap};
use thaw_snapshot::{Manifest, PageFile};
use thaw_store::Entry;

use super::fetch::Fetched;
use super::{Reason, mounts, rights};
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
    timeline.stage("verify");
    let checked = tokio::task::spawn_blocking(move || {
        let Fetched {
            entry,
            manifest,
            bundle,
            policy,
            upper,
        } = fetched;
        let images = entry.images().map_err(Reason::Entry)?;
        check_images(&images, &manifest)?;
        check_spec(&images, &bundle)?;
        Ok(Verified {
            images,
            entry,
            manifest,
            bundle,
            policy,
            upper,
        })
    });
    checked
        .await
        .map_err(|_error| Reason::Thread { step: "verify" })?
}

/// Do the images carry no more than the spec of this bundle gives?
pub(crate) fn check_spec(images: &Images, bundle: &Bundle) -> Result<(), Reason> {
    rights::check(images, &bundle.json).map_err(Reason::Rights)?;
    // These paths are of the kernel: no file system of anybody else is asked.
    let exists = |path: &str| Path::new(path).symlink_metadata().is_ok();
    mounts::check(images, &bundle.spec, &exists).map_err(Reason::Mounts)
}

/// Are the images what CRIU writes, and do they go with their pages?
pub(crate) fn check_images(images: &Images, manifest: &Manifest) -> Result<(), Reason> {
    thaw_criu::check(images).map_err(Reason::Images)?;
    check_pages(images, manifest)
}

/// CRIU computes offsets from the page maps alone; with another page file it would read other pages, or past the end.
fn check_pages(images: &Images, manifest: &Manifest) -> Result<(), Reason> {
    let mapped = pagemap::page_files(images, manifest.host.page_size).map_err(Reason::Pagemap)?;
    let files = &manifest.blobs.pages.files;
    let wanted = mapped.into_iter().filter(|(_, size)| *size > 0);
    if wanted.eq(sorted(files)) {
        Ok(())
    } else {
        Err(Reason::PageFiles)
    }
}

fn sorted(files: &[PageFile]) -> BTreeMap<String, u64> {
    files
        .iter()
        .filter(|file| file.size > 0)
        .map(|file| (file.name.clone(), file.size))
        .collect()
}
