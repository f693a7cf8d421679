//! A snapshot in a store: real CRIU images, arbitrary memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use thaw_runtime::host;
use thaw_runtime::rootfs::{self, Marks};
use thaw_snapshot::fingerprint::{Facts, stale_env};
use thaw_snapshot::{Digest, DonorFacts, FORMAT_VERSION, Fingerprint, ImageFacts, Key, Manifest};
use thaw_store::{PutMode, Store, StoreOptions};

use super::mounts;
use super::world::World;

/// What the snapshot is made of; a story may spoil it before it is packed.
#[derive(Debug)]
pub(crate) struct Donor {
    /// CRIU's files without pages.
    pub(crate) images: BTreeMap<String, Vec<u8>>,
    /// Pages that the page file has beyond those that the page maps describe.
    pub(crate) surplus_pages: usize,
    /// The tar of changed files.
    pub(crate) rootfs: Vec<u8>,
    /// A processor feature that no machine has.
    pub(crate) rare_feature: Option<&'static str>,
    /// Another kernel than this machine's.
    pub(crate) kernel: Option<&'static str>,
    /// Scope that it is published for.
    pub(crate) scope: &'static str,
    /// Variables that may differ.
    pub(crate) ignore_env: Vec<String>,
    /// The spec whose mounts are in the images, when it is not the world's.
    pub(crate) mounted: Option<Value>,
}

impl Donor {
    /// `sleep` or `python` of the codec's fixtures, and one changed file.
    pub(crate) fn of(set: &str) -> Self {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("criu/tests/data")
            .join(set);
        let upper = tempfile::tempdir().unwrap();
        fs::write(upper.path().join("cache"), "filled while it booted").unwrap();
        let mut tar = Vec::new();
        rootfs::diff(upper.path(), Marks::Trusted, &mut tar).unwrap();
        Self {
            images: read_all(&data),
            surplus_pages: 0,
            rootfs: tar,
            rare_feature: None,
            kernel: None,
            scope: "default",
            ignore_env: Vec::new(),
            mounted: None,
        }
    }

    /// Packs and publishes it, for a container with the world's spec.
    pub(crate) async fn publish(&self, world: &World) {
        let mut files = self.images.clone();
        let spec = self.mounted.as_ref().unwrap_or(&world.spec);
        files.insert(mounts::FILE.to_owned(), mounts::image(spec));
        let root = tempfile::tempdir().unwrap();
        let (images, out) = (root.path().join("images"), root.path().join("out"));
        fs::create_dir(&images).unwrap();
        fs::create_dir(&out).unwrap();
        for (name, bytes) in &files {
            fs::write(images.join(name), bytes).unwrap();
        }
        for (name, size) in thaw_criu::pagemap::page_files(&self.images, 4096).unwrap() {
            let size = usize::try_from(size).unwrap() + self.surplus_pages * 4096;
            fs::write(images.join(name), vec![7; size]).unwrap();
        }
        let tar = root.path().join("rootfs.tar");
        fs::write(&tar, &self.rootfs).unwrap();
        let packed = thaw_store::pack(&images, Some(&tar), &out, &()).unwrap();
        let manifest = self.manifest(world, packed.blobs.clone()).await;
        let store = open(world).await;
        thaw_store::publish(&*store, &packed, &manifest, PutMode::Replace)
            .await
            .unwrap();
    }

    async fn manifest(&self, world: &World, blobs: thaw_snapshot::Blobs) -> Manifest {
        let config = &world.config;
        let spawner = &*world.runc.spawner;
        let mut host = host::facts(&config.state, &config.criu, &world.runc.binary, spawner)
            .await
            .unwrap();
        host.cpu.features.extend(self.rare_feature.map(str::to_owned));
        host.kernel = self.kernel.map_or(host.kernel, str::to_owned);
        let spec = serde_json::from_value(world.spec.clone()).unwrap();
        let facts = Facts {
            ignore_env: &self.ignore_env,
            ..Facts::default()
        };
        let fingerprint = Fingerprint::of(&spec, facts, self.scope);
        let image = image();
        Manifest {
            format: FORMAT_VERSION,
            created: "2026-01-01T00:00:00Z".to_owned(),
            key: Key {
                scope: self.scope.to_owned(),
                platform: format!(
                    "{}-{}",
                    oci_spec::image::Os::default(),
                    oci_spec::image::Arch::default()
                ),
                config: image.config,
                fingerprint: fingerprint.digest(),
            },
            fingerprint: fingerprint.document().clone(),
            image,
            host,
            donor: DonorFacts {
                id: "donor".to_owned(),
                hostname: "donor".to_owned(),
                addresses: Vec::new(),
                established_tcp: 0,
                freeze_ms: 1,
                stale_env: stale_env(&spec, facts),
                masked_paths: Vec::new(),
            },
            blobs,
        }
    }
}

/// The image of donor and clone.
pub(crate) fn image() -> ImageFacts {
    let digest = Digest::of(b"image");
    ImageFacts {
        name: "example.com/app:1".to_owned(),
        target: digest,
        manifest: digest,
        config: digest,
        chain_id: digest,
    }
}

/// A hook that runs in the bundle.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

/// A spec that fits both fixtures: their groups, capabilities, limits, a network of its own.
pub(crate) fn spec() -> Value {
    let own = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.2.0",
        "hostname": "a-clone",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [20, 1000]},
            "args": ["app"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": own, "effective": own, "permitted": own},
        },
        "annotations": {},
        "hooks": {"createRuntime": [hook("cat >/dev/null; echo created >>hooks")], "poststop": [hook("echo stopped >>hooks")]},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "ipc"}],
            "resources": {
                "cpu": {"shares": 512, "quota": 10_000, "period": 100_000},
                "memory": {"limit": 67_108_864},
                "pids": {"limit": 32},
            },
        },
    })
}

pub(crate) fn read_all(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    files
        .map(|file| {
            (
                file.file_name().into_string().unwrap(),
                fs::read(file.path()).unwrap(),
            )
        })
        .collect()
}

async fn open(world: &World) -> std::sync::Arc<dyn Store> {
    let store = thaw_store::open(world.config.store.url.as_url(), &StoreOptions::default()).await;
    store.unwrap()
}
