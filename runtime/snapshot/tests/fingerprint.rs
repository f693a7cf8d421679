//! What changes a fingerprint and what does not, one row each.

#![expect(clippy::unwrap_used, reason = "a test that cannot build its input must fail")]

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use thaw_snapshot::Fingerprint;
use thaw_snapshot::fingerprint::{Facts, VERSION, diff, env, stale_env};

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
            "selinuxLabel": "system_u:system_r:container_t:s0:c1,c2",
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
        "annotations": {
            "io.kubernetes.cri.sandbox-id": "abc",
            "io.kubernetes.cri.sandbox-name": "web-7f9c",
            "io.kubernetes.cri.sandbox-uid": "5f0e",
            "io.kubernetes.cri.container-name": "app",
        },
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

/// Place in the spec, its new value, path of the first field that differs in the document.
const COUNTS: &str = r#"
/process/args | ["/bin/app"] | process.args
/process/args | ["--serve", "/bin/app"] | process.args
/process/cwd | "/" | process.cwd
/process/terminal | true | process.terminal
/process/user/uid | 0 | process.user.uid
/process/user/gid | 0 | process.user.gid
/process/user/umask | 18 | process.user.umask
/process/user/additionalGids | [20] | process.user.additionalGids
/process/capabilities/bounding | [] | process.capabilities.bounding
/process/capabilities/effective | [] | process.capabilities.effective
/process/capabilities/permitted | [] | process.capabilities.permitted
/process/capabilities/inheritable | [] | process.capabilities.inheritable
/process/capabilities/ambient | ["CAP_CHOWN"] | process.capabilities.ambient
/process/noNewPrivileges | false | process.noNewPrivileges
/process/rlimits/0/soft | 1 | process.rlimits.RLIMIT_NOFILE
/process/apparmorProfile | "other" | process.apparmorProfile
/process/selinuxLabel | "other" | process.selinuxType
/process/selinuxLabel | "system_u:system_r:spc_t:s0:c1,c2" | process.selinuxType
/process/oomScoreAdj | 1 | process.oomScoreAdj
/process/env/1 | "MODE=test" | env.MODE
/process/env/1 | "MODES=production" | env.MODE
/process/env/3 | "DB_PORT=5433" | env.DB_PORT
/process/env/4 | "KUBERNETES_SERVICE_HOST=10.9.0.1" | env.KUBERNETES_SERVICE_HOST
/root/readonly | true | rootfs.readonly
/linux/seccomp/defaultAction | "SCMP_ACT_ALLOW" | linux.seccomp
/linux/seccomp | null | linux.seccomp
/linux/maskedPaths | ["/proc/kcore"] | linux.maskedPaths
/linux/readonlyPaths | [] | linux.readonlyPaths
/linux/sysctl | {} | linux.sysctl.net.core.somaxconn
/linux/namespaces/0/path | "/proc/1/ns/pid" | linux.namespaces.pid
/linux/namespaces/3/path | "/proc/9/ns/uts" | linux.namespaces.uts
/linux/namespaces/1/type | "cgroup" | linux.namespaces.cgroup
/linux/personality | {"domain": "LINUX32"} | linux.personality
/linux/rootfsPropagation | "rshared" | linux.rootfsPropagation
/linux/devices | [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2}] | linux.devices./dev/x
/mounts/1/destination | "/other" | mounts./data
/mounts/1/options | ["rbind", "rprivate", "ro"] | mounts./data
/mounts/1/options | ["rbind", "rshared", "rw"] | mounts./data
/mounts/1/options | ["rbind", "rprivate", "rw", "nosuid"] | mounts./data
/mounts/0/type | "tmpfs" | mounts./proc
/annotations | {"io.kubernetes.cri.container-name": "other"} | container
/annotations | {} | container
"#;

/// Place in the spec, its new value.
const IDENTITY: &str = r#"
/hostname | "web-2"
/domainname | "example.org"
/process/env/2 | "HOSTNAME=web-2"
/process/env/2 | "REDIS_PORT_6379_TCP_PROTO=tcp"
/process/env/7 | "REDIS_SERVICE_PORT=1"
/process/env/8 | "REDIS_SERVICE_PORT_OTHER=1"
/process/env/11 | "REDIS_PORT_6379_TCP_ADDR=10.0.0.10"
/linux/cgroupsPath | "/c/d"
/linux/resources | {"memory": {"limit": 5}, "cpu": {"quota": 1}}
/linux/namespaces/1/path | "/run/netns/x"
/mounts/1/source | "/var/lib/volumes/2"
/mounts/1/options | ["rw", "rprivate", "rbind"]
/process/selinuxLabel | "system_u:system_r:container_t:s0:c3,c4"
/annotations | {"io.kubernetes.cri.container-name": "app", "some": "thing"}
/hooks | {"createRuntime": [{"path": "/bin/x"}]}
/root/path | "/elsewhere"
/linux/maskedPaths | ["/proc/keys", "/proc/kcore"]
/process/user/additionalGids | [1000, 20]
/process/capabilities/bounding | ["CAP_CHOWN", "CAP_KILL"]
"#;

