//! The manifest: everything a node must know to decide on a snapshot, and to fetch it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The version of the format that this build writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// What makes two starts alike (design decision 5). Its path in the store is [`Key::path`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Who may share the snapshot: by default the containerd namespace, and in Kubernetes the pod's namespace in it.
    pub scope: String,
    /// Operating system and architecture, as in `linux-amd64`.
    pub platform: String,
    /// Digest of the image's config object: the same for every packaging of the same layers.
    pub config: Digest,
    /// Hash of everything in the OCI spec that the restored process carries in its memory or its rights.
    pub fingerprint: Digest,
}

/// What the store holds under a key: the snapshots that can stand in for one start, one for each class of machines
/// ([`crate::matching::same_class`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDocument {
    /// [`FORMAT_VERSION`] of the writer.
    pub format: u32,
    /// The snapshots under this key.
    pub variants: Vec<Manifest>,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format: u32,
    /// When the dump was taken, RFC 3339, UTC.
    pub created: String,
    /// What it may stand in for.
    pub key: Key,
    /// The document whose hash is `key.fingerprint`, so that a miss can be explained field by field.
    pub fingerprint: serde_json::Value,
    /// The image it was taken from.
    pub image: ImageFacts,
    /// The machine it was taken on.
    pub host: HostFacts,
    /// The container it was taken from.
    pub donor: DonorFacts,
    /// Where its bytes are.
    pub blobs: Blobs,
}

/// The image of the donor, under each of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The name that the donor's client used, for people.
    pub name: String,
    /// Digest that the name pointed to: an index, or a manifest.
    pub target: Digest,
    /// Digest of this platform's manifest.
    pub manifest: Digest,
    /// Digest of the config.
    pub config: Digest,
    /// Chain id of the unpacked layers (OCI image spec, "Layer ChainID").
    pub chain_id: Digest,
}

/// Facts of the host that a later match needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel: String,
    /// CRIU version, as in `4.2.1`.
    pub criu: String,
    /// runc version, as in `1.3.6`.
    pub runc: String,
    /// What the processor offers.
    pub cpu: CpuFacts,
    /// `v1` or `v2`.
    pub cgroup: String,
    /// `none`, `apparmor` or `selinux`.
    pub lsm: String,
    /// Bytes per page.
    pub page_size: u64,
}

/// What the processor offers to programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFacts {
    /// As in /proc/cpuinfo.
    pub vendor: String,
    /// Flags (x86) or Features (arm64) of /proc/cpuinfo, sorted.
    pub features: Vec<String>,
    /// Size of the xsave area for the enabled components in bytes (CPUID leaf 0xd, subleaf 0, ebx); 0 where there
    /// is none. glibc caches it, so it must be equal (criu#3120).
    pub xsave_size: u32,
}

/// What is known of the donor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DonorFacts {
    /// Container id.
    pub id: String,
    /// Hostname that its processes saw.
    pub hostname: String,
    /// Addresses in its network namespace, loopback left out.
    pub addresses: Vec<IpAddr>,
    /// Number of TCP connections kept in the images.
    pub established_tcp: u32,
    /// How long the application stood still, in milliseconds.
    pub freeze_ms: u64,
    /// Variables of the environment that are not part of the key: a restored process has the donor's values of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale_env: Vec<String>,
    /// Those of the spec's masked paths that existed. Each is a mount in the images, and needs a place to go. A reader
    /// looks for them on its machine: see [`crate::may_be_masked`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
}

impl Manifest {
    /// Memory of the processes in bytes.
    pub fn memory(&self) -> u64 {
        let files = self.blobs.pages.files.iter();
        files.map(|file| file.size).fold(0, u64::saturating_add)
    }
}

/// The blobs of a snapshot. All are zstd-compressed and named by the digest of the compressed bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blobs {
    /// tar of the CRIU images without the page files.
    pub meta: Blob,
    /// tar of the changed files of the root filesystem, with OCI whiteouts; absent when nothing had changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Blob>,
    /// Memory pages.
    pub pages: Pages,
}

/// One compressed object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Digest of the compressed bytes; the name in the store.
    pub digest: Digest,
    /// Compressed size in bytes.
    pub size: u64,
    /// Digest of the bytes before compression.
    pub raw_digest: Digest,
    /// Size in bytes before compression.
    pub raw_size: u64,
}

/// Memory pages: the concatenation of CRIU's `pages-*.img`, cut into chunks that stand for themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// The blob that holds the compressed chunks one after the other.
    pub digest: Digest,
    /// Its size in bytes: the sum of the chunks' sizes.
    pub size: u64,
    /// CRIU's files in the order in which they were concatenated.
    pub files: Vec<PageFile>,
    /// Chunks in the order of the blob.
    pub chunks: Vec<Chunk>,
}

/// One `pages-N.img`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageFile {
    /// File name as CRIU expects it.
    pub name: String,
    /// Size in bytes, a multiple of the page size.
    pub size: u64,
}

/// A run of page data, one zstd frame in the pages blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Digest of the compressed frame.
    pub digest: Digest,
    /// Size of the compressed frame in bytes.
    pub size: u32,
    /// Size before compression in bytes.
    pub raw_size: u32,
}
