//! The conformance suite over what needs no server, and the cost of a look-up.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use object_store::path::Path;
use thaw_snapshot::Digest;
use url::Url;

use super::fixture::{Lab, directory_store, manifest, memory_store};
use crate::store::{ObjectBackend, s3};
use crate::{
    KeyPath, LookupError, OpenError, PutMode, Store as _, StoreError, StoreOptions, conformance, lookup, open,
};

#[tokio::test]
async fn directory_conforms() {
    let lab = Lab::new().await;
    conformance::run(&*lab.store, "test", true).await.unwrap();
}

#[tokio::test]
async fn memory_conforms() {
    conformance::run(&*memory_store(), "test", true).await.unwrap();
}

#[tokio::test]
async fn directory_is_private() {
    let lab = Lab::new().await;
    let mode = lab
        .root
        .path()
        .join("store")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_miss_is_cheap() {
    let lab = Lab::new().await;
    let key = manifest("default", lab.pack().blobs).key;
    // The best of many: the machine may be busy with other things.
    let mut best = Duration::MAX;
    for _ in 0..100 {
        let started = Instant::now();
        let store = directory_store(&lab.root.path().join("store")).await;
        assert!(lookup(&*store, &key).await.unwrap().is_none());
        best = best.min(started.elapsed());
    }
    assert!(best < Duration::from_millis(1), "{best:?}");
}

#[tokio::test]
async fn a_fifo_in_place_of_a_document_does_not_block() {
    let lab = Lab::new().await;
    let path = KeyPath::parse("v1/keys/default/linux-amd64/a/b.json").unwrap();
    let file = lab.root.path().join("store").join(path.as_str());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(
        lab.store.get_key(&path, 100).await,
        Err(StoreError::Directory { .. })
    ));
}

/// The only thread that may block hangs, as on a file system that does not answer. What would be done on the thread that
/// asks, which is the only one of a shim, would be done at once here.
#[test]
fn a_directory_that_hangs_costs_the_time_limit() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (let_go, hung) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        let lab = Lab::new().await;
        let path = KeyPath::parse("v1/keys/default/linux-amd64/a/b.json").unwrap();
        lab.store
            .put_key(&path, "text".into(), PutMode::Replace)
            .await
            .unwrap();
        let (_, version) = lab.store.get_key_version(&path, 100).await.unwrap().unwrap();
        let url = Url::from_file_path(lab.root.path().join("store")).unwrap();
        let options = StoreOptions {
            request_timeout: Duration::from_millis(500),
            ..StoreOptions::default()
        };
        let store = open(&url, &options).await.unwrap();
        let put = |mode| store.put_key(&path, "text".into(), mode).map_ok(drop);
        let digest = Digest::of(b"blob");

        let hanging = tokio::task::spawn_blocking(move || hung.recv());
        let asked: [BoxFuture<'_, Result<(), StoreError>>; 9] = [
            store.get_key(&path, 100).map_ok(drop).boxed(),
            store.get_key_version(&path, 100).map_ok(drop).boxed(),
            put(PutMode::IfAbsent).boxed(),
            put(PutMode::IfStill(version)).boxed(),
            store.list_keys().map_ok(drop).boxed(),
            store.delete_key(&path),
            store.head_blob(&digest).map_ok(drop).boxed(),
            store.read_blob(&digest, 4, 0..4).map_ok(drop).boxed(),
            store.delete_blob(&digest),
        ];
        let (opened, answers) = futures::join!(open(&url, &options), futures::future::join_all(asked));
        assert!(matches!(opened, Err(OpenError::Timeout { .. })), "{opened:?}");
        for answer in answers {
            assert!(matches!(answer, Err(StoreError::Timeout { .. })), "{answer:?}");
        }
        let_go.send(()).unwrap();
        hanging.await.unwrap().unwrap();
        lab.store.list_keys().await.unwrap();
    });
}

#[tokio::test]
async fn a_moved_or_broken_document_is_refused() {
    let lab = Lab::new().await;
    let published = lab.published().await;
    let mut key = published.key.clone();
    let bytes = lab
        .store
        .get_key(&KeyPath::of(&key), 1 << 20)
        .await
        .unwrap()
        .unwrap();
    key.scope = "other".into();
    let path = KeyPath::of(&key);
    lab.store.put_key(&path, bytes, PutMode::IfAbsent).await.unwrap();
    assert!(matches!(
        lookup(&*lab.store, &key).await,
        Err(LookupError::WrongKey { .. })
    ));
    lab.store
        .put_key(&path, "{".into(), PutMode::Replace)
        .await
        .unwrap();
    assert!(matches!(
        lookup(&*lab.store, &key).await,
        Err(LookupError::Document { .. })
    ));
}

#[test]
fn key_paths_are_plain() {
    let good = "v1/keys/a/linux-amd64/c/d.json";
    assert_eq!(KeyPath::parse(good).unwrap().as_str(), good);
    assert_eq!(
        KeyPath::parse("v1/keys/a%2Fb/p/c/d.json").unwrap().as_str(),
        "v1/keys/a%2Fb/p/c/d.json"
    );
    for bad in [
        "v1/keys/../a/b/c.json",
        "v1/keys/a/b/c/d/e.json",
        "v1/keys/a/b/c",
        "v1/keys/a//b/c.json",
        "v1/keys/a/b/c.json",
        "v1/blobs/a/b/c/d.json",
        "/v1/keys/a/b/c/d.json",
        "v1/keys/a/b/c/d.json/",
        "v1/keys/a/b/c/d\n.json",
    ] {
        assert!(KeyPath::parse(bad).is_err(), "{bad:?}");
    }
    assert!(Path::parse(good).is_ok());
}

#[tokio::test]
async fn urls_that_are_no_store() {
    let refused = async |url: &str| {
        let url = Url::parse(url).unwrap();
        open(&url, &StoreOptions::default()).await.unwrap_err()
    };
    assert!(matches!(
        refused("http://example.com/a").await,
        OpenError::Scheme { .. }
    ));
    let with_password = refused("s3://user:secret@bucket/a").await;
    assert!(matches!(with_password, OpenError::Credentials));
    assert!(!format!("{with_password:?}").contains("secret"));
    assert!(matches!(refused("file://host/a").await, OpenError::Path));
}

/// A store whose server is at `port` of this machine.
fn server(port: u16) -> ObjectBackend {
    let options = StoreOptions {
        endpoint: Some(Url::parse(&format!("http://127.0.0.1:{port}")).unwrap()),
        request_timeout: Duration::from_millis(300),
        max_retries: 0,
        ..StoreOptions::default()
    };
    let url = Url::parse("s3://bucket/prefix").unwrap();
    let client = s3(&url, &options)
        .with_access_key_id("id")
        .with_secret_access_key("hush");
    ObjectBackend::new(Arc::new(client.build().unwrap()), url.as_str(), &options)
}

#[tokio::test]
async fn a_server_that_is_down_is_unreachable() {
    let path = KeyPath::parse("v1/keys/default/linux-amd64/a/b.json").unwrap();
    // Port 1: nobody listens.
    let store = server(1);
    let error = store.get_key(&path, 100).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error:?} {store:?}").contains("hush"));
}

#[tokio::test]
async fn a_server_that_hangs_times_out() {
    let path = KeyPath::parse("v1/keys/default/linux-amd64/a/b.json").unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = server(silent.local_addr().unwrap().port());
    let started = Instant::now();
    let error = store.get_key(&path, 100).await.unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
}
