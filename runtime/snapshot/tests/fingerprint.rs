//! What changes a fingerprint and what does not, one row each.

#![expect(clippy::unwrap_used, reason = "a test that cannot build its input must fail")]

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use thaw_snapshot::Fingerprint;
use thaw_snapshot::fingerprint::{Facts, diff, env};

/// A spec as containerd writes it, cut down to what matters here.
fn base() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "hostname": "web-1",
        "root": {"path": "rootfs", "readonly": false},
        "process": {
            "terminal": false,
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [20, 1000]},
            "args": ["/bin/app", "--serve"],
            "env": [
                "PATH=/bin", "MODE=production", "HOSTNAME=web-1", "DB_PORT=5432",
                "KUBERNETES_SERVICE_HOST=10.0.0.1", "KUBERNETES_PORT=tcp://10.0.0.1:443",
                "REDIS_SERVICE_HOST=10.0.0.9", "REDIS_SERVICE_PORT=6379", "REDIS_SERVICE_PORT_MAIN=6379",
                "REDIS_PORT=tcp://10.0.0.9:6379", "REDIS_PORT_6379_TCP=tcp://10.0.0.9:6379",
                "REDIS_PORT_6379_TCP_ADDR=10.0.0.9",
            ],
            "cwd": "/srv",
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
            "apparmorProfile": "cri-containerd.apparmor.d",
            "selinuxLabel": "system_u:system_r:container_t:s0",
            "oomScoreAdj": 100,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
            {"destination": "/data", "type": "bind", "source": "/var/lib/volumes/1", "options": ["rbind", "rprivate", "rw"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}],
            "cgroupsPath": "/a/b",
            "resources": {"memory": {"limit": 1000000}, "devices": [{"allow": false, "access": "rwm"}]},
            "sysctl": {"net.core.somaxconn": "1024"},
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys"],
            "readonlyPaths": ["/proc/sys"],
        },
        "annotations": {"io.kubernetes.cri.sandbox-id": "abc"},
    })
}

fn take(spec: &Value) -> Fingerprint {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    Fingerprint::of(&spec, Facts::default(), "default")
}

fn changed(pointer: &str, value: Value) -> Value {
    let mut spec = base();
    match spec.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .insert(name.to_owned(), value);
        }
    }
    spec
}

#[test]
fn every_field_counts() {
    let rows = [
        ("/process/args", json!(["/bin/app"]), "process.args"),
        ("/process/args", json!(["--serve", "/bin/app"]), "process.args"),
        ("/process/cwd", json!("/"), "process.cwd"),
        ("/process/terminal", json!(true), "process.terminal"),
        ("/process/user/uid", json!(0), "process.user.uid"),
        ("/process/user/gid", json!(0), "process.user.gid"),
        ("/process/user/umask", json!(18), "process.user.umask"),
        (
            "/process/user/additionalGids",
            json!([20]),
            "process.user.additionalGids",
        ),
        (
            "/process/capabilities/bounding",
            json!([]),
            "process.capabilities.bounding",
        ),
        (
            "/process/capabilities/effective",
            json!([]),
            "process.capabilities.effective",
        ),
        (
            "/process/capabilities/permitted",
            json!([]),
            "process.capabilities.permitted",
        ),
        (
            "/process/capabilities/inheritable",
            json!([]),
            "process.capabilities.inheritable",
        ),
        (
            "/process/capabilities/ambient",
            json!(["CAP_CHOWN"]),
            "process.capabilities.ambient",
        ),
        (
            "/process/noNewPrivileges",
            json!(false),
            "process.noNewPrivileges",
        ),
        (
            "/process/rlimits/0/soft",
            json!(1),
            "process.rlimits.RLIMIT_NOFILE",
        ),
        (
            "/process/apparmorProfile",
            json!("other"),
            "process.apparmorProfile",
        ),
        ("/process/selinuxLabel", json!("other"), "process.selinuxLabel"),
        ("/process/oomScoreAdj", json!(1), "process.oomScoreAdj"),
        ("/process/env/1", json!("MODE=test"), "env.MODE"),
        ("/process/env/1", json!("MODES=production"), "env.MODE"),
        ("/process/env/3", json!("DB_PORT=5433"), "env.DB_PORT"),
        (
            "/process/env/4",
            json!("KUBERNETES_SERVICE_HOST=10.9.0.1"),
            "env.KUBERNETES_SERVICE_HOST",
        ),
        ("/root/readonly", json!(true), "rootfs.readonly"),
        (
            "/linux/seccomp/defaultAction",
            json!("SCMP_ACT_ALLOW"),
            "linux.seccomp",
        ),
        ("/linux/seccomp", Value::Null, "linux.seccomp"),
        ("/linux/maskedPaths", json!(["/proc/kcore"]), "linux.maskedPaths"),
        ("/linux/readonlyPaths", json!([]), "linux.readonlyPaths"),
        ("/linux/sysctl", json!({}), "linux.sysctl.net.core.somaxconn"),
        (
            "/linux/namespaces/0/path",
            json!("/proc/1/ns/pid"),
            "linux.namespaces.pid",
        ),
        (
            "/linux/namespaces/3/path",
            json!("/proc/9/ns/uts"),
            "linux.namespaces.uts",
        ),
        (
            "/linux/namespaces/1/type",
            json!("cgroup"),
            "linux.namespaces.cgroup",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX32"}),
            "linux.personality",
        ),
        (
            "/linux/rootfsPropagation",
            json!("rshared"),
            "linux.rootfsPropagation",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 2}]),
            "linux.devices./dev/x",
        ),
        ("/mounts/1/destination", json!("/other"), "mounts./data"),
        (
            "/mounts/1/options",
            json!(["rbind", "rprivate", "ro"]),
            "mounts./data",
        ),
        (
            "/mounts/1/options",
            json!(["rbind", "rshared", "rw"]),
            "mounts./data",
        ),
        (
            "/mounts/1/options",
            json!(["rbind", "rprivate", "rw", "nosuid"]),
            "mounts./data",
        ),
        ("/mounts/0/type", json!("tmpfs"), "mounts./proc"),
    ];
    let before = take(&base());
    for (pointer, value, path) in rows {
        let after = take(&changed(pointer, value.clone()));
        assert_ne!(before.digest(), after.digest(), "{pointer} = {value}");
        let found = diff(before.document(), after.document());
        assert_eq!(
            found.first().map(|field| field.path.as_str()),
            Some(path),
            "{pointer} = {value}"
        );
    }
    let spec: Spec = serde_json::from_value(base()).unwrap();
    assert_ne!(
        Fingerprint::of(&spec, Facts { stdin: true }, "default").digest(),
        before.digest()
    );
}

