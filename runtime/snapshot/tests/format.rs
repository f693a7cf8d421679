//! The rules of the format, one row each; in `format/fitting.rs` those of the match.

#![expect(clippy::unwrap_used, reason = "a test that cannot build its input must fail")]

#[path = "format/fitting.rs"]
mod fitting;

use proptest::prelude::*;
use serde_json::json;
use thaw_snapshot::matching::{Place, check, choose, mismatches, same_class};
use thaw_snapshot::{
    Blob, Blobs, Chunk, CpuFacts, Digest, DocumentError, DonorFacts, HostFacts, ImageFacts, Key, KeyDocument,
    MAX_DOCUMENT, Manifest, ManifestError, Mismatch, PageFile, Pages,
};

fn host() -> HostFacts {
    HostFacts {
        kernel: "6.18.5-generic".to_owned(),
        criu: "4.2.1".to_owned(),
        runc: "1.3.6".to_owned(),
        cpu: CpuFacts {
            vendor: "GenuineIntel".to_owned(),
            features: vec!["avx".to_owned(), "avx2".to_owned()],
            xsave_size: 2696,
        },
        cgroup: "v2".to_owned(),
        lsm: "none".to_owned(),
        page_size: 4096,
    }
}

fn pages(digest: Digest) -> Pages {
    Pages {
        digest,
        size: 300,
        files: vec![
            PageFile {
                name: "pages-1.img".to_owned(),
                size: 8192,
            },
            PageFile {
                name: "pages-2.img".to_owned(),
                size: 4096,
            },
        ],
        chunks: vec![
            Chunk {
                digest,
                size: 200,
                raw_size: 8192,
            },
            Chunk {
                digest,
                size: 100,
                raw_size: 4096,
            },
        ],
    }
}

