//! One start after another that differs from the donor's in one thing: what becomes of it, and what explains it.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};
use thaw_runtime::explain::{More, explain};
use thaw_runtime::identify::Kubernetes;
use thaw_runtime::outcome::{Outcome, Result as Way};
use tokio::task::JoinSet;

use super::donor::{self, Donor};
use super::world::{Images, World};

/// The donor's and, but for one thing, the clone's: a container of a pod, with the rights that are in the fixture.
fn base() -> Value {
    let mut spec = donor::spec();
    spec["annotations"] = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-id": "sandbox-1",
        "io.kubernetes.cri.sandbox-name": "web-1",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": "uid-1",
        "thaw.dev/ignore-env": "BUILD_ID",
    });
    spec["process"]["env"] = json!([
        "MODE=production",
        "BUILD_ID=7",
        "HOSTNAME=web-1",
        "POD_NAME=web-1",
        "KUBERNETES_SERVICE_HOST=10.0.0.1",
        "DB_PORT=5432",
        "REDIS_SERVICE_HOST=10.0.0.9",
        "REDIS_PORT=tcp://10.0.0.9:6379",
    ]);
    spec["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0:c1,c2");
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]);
    spec["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64m"]},
        {"destination": "/config", "type": "bind", "source": "/srv/1", "options": ["rbind", "rprivate", "ro"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/pods/1/etc-hosts", "options": ["rbind", "rw"]},
    ]);
    spec["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys"]);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    spec["linux"]["sysctl"] = json!({"net.core.somaxconn": "1024"});
    spec["linux"]["cgroupsPath"] = json!("/pods/1/app");
    spec
}