#[test]
fn identity_does_not_count() {
    let rows = [
        ("/hostname", json!("web-2")),
        ("/domainname", json!("example.org")),
        ("/process/env/2", json!("HOSTNAME=web-2")),
        ("/process/env/2", json!("REDIS_PORT_6379_TCP_PROTO=tcp")),
        ("/process/env/7", json!("REDIS_SERVICE_PORT=1")),
        ("/process/env/8", json!("REDIS_SERVICE_PORT_OTHER=1")),
        ("/process/env/11", json!("REDIS_PORT_6379_TCP_ADDR=10.0.0.10")),
        ("/linux/cgroupsPath", json!("/c/d")),
        (
            "/linux/resources",
            json!({"memory": {"limit": 5}, "cpu": {"quota": 1}}),
        ),
        ("/linux/namespaces/1/path", json!("/run/netns/x")),
        ("/mounts/1/source", json!("/var/lib/volumes/2")),
        ("/mounts/1/options", json!(["rw", "rprivate", "rbind"])),
        ("/annotations", json!({})),
        ("/hooks", json!({"createRuntime": [{"path": "/bin/x"}]})),
        ("/root/path", json!("/elsewhere")),
        ("/linux/maskedPaths", json!(["/proc/keys", "/proc/kcore"])),
        ("/process/user/additionalGids", json!([1000, 20])),
        ("/process/capabilities/bounding", json!(["CAP_CHOWN", "CAP_KILL"])),
    ];
    let before = take(&base()).digest();
    for (pointer, value) in rows {
        assert_eq!(
            before,
            take(&changed(pointer, value.clone())).digest(),
            "{pointer} = {value}"
        );
    }
}

#[test]
fn order_of_env_and_mounts_does_not_count() {
    let mut spec = base();
    for pointer in ["/process/env", "/mounts", "/linux/namespaces"] {
        spec.pointer_mut(pointer)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .reverse();
    }
    assert_eq!(take(&spec).digest(), take(&base()).digest());
}

#[test]
fn a_service_may_come_or_move() {
    let mut spec = base();
    let env = spec.pointer_mut("/process/env").unwrap().as_array_mut().unwrap();
    env.retain(|entry| !entry.as_str().unwrap().starts_with("REDIS_"));
    env.push(json!("NEW_ONE_SERVICE_HOST=fd00::1"));
    env.push(json!("NEW_ONE_PORT=tcp://[fd00::1]:80"));
    assert_eq!(take(&spec).digest(), take(&base()).digest());
}

#[test]
fn an_application_s_own_ports_count() {
    for name in [
        "DB_PORT",
        "APP_SERVICE_HOST",
        "APP_SERVICE_PORT",
        "APP_PORT_1_TCP",
    ] {
        let env = vec![format!("{name}=1"), "REDIS_PORT=tcp://10.0.0.9:1".to_owned()];
        assert_eq!(env::identity(&env), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn values_of_the_environment_are_not_to_be_read() {
    let document = take(&base()).document().to_string();
    assert!(!document.contains("production"));
    let spec: Spec = serde_json::from_value(base()).unwrap();
    let other = Fingerprint::of(&spec, Facts::default(), "other");
    assert_ne!(
        other.document()["env"]["MODE"],
        take(&base()).document()["env"]["MODE"]
    );
}

#[test]
fn the_document_is_versioned_and_stable() {
    let fingerprint = take(&base());
    assert_eq!(fingerprint.document()["version"], json!(1));
    // If this changes, so do all keys: raise VERSION and say so in docs/format.md.
    assert_eq!(fingerprint.digest().to_string(), "sha256:53fb448831581f805025a62fc6c328e6132fa23a8dc59c9a3060895c2640da17");
}

#[test]
fn an_empty_spec_has_a_fingerprint() {
    let empty = take(&json!({"ociVersion": "1.2.0"}));
    assert_ne!(empty.digest(), take(&base()).digest());
    assert!(diff(empty.document(), empty.document()).is_empty());
}
