//! Snapshots that are damaged on the way or on the disk: each ends in its own error, and leaves nothing.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use thaw_snapshot::{Digest, Manifest};

use super::fixture::{Lab, soon};
use crate::{EntryError, FetchError};

async fn refused(lab: &Lab, manifest: &Manifest) -> FetchError {
    let error = lab.cache.fetch(&*lab.store, manifest, soon()).await.unwrap_err();
    assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
    assert!(lab.cache.list().unwrap().is_empty());
    error
}

fn blobs(manifest: &Manifest) -> [Digest; 3] {
    let blobs = &manifest.blobs;
    [
        blobs.meta.digest,
        blobs.rootfs.as_ref().unwrap().digest,
        blobs.pages.digest,
    ]
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_any_blob() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    for digest in blobs(&manifest) {
        let file = lab.blob_file(&digest);
        for at in [0, file.metadata().unwrap().len() - 1] {
            flip(&file, at);
            assert!(matches!(
                refused(&lab, &manifest).await,
                FetchError::WrongDigest { .. }
            ));
            flip(&file, at);
        }
    }
    lab.cache.fetch(&*lab.store, &manifest, soon()).await.unwrap();
}

#[tokio::test]
async fn a_truncated_long_or_missing_blob() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    for digest in blobs(&manifest) {
        let path = lab.blob_file(&digest);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(
            refused(&lab, &manifest).await,
            FetchError::Truncated { .. }
        ));
        std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(matches!(
            refused(&lab, &manifest).await,
            FetchError::TooLarge { .. }
        ));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            refused(&lab, &manifest).await,
            FetchError::Missing { .. }
        ));
        std::fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test]
