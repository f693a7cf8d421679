//! A small snapshot, and stores and caches that clean up after themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::memory::InMemory;
use tempfile::TempDir;
use thaw_snapshot::{
    Blobs, CpuFacts, Digest, DonorFacts, FORMAT_VERSION, HostFacts, ImageFacts, Key, Manifest,
};
use url::Url;

use crate::store::ObjectBackend;
use crate::{Cache, Packed, PutMode, Store, StoreOptions, open, pack, publish};

/// Everything a test needs, under one temporary directory.
pub(super) struct Lab {
    pub(super) root: TempDir,
    pub(super) store: Arc<dyn Store>,
    pub(super) cache: Cache,
}

impl Lab {
    /// With a `file://` store.
    pub(super) async fn new() -> Self {
        let root = TempDir::new().unwrap();
        let store = directory_store(&root.path().join("store")).await;
        let cache = Cache::open(&root.path().join("cache")).unwrap();
        Self { root, store, cache }
    }

    /// Page files of 9 MiB and 5 MiB + 4 KiB, so that chunks end inside files and files inside chunks.
    pub(super) fn images(&self) -> PathBuf {
        let images = self.root.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(images.join(name), bytes).unwrap();
        write("core-1.img", b"core of process 1");
        write("inventory.img", &[7; 3000]);
        write("descriptors.json", b"[]");
        write("dump.log", b"changes with every dump");
        write("stats-dump", b"likewise");
        write("pages-2.img", &noise(9 << 20, 1));
        write("pages-10.img", &noise((5 << 20) + 4096, 2));
        images
    }

    pub(super) fn pack(&self) -> Packed {
        let rootfs = self.root.path().join("rootfs.tar");
        std::fs::write(&rootfs, noise(100_000, 3)).unwrap();
        let out = self.root.path().join("out");
        std::fs::create_dir(&out).unwrap();
        pack(&self.images(), Some(&rootfs), &out, &()).unwrap()
    }

    /// A snapshot in the store.
    pub(super) async fn published(&self) -> Manifest {
        let packed = self.pack();
        let manifest = manifest("default", packed.blobs.clone());
        publish(&*self.store, &packed, &manifest, PutMode::IfAbsent)
            .await
            .unwrap();
        manifest
    }

    /// Where the `file://` store has a blob.
    pub(super) fn blob_file(&self, digest: &Digest) -> PathBuf {
        self.root.path().join("store/v1/blobs/sha256").join(digest.hex())
    }

    /// Puts bytes into the store under their own digest.
    pub(super) fn plant(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let file = self.blob_file(&digest);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
        digest
    }

    /// Files and directories of the cache's temporary directory that are not locks.
    pub(super) fn leftovers(&self) -> Vec<PathBuf> {
        let entries = self.root.path().join("cache/tmp").read_dir().unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_none_or(|e| e != "lock"))
            .collect()
    }
}

pub(super) async fn directory_store(path: &Path) -> Arc<dyn Store> {
    let url = Url::from_file_path(path).unwrap();
    open(&url, &StoreOptions::default()).await.unwrap()
}

pub(super) fn memory_store() -> Arc<dyn Store> {
    Arc::new(ObjectBackend::new(
        Arc::new(InMemory::new()),
        "memory:///",
        &StoreOptions::default(),
    ))
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Bytes that compress to about half.
pub(super) fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size)
        .map(|i| if i / 64 % 2 == 0 { next() } else { 0 })
        .collect()
}

pub(super) fn manifest(scope: &str, blobs: Blobs) -> Manifest {
    let digest = Digest::of(b"something");
    let created = "2026-01-01T00:00:00Z".to_owned();
    Manifest {
        format: FORMAT_VERSION,
        created,
        key: Key {
            scope: scope.into(),
            platform: "linux-amd64".into(),
            config: digest,
            fingerprint: Digest::of(b"{}"),
        },
        fingerprint: serde_json::json!({}),
        image: ImageFacts {
            name: "example.com/app:1".into(),
            target: digest,
            manifest: digest,
            config: digest,
            chain_id: digest,
        },
        host: HostFacts {
            kernel: "6.12.0".into(),
            criu: "4.2".into(),
            runc: "1.3.0".into(),
            cpu: CpuFacts {
                vendor: "GenuineIntel".into(),
                features: vec!["avx".into()],
                xsave_size: 0,
            },
            cgroup: "v2".into(),
            lsm: "none".into(),
            page_size: 4096,
        },
        donor: DonorFacts {
            id: "donor".into(),
            hostname: "donor".into(),
            addresses: Vec::new(),
            established_tcp: 0,
            freeze_ms: 1,
            stale_env: Vec::new(),
            masked_paths: Vec::new(),
        },
        blobs,
    }
}
