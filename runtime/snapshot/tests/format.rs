//! The rules of the format and of the match, one row each.

#![expect(clippy::unwrap_used, reason = "a test that cannot build its input must fail")]

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

/// A machine where every path exists, and a container without a limit.
fn at(host: &HostFacts) -> Place<'_> {
    Place {
        host,
        memory_limit: None,
        exists: |_| true,
    }
}

/// Changes one fact of this machine.
type Change = fn(&mut HostFacts);

#[test]
fn what_fits_and_what_does_not() {
    let rows: [(Change, Option<&str>); 20] = [
        (|_| {}, None),
        (|h| h.cpu.features.push("zzz".to_owned()), None),
        (|h| h.cpu.features.reverse(), None),
        (|h| h.cpu.vendor.clear(), None),
        (|h| h.cpu.features.truncate(1), Some("cpu_features")),
        (|h| h.cpu.xsave_size = 832, Some("xsave_size")),
        (|h| h.kernel = "6.18.6".to_owned(), None),
        (|h| h.kernel = "6.18.5+".to_owned(), None),
        (|h| h.kernel = "7.0".to_owned(), None),
        (|h| h.kernel = "6.18.4".to_owned(), Some("kernel_older")),
        (|h| h.kernel = "6.9.99".to_owned(), Some("kernel_older")),
        (|h| h.kernel = "6.18-rc7".to_owned(), Some("kernel_older")),
        (|h| h.kernel = "unknown".to_owned(), Some("kernel_older")),
        (|h| h.criu = "4.10".to_owned(), None),
        (|h| h.criu = "4.2".to_owned(), Some("criu_older")),
        (|h| h.criu = "3.19".to_owned(), Some("criu_older")),
        (|h| h.page_size = 65536, Some("page_size")),
        (|h| h.lsm = "apparmor".to_owned(), Some("lsm")),
        (|h| h.cgroup = "v1".to_owned(), Some("cgroup")),
        (|h| h.runc = "1.2.0".to_owned(), None),
    ];
    for (index, (change, code)) in rows.into_iter().enumerate() {
        let mut here = host();
        change(&mut here);
        let found = check(&manifest(), &manifest().key, at(&here)).err();
        assert_eq!(found.as_ref().map(Mismatch::code), code, "row {index}: {found:?}");
    }
    let other = Key {
        platform: "linux-arm64".to_owned(),
        ..manifest().key
    };
    assert_eq!(check(&manifest(), &other, at(&host())), Err(Mismatch::Key));
}

#[test]
fn the_newest_that_fits_is_chosen() {
    let of = |created: &str| Manifest {
        created: created.to_owned(),
        ..manifest()
    };
    let mut newest_elsewhere = of("2026-09-09T10:00:00Z");
    newest_elsewhere.host.lsm = "selinux".to_owned();
    let variants = vec![
        of("2026-09-01T10:00:00Z"),
        of("2026-09-03T10:00:00.5Z"),
        newest_elsewhere,
        of("2026-09-03T10:00:00Z"),
    ];
    let key = manifest().key;
    let document = KeyDocument::new(variants.clone());
    assert_eq!(choose(&document, &key, at(&host())).unwrap(), &variants[1]);
    let mut turned = variants.clone();
    turned.reverse();
    assert_eq!(
        choose(&KeyDocument::new(turned), &key, at(&host())).unwrap(),
        &variants[1]
    );

    let mut twin = variants[1].clone();
    twin.donor.id = "b".to_owned();
    let smaller = if twin.id() < variants[1].id() {
        twin.clone()
    } else {
        variants[1].clone()
    };
    let document = KeyDocument::new(vec![variants[1].clone(), twin]);
    assert_eq!(choose(&document, &key, at(&host())).unwrap(), &smaller);
}

#[test]
fn the_container_s_limit_and_masked_paths_count() {
    let mut donor = manifest();
    donor.donor.masked_paths = vec!["/proc/kcore".to_owned(), "/proc/gone".to_owned()];
    let here = host();
    let codes = |limit: Option<u64>, exists: fn(&str) -> bool| -> Vec<&str> {
        let place = Place {
            memory_limit: limit,
            exists,
            ..at(&here)
        };
        mismatches(&donor, place).iter().map(Mismatch::code).collect()
    };
    let pages = donor.memory();
    assert!(pages > 0);
    assert!(codes(None, |_| true).is_empty());
    assert!(codes(Some(pages + pages / 64), |_| true).is_empty());
    assert_eq!(codes(Some(pages), |_| true), ["memory"]);
    assert_eq!(codes(None, |path| path != "/proc/gone"), ["masked_path"]);
    // All of it is told, not only what decides.
    assert_eq!(codes(Some(0), |_| false), ["masked_path", "memory"]);
}

#[test]
fn the_best_fit_is_chosen() {
    let of = |features: &[&str], kernel: &str, created: &str| {
        let mut one = manifest();
        one.host.cpu.features = features.iter().map(|&name| name.to_owned()).collect();
        one.host.kernel = kernel.to_owned();
        one.created = created.to_owned();
        one
    };
    let plain = of(&["avx2"], "6.1.0", "2026-09-09T10:00:00Z");
    let wide = of(&["avx2", "avx512f"], "6.1.0", "2026-09-01T10:00:00Z");
    let newer = of(&["avx2"], "6.12.0", "2026-09-01T10:00:00Z");
    let key = manifest().key;
    let variants = vec![plain.clone(), newer.clone(), wide.clone()];
    let chosen = |features: &[&str], kernel: &str| {
        let mut here = host();
        here.cpu.features = features.iter().map(|&name| name.to_owned()).collect();
        here.kernel = kernel.to_owned();
        let document = KeyDocument::new(variants.clone());
        choose(&document, &key, at(&here)).ok().map(Manifest::id)
    };
    assert_eq!(chosen(&["avx2", "avx512f", "amx"], "6.18.0"), Some(wide.id()));
    assert_eq!(chosen(&["avx2"], "6.18.0"), Some(newer.id()));
    assert_eq!(chosen(&["avx2"], "6.1.0"), Some(plain.id()));
    assert_eq!(chosen(&["sse2"], "6.18.0"), None);
}

#[test]
fn classes_of_machines() {
    let rows: [(Change, bool); 8] = [
        (|_| {}, true),
        (|h| h.cpu.features.reverse(), true),
        (|h| h.kernel = "6.18.99-other".to_owned(), true),
        (|h| h.criu = "9.9".to_owned(), true),
        (|h| h.kernel = "6.19.0".to_owned(), false),
        (|h| h.cpu.features.push("zzz".to_owned()), false),
        (|h| h.cpu.xsave_size = 832, false),
        (|h| h.lsm = "selinux".to_owned(), false),
    ];
    for (index, (change, same)) in rows.into_iter().enumerate() {
        let mut other = host();
        change(&mut other);
        assert_eq!(same_class(&host(), &other), same, "row {index}");
    }
}

#[test]
fn none_fits() {
    let mut here = host();
    here.cgroup = "v1".to_owned();
    let document = KeyDocument::new(vec![manifest(), manifest()]);
    let codes: Vec<_> = choose(&document, &manifest().key, at(&here))
        .unwrap_err()
        .iter()
        .map(Mismatch::code)
        .collect();
    assert_eq!(codes, ["cgroup", "cgroup"]);
    assert_eq!(
        choose(&KeyDocument::new(Vec::new()), &manifest().key, at(&here)),
        Err(Vec::new())
    );
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
