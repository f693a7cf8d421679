//! Steps 4 to 6: compressed, in the store, and in this node's cache.

use std::time::Instant;

use oci_spec::runtime::Spec;
use thaw_config::NodeConfig;
use thaw_snapshot::{
    DonorFacts, FORMAT_VERSION, HostFacts, ImageFacts, MAX_MASKED_PATHS, Manifest, may_be_masked,
};
use thaw_store::{Cache, Packed, Published, PutMode, Store};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::find::Donor;
use super::read::Checked;
use super::{CaptureError, Progress};
use crate::key::{SHARED, Start};
use crate::misses::note_published;

/// Everything that the manifest says beside the blobs.
#[derive(Debug)]
pub(super) struct About<'a> {
    pub(super) namespace: &'a str,
    pub(super) shared: bool,
    pub(super) donor: &'a Donor,
    pub(super) image: ImageFacts,
    pub(super) host: HostFacts,
}

struct PackProgress<'a>(&'a dyn Progress);

impl thaw_store::Progress for PackProgress<'_> {
    fn advance(&self, done: u64, total: u64) {
        self.0.bytes(done, total);
    }
}

/// Blocks this thread: compression has two threads of its own, and a capture has nothing else to do.
pub(super) async fn pack(checked: &Checked, progress: &dyn Progress) -> Result<Packed, CaptureError> {
    let directory = checked.directory.path();
    let out = directory.join("blobs");
    std::fs::create_dir(&out).map_err(|source| CaptureError::Room {
        path: out.clone(),
        source,
    })?;
    let images = directory.join("images");
    tokio::task::block_in_place(|| {
        thaw_store::pack(&images, checked.rootfs.as_deref(), &out, &PackProgress(progress))
    })
    .map_err(CaptureError::Pack)
}

pub(super) async fn publish(
    store: &dyn Store,
    packed: &Packed,
    manifest: &Manifest,
    mode: PutMode,
) -> Result<(), CaptureError> {
    let published = thaw_store::publish(store, packed, manifest, mode).await;
    let published = published.map_err(|source| CaptureError::Publish {
        store: store.url().to_owned(),
        source: Box::new(source),
    })?;
    match published {
        Published::Published => Ok(()),
        Published::AlreadyThere => Err(CaptureError::AlreadyThere {
            store: store.url().to_owned(),
        }),
    }
}

/// What the store is to say of the snapshot.
pub(super) fn manifest(checked: &Checked, packed: &Packed, about: &About<'_>) -> Manifest {
    let donor = about.donor;
    let (spec, stdin) = (&donor.bundle.spec, donor.container.stdin);
    let start = Start::new(about.namespace, spec, stdin, &donor.policy.ignore_env);
    let scope = if about.shared {
        SHARED.to_owned()
    } else {
        start.scope()
    };
    Manifest {
        format: FORMAT_VERSION,
        created: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        fingerprint: start.fingerprint(&scope).document().clone(),
        key: start.key(scope, about.image.config),
        image: about.image.clone(),
        host: about.host.clone(),
        donor: DonorFacts {
            id: donor
                .container
                .bundle
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            hostname: donor.hostname.clone(),
            addresses: donor.addresses.clone(),
            established_tcp: checked.established,
            freeze_ms: u64::try_from(checked.frozen.as_millis()).unwrap_or(u64::MAX),
            stale_env: start.stale_env(),
            masked_paths: masked_paths(spec),
        },
        blobs: packed.blobs.clone(),
    }
}

/// The masked paths that exist. Those of the kernel's own file systems are the same in every container; others are of
/// the image, and so of the clone too.
fn masked_paths(spec: &Spec) -> Vec<String> {
    let masked = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.masked_paths().as_deref());
    let mut found: Vec<String> = masked
        .unwrap_or_default()
        .iter()
        .filter(|path| may_be_masked(path) && std::path::Path::new(path).exists())
        .cloned()
        .collect();
    found.sort_unstable();
    found.truncate(MAX_MASKED_PATHS);
    found
}

/// Reads the snapshot back from the store into the cache: the next start on this node finds it there, and the store
/// has shown that it kept every byte. The snapshot stands without it, so a failure is only said.
pub(super) async fn prime(config: &NodeConfig, store: &dyn Store, manifest: &Manifest) {
    note_published(config, &config.store.url, &manifest.key);
    let cache = match Cache::open(&config.cache) {
        Ok(cache) => cache,
        Err(error) => {
            log::warn!("open the cache: {}", crate::words::chain(&error));
            return;
        }
    };
    if let Err(error) = cache
        .fetch(store, manifest, Instant::now() + config.deadlines.fetch)
        .await
    {
        log::warn!("fill the cache: {}", crate::words::chain(&error));
    }
}
