//! What of an OCI spec a restored process carries in its memory or its rights.
//!
//! A restore takes these from the image, whatever the new spec says. So they go into a document whose hash is part of
//! the key: any difference is another key, and another key is a cold start. What must differ between donor and clone
//! stays out: hostname, cgroup path, sources of mounts, paths of namespaces, hooks, annotations but for the container's
//! name, the level and categories of an SELinux label, and the environment variables that [`env`] lists. Limits stay
//! out too: the clone's own are applied after the restore, and [`crate::matching`] looks if the memory fits in.
//!
//! The document is versioned. A build that puts more into it, or less, raises [`VERSION`], and so looks under other
//! keys than older builds.

use std::net::IpAddr;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};
use serde_json::{Map, Value, json};

use crate::{Digest, canonical};

pub mod env;
mod mounts;
mod diff;

pub use diff::{FieldDiff, diff};

/// Version of the document.
pub const VERSION: u32 = 2;

/// What the fingerprint covers and the spec does not say.
///
/// Of the standard streams only the input can differ: the shim gives every container pipes for its output, or a pty,
/// whatever its client does with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts<'a> {
    /// The client feeds standard input.
    pub stdin: bool,
    /// Variables of the environment that may differ.
    pub ignore_env: &'a [String],
    /// Addresses of the pod, loopback left out; looked at for containers of a pod only.
    pub addresses: &'a [IpAddr],
}

/// What CRI says of a container, in annotations of the spec that it writes itself
/// (containerd, `internal/cri/annotations`).
pub mod cri {
    /// The container's name in its pod.
    pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
    /// `sandbox` or `container`.
    pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
    /// Id of the pod's sandbox.
    pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
    /// The pod's name.
    pub const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
    /// The pod's namespace.
    pub const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
    /// The pod's uid.
    pub const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";
}

/// The document and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    document: Value,
}

impl Fingerprint {
    /// Takes the fingerprint of a start. `scope` is the one of the key: values of the environment are hashed with it,
    /// so that equal values in two scopes do not look equal.
    pub fn of(spec: &Spec, facts: Facts<'_>, scope: &str) -> Self {
        let process = spec.process().as_ref();
        let linux = spec.linux().as_ref();
        let mut document = Map::new();
        document.insert("version".to_owned(), VERSION.into());
        document.insert("stdin".to_owned(), facts.stdin.into());
        document.insert("process".to_owned(), process.map_or(Value::Null, of_process));
        let hashed = env::hashed(env_of(spec), scope, pod(spec, facts), facts.ignore_env);
        document.insert("env".to_owned(), hashed);
        let name = annotation(spec, cri::CONTAINER_NAME);
        document.insert("container".to_owned(), name.into());
        document.insert("linux".to_owned(), linux.map_or(Value::Null, of_linux));
        document.insert(
            "mounts".to_owned(),
            mounts::of(spec.mounts().as_deref().unwrap_or_default()),
        );
        let readonly = spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false);
        document.insert("rootfs".to_owned(), json!({ "readonly": readonly }));
        Self {
            document: Value::Object(document),
        }
    }

    /// The document, for the manifest.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// The hash, for the key: digest of the document as canonical JSON (sorted keys, no whitespace).
    pub fn digest(&self) -> Digest {
        canonical::digest(&self.document)
    }
}

/// Names of the variables that a restored process has with the donor's values: those that name the clone, and those
/// that were to be ignored. Sorted.
pub fn stale_env(spec: &Spec, facts: Facts<'_>) -> Vec<String> {
    env::stale(env_of(spec), pod(spec, facts), facts.ignore_env)
}

fn env_of(spec: &Spec) -> &[String] {
    let process = spec.process().as_ref();
    process
        .and_then(|process| process.env().as_deref())
        .unwrap_or_default()
}

/// The value of an annotation.
pub fn annotation<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(name).map(String::as_str)
}

fn pod<'a>(spec: &'a Spec, facts: Facts<'a>) -> env::Pod<'a> {
    let sandbox = annotation(spec, cri::SANDBOX_ID);
    env::Pod {
        name: annotation(spec, cri::SANDBOX_NAME),
        uid: annotation(spec, cri::SANDBOX_UID),
        sandbox,
        addresses: if sandbox.is_some() { facts.addresses } else { &[] },
    }
}

