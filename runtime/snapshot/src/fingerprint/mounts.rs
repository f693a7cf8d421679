//! Mounts without their sources.

use oci_spec::runtime::Mount;
use serde_json::{Map, Value, json};

/// Propagation types of `mount(8)`, as they stand in a spec's mount options.
const PROPAGATION: [&str; 8] = [
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
];

/// SELinux contexts: the live spec's are used, and their category differs from pod to pod.
const CONTEXTS: [&str; 4] = ["context=", "fscontext=", "defcontext=", "rootcontext="];

/// For each destination the mounts on it, in their order: type, writable or not, propagation, and the other options,
/// which a restore takes from the image (`nosuid`, or the size of a tmpfs).
pub(super) fn of(mounts: &[Mount]) -> Value {
    let mut object = Map::new();
    for mount in mounts {
        let destination = mount.destination().to_string_lossy().into_owned();
        let same = object.entry(destination).or_insert_with(|| json!([]));
        if let Value::Array(items) = same {
            items.push(one(mount));
        }
    }
    Value::Object(object)
}

fn one(mount: &Mount) -> Value {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option == name);
    let bind = has("bind") || has("rbind") || mount.typ().as_deref() == Some("bind");
    let kind = if bind {
        "bind"
    } else {
        mount.typ().as_deref().unwrap_or_default()
    };
    // The last one wins, as in runc.
    let last = |names: &[&'static str]| {
        options
            .iter()
            .rev()
            .find_map(|option| names.iter().copied().find(|name| name == option))
    };
    let readonly = matches!(last(&["ro", "rro", "rw", "rrw"]), Some("ro" | "rro"));
    let known = |option: &str| {
        ["ro", "rro", "rw", "rrw", "bind", "rbind"].contains(&option)
            || PROPAGATION.contains(&option)
            || CONTEXTS.iter().any(|context| option.starts_with(context))
    };
    let mut others: Vec<&str> = options
        .iter()
        .map(String::as_str)
        .filter(|option| !known(option))
        .collect();
    others.sort_unstable();
    others.dedup();
    json!({
        "type": kind,
        "readonly": readonly,
        "propagation": last(&PROPAGATION).unwrap_or_default(),
        "options": others,
    })
}