/// Place in the spec, its new value (`-` removes it), what becomes of the start, and what has to be named.
const ROWS: &str = r#"
/hostname | "web-2" | restored |
/domainname | "example.org" | restored |
/root/path | "/elsewhere" | restored |
/linux/cgroupsPath | "/pods/2/app" | restored |
/linux/resources/cpu | {"quota": 5000, "period": 100000} | restored |
/linux/resources/pids/limit | 64 | restored |
/linux/resources/memory/limit | 134217728 | restored |
/linux/resources/memory/limit | -1 | restored |
/annotations/some.thing~1else | "x" | restored |
/annotations/io.kubernetes.cri.sandbox-id | "sandbox-2" | restored |
/process/selinuxLabel | "system_u:system_r:container_t:s0:c3,c4" | restored |
/process/env/1 | "BUILD_ID=8" | restored |
/process/env/2 | "HOSTNAME=web-2" | restored |
/process/env/6 | "NEW_SERVICE_HOST=10.0.0.8" | no_snapshot | env.NEW_SERVICE_HOST
/mounts/2/source | "/srv/2" | restored |
/mounts/3/source | "/pods/2/etc-hosts" | restored |
/linux/resources/memory/limit | 140000 | memory_limit | limit is 140000
/linux/resources/memory/limit | 1 | memory_limit | bytes of memory
/process/args | ["app", "--debug"] | no_snapshot | process.args
/process/args | ["other"] | no_snapshot | process.args
/process/cwd | "/srv" | no_snapshot | process.cwd
/process/terminal | true | no_snapshot | process.terminal
/process/user/uid | 1000 | no_snapshot | process.user.uid
/process/user/gid | 1000 | no_snapshot | process.user.gid
/process/user/umask | 63 | no_snapshot | process.user.umask
/process/user/additionalGids | [20] | no_snapshot | process.user.additionalGids
/process/capabilities/bounding | ["CAP_KILL"] | no_snapshot | process.capabilities.bounding
/process/capabilities/effective | [] | no_snapshot | process.capabilities.effective
/process/capabilities/permitted | [] | no_snapshot | process.capabilities.permitted
/process/capabilities/inheritable | ["CAP_KILL"] | no_snapshot | process.capabilities.inheritable
/process/capabilities/ambient | ["CAP_KILL"] | no_snapshot | process.capabilities.ambient
/process/noNewPrivileges | false | no_snapshot | process.noNewPrivileges
/process/rlimits/0/soft | 512 | no_snapshot | process.rlimits.RLIMIT_NOFILE
/process/rlimits | [] | no_snapshot | process.rlimits.RLIMIT_NOFILE
/process/apparmorProfile | "strict" | no_snapshot | process.apparmorProfile
/process/selinuxLabel | "system_u:system_r:spc_t:s0:c1,c2" | no_snapshot | process.selinuxType
/process/oomScoreAdj | 500 | no_snapshot | process.oomScoreAdj
/process/env/0 | "MODE=test" | no_snapshot | env.MODE
/process/env/0 | "MODUS=production" | no_snapshot | env.MODUS
/process/env/3 | "POD_NAME=another" | no_snapshot | env.POD_NAME
/process/env/4 | "KUBERNETES_SERVICE_HOST=10.9.0.1" | no_snapshot | env.KUBERNETES_SERVICE_HOST
/process/env/5 | "DB_PORT=5433" | no_snapshot | env.DB_PORT
/root/readonly | true | no_snapshot | rootfs.readonly
/linux/seccomp | {"defaultAction": "SCMP_ACT_ERRNO"} | no_snapshot | linux.seccomp
/linux/maskedPaths | ["/proc/kcore"] | no_snapshot | linux.maskedPaths
/linux/readonlyPaths | [] | no_snapshot | linux.readonlyPaths
/linux/sysctl/net.core.somaxconn | "128" | no_snapshot | linux.sysctl.net.core.somaxconn
/linux/personality | {"domain": "LINUX32"} | no_snapshot | linux.personality
/linux/rootfsPropagation | "rshared" | no_snapshot | linux.rootfsPropagation
/linux/namespaces/3/type | "cgroup" | no_snapshot | linux.namespaces.uts
/mounts/1/options | ["size=128m"] | no_snapshot | mounts./tmp
/mounts/2/destination | "/etc/app" | no_snapshot | mounts./etc/app
/mounts/2/options | ["rbind", "rslave", "ro"] | no_snapshot | mounts./config
/mounts/0/options | [] | no_snapshot | mounts./proc
/mounts/2/options | ["rbind", "rprivate", "rw"] | persistent_mount | /config
/mounts/3/destination | "/etc/other" | no_snapshot | mounts./etc/other
/mounts/3/source | "/srv/hosts" | restored |
/linux/devices | [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}] | devices | /dev/fuse
/linux/resources/devices | [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}] | devices | c 10:229
/linux/resources/devices | [{"allow": true, "access": "rwm"}] | privileged | privileged
/linux/namespaces/0/path | "/proc/1/ns/pid" | pid_namespace | pid namespace
/linux/namespaces/4/type | "user" | user_namespace | user namespace
/linux/namespaces/2/type | "time" | host_network | host's network
/annotations/io.kubernetes.cri.container-name | "sidecar" | no_snapshot | container
/annotations/io.kubernetes.cri.sandbox-namespace | "other" | no_snapshot | scope
/annotations/io.kubernetes.cri.sandbox-namespace | - | scope_unknown | sandbox-namespace
/annotations/io.kubernetes.cri.container-type | "sandbox" | sandbox | sandbox
/annotations/io.kubernetes.container.type | "init" | init_container | init container
/annotations/io.kubernetes.container.type | "ephemeral" | ephemeral_container | ephemeral
/annotations/thaw.dev~1ignore-env | - | no_snapshot | env.BUILD_ID
/annotations/thaw.dev~1ignore-env | "BUILD_ID,MODE" | no_snapshot | env.MODE
/annotations/thaw.dev~1ignore-env | "A=B" | annotation_invalid | ignore-env
/annotations/thaw.dev~1snapshot-policy | "Never" | policy_never | Never
"#;

/// A row that one value can't tell.
struct Tale {
    told: &'static str,
    donor: fn(&mut Donor, &mut World),
    clone: fn(&mut World),
    becomes: &'static str,
    named: &'static str,
}

