//! What a start gives back when it can't go on, and what a dead shim has left.

use super::*;

/// A world as Docker makes it: the root filesystem is mounted before the shim is asked.
async fn mounted_by_the_client() -> World {
    let mut world = with_snapshot("sleep").await;
    world.rootfs.client_mounts = true;
    world.rootfs.mounted.store(1, Ordering::SeqCst);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_has_mounted_is_taken_off_while_files_change() {
    let world = mounted_by_the_client().await;
    restored(&world).await;
    assert_eq!(world.rootfs.taken_off.load(Ordering::SeqCst), 1);
    assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 1);
    assert_eq!(*world.rootfs.at_mount.lock().unwrap(), [["cache"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_has_mounted_is_given_back_as_it_was() {
    let mut world = mounted_by_the_client().await;
    let before = state_of(&world.upper());
    world.runc_does("restore", "fail");
    world.annotate("thaw.dev/snapshot-policy", "Required");
    let error = world.create().await.unwrap_err();
    assert!(matches!(error, CreateError::Required(_)), "{error:?}");
    assert_eq!(
        world.rootfs.taken_off.load(Ordering::SeqCst),
        2,
        "to apply, to undo"
    );
    assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 1);
    assert_eq!(state_of(&world.upper()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_has_mounted_and_somebody_uses_starts_cold() {
    let world = mounted_by_the_client().await;
    world.rootfs.busy.store(true, Ordering::SeqCst);
    let before = state_of(&world.upper());
    let created = world.create().await.unwrap();
    assert_eq!(created.outcome.reason, "rootfs_mount_failed");
    assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 1);
    assert_eq!(state_of(&world.upper()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_undone_ends_the_start_and_the_rest_is_undone() {
    let world = with_snapshot("sleep").await;
    let before = state_of(&world.upper());
    world.runc_does("restore", "late");
    world.runc_does("delete", "fail");
    let error = world.create().await.unwrap_err();
    assert!(matches!(error, CreateError::Runc(_)), "{error:?}");
    assert_eq!(world.verbs(), ["restore", "delete"]);
    assert_eq!(state_of(&world.upper()), before);
    assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 0);
    assert!(!world.record().exists());
    assert_undone(&world, "stuck").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_that_fails_leaves_nothing() {
    let world = with_snapshot("sleep").await;
    world.runc_does("restore", "fail");
    world.runc_does("create", "fail");
    let error = world.create().await.unwrap_err();
    assert!(matches!(error, CreateError::Runc(_)), "{error:?}");
    assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 0);
    assert!(!world.record().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_shim_has_left_is_undone_by_the_next() {
    for mut world in [with_snapshot("sleep").await, mounted_by_the_client().await] {
        let before = state_of(&world.upper());
        restored(&world).await;
        assert_ne!(state_of(&world.upper()), before);
        // Nobody has started it.
        assert!(world.record().join("begun.json").exists());
        world.config.policy = SnapshotPolicy::Never;
        let created = world.create().await.unwrap();
        assert_eq!(created.outcome.reason, "policy_never");
        assert_eq!(state_of(&world.upper()), before);
        assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 1);
        assert!(!world.record().join("begun.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_shim_has_left_and_cannot_be_undone_is_not_started_on() {
    let mut world = mounted_by_the_client().await;
    restored(&world).await;
    world.config.policy = SnapshotPolicy::Never;
    world.rootfs.busy.store(true, Ordering::SeqCst);
    let error = world.create().await.unwrap_err();
    assert!(matches!(error, CreateError::Left(_)), "{error:?}");
    // It is tried again.
    world.rootfs.busy.store(false, Ordering::SeqCst);
    world.create().await.unwrap();
    assert!(names_in(&world.upper()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_container_of_that_id_has_left_is_none_of_its_business() {
    let mut world = with_snapshot("sleep").await;
    restored(&world).await;
    world.config.policy = SnapshotPolicy::Never;
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("own"), "of somebody").unwrap();
    let note = world.record().join("begun.json");
    let mut begun: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    begun["upper"] = elsewhere.to_str().unwrap().into();
    fs::write(&note, begun.to_string()).unwrap();
    let changed = state_of(&world.upper());
    world.rootfs.mounted.store(0, Ordering::SeqCst);
    world.create().await.unwrap();
    assert_eq!(names_in(&elsewhere), ["own"]);
    assert_eq!(state_of(&world.upper()), changed);
}
