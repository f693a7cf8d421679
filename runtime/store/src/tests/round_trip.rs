//! What was packed is what comes out.

use std::os::unix::fs::PermissionsExt as _;

use thaw_snapshot::{Key, KeyDocument, MAX_VARIANTS, Manifest};

use super::fixture::{Lab, manifest, noise, soon};
use crate::{PackError, Published, PutMode, Removed, list, lookup, pack, publish, remove};

#[tokio::test]
async fn packed_published_fetched() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    assert!(lab.cache.get(&manifest).unwrap().is_none());

    let document = lookup(&*lab.store, &manifest.key).await.unwrap().unwrap();
    assert_eq!(document.variants, vec![manifest.clone()]);
    let fetched = lab.cache.fetch(&*lab.store, &manifest, soon()).await.unwrap();
    let blobs = &manifest.blobs;
    let sum = blobs.meta.size + blobs.pages.size + blobs.rootfs.as_ref().unwrap().size;
    assert_eq!(fetched.bytes, sum);

    let entry = lab.cache.get(&manifest).unwrap().unwrap();
    let images = entry.images().unwrap();
    assert_eq!(
        images.keys().collect::<Vec<_>>(),
        ["core-1.img", "descriptors.json", "inventory.img"]
    );
    assert_eq!(images["core-1.img"], b"core of process 1");
    assert_eq!(std::fs::read(entry.rootfs().unwrap()).unwrap(), noise(100_000, 3));
    let pages = entry.pages();
    assert_eq!(pages[0].0, "pages-2.img");
    assert!(std::fs::read(&pages[0].1).unwrap() == noise(9 << 20, 1));
    assert!(std::fs::read(&pages[1].1).unwrap() == noise((5 << 20) + 4096, 2));

    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(entry.directory()), mode(&pages[0].1)), (0o700, 0o400));
    assert!(lab.leftovers().is_empty());
    assert_eq!(
        lab.cache
            .fetch(&*lab.store, &manifest, soon())
            .await
            .unwrap()
            .bytes,
        0
    );

    assert_eq!(lab.cache.list().unwrap()[0].id, entry.id());
    assert!(lab.cache.remove(&entry.id()).unwrap());
    assert!(!lab.cache.remove(&entry.id()).unwrap());
    assert!(lab.cache.get(&manifest).unwrap().is_none());
}

#[tokio::test]
async fn the_same_images_make_the_same_blobs() {
    let lab = Lab::new().await;
    let first = lab.pack();
    let again = lab.root.path().join("again");
    std::fs::create_dir(&again).unwrap();
    let second = pack(&lab.root.path().join("images"), None, &again, &()).unwrap();
    assert_eq!(first.blobs.meta, second.blobs.meta);
    assert_eq!(first.blobs.pages, second.blobs.pages);
}

#[tokio::test]
async fn strange_files_are_not_packed() {
    let lab = Lab::new().await;
    let images = lab.images();
    std::os::unix::fs::symlink("/etc/passwd", images.join("core-2.img")).unwrap();
    assert!(matches!(
        pack(&images, None, lab.root.path(), &()),
        Err(PackError::Strange { .. })
    ));
}

#[tokio::test]
async fn a_snapshot_without_memory_or_rootfs() {
    let lab = Lab::new().await;
    let images = lab.root.path().join("images");
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("core-1.img"), b"core").unwrap();
    let packed = pack(&images, None, lab.root.path(), &()).unwrap();
    let manifest = manifest("default", packed.blobs.clone());
    publish(&*lab.store, &packed, &manifest, PutMode::IfAbsent)
        .await
        .unwrap();
    let entry = lab
        .cache
        .fetch(&*lab.store, &manifest, soon())
        .await
        .unwrap()
        .entry;
    assert_eq!((entry.pages().len(), entry.rootfs()), (0, None));
    assert!(lab.cache.get(&manifest).unwrap().is_some());
}

#[tokio::test]
async fn the_first_publisher_wins() {
    let lab = Lab::new().await;
    let packed = lab.pack();
    let first = manifest("default", packed.blobs.clone());
    let mut second = first.clone();
    second.created = "2026-02-02T00:00:00Z".into();
    let put = |manifest, mode| {
        let (store, packed) = (&lab.store, &packed);
        async move { publish(&**store, packed, &manifest, mode).await.unwrap() }
    };
    assert_eq!(put(first.clone(), PutMode::IfAbsent).await, Published::Published);
    assert_eq!(
        put(second.clone(), PutMode::IfAbsent).await,
        Published::AlreadyThere
    );
    assert_eq!(
        lookup(&*lab.store, &first.key).await.unwrap().unwrap().variants,
        vec![first.clone()]
    );
    assert_eq!(put(second.clone(), PutMode::Replace).await, Published::Published);
    assert_eq!(
        lookup(&*lab.store, &first.key).await.unwrap().unwrap().variants,
        vec![second]
    );
}