async fn sizes_that_do_not_add_up() {
    let lab = Lab::new().await;
    let good = lab.published().await;
    let broken = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        manifest
    };
    for manifest in [
        broken(&|m| m.blobs.pages.size += 1),
        broken(&|m| m.blobs.pages.files[0].size += 1),
        broken(&|m| m.blobs.pages.files[0].size = u64::MAX),
        broken(&|m| m.blobs.pages.chunks[0].raw_size -= 1),
        broken(&|m| m.blobs.pages.chunks[0].size = 0),
        broken(&|m| m.blobs.pages.chunks[0].raw_size = u32::MAX),
        broken(&|m| m.blobs.meta.raw_size = 1 << 40),
        broken(&|m| m.blobs.rootfs.as_mut().unwrap().raw_size = 1 << 60),
        broken(&|m| m.blobs.meta.size = 0),
        broken(&|m| m.blobs.pages.files[0].name = "../pages-1.img".into()),
        broken(&|m| m.blobs.pages.files[0].name = "seal.json".into()),
        broken(&|m| m.blobs.pages.files[1].name = m.blobs.pages.files[0].name.clone()),
    ] {
        let error = refused(&lab, &manifest).await;
        assert!(matches!(error, FetchError::Manifest { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_wrong_raw_size_or_digest() {
    let lab = Lab::new().await;
    let good = lab.published().await;
    let mut longer = good.clone();
    longer.blobs.meta.raw_size += 1;
    assert!(matches!(
        refused(&lab, &longer).await,
        FetchError::Decompress { .. }
    ));
    let mut shorter = good.clone();
    shorter.blobs.meta.raw_size -= 1;
    assert!(matches!(
        refused(&lab, &shorter).await,
        FetchError::TooLarge { .. }
    ));
    let mut other = good.clone();
    other.blobs.rootfs.as_mut().unwrap().raw_digest = Digest::of(b"other");
    assert!(matches!(
        refused(&lab, &other).await,
        FetchError::WrongDigest { .. }
    ));
}

#[tokio::test]
async fn zip_bombs() {
    let lab = Lab::new().await;
    let good = lab.published().await;
    // 1 GiB of zeros in some tens of kilobytes, said to be 1 MiB.
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1).unwrap();
    let mut archive = good.clone();
    let rootfs = archive.blobs.rootfs.as_mut().unwrap();
    (rootfs.digest, rootfs.size, rootfs.raw_size) = (lab.plant(&bomb), bomb.len() as u64, 1 << 20);
    assert!(matches!(
        refused(&lab, &archive).await,
        FetchError::TooLarge { .. }
    ));

    let mut memory = good;
    let pages = &mut memory.blobs.pages;
    pages.digest = lab.plant(&bomb);
    pages.size = bomb.len() as u64;
    pages.chunks.truncate(1);
    pages.files.truncate(1);
    (pages.chunks[0].size, pages.chunks[0].digest) = (bomb.len() as u32, pages.digest);
    pages.files[0].size = u64::from(pages.chunks[0].raw_size);
    assert!(matches!(
        refused(&lab, &memory).await,
        FetchError::Decompress { .. }
    ));
}

#[tokio::test]
async fn a_deadline_that_passed() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    let past = Instant::now() - Duration::from_secs(1);
    let error = lab.cache.fetch(&*lab.store, &manifest, past).await.unwrap_err();
    assert!(matches!(error, FetchError::Deadline));
}

#[tokio::test]
async fn a_deadline_at_any_step() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    let mut step = Duration::ZERO;
    while let Err(error) = lab
        .cache
        .fetch(&*lab.store, &manifest, Instant::now() + step)
        .await
    {
        assert!(matches!(error, FetchError::Deadline), "{error:?}");
        assert!(lab.leftovers().is_empty(), "{step:?}: {:?}", lab.leftovers());
        step += Duration::from_millis(1);
    }
    assert!(lab.leftovers().is_empty());
}

#[tokio::test]
async fn a_changed_file_in_the_cache() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    for name in ["pages-2.img", "pages-10.img", "meta.tar", "rootfs.tar"] {
        let entry = lab
            .cache
            .fetch(&*lab.store, &manifest, soon())
            .await
            .unwrap()
            .entry;
        let path = entry.directory().join(name);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(
            lab.cache.get(&manifest).unwrap().is_some(),
            "{name}: only the mode changed"
        );
        flip(&path, 1000);
        assert!(
            lab.cache.get(&manifest).unwrap().is_none(),
            "{name}: a bit changed"
        );
        assert!(!entry.directory().exists());
    }
    for name in ["pages-2.img", "seal.json"] {
        let entry = lab
            .cache
            .fetch(&*lab.store, &manifest, soon())
            .await
            .unwrap()
            .entry;
        std::fs::remove_file(entry.directory().join(name)).unwrap();
        assert!(lab.cache.get(&manifest).unwrap().is_none(), "{name} is gone");
    }
    let entry = lab
        .cache
        .fetch(&*lab.store, &manifest, soon())
        .await
        .unwrap()
        .entry;
    flip(&entry.directory().join("meta.tar"), 1000);
    assert!(matches!(entry.images(), Err(EntryError::Changed { .. })));
}

#[tokio::test]
async fn a_cache_that_was_moved_or_booted_again_is_hashed_again() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    let entry = lab
        .cache
        .fetch(&*lab.store, &manifest, soon())
        .await
        .unwrap()
        .entry;
    let seal = entry.directory().join("seal.json");
    let sealed = std::fs::read_to_string(&seal).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(&seal, sealed.replace(boot.trim(), "another boot")).unwrap();
    assert!(lab.cache.get(&manifest).unwrap().is_some());
    assert_eq!(
        std::fs::read_to_string(&seal).unwrap(),
        sealed,
        "sealed again for this boot"
    );
}

#[tokio::test]
async fn what_a_crash_left_is_swept() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    let temporary = lab.root.path().join("cache/tmp");
    for (name, age) in [("fetch-old", 7200), ("fetch-young", 60)] {
        std::fs::create_dir(temporary.join(name)).unwrap();
        let time = std::time::SystemTime::now() - Duration::from_secs(age);
        File::open(temporary.join(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
    lab.cache.fetch(&*lab.store, &manifest, soon()).await.unwrap();
    assert_eq!(lab.leftovers(), [temporary.join("fetch-young")]);
}
