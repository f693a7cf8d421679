//! Boot, told as stories: what comes up, what is said of it, and that nothing stays behind. runc, CRIU, containerd and
//! mounts are fakes (see `story/`), store, cache, images and files are real. Needs no root.

#![expect(clippy::unwrap_used, reason = "a story whose props are missing must fail")]

#[path = "story/world.rs"]
mod world;
#[path = "story/mounts.rs"]
mod mounts;
#[path = "story/donor.rs"]
mod donor;
#[path = "story/reasons.rs"]
mod reasons;
#[path = "story/matching.rs"]
mod matching;
#[path = "story/undone.rs"]
mod undone;
#[path = "story/checkpoint.rs"]
mod checkpoint;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use thaw_config::SnapshotPolicy;
use thaw_criu::inventory::{self, NetworkLock};
use thaw_criu::uts;
use thaw_runtime::boot::{CreateError, Created};
use thaw_runtime::outcome::{Outcome, Result as Way};
use thaw_runtime::quarantine::Quarantine;
use tokio::task::JoinSet;

use donor::Donor;
use reasons::{STORIES, Story};
use world::{World, eventually, names_in, process_state, state_of};

/// The world of a story, up to the start of the clone.
async fn given(story: &Story) -> World {
    let mut world = World::new();
    let mut donor = Donor::of("sleep");
    (story.donor)(&mut donor, &mut world);
    donor.publish(&world).await;
    (story.clone)(&mut world);
    world
}

/// A world with a snapshot that fits.
async fn with_snapshot(set: &str) -> World {
    let world = World::new();
    Donor::of(set).publish(&world).await;
    world
}

fn stages(outcome: &Outcome) -> Vec<&str> {
    outcome.stages.iter().map(|stage| stage.name.as_str()).collect()
}

/// What must hold after every failed restore: its processes, images and changed files have gone.
async fn assert_undone(world: &World, told: &str) {
    assert!(!world.record().join("restore").exists(), "{told}");
    for pid in world.pids("restore") {
        eventually(told, || process_state(pid).is_none()).await;
    }
    let verbs = world.verbs();
    if let Some(restore) = verbs.iter().position(|verb| verb == "restore") {
        let delete = verbs.iter().position(|verb| verb == "delete").unwrap();
        assert!(restore < delete, "{told}: {verbs:?}");
        assert_eq!(world.calls()[delete], "delete --force clone", "{told}");
    }
}