fn manifest() -> Manifest {
    let digest = Digest::of(b"x");
    // The digest of `{"version":1}`, the smallest fingerprint there is.
    let fingerprint = Digest::of(br#"{"version":1}"#);
    Manifest {
        format: 1,
        created: "2026-09-01T10:00:00Z".to_owned(),
        key: Key {
            scope: "default".to_owned(),
            platform: "linux-amd64".to_owned(),
            config: digest,
            fingerprint,
        },
        fingerprint: json!({"version": 1}),
        image: ImageFacts {
            name: String::new(),
            target: digest,
            manifest: digest,
            config: digest,
            chain_id: digest,
        },
        host: host(),
        donor: DonorFacts {
            id: "a".to_owned(),
            hostname: "web-1".to_owned(),
            addresses: Vec::new(),
            established_tcp: 0,
            freeze_ms: 400,
            stale_env: Vec::new(),
            masked_paths: Vec::new(),
        },
        blobs: Blobs {
            meta: Blob {
                digest,
                size: 100,
                raw_digest: digest,
                raw_size: 1000,
            },
            rootfs: None,
            pages: pages(digest),
        },
    }
}

fn broken(change: impl FnOnce(&mut Manifest)) -> ManifestError {
    let mut manifest = manifest();
    change(&mut manifest);
    manifest.validate().unwrap_err()
}

#[test]
fn a_sound_manifest_passes() {
    manifest().validate().unwrap();
    let mut without_pages = manifest();
    without_pages.blobs.pages.files.clear();
    without_pages.blobs.pages.chunks.clear();
    without_pages.blobs.pages.size = 0;
    without_pages.validate().unwrap();
}

#[test]
fn each_rule_is_held() {
    use ManifestError as E;
    assert_eq!(broken(|m| m.format = 2), E::Format(2));
    for created in [
        "",
        "yesterday",
        "2026-09-01T10:00:00+02:00",
        "2026-09-01T10:00:00+00:00",
    ] {
        assert_eq!(
            broken(|m| m.created = created.to_owned()),
            E::Created,
            "{created}"
        );
    }
    assert_eq!(
        broken(|m| m.fingerprint = json!({"version": 1, "a": 1})),
        E::Fingerprint
    );
    assert_eq!(broken(|m| m.image.config = Digest::of(b"y")), E::Config);
    assert_eq!(broken(|m| m.key.scope.clear()), E::Name("scope"));
    assert_eq!(
        broken(|m| m.host.kernel = "6".repeat(1025)),
        E::Name("kernel version")
    );
    assert_eq!(broken(|m| m.host.page_size = 0), E::PageSize(0));
    assert_eq!(broken(|m| m.host.page_size = 5000), E::PageSize(5000));
}

/// A reader looks for them on its own machine, so a hostile writer must not choose where.
#[test]
fn masked_paths_are_of_the_kernel() {
    use ManifestError as E;
    let masked = |paths: &[&str]| {
        let mut manifest = manifest();
        manifest.donor.masked_paths = paths.iter().map(|&path| path.to_owned()).collect();
        manifest.validate()
    };
    let docker = ["/proc/kcore", "/sys/firmware", "/sys/devices/virtual/powercap"];
    assert_eq!(masked(&docker), Ok(()));
    assert_eq!(masked(&["/proc/1x", "/proc/selfish", "/sys/1"]), Ok(()));
    for path in [
        "",
        "/",
        "/proc",
        "/proc/",
        "/sys/",
        "/process/x",
        "proc/kcore",
        "//proc/kcore",
        "/mnt/nfs",
        "/proc/../mnt/nfs",
        "/sys/./firmware",
        "/sys//firmware",
        "/sys/firmware/",
        "/sys/firmware/..",
        "/proc/1/root/mnt/nfs",
        "/proc/self/cwd",
        "/proc/thread-self/fd/3",
        "/proc/kcore\0",
        "/sys/firm\nware",
    ] {
        assert_eq!(masked(&[path]), Err(E::MaskedPath(path.to_owned())));
    }
    let long = format!("/sys/{}", "x".repeat(1020));
    assert_eq!(masked(&[&long]), Err(E::Name("masked path")));
    assert_eq!(masked(&[&long[..1024]]), Ok(()));
    assert_eq!(masked(&["/proc/kcore"; 128]), Ok(()));
    assert_eq!(masked(&["/proc/kcore"; 129]), Err(E::MaskedPaths(129)));
}

#[test]
fn sizes_are_bounded() {
    use ManifestError as E;
    assert!(matches!(
        broken(|m| m.blobs.meta.raw_size = (256 << 20) + 1),
        E::BlobSize { blob: "meta", .. }
    ));
    assert!(matches!(
        broken(|m| m.blobs.meta.size = 1 << 30),
        E::BlobSize { blob: "meta", .. }
    ));
    assert!(matches!(
        broken(|m| m.blobs.meta.size = 0),
        E::BlobSize { blob: "meta", .. }
    ));
    let huge = Blob {
        raw_size: (64 << 30) + 1,
        ..manifest().blobs.meta
    };
    assert!(matches!(
        broken(|m| m.blobs.rootfs = Some(huge)),
        E::BlobSize { blob: "rootfs", .. }
    ));
    let chunk = |size, raw_size| {
        broken(move |m| {
            m.blobs.pages.chunks[1] = Chunk {
                digest: Digest::of(b""),
                size,
                raw_size,
            }
        })
    };
    assert!(matches!(chunk(100, 0), E::ChunkSize { index: 1, .. }));
    assert!(matches!(chunk(0, 4096), E::ChunkSize { index: 1, .. }));
    assert!(matches!(chunk(4096 + 65537, 4096), E::ChunkSize { index: 1, .. }));
    assert!(matches!(
        chunk(100, (16 << 20) + 1),
        E::ChunkSize { index: 1, .. }
    ));
    assert!(matches!(chunk(u32::MAX, u32::MAX), E::ChunkSize { index: 1, .. }));
    assert_eq!(
        chunk(101, 4096),
        E::PagesSize {
            chunks: 301,
            blob: 300
        }
    );
    assert_eq!(
        chunk(100, 8192),
        E::PagesRawSize {
            files: 12288,
            chunks: 16384
        }
    );
    assert!(matches!(
        broken(|m| m.blobs.pages.files[0].size = u64::MAX - 4095),
        E::PagesRawSize { .. }
    ));
}

#[test]
fn page_files_have_names_of_their_own() {
    for name in [
        "pages-2.img",
        "pages-.img",
        "pages-1.img/",
        "../pages-1.img",
        "pages-x.img",
        "pages-1.img2",
        "core-1.img",
    ] {
        let error = broken(|m| m.blobs.pages.files[0].name = name.to_owned());
        assert_eq!(
            error,
            ManifestError::PageFileName(
                if name == "pages-2.img" {
                    "pages-2.img"
                } else {
                    name
                }
                .to_owned()
            )
        );
    }
    let error = broken(|m| m.blobs.pages.files[0].size = 8191);
    assert_eq!(error, ManifestError::PageFileSize("pages-1.img".to_owned()));
}

#[test]
fn a_document_is_written_and_read() {
    let document = KeyDocument::new(vec![manifest()]);
    let bytes = document.to_bytes();
    assert_eq!(KeyDocument::parse(&bytes).unwrap(), document);
    assert_eq!(
        KeyDocument::parse(&bytes).unwrap().variants[0].id(),
        manifest().id()
    );
    let mut later = manifest();
    later.created = "2026-09-02T10:00:00Z".to_owned();
    assert_ne!(later.id(), manifest().id());
}

#[test]
fn the_version_comes_before_the_fields() {
    let parse = |text: &str| KeyDocument::parse(text.as_bytes()).unwrap_err();
    assert!(matches!(
        parse(r#"{"format":2,"variants":"another shape"}"#),
        DocumentError::Format(2)
    ));
    assert!(matches!(
        parse(r#"{"format":1,"variants":"another shape"}"#),
        DocumentError::Fields(_)
    ));
    assert!(matches!(parse("{}"), DocumentError::Json(_)));
    assert!(matches!(parse("<html>"), DocumentError::Json(_)));
    assert!(matches!(parse(&"[".repeat(100_000)), DocumentError::Json(_)));
    assert!(matches!(
        parse(&" ".repeat(MAX_DOCUMENT + 1)),
        DocumentError::Size(_)
    ));
    let many = KeyDocument::new(vec![manifest(); 65]).to_bytes();
    assert!(matches!(
        KeyDocument::parse(&many).unwrap_err(),
        DocumentError::Variants(65)
    ));
    let mut unsound = manifest();
    unsound.blobs.pages.size = 1;
    let bytes = KeyDocument::new(vec![manifest(), unsound]).to_bytes();
    assert!(matches!(
        KeyDocument::parse(&bytes).unwrap_err(),
        DocumentError::Manifest { index: 1, .. }
    ));
}

#[test]
fn fields_of_later_builds_are_ignored() {
    let mut value = serde_json::to_value(KeyDocument::new(vec![manifest()])).unwrap();
    value["signatures"] = json!([]);
    value["variants"][0]["blobs"]["pages"]["order"] = json!("hot-first");
    let read = KeyDocument::parse(value.to_string().as_bytes()).unwrap();
    assert_eq!(read.variants, [manifest()]);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = KeyDocument::parse(&bytes);
    }

    #[test]
    fn no_cut_or_flip_panics(at in 0usize..1500, with in any::<u8>()) {
        let mut bytes = KeyDocument::new(vec![manifest()]).to_bytes();
        let at = at % bytes.len();
        let _ = KeyDocument::parse(&bytes[..at]);
        bytes[at] = with;
        let _ = KeyDocument::parse(&bytes);
    }
}