const TALES: [Tale; 13] = [
    Tale {
        told: "a pod of another name, with that name in its environment",
        donor: |_, _| {},
        clone: |world| {
            world.annotate("io.kubernetes.cri.sandbox-name", "web-2");
            world.spec["process"]["env"][3] = json!("POD_NAME=web-2");
        },
        becomes: "restored",
        named: "",
    },
    Tale {
        told: "a service that is new in the namespace",
        donor: |_, _| {},
        clone: |world| {
            let env = world.spec["process"]["env"].as_array_mut().unwrap();
            env.push(json!("MAIL_SERVICE_HOST=10.0.0.7"));
            env.push(json!("MAIL_PORT=tcp://10.0.0.7:25"));
        },
        becomes: "restored",
        named: "",
    },
    Tale {
        told: "published for all, on a node that allows it",
        donor: |donor, _| donor.scope = "*",
        clone: |world| world.config.shared_scope = true,
        becomes: "restored",
        named: "",
    },
    Tale {
        told: "published for all, on a node that does not say so",
        donor: |donor, _| donor.scope = "*",
        clone: |_| {},
        becomes: "no_snapshot",
        named: "scope",
    },
    Tale {
        told: "published by a tenant, on a node that allows the shared scope",
        donor: |donor, _| donor.scope = "default/other",
        clone: |world| world.config.shared_scope = true,
        becomes: "no_snapshot",
        named: "scope",
    },
    Tale {
        told: "persistent storage, allowed on both sides",
        donor: |_, world| {
            world.spec["mounts"][2]["options"] = json!(["rbind", "rw"]);
            world.annotate("thaw.dev/persistent-mounts", "allow");
        },
        clone: |_| {},
        becomes: "restored",
        named: "",
    },
    Tale {
        told: "root with all capabilities, and a narrower container",
        donor: |_, world| {
            world.spec["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN", "CAP_KILL"])
        },
        clone: |world| world.spec["process"]["capabilities"]["bounding"] = json!(["CAP_KILL"]),
        becomes: "no_snapshot",
        named: "process.capabilities.bounding",
    },
    Tale {
        told: "the same, with a manifest that says otherwise",
        donor: |_, world| world.spec["process"]["capabilities"]["bounding"] = json!(["CAP_KILL"]),
        clone: |_| {},
        becomes: "rights_exceeded",
        named: "capabilities",
    },
    Tale {
        told: "images in which a mount is no longer read-only",
        donor: |donor, world| {
            let mut mounted = world.spec.clone();
            mounted["mounts"][2]["options"] = json!(["rbind", "rprivate", "rw"]);
            donor.mounted = Some(mounted);
        },
        clone: |_| {},
        becomes: "rights_exceeded",
        named: "/config is not ro",
    },
    Tale {
        told: "images in which a masked path is open",
        donor: |donor, world| {
            let mut mounted = world.spec.clone();
            mounted["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
            donor.mounted = Some(mounted);
        },
        clone: |_| {},
        becomes: "rights_exceeded",
        named: "nothing at /proc/keys",
    },
    Tale {
        told: "started again in its pod",
        donor: |_, _| {},
        clone: |world| {
            let (attempt, kind) = (1, None);
            world.images = Arc::new(Images::OfKubelet(Kubernetes { attempt, kind }));
        },
        becomes: "restart_attempt",
        named: "1 times before",
    },
    Tale {
        told: "a root filesystem with files of its own",
        donor: |_, _| {},
        clone: |world| fs::write(world.upper().join("own"), "x").unwrap(),
        becomes: "rootfs_changed",
        named: "written to",
    },
    Tale {
        told: "a processor with less",
        donor: |donor, _| donor.rare_feature = Some("telepathy"),
        clone: |_| {},
        becomes: "host_mismatch",
        named: "telepathy",
    },
];

/// A start, and what the tool says of it.
async fn start(world: &World) -> (Outcome, More) {
    let outcome = world.create().await.unwrap().outcome;
    let more = explain(&world.config, &outcome).await.unwrap();
    (outcome, more)
}

