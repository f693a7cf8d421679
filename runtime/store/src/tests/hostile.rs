//! Image archives that a hostile author could write. Their digests are right.

use thaw_snapshot::Manifest;

use super::fixture::{Lab, soon};
use crate::{Entry, EntryError};

/// A tar header as no honest writer would make it: the name goes in unchecked.
fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_size(size);
    if kind == tar::EntryType::Symlink || kind == tar::EntryType::Link {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    header
}

fn archive(entries: &[(&str, tar::EntryType, u64, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, size, bytes) in entries {
        builder.append(&header(name, *kind, *size), *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

async fn entry(lab: &Lab, good: &Manifest, tar: &[u8]) -> Entry {
    let packed = zstd::encode_all(tar, 1).unwrap();
    let mut manifest = good.clone();
    let meta = &mut manifest.blobs.meta;
    (meta.digest, meta.size) = (lab.plant(&packed), packed.len() as u64);
    (meta.raw_digest, meta.raw_size) = (thaw_snapshot::Digest::of(tar), tar.len() as u64);
    lab.cache
        .fetch(&*lab.store, &manifest, soon())
        .await
        .unwrap()
        .entry
}

#[tokio::test]
async fn only_plain_files_with_plain_names() {
    use tar::EntryType as T;
    let lab = Lab::new().await;
    let good = lab.published().await;
    for name in [
        "../core-1.img",
        "/etc/passwd",
        "a/b.img",
        ".hidden",
        "..",
        "core 1.img",
        "core\n.img",
    ] {
        let error = entry(&lab, &good, &archive(&[(name, T::Regular, 1, b"x")]))
            .await
            .images()
            .unwrap_err();
        assert!(matches!(error, EntryError::Name { .. }), "{name:?}: {error:?}");
    }
    for kind in [
        T::Symlink,
        T::Link,
        T::Char,
        T::Block,
        T::Fifo,
        T::Directory,
        T::GNULongName,
        T::GNUSparse,
        T::XHeader,
        T::XGlobalHeader,
    ] {
        let error = entry(&lab, &good, &archive(&[("core-1.img", kind, 0, b"")]))
            .await
            .images()
            .unwrap_err();
        assert!(matches!(error, EntryError::Kind { .. }), "{kind:?}: {error:?}");
    }
}

#[tokio::test]
async fn duplicates_and_lies_about_sizes() {
    use tar::EntryType as T;
    let lab = Lab::new().await;
    let good = lab.published().await;
    let twice = archive(&[("a.img", T::Regular, 1, b"x"), ("a.img", T::Regular, 1, b"y")]);
    assert!(matches!(
        entry(&lab, &good, &twice).await.images(),
        Err(EntryError::Duplicate { .. })
    ));
    for size in [2000, 1 << 33] {
        let short = archive(&[("a.img", T::Regular, size, b"x")]);
        let error = entry(&lab, &good, &short).await.images().unwrap_err();
        assert!(
            matches!(error, EntryError::Short { .. } | EntryError::Archive { .. }),
            "{error:?}"
        );
    }
    let garbage = entry(&lab, &good, &[0xff; 2048]).await;
    assert!(matches!(garbage.images(), Err(EntryError::Archive { .. })));
    assert!(entry(&lab, &good, &[0; 1024]).await.images().unwrap().is_empty());
}