#[tokio::test]
async fn machines_of_other_classes_have_snapshots_of_their_own() {
    let lab = Lab::new().await;
    let packed = lab.pack();
    let of = |kernel: &str, feature: &str, created: &str| {
        let mut manifest = manifest("default", packed.blobs.clone());
        manifest.host.kernel = kernel.to_owned();
        manifest.host.cpu.features = vec![feature.to_owned()];
        manifest.created = created.to_owned();
        manifest
    };
    let put = |manifest: Manifest, mode| {
        let (store, packed) = (&lab.store, &packed);
        async move { publish(&**store, packed, &manifest, mode).await.unwrap() }
    };
    let standing = async |key: &Key| lookup(&*lab.store, key).await.unwrap().unwrap().variants;
    let first = of("6.1.0", "avx2", "2026-01-01T00:00:00Z");
    let wide = of("6.1.0", "avx512f", "2026-01-02T00:00:00Z");
    let newer = of("6.18.0", "avx2", "2026-01-03T00:00:00Z");
    assert_eq!(put(first.clone(), PutMode::Replace).await, Published::Published);
    // One that this machine would not restore does not take the key.
    assert_eq!(put(wide.clone(), PutMode::IfAbsent).await, Published::Published);
    // One that it would does, though it is of another class.
    assert_eq!(
        put(newer.clone(), PutMode::IfAbsent).await,
        Published::AlreadyThere
    );
    assert_eq!(put(newer.clone(), PutMode::Replace).await, Published::Published);
    assert_eq!(
        standing(&first.key).await,
        [first.clone(), wide.clone(), newer.clone()]
    );
    // Its own class is replaced, the patch of the kernel notwithstanding.
    let again = of("6.1.9", "avx2", "2026-01-04T00:00:00Z");
    assert_eq!(put(again.clone(), PutMode::Replace).await, Published::Published);
    assert_eq!(standing(&first.key).await, [wide, newer, again]);
}

#[tokio::test]
async fn two_who_publish_at_once_lose_nothing() {
    let lab = Lab::new().await;
    let packed = lab.pack();
    let put = |number: usize| {
        let mut manifest = manifest("default", packed.blobs.clone());
        manifest.host.cpu.features = vec![format!("feature-{number}")];
        let (store, packed) = (&lab.store, &packed);
        async move { publish(&**store, packed, &manifest, PutMode::Replace).await }
    };
    let all = futures::future::join_all((0..5).map(put)).await;
    assert!(
        all.iter().all(|put| matches!(put, Ok(Published::Published))),
        "{all:?}"
    );
    let key = manifest("default", packed.blobs.clone()).key;
    let document = lookup(&*lab.store, &key).await.unwrap().unwrap();
    assert_eq!(document.variants.len(), 5);
}

#[tokio::test]
async fn the_oldest_goes_when_there_is_no_room() {
    let lab = Lab::new().await;
    let packed = lab.pack();
    let of = |number: usize| {
        let mut manifest = manifest("default", packed.blobs.clone());
        manifest.host.cpu.features = vec![format!("feature-{number}")];
        manifest.created = format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60);
        manifest
    };
    let path = crate::KeyPath::of(&of(0).key);
    let full = KeyDocument::new((1..=MAX_VARIANTS).map(of).collect());
    let put = lab.store.put_key(&path, full.to_bytes().into(), PutMode::Replace);
    put.await.unwrap();
    publish(&*lab.store, &packed, &of(0), PutMode::Replace)
        .await
        .unwrap();
    let document = lookup(&*lab.store, &of(0).key).await.unwrap().unwrap();
    assert_eq!(document.variants.len(), MAX_VARIANTS);
    assert!(document.variants.contains(&of(0)) && document.variants.contains(&of(2)));
    assert!(!document.variants.contains(&of(1)));
}

#[tokio::test]
async fn removal_keeps_blobs_that_others_name() {
    let lab = Lab::new().await;
    let packed = lab.pack();
    let first = manifest("one", packed.blobs.clone());
    let mut second = manifest("two", packed.blobs.clone());
    second.blobs.rootfs = None;
    let partial = crate::Packed {
        blobs: second.blobs.clone(),
        files: packed.files.clone(),
    };
    publish(&*lab.store, &packed, &first, PutMode::IfAbsent)
        .await
        .unwrap();
    publish(&*lab.store, &partial, &second, PutMode::IfAbsent)
        .await
        .unwrap();
    assert_eq!(list(&*lab.store).await.unwrap().snapshots.len(), 2);

    let ids: Vec<_> = [&first, &second].map(|manifest| manifest.id()).into();
    assert_eq!(
        remove(&*lab.store, &ids[0]).await.unwrap(),
        Removed::Removed { blobs: 1 }
    );
    assert_eq!(remove(&*lab.store, &ids[0]).await.unwrap(), Removed::NotFound);
    lab.cache.fetch(&*lab.store, &second, soon()).await.unwrap();
    assert_eq!(
        remove(&*lab.store, &ids[1]).await.unwrap(),
        Removed::Removed { blobs: 2 }
    );
    assert!(list(&*lab.store).await.unwrap().snapshots.is_empty());
    assert!(
        lab.root
            .path()
            .join("store/v1/blobs/sha256")
            .read_dir()
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_fetch_the_same() {
    let lab = Lab::new().await;
    let manifest = lab.published().await;
    let fetches = (0..8).map(|_| {
        let (cache, store, manifest) = (lab.cache.clone(), lab.store.clone(), manifest.clone());
        tokio::spawn(async move { cache.fetch(&*store, &manifest, soon()).await.unwrap().bytes })
    });
    let bytes = futures::future::join_all(fetches).await;
    let fetched = bytes
        .into_iter()
        .filter(|bytes| *bytes.as_ref().unwrap() > 0)
        .count();
    assert_eq!(fetched, 1);
    assert!(lab.leftovers().is_empty());
    assert!(lab.cache.get(&manifest).unwrap().is_some());
}