/// The rows of a table, cut into cells.
fn rows(table: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    table
        .lines()
        .filter(|row| !row.is_empty())
        .map(|row| (row, row.split(" | ").collect()))
}

#[test]
fn every_field_counts() {
    let before = take(&base());
    for (row, cells) in rows(COUNTS) {
        let after = take(&changed(cells[0], serde_json::from_str(cells[1]).unwrap()));
        assert_ne!(before.digest(), after.digest(), "{row}");
        let found = diff(before.document(), after.document());
        assert_eq!(
            found.first().map(|field| field.path.as_str()),
            Some(cells[2]),
            "{row}"
        );
    }
}

#[test]
fn standard_input_counts() {
    let spec: Spec = serde_json::from_value(base()).unwrap();
    let facts = Facts {
        stdin: true,
        ..Facts::default()
    };
    let fed = Fingerprint::of(&spec, facts, "default");
    assert_ne!(fed.digest(), take(&base()).digest());
}

#[test]
fn identity_does_not_count() {
    let before = take(&base()).digest();
    for (row, cells) in rows(IDENTITY) {
        let after = take(&changed(cells[0], serde_json::from_str(cells[1]).unwrap()));
        assert_eq!(before, after.digest(), "{row}");
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
        let all = [(name, "1"), ("REDIS_PORT", "tcp://10.0.0.9:1")].into();
        assert!(!env::is_identity(name, &all), "{name}");
    }
}

/// The base with one more variable, in a pod of these names.
fn in_pod(variable: &str, name: &str, uid: &str, sandbox: &str) -> Spec {
    let mut spec = base();
    spec["process"]["env"]
        .as_array_mut()
        .unwrap()
        .push(json!(variable));
    spec["annotations"]["io.kubernetes.cri.sandbox-name"] = json!(name);
    spec["annotations"]["io.kubernetes.cri.sandbox-uid"] = json!(uid);
    spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(sandbox);
    serde_json::from_value(spec).unwrap()
}

#[test]
fn a_value_that_names_the_pod_is_identity() {
    let addresses = ["10.1.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let facts = Facts {
        addresses: &addresses,
        ..Facts::default()
    };
    let digest = |variable: &str, name: &str| {
        let spec = in_pod(variable, name, &format!("uid-{name}"), &format!("box-{name}"));
        Fingerprint::of(&spec, facts, "k8s.io/shop").digest()
    };
    for value in ["NAME", "uid-NAME", "box-NAME"] {
        let one = digest(&format!("X={}", value.replace("NAME", "a")), "a");
        let other = digest(&format!("X={}", value.replace("NAME", "b")), "b");
        assert_eq!(one, other, "{value}");
        // The pod of another name does not make it its own.
        let stranger = digest(&format!("X={}", value.replace("NAME", "a")), "b");
        assert_ne!(one, stranger, "{value}");
    }
    assert_ne!(
        digest("X=a", "a"),
        digest("Y=a", "a"),
        "the variable's name counts"
    );
    assert_ne!(
        digest("X=a", "a"),
        digest("X=uid-a", "a"),
        "so does what of the pod it is"
    );
    assert_eq!(digest("X=10.1.0.7", "a"), digest("X=10.1.0.7,fd00::7", "a"));
    assert_ne!(digest("X=10.1.0.7", "a"), digest("X=10.1.0.8", "a"));
    let spec = in_pod("X=10.1.0.7", "a", "u", "s");
    let stale = [
        "HOSTNAME",
        "REDIS_PORT",
        "REDIS_PORT_6379_TCP",
        "REDIS_PORT_6379_TCP_ADDR",
    ];
    let found = stale_env(&spec, facts);
    assert_eq!(found[..4], stale);
    assert_eq!(found.last().map(String::as_str), Some("X"));
}

#[test]
fn ignored_variables_do_not_count_and_are_stale() {
    let ignored = ["MODE".to_owned(), "NOT_THERE".to_owned()];
    let facts = Facts {
        ignore_env: &ignored,
        ..Facts::default()
    };
    let of = |value: Value, facts| {
        let spec: Spec = serde_json::from_value(changed("/process/env/1", value)).unwrap();
        (Fingerprint::of(&spec, facts, "default"), stale_env(&spec, facts))
    };
    let (one, stale) = of(json!("MODE=production"), facts);
    assert!(stale.contains(&"MODE".to_owned()) && !stale.contains(&"NOT_THERE".to_owned()));
    assert_eq!(one.digest(), of(json!("MODE=test"), facts).0.digest());
    assert_ne!(one.digest(), of(json!("MODE=test"), Facts::default()).0.digest());
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
    assert_eq!(fingerprint.document()["version"], json!(VERSION));
    // If this changes, so do all keys: raise VERSION and say so in docs/format.md.
    assert_eq!(
        fingerprint.digest().to_string(),
        "sha256:9ac4ffc92b5843365b557fe7a67c00a33246b78b4404bcf1c43f9f0be9c5bd8b"
    );
}

#[test]
fn an_empty_spec_has_a_fingerprint() {
    let empty = take(&json!({"ociVersion": "1.2.0"}));
    assert_ne!(empty.digest(), take(&base()).digest());
    assert!(diff(empty.document(), empty.document()).is_empty());
}
