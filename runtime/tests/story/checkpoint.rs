//! Checkpoints that a client has made itself (`ctr task checkpoint`, `docker checkpoint`), and has restored.

use super::*;

/// A dump that a client made itself, at the place where it keeps it.
fn checkpoint(world: &World) -> std::path::PathBuf {
    let directory = world.path("checkpoint");
    fs::create_dir(&directory).unwrap();
    for (name, bytes) in Donor::of("sleep").images {
        fs::write(directory.join(name), bytes).unwrap();
    }
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_the_client_is_restored_as_it_is() {
    let world = World::new();
    let directory = checkpoint(&world);
    let before = donor::read_all(&directory);
    let created = world.create_from(&directory).await.unwrap();
    assert_eq!(created.outcome.result, Way::Restored);
    assert_eq!(world.verbs(), ["restore", "update"]);
    assert_eq!(donor::read_all(&world.path("bin/seen/images")), before);
    assert_eq!(donor::read_all(&directory), before);
    assert_eq!(process_state(created.pid), Some('T'), "held");
    created.held.unwrap().resume().unwrap();
    eventually("it runs", || process_state(created.pid) == Some('S')).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_restored_is_no_cold_start() {
    for (verb, mode) in [("restore", "fail"), ("restore", "late"), ("update", "fail")] {
        let world = World::new();
        let directory = checkpoint(&world);
        world.runc_does(verb, mode);
        let error = world.create_from(&directory).await.unwrap_err();
        assert!(matches!(error, CreateError::Checkpoint(_)), "{error:?}");
        assert!(!world.verbs().contains(&"create".to_owned()));
        assert_eq!(world.rootfs.mounted.load(Ordering::SeqCst), 0);
        assert!(!world.record().exists());
        assert_undone(&world, &format!("{verb} {mode}")).await;
    }
}
