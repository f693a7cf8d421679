//! The bundle that `runc restore` sees: the container's own spec, with the limits left out and other hooks in.
//!
//! runc puts CRIU into the container's cgroup before it restores, so a CPU quota would slow the restore down and a
//! limit on memory or pids would count CRIU too. The limits are set when CRIU has gone.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Map, Value, json};

use super::eligible::Network;
use super::hooks;
use crate::key::Bundle;
use crate::network::LOOPBACK_VERB;

/// The parts of `linux.resources` that hold a restore back, and what of them does not.
const HELD_BACK: [(&str, &[&str]); 3] = [
    ("cpu", &["shares", "idle"]),
    // These two hold nothing back, and `runc update` does not know them (update.go of runc 1.3).
    ("memory", &["swappiness", "disableOOMKiller"]),
    ("pids", &[]),
];

/// Seconds that the loopback hook may take.
const HOOK_TIMEOUT: u32 = 5;

/// A spec for the restore.
#[derive(Debug)]
pub(super) struct Edited {
    /// `config.json`.
    pub(super) config: Vec<u8>,
    /// What was left out, for `runc update`.
    pub(super) limits: Option<Vec<u8>>,
}

/// `restore` is the directory that the answer goes to, `bundle` the container's own.
pub(super) fn for_restore(
    read: &Bundle,
    bundle: &Path,
    restore: &Path,
    network: &Network,
    helper: &Path,
) -> Edited {
    let mut config = read.json.clone();
    // A relative root is relative to the bundle, and this one is elsewhere.
    if let Some(root) = config.pointer_mut("/root/path")
        && let Some(path) = root.as_str()
    {
        *root = json!(bundle.join(path));
    }
    let limits = take_limits(&mut config);
    let loopback = (*network == Network::New).then(|| loopback_hook(helper));
    if let Some(config) = config.as_object_mut() {
        let hooks = hooks::of_restore(&read.json, restore, helper, loopback);
        config.insert("hooks".to_owned(), hooks);
    }
    Edited {
        config: config.to_string().into_bytes(),
        limits,
    }
}

fn take_limits(config: &mut Value) -> Option<Vec<u8>> {
    let resources = config.pointer_mut("/linux/resources")?.as_object_mut()?;
    let mut taken = Map::new();
    for (name, harmless) in HELD_BACK {
        let Some(all) = resources.get_mut(name).and_then(Value::as_object_mut) else {
            continue;
        };
        let (kept, limits): (Map<_, _>, Map<_, _>) = std::mem::take(all)
            .into_iter()
            .partition(|(key, _)| harmless.contains(&key.as_str()));
        *all = kept;
        if !limits.is_empty() {
            taken.insert(name.to_owned(), Value::Object(limits));
        }
    }
    (!taken.is_empty()).then(|| Value::Object(taken).to_string().into_bytes())
}

fn loopback_hook(helper: &Path) -> Value {
    json!({
        "path": helper,
        "args": [helper, LOOPBACK_VERB],
        "timeout": HOOK_TIMEOUT,
    })
}

/// Where files and directories of the host are mounted in the container.
pub(super) fn bind_destinations(spec: &Spec) -> Vec<PathBuf> {
    let is_bind = |options: &Option<Vec<String>>| {
        options
            .as_ref()
            .is_some_and(|list| list.iter().any(|option| option == "bind" || option == "rbind"))
    };
    let mounts = spec.mounts().iter().flatten();
    mounts
        .filter(|mount| mount.typ().as_deref() == Some("bind") || is_bind(mount.options()))
        .map(|mount| mount.destination().clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(json: Value) -> Bundle {
        Bundle {
            spec: serde_json::from_value(json.clone()).unwrap(),
            json,
        }
    }

    #[test]
    fn limits_are_taken_out_and_kept() {
        let read = bundle(
            json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": {"resources": {
            "cpu": {"quota": 10_000, "period": 100_000, "shares": 2}, "memory": {"limit": 4096, "swappiness": 10}, "devices": [{"allow": false}]}}}),
        );
        let edited = for_restore(
            &read,
            Path::new("/b"),
            Path::new("/r"),
            &Network::Joined("/n".into()),
            Path::new("/h"),
        );
        let config: Value = serde_json::from_slice(&edited.config).unwrap();
        assert_eq!(config["root"]["path"], "/b/rootfs");
        assert_eq!(
            config["linux"]["resources"],
            json!({"cpu": {"shares": 2}, "memory": {"swappiness": 10}, "devices": [{"allow": false}]})
        );
        assert_eq!(config["hooks"], json!({}));
        let limits: Value = serde_json::from_slice(&edited.limits.unwrap()).unwrap();
        assert_eq!(
            limits,
            json!({"cpu": {"quota": 10_000, "period": 100_000}, "memory": {"limit": 4096}})
        );
    }

    #[test]
    fn a_new_network_gets_the_hook_and_not_the_user_s() {
        let read = bundle(json!({"ociVersion": "1.2.0", "hooks": {"createRuntime": [{"path": "/mine"}]}}));
        let (at, restore, helper) = (Path::new("/b"), Path::new("/r"), Path::new("/h"));
        let edited = for_restore(&read, at, restore, &Network::New, helper);
        let config: Value = serde_json::from_slice(&edited.config).unwrap();
        let hook = json!({"path": "/h", "args": ["/h", LOOPBACK_VERB], "timeout": HOOK_TIMEOUT});
        assert_eq!(config["hooks"], json!({"createRuntime": [hook]}));
        assert!(edited.limits.is_none());
    }
}
