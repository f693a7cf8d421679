//! One story for each way in which a restore can fail.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use thaw_config::{NodeConfig, SnapshotPolicy};
use thaw_criu::wire;
use thaw_runtime::identify::Kubernetes;
use thaw_runtime::quarantine::{Blame, Quarantine};
use thaw_snapshot::{Digest, KeyDocument};
use thaw_store::Cache;

use super::donor::Donor;
use super::world::{Images, World};

/// A way to fail.
#[derive(Clone, Copy)]
pub(crate) struct Story {
    /// What the outcome must say.
    pub(crate) code: &'static str,
    /// Changes the snapshot before it is published, or the spec of donor and clone.
    pub(crate) donor: fn(&mut Donor, &mut World),
    /// Changes the clone or the node afterwards.
    pub(crate) clone: fn(&mut World),
}

const fn at_donor(code: &'static str, donor: fn(&mut Donor, &mut World)) -> Story {
    Story {
        code,
        donor,
        clone: |_| {},
    }
}

const fn at_clone(code: &'static str, clone: fn(&mut World)) -> Story {
    Story {
        code,
        donor: |_, _| {},
        clone,
    }
}

/// All but `internal`, which says that a thread of ours panicked.
pub(crate) const STORIES: &[Story] = &[
    at_clone("policy_never", |world| {
        world.config.policy = SnapshotPolicy::Never
    }),
    at_clone("sandbox", |world| {
        world.annotate("io.kubernetes.cri.container-type", "sandbox")
    }),
    at_clone("config_invalid", |world| {
        let variables = [("THAW_POLICY".to_owned(), "perhaps".to_owned())];
        let loaded = NodeConfig::load_from(None, &world.path("nowhere"), variables);
        world.mistake = Some(Arc::new(loaded.unwrap_err()));
    }),
    at_clone("annotation_invalid", |world| {
        world.annotate("thaw.dev/tcp", "perhaps")
    }),
    at_clone("init_container", |world| {
        world.annotate("io.kubernetes.container.type", "init")
    }),
    at_clone("init_container", |world| {
        let kind = Some("init".to_owned());
        world.images = Arc::new(Images::OfKubelet(Kubernetes { attempt: 0, kind }));
    }),
    at_clone("ephemeral_container", |world| {
        world.annotate("io.kubernetes.container.type", "ephemeral")
    }),
    at_clone("restart_attempt", |world| {
        world.images = Arc::new(Images::OfKubelet(Kubernetes {
            attempt: 1,
            kind: None,
        }));
    }),
    at_clone("scope_unknown", |world| {
        world.annotate("io.kubernetes.cri.container-type", "container")
    }),
    at_clone("privileged", |world| {
        world.spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}])
    }),
    at_clone("devices", |world| {
        world.spec["linux"]["devices"] =
            json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}])
    }),
    at_clone("privileged", |world| {
        world.spec["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
        world.spec["linux"]["maskedPaths"] = json!([]);
    }),
    at_clone("persistent_mount", |world| {
        let data =
            json!({"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "rw"]});
        world.spec["mounts"] = json!([data]);
    }),
    at_clone("memory_limit", |world| {
        // The fixture has 139264 bytes of pages.
        world.spec["linux"]["resources"]["memory"]["limit"] = json!(139_264);
    }),
    at_clone("pid_namespace", |world| {
        namespaces(world).retain(|namespace| namespace["type"] != "pid")
    }),
    at_clone("pid_namespace", |world| {
        let pid = namespaces(world)
            .iter_mut()
            .find(|namespace| namespace["type"] == "pid");
        pid.unwrap()["path"] = json!("/proc/1/ns/pid");
    }),
    at_clone("user_namespace", |world| {
        namespaces(world).push(json!({"type": "user"}))
    }),
    at_clone("host_network", |world| {
        namespaces(world).retain(|namespace| namespace["type"] != "network")
    }),
    at_clone("hooks_unsupported", |world| {
        world.spec["hooks"] = json!({"startContainer": [{"path": "/bin/true"}]})
    }),
    at_clone("rootfs_changed", |world| {
        fs::write(world.upper().join("own"), "of an earlier run").unwrap()
    }),
    at_clone("rootfs_unsupported", |world| world.rootfs.plain = true),
    at_clone("rootfs_unsupported", |world| {
        fs::remove_dir(world.upper()).unwrap()
    }),
    at_clone("spec_unreadable", |world| {
        world.spec = Value::Null;
        // Its annotations can't be read, so only the node can have required a restore.
        fs::write(world.path("bundle/config.json"), "{").unwrap();
    }),
    at_clone("image_unknown", |world| world.images = Arc::new(Images::None)),
    at_clone("image_moved", |world| world.images = Arc::new(Images::Gone)),
    at_clone("identify_failed", |world| {
        world.images = Arc::new(Images::Refused)
    }),
    at_clone("identify_timeout", |world| {
        world.images = Arc::new(Images::Silent);
        world.config.deadlines.identify = Duration::from_millis(20);
    }),
    at_clone("store_invalid", |world| {
        fs::write(world.path("file"), "").unwrap();
        let url = format!("file://{}/store", world.path("file").display());
        world.config.store.url = url.parse().unwrap();
    }),
    at_clone("lookup_failed", |world| {
        let document = key_document(world);
        fs::remove_file(&document).unwrap();
        fs::create_dir(document).unwrap();
    }),
    at_clone("lookup_failed", |world| {
        // Whoever opens it for reading waits for a writer.
        let document = key_document(world);
        fs::remove_file(&document).unwrap();
        nix::unistd::mkfifo(&document, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }),
    at_clone("lookup_timeout", |world| {
        // No network answers at once.
        world.config.store.url = "s3://bucket/thaw".parse().unwrap();
        world.config.store.endpoint = Some("http://192.0.2.1:9".parse().unwrap());
        world.config.store.allow_http = true;
        world.config.deadlines.lookup = Duration::ZERO;
    }),
    at_clone("store_resting", |world| {
        let (url, endpoint) = ("s3://bucket/thaw", "http://192.0.2.1:9/");
        world.config.store.url = url.parse().unwrap();
        world.config.store.endpoint = Some(endpoint.parse().unwrap());
        // What another shim has left.
        let place = Digest::of(format!("{url} {endpoint}").as_bytes());
        let notes = world.config.state.join(".store").join(place.hex());
        fs::create_dir_all(&notes).unwrap();
        let until = UNIX_EPOCH.elapsed().unwrap().as_millis() + 9_000;
        let note = json!({"failures": 3, "until": u64::try_from(until).unwrap(), "why": "refused"});
        fs::write(notes.join("outage.json"), note.to_string()).unwrap();
    }),
    at_clone("quarantined", |world| {
        let document = KeyDocument::parse(&fs::read(key_document(world)).unwrap()).unwrap();
        let id = document.variants[0].id();
        Quarantine::new(&world.config).failed(&id, Blame::Snapshot, "restore_failed", "told to fail");
    }),
    at_clone("no_snapshot", |world| {
        world.spec["process"]["args"] = json!(["another"])
    }),
    at_clone("manifest_invalid", |world| {
        fs::write(key_document(world), "{\"format\": 99}").unwrap()
    }),
    at_clone("host_unfit", |world| world.config.criu = world.path("bin/none")),
    at_donor("host_mismatch", |donor, _| donor.rare_feature = Some("telepathy")),
    at_clone("cache_failed", |world| {
        fs::write(world.path("file"), "").unwrap();
        world.config.cache = world.path("file");
    }),
    at_clone("fetch_failed", |world| {
        fs::remove_dir_all(world.path("store/v1/blobs")).unwrap()
    }),
    at_clone("fetch_timeout", |world| {
        // Another process fetches the same snapshot, and does not end.
        Cache::open(&world.config.cache).unwrap();
        let document = KeyDocument::parse(&fs::read(key_document(world)).unwrap()).unwrap();
        let id = document.variants[0].id();
        let lock = world.config.cache.join(format!("tmp/{}.lock", id.hex()));
        let lock = File::create(lock).unwrap();
        lock.lock().unwrap();
        world.open = Some(lock);
        world.config.deadlines.fetch = Duration::from_millis(20);
    }),
    at_donor("images_invalid", |donor, _| {
        donor.images.get_mut("core-1.img").unwrap().truncate(100)
    }),
    at_donor("images_invalid", |donor, _| donor.surplus_pages = 1),
    at_donor("rights_exceeded", |_, world| {
        world.spec["process"]["capabilities"]["bounding"] = json!(["CAP_KILL"]);
    }),
    at_donor("rights_exceeded", |donor, world| {
        let mut mounted = world.spec.clone();
        mounted["mounts"] =
            json!([{"destination": "/host", "type": "bind", "source": "/", "options": ["rbind"]}]);
        donor.mounted = Some(mounted);
    }),
    at_clone("rewrite_failed", |world| {
        world.spec["hostname"] = json!("x".repeat(65))
    }),
    at_donor("socket_unmovable", |donor, _| {
        let socket = bound_socket(b"eth7");
        donor.images.get_mut("files.img").unwrap().extend(socket);
    }),
    at_donor("ipc_shared", |donor, world| {
        let magic = [0x5456_4319u32.to_le_bytes(), 0x4628_3044u32.to_le_bytes()].concat();
        let one = [2u32.to_le_bytes().as_slice(), &[0x10, 1]].concat();
        donor
            .images
            .insert("ipcns-shm-11.img".to_owned(), [magic, one].concat());
        namespaces(world).retain(|namespace| namespace["type"] != "ipc");
    }),
    at_clone("restored_file_failed", |world| {
        fs::write(world.path("bundle/rootfs/run"), "no directory").unwrap()
    }),
    at_donor("rootfs_diff_failed", |donor, _| donor.rootfs = vec![0xff; 1024]),
    at_clone("rootfs_mount_failed", |world| {
        world.rootfs.refuse_mount.store(true, Ordering::SeqCst)
    }),
    at_clone("restore_failed", |world| world.runc_does("restore", "fail")),
    at_clone("restore_failed", |world| world.runc_does("restore", "gone")),
    at_clone("restore_failed", |world| world.runc_does("update", "fail")),
    at_clone("restore_timeout", |world| {
        world.runc_does("restore", "hang");
        // By then it has started what hangs, on a busy machine too.
        world.config.deadlines.restore = Duration::from_secs(3);
    }),
];

/// A record of `files.img`: a listener that is bound to an interface.
fn bound_socket(device: &[u8]) -> Vec<u8> {
    // `sk-inet.proto: inet_sk_entry`: id, ino, family, type, proto, state, ports, flags, backlog, addresses.
    let numbers = [
        (1, 77),
        (2, 77),
        (3, 2),
        (4, 1),
        (5, 6),
        (6, 10),
        (7, 80),
        (8, 0),
        (9, 2),
        (10, 1),
        (11, 0x0200_000a),
        (12, 0),
    ];
    let mut socket = Vec::new();
    for (number, value) in numbers {
        wire::push(&mut socket, number, wire::Value::Varint(value));
    }
    wire::push(&mut socket, 17, wire::Value::Bytes(device));
    let mut entry = Vec::new();
    wire::push(&mut entry, 1, wire::Value::Varint(4));
    wire::push(&mut entry, 2, wire::Value::Varint(77));
    wire::push(&mut entry, 4, wire::Value::Bytes(&socket));
    let length = u32::try_from(entry.len()).unwrap();
    [length.to_le_bytes().as_slice(), &entry].concat()
}

fn namespaces(world: &mut World) -> &mut Vec<Value> {
    world.spec["linux"]["namespaces"].as_array_mut().unwrap()
}

/// The only one in the store.
fn key_document(world: &World) -> std::path::PathBuf {
    let mut below = vec![world.path("store/v1")];
    while let Some(path) = below.pop() {
        if path.is_dir() {
            let inner = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            below.extend(inner.filter(|inner| !inner.ends_with("blobs")));
        } else {
            return path;
        }
    }
    panic!("there is no key document");
}