/// `user:role:type:level` without the level: its categories are of one pod only. The live label is given to the
/// restored processes.
fn selinux_type(label: &str) -> String {
    label.splitn(4, ':').take(3).collect::<Vec<_>>().join(":")
}

fn of_process(process: &Process) -> Value {
    let user = process.user();
    json!({
        "args": process.args(),
        "cwd": process.cwd().to_string_lossy(),
        "terminal": process.terminal().unwrap_or(false),
        "user": {
            "uid": user.uid(),
            "gid": user.gid(),
            "umask": user.umask(),
            "additionalGids": sorted(user.additional_gids()),
        },
        "capabilities": process.capabilities().as_ref().map(|sets| json!({
            "bounding": sorted(sets.bounding()),
            "effective": sorted(sets.effective()),
            "inheritable": sorted(sets.inheritable()),
            "permitted": sorted(sets.permitted()),
            "ambient": sorted(sets.ambient()),
        })),
        "noNewPrivileges": process.no_new_privileges().unwrap_or(false),
        "rlimits": by(process.rlimits().as_deref().unwrap_or_default(), |limit| limit.typ().to_string()),
        "apparmorProfile": process.apparmor_profile().as_deref().unwrap_or_default(),
        "selinuxType": selinux_type(process.selinux_label().as_deref().unwrap_or_default()),
        "oomScoreAdj": process.oom_score_adj(),
        "ioPriority": process.io_priority(),
        "scheduler": process.scheduler(),
    })
}

fn of_linux(linux: &Linux) -> Value {
    json!({
        "namespaces": namespaces(linux),
        "uidMappings": linux.uid_mappings(),
        "gidMappings": linux.gid_mappings(),
        "timeOffsets": linux.time_offsets(),
        "sysctl": linux.sysctl().as_ref().map(canonical::value).unwrap_or_else(|| json!({})),
        "seccomp": linux.seccomp().as_ref().map(|profile| canonical::digest(&canonical::value(profile)).to_string()),
        "maskedPaths": sorted(linux.masked_paths()),
        "readonlyPaths": sorted(linux.readonly_paths()),
        "rootfsPropagation": linux.rootfs_propagation().as_deref().unwrap_or_default(),
        "personality": linux.personality(),
        "devices": by(linux.devices().as_deref().unwrap_or_default(), |device| {
            device.path().to_string_lossy().into_owned()
        }),
    })
}

/// Each kind of namespace is `new`, `joined`, or `host` where the spec does not name it.
///
/// A network namespace is `private` whether it is new or joined: the same images serve both (the external key is edited),
/// and clients differ in who makes it.
fn namespaces(linux: &Linux) -> Value {
    let listed = linux.namespaces().as_deref().unwrap_or_default();
    let kind = |typ: LinuxNamespaceType| match listed.iter().find(|namespace| namespace.typ() == typ) {
        None => "host",
        Some(_) if typ == LinuxNamespaceType::Network => "private",
        Some(namespace)
            if namespace
                .path()
                .as_ref()
                .is_some_and(|path| !path.as_os_str().is_empty()) =>
        {
            "joined"
        }
        Some(_) => "new",
    };
    json!({
        "cgroup": kind(LinuxNamespaceType::Cgroup),
        "ipc": kind(LinuxNamespaceType::Ipc),
        "mount": kind(LinuxNamespaceType::Mount),
        "network": kind(LinuxNamespaceType::Network),
        "pid": kind(LinuxNamespaceType::Pid),
        "time": kind(LinuxNamespaceType::Time),
        "user": kind(LinuxNamespaceType::User),
        "uts": kind(LinuxNamespaceType::Uts),
    })
}

/// A list whose order says nothing: sorted, without doubles; empty where it is absent.
fn sorted<T: serde::Serialize>(list: &Option<T>) -> Value {
    let mut items = match list.as_ref().map(canonical::value) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    items.sort_by_cached_key(canonical::text);
    items.dedup();
    Value::Array(items)
}

/// A list as an object, by a name that each item has, so that [`diff`] can name the one that differs. Items of the
/// same name stand in their order.
fn by<T: serde::Serialize>(list: &[T], name: impl Fn(&T) -> String) -> Value {
    let mut object = Map::new();
    for item in list {
        let same = object.entry(name(item)).or_insert_with(|| json!([]));
        if let Value::Array(items) = same {
            items.push(canonical::value(item));
        }
    }
    Value::Object(object)
}