/// A world with a snapshot of the base; the spec is the base still.
async fn world(donor: fn(&mut Donor, &mut World)) -> World {
    let mut world = World::new();
    world.spec = base();
    let mut snapshot = Donor::of("sleep");
    snapshot.scope = "default/shop";
    snapshot.ignore_env = vec!["BUILD_ID".to_owned()];
    donor(&mut snapshot, &mut world);
    snapshot.publish(&world).await;
    world
}

fn put(spec: &mut Value, pointer: &str, value: &str) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let (parent, name) = (spec.pointer_mut(parent).unwrap(), name.replace("~1", "/"));
    match (parent, value) {
        (Value::Object(parent), "-") => drop(parent.remove(&name).unwrap()),
        (Value::Object(parent), value) => drop(parent.insert(name, serde_json::from_str(value).unwrap())),
        (Value::Array(parent), value) => {
            parent[name.parse::<usize>().unwrap()] = serde_json::from_str(value).unwrap();
        }
        (other, _) => panic!("{other}"),
    }
}

fn assert_told(told: &str, becomes: &str, named: &str, outcome: &Outcome, more: &More) {
    let detail = &outcome.detail;
    assert_eq!(outcome.reason, becomes, "{told}: {detail}");
    let way = if becomes == "restored" {
        Way::Restored
    } else {
        Way::Cold
    };
    assert_eq!(outcome.result, way, "{told}");
    match becomes {
        "restored" => {
            let stale: HashSet<&str> = more.stale_env.iter().map(String::as_str).collect();
            assert!(
                stale.is_superset(&["BUILD_ID", "HOSTNAME", "POD_NAME"].into()),
                "{told}: {stale:?}"
            );
        }
        "no_snapshot" => {
            let nearest = more.nearest.as_ref().unwrap();
            let fields = &nearest.differences;
            assert!(fields.iter().any(|one| one.field == named), "{told}: {fields:?}");
            let both = fields.iter().all(|one| one.snapshot != one.container);
            assert!(both, "{told}: {fields:?}");
        }
        "memory_limit" | "host_mismatch" => {
            assert!(detail.contains(named), "{told}: {detail}");
            let nearest = more.nearest.as_ref().unwrap();
            assert!(nearest.differences.is_empty(), "{told}: {nearest:?}");
            assert!(
                nearest.unfit.iter().any(|one| one.contains(named)),
                "{told}: {nearest:?}"
            );
        }
        _ => assert!(detail.contains(named), "{told}: {detail}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn each_difference_has_its_outcome_and_its_explanation() {
    let rows: Vec<&str> = ROWS.lines().filter(|row| !row.is_empty()).collect();
    assert!(rows.len() >= 40, "{}", rows.len());
    let mut telling = JoinSet::new();
    for row in rows {
        telling.spawn(async move {
            let cells: Vec<&str> = row.split(" |").map(str::trim).collect();
            let [pointer, value, becomes, named] = cells[..] else {
                panic!("{row}");
            };
            let mut world = world(|_, _| {}).await;
            put(&mut world.spec, pointer, value);
            let (outcome, more) = start(&world).await;
            assert_told(row, becomes, named, &outcome, &more);
        });
    }
    while let Some(told) = telling.join_next().await {
        told.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn what_takes_more_than_one_value_to_tell() {
    for tale in TALES {
        let mut world = world(tale.donor).await;
        (tale.clone)(&mut world);
        let (outcome, more) = start(&world).await;
        assert_told(tale.told, tale.becomes, tale.named, &outcome, &more);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_the_environment_are_told_to_nobody() {
    let mut world = world(|_, _| {}).await;
    world.spec["process"]["env"][0] = json!("MODE=secret");
    world.spec["process"]["args"] = json!(["another"]);
    let (_, more) = start(&world).await;
    let nearest = more.nearest.unwrap();
    let text = serde_json::to_string(&nearest).unwrap();
    assert!(!text.contains("secret") && !text.contains("production"), "{text}");
    let args = nearest
        .differences
        .iter()
        .find(|one| one.field == "process.args")
        .unwrap();
    assert_eq!(args.snapshot.as_deref(), Some("[\"app\"]"));
    assert_eq!(args.container.as_deref(), Some("[\"another\"]"));
}