/// All stories at the same time: most of each is waiting for a disk or a child. That holds up a thread, so there must
/// be more of them than processors.
async fn tell_all<F: Future<Output = ()> + Send + 'static>(tell: fn(Story, String) -> F) {
    let mut telling = JoinSet::new();
    for (number, story) in STORIES.iter().copied().enumerate() {
        telling.spawn(tell(story, format!("story {number}, {}", story.code)));
    }
    while let Some(told) = telling.join_next().await {
        told.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn whatever_fails_the_container_starts_cold() {
    tell_all(starts_cold).await;
}

async fn starts_cold(story: Story, told: String) {
    let world = given(&story).await;
    let before = world.upper().exists().then(|| state_of(&world.upper()));
    let created = world.create().await.unwrap();
    let outcome = &created.outcome;
    assert_eq!(
        (outcome.reason.as_str(), outcome.result),
        (story.code, Way::Cold),
        "{told}: {}",
        outcome.detail
    );
    assert!(created.held.is_none(), "{told}");
    assert_eq!(world.pids("create"), [created.pid], "{told}");
    let verbs = world.verbs();
    assert_eq!(verbs.iter().filter(|verb| *verb == "create").count(), 1, "{told}");
    assert_eq!(verbs.last().unwrap(), "create", "{told}");
    assert_undone(&world, &told).await;
    assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 1, "{told}");
    let after = world.upper().exists().then(|| state_of(&world.upper()));
    assert_eq!(after, before, "{told}");
    let on_disk = fs::read(world.record().join("outcome.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<Outcome>(&on_disk).unwrap(),
        *outcome,
        "{told}"
    );
    // runc runs them, and this runc does not; had the failed restore run them, they would run twice.
    assert!(!world.path("bundle/hooks").exists(), "{told}");
    let names = stages(outcome);
    assert_eq!(names.last(), Some(&"create"), "{told}");
    assert!(
        names.len() >= 2,
        "{told}: the failed stage has its time too: {names:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn required_means_restored_or_not_started() {
    tell_all(is_not_started).await;
}

async fn is_not_started(story: Story, told: String) {
    if ["policy_never", "sandbox"].contains(&story.code) {
        return;
    }
    let mut world = given(&story).await;
    if world.spec.is_null() {
        world.config.policy = SnapshotPolicy::Required;
    } else {
        world.annotate("thaw.dev/snapshot-policy", "Required");
    }
    let before = world.upper().exists().then(|| state_of(&world.upper()));
    match world.create().await {
        Err(CreateError::Required(reason)) => assert_eq!(reason.code(), story.code, "{told}"),
        other => panic!("{told}: {other:?}"),
    }
    assert!(!world.verbs().contains(&"create".to_owned()), "{told}");
    assert_undone(&world, &told).await;
    assert!(!world.record().exists(), "{told}");
    assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 0, "{told}");
    let after = world.upper().exists().then(|| state_of(&world.upper()));
    assert_eq!(after, before, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_tell_its_version_costs_two_seconds() {
    let mut world = with_snapshot("sleep").await;
    world.config.criu = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/story/fakes/slow").into();
    let outcome = world.create().await.unwrap().outcome;
    assert_eq!(outcome.reason, "host_unfit");
    assert!(outcome.detail.ends_with("within 2000 ms"), "{}", outcome.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_requires_snapshots_still_starts_sandboxes_and_those_who_opt_out() {
    for (code, name, value) in [
        ("sandbox", "io.kubernetes.cri.container-type", "sandbox"),
        ("policy_never", "thaw.dev/snapshot-policy", "Never"),
    ] {
        let mut world = World::new();
        world.config.policy = SnapshotPolicy::Required;
        world.annotate(name, value);
        assert_eq!(world.create().await.unwrap().outcome.reason, code);
    }
}

#[test]
fn every_documented_reason_has_a_story() {
    let listed = include_str!("../../docs/reasons.md").lines();
    let listed: BTreeSet<&str> = listed
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let mut told: BTreeSet<&str> = STORIES.iter().map(|story| story.code).collect();
    // Only a bug reaches it.
    told.insert("internal");
    assert_eq!(told, listed);
}

/// Restored from the snapshot; the world tells what runc saw.
async fn restored(world: &World) -> Created {
    let created = world.create().await.unwrap();
    assert_eq!(
        created.outcome.result,
        Way::Restored,
        "{}",
        created.outcome.detail
    );
    created
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_fits_is_restored_and_held() {
    let world = with_snapshot("sleep").await;
    let created = restored(&world).await;
    assert_eq!(world.verbs(), ["restore", "update"]);
    assert_eq!(world.pids("restore"), [created.pid]);
    assert_eq!(
        *world.rootfs.at_mount.lock().unwrap(),
        [["cache"]],
        "applied, then mounted"
    );
    assert_eq!(
        stages(&created.outcome),
        [
            "eligible", "identify", "lookup", "host", "fetch", "verify", "rewrite", "rootfs", "restore",
            "limits", "hooks"
        ]
    );
    let bytes = created.outcome.bytes;
    assert!(
        bytes.fetched > 0 && bytes.rootfs == 22 && bytes.pages == 139_264,
        "{bytes:?}"
    );

    assert_eq!(process_state(created.pid), Some('T'), "held");
    created.held.unwrap().resume().unwrap();
    eventually("it runs", || process_state(created.pid) == Some('S')).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runc_restores_a_bundle_without_limits_and_with_hooks_of_ours() {
    let world = with_snapshot("sleep").await;
    restored(&world).await;
    let config: Value = serde_json::from_slice(&world.seen("bundle/config.json")).unwrap();
    assert_eq!(config["root"]["path"], json!(world.path("bundle/rootfs")));
    assert_eq!(
        config["linux"]["resources"],
        json!({"cpu": {"shares": 512}, "memory": {}, "pids": {}})
    );
    let helper = json!({"path": "/usr/bin/helper", "args": ["/usr/bin/helper", "loopback-up"], "timeout": 5});
    assert_eq!(config["hooks"]["createRuntime"], json!([helper]));
    let restored = world.record().join("restore/bundle");
    let ended = json!({"path": "/usr/bin/helper", "args": ["/usr/bin/helper", "poststop-hooks", restored]});
    assert_eq!(config["hooks"]["poststop"], json!([ended]));
    assert_eq!(
        fs::read_to_string(world.path("bundle/hooks")).unwrap(),
        "created\n"
    );
    let limits: Value = serde_json::from_slice(&fs::read(world.path("bin/limits.json")).unwrap()).unwrap();
    assert_eq!(
        limits,
        json!({"cpu": {"quota": 10_000, "period": 100_000}, "memory": {"limit": 67_108_864}, "pids": {"limit": 32}})
    );
    // What CRIU has read goes; the bundle that runc's state names stays.
    let left = names_in(&world.record().join("restore"));
    assert_eq!(left, ["bundle", "criu.conf"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_refuses_a_restored_container_ends_the_start() {
    let mut world = with_snapshot("sleep").await;
    world.spec["hooks"]["createRuntime"][0]["args"][2] = json!("echo sorry >&2; exit 3");
    let refused = world.create().await.unwrap_err();
    assert!(matches!(refused, CreateError::Hooks(_)), "{refused:?}");
    let words = thaw_runtime::words::chain(&refused);
    assert!(words.ends_with("exit status: 3: sorry"), "{words}");
    assert_eq!(world.verbs(), ["restore", "update", "delete"]);
    assert_undone(&world, "refused").await;
    assert!(!world.record().exists());
    assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn criu_reads_images_of_the_clone() {
    let world = with_snapshot("sleep").await;
    restored(&world).await;
    let mut images = donor::read_all(&world.path("bin/seen/images"));
    assert_eq!(
        images["pages-1.img"],
        vec![7; 69_632],
        "the links to the cache lead there"
    );
    images.retain(|name, _| !name.starts_with("pages-"));
    assert_eq!(uts::hostname(&images).unwrap().as_deref(), Some("a-clone"));
    assert_eq!(inventory::network_lock(&images).unwrap(), NetworkLock::Skip);
    thaw_criu::check(&images).unwrap();
    assert_eq!(world.seen("criu.conf"), b"leave-stopped\ntcp-close\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_start_fetches_nothing() {
    let world = with_snapshot("sleep").await;
    restored(&world).await;
    fs::remove_dir_all(world.path("store/v1/blobs")).unwrap();
    fs::remove_file(world.upper().join("cache")).unwrap();
    world.rootfs.mounted.store(0, Ordering::SeqCst);
    assert_eq!(restored(&world).await.outcome.bytes.fetched, 0);
}

/// The next container on the same node.
async fn next(world: &World) -> Outcome {
    world.rootfs.mounted.store(0, Ordering::SeqCst);
    world.create().await.unwrap().outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_failed_here_is_left_alone() {
    let world = with_snapshot("sleep").await;
    world.runc_does("restore", "fail");
    let failed = world.create().await.unwrap().outcome;
    assert_eq!(failed.reason, "restore_failed");
    world.runc_does("restore", "");
    let left = next(&world).await;
    assert_eq!(left.reason, "quarantined", "{}", left.detail);
    assert_eq!(left.snapshot, failed.snapshot);
    assert!(left.detail.contains("restore_failed"), "{}", left.detail);
    assert!(left.detail.contains("told to fail"), "{}", left.detail);
    let tries = |world: &World| world.verbs().iter().filter(|verb| *verb == "restore").count();
    assert_eq!(tries(&world), 1);

    let quarantine = Quarantine::new(&world.config);
    let id = failed.snapshot.unwrap().parse().unwrap();
    assert_eq!(quarantine.check(&id).unwrap().failures, 1);
    assert!(quarantine.clear(&id).unwrap());
    assert_eq!(next(&world).await.result, Way::Restored);
}

/// Two classes of machines have captured the same start, and this one can restore the snapshots of both.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_best_takes_the_place_of_one_that_is_left_alone() {
    let world = World::new();
    let mut older = Donor::of("sleep");
    older.kernel = Some("3.10.0");
    older.publish(&world).await;
    Donor::of("sleep").publish(&world).await;
    world.runc_does("restore", "fail");
    let (first, then) = (next(&world).await, next(&world).await);
    assert_eq!([&first.reason, &then.reason], ["restore_failed"; 2]);
    let (best, second) = (first.snapshot.unwrap(), then.snapshot.unwrap());
    assert_ne!(best, second);

    world.runc_does("restore", "");
    let left = next(&world).await;
    assert_eq!(
        (left.reason.as_str(), left.snapshot),
        ("quarantined", Some(best.clone()))
    );
    let quarantine = Quarantine::new(&world.config);
    assert!(quarantine.clear(&second.parse().unwrap()).unwrap());
    let restored = next(&world).await;
    assert_eq!(
        (restored.result, restored.snapshot),
        (Way::Restored, Some(second))
    );
    assert!(quarantine.check(&best.parse().unwrap()).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_of_the_snapshot_puts_nothing_aside() {
    let mut world = with_snapshot("sleep").await;
    let broken = world.path("file");
    let good = std::mem::replace(&mut world.config.cache, broken);
    fs::write(world.path("file"), "").unwrap();
    assert_eq!(world.create().await.unwrap().outcome.reason, "cache_failed");
    world.config.cache = good;
    assert_eq!(next(&world).await.result, Way::Restored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_cache_is_fetched_again_once() {
    let world = with_snapshot("sleep").await;
    restored(&world).await;
    let snapshots = world.config.cache.join("snapshots");
    let entry = snapshots.join(&names_in(&snapshots)[0]);
    let spoil = || {
        let meta = entry.join("meta.tar");
        let mut bytes = fs::read(&meta).unwrap();
        bytes[600] ^= 1;
        fs::write(&meta, bytes).unwrap();
        // A disk whose bits flip leaves the times alone, which no test can; so the seal takes the new ones.
        let seal = entry.join("seal.json");
        let mut sealed: Value = serde_json::from_slice(&fs::read(&seal).unwrap()).unwrap();
        let now = fs::metadata(&meta).unwrap();
        sealed["files"]["meta.tar"]["mtime"] = json!(now.mtime() * 1_000_000_000 + now.mtime_nsec());
        sealed["files"]["meta.tar"]["ctime"] = json!(now.ctime() * 1_000_000_000 + now.ctime_nsec());
        fs::write(seal, sealed.to_string()).unwrap();
    };
    spoil();
    fs::remove_file(world.upper().join("cache")).unwrap();
    let again = next(&world).await;
    assert_eq!(again.result, Way::Restored, "{}", again.detail);
    assert!(again.bytes.fetched > 0);
    // And when the store has it no more, the container starts.
    spoil();
    fs::remove_dir_all(world.path("store/v1/blobs")).unwrap();
    fs::remove_file(world.upper().join("cache")).unwrap();
    assert_eq!(next(&world).await.reason, "fetch_failed");
}

/// Restores `python`, which has one connection at 10.88.0.2, and answers what CRIU was told: whether connections are
/// kept, and the network lock with them.
async fn tcp(annotation: &str, local: [u8; 4]) -> bool {
    let mut world = World::new();
    let mut donor = Donor::of("python");
    let moved = varint(u32::from_le_bytes(local));
    let files = donor.images.get_mut("files.img").unwrap();
    let was = varint(u32::from_le_bytes([10, 88, 0, 2]));
    let at = files.windows(was.len()).position(|window| window == was).unwrap();
    files[at..at + was.len()].copy_from_slice(&moved);
    donor.publish(&world).await;
    world.annotate("thaw.dev/tcp", annotation);
    restored(&world).await;
    let mut images = donor::read_all(&world.path("bin/seen/images"));
    images.retain(|name, _| !name.starts_with("pages-"));
    let kept = world.calls()[0].contains("--tcp-established");
    let config = String::from_utf8(world.seen("criu.conf")).unwrap();
    assert_eq!(config.contains("tcp-close"), !kept);
    let lock = inventory::network_lock(&images).unwrap();
    assert_eq!(lock == NetworkLock::Skip, !kept);
    kept
}

/// As protobuf writes it (protobuf.dev, "Base 128 Varints").
fn varint(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_where_they_can_go_on_or_are_told_to() {
    let (elsewhere, loopback) = ([10, 88, 0, 2], [127, 0, 0, 1]);
    assert!(!tcp("auto", elsewhere).await, "a new network has no such address");
    assert!(tcp("auto", loopback).await, "every network has this one");
    assert!(tcp("established", elsewhere).await);
    assert!(!tcp("close", loopback).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_error_and_the_log_of_criu_are_kept() {
    let world = with_snapshot("sleep").await;
    world.runc_does("restore", "fail");
    let created = world.create().await.unwrap();
    assert!(
        created.outcome.detail.contains("told to fail (criu/files.c:1)"),
        "{}",
        created.outcome.detail
    );
    let log = fs::read_to_string(world.record().join("restore.log")).unwrap();
    assert!(log.contains("Error (criu/files.c:1)"));
    let stages = stages(&created.outcome);
    assert_eq!(stages[stages.len() - 3..], ["restore", "undo", "create"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_a_failed_restore_has_left_is_killed() {
    let world = with_snapshot("sleep").await;
    world.runc_does("restore", "late");
    assert_eq!(world.create().await.unwrap().outcome.reason, "restore_failed");
    assert_eq!(world.pids("restore").len(), 1);
    assert_undone(&world, "late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_file_of_an_earlier_run_kills_nobody() {
    let world = with_snapshot("sleep").await;
    let mut stranger = std::process::Command::new("sleep").arg("300").spawn().unwrap();
    fs::write(world.path("bundle/init.pid"), stranger.id().to_string()).unwrap();
    world.runc_does("restore", "fail");
    let created = world.create().await;
    let ended = stranger.try_wait().unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(created.unwrap().outcome.reason, "restore_failed");
    assert!(ended.is_none(), "{ended:?}");
}
