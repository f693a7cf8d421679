//! The bundle of the scratch container: the donor's spec without what reaches outside.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::ProofError;
use super::left::Scratch;
use super::namespaces::Namespaces;
use super::rootfs::{self, Rootfs, made};
use crate::capture::find::Donor;

/// Files that are mounted into containers (`/etc/hosts`, tokens, logs) are copied up to this size in bytes; no such file
/// has more.
const COPY_LIMIT: u64 = 64 << 20;

pub(super) fn write(
    donor: &Donor,
    directory: &Path,
    scratch: &Scratch,
    namespaces: &Namespaces,
) -> Result<Rootfs, ProofError> {
    let bundle = made(directory.join("bundle"))?;
    let at = made(bundle.join("rootfs"))?;
    let rootfs = Rootfs::like(&donor.rootfs, at, &directory.join("rootfs"))?;
    let mut config = donor.bundle.json.clone();
    config["root"]["path"] = json!("rootfs");
    if let Some(config) = config.as_object_mut() {
        // Clients' hooks act on their own records of a container, and annotations ask for what is not to be tried.
        config.remove("hooks");
        config.remove("annotations");
    }
    config["linux"]["cgroupsPath"] = json!(scratch.cgroup());
    if let Some(listed) = config
        .pointer_mut("/linux/namespaces")
        .and_then(Value::as_array_mut)
    {
        listed
            .iter_mut()
            .for_each(|entry| own_namespace(entry, namespaces));
    }
    if let Some(mounts) = config.pointer_mut("/mounts").and_then(Value::as_array_mut) {
        for (number, mount) in mounts.iter_mut().enumerate() {
            own_mount(mount, &directory.join("mounts").join(number.to_string()))?;
        }
    }
    let path = bundle.join("config.json");
    fs::write(&path, config.to_string()).map_err(|source| ProofError::Prepare { path, source })?;
    Ok(rootfs)
}

/// The network is always ours: a new one of runc's would lack the leave to bind to the donor's addresses.
fn own_namespace(entry: &mut Value, namespaces: &Namespaces) {
    let kind = entry["type"].as_str().unwrap_or_default().to_owned();
    let joined = entry["path"].as_str().is_some_and(|path| !path.is_empty());
    if (joined || kind == "network")
        && let Some(own) = namespaces.instead_of(&kind)
    {
        entry["path"] = json!(own);
    }
}

/// What it may write to becomes a view or a copy. Sockets and devices stay what they are.
fn own_mount(mount: &mut Value, room: &Path) -> Result<(), ProofError> {
    let Some(source) = writable_source(mount.as_object()) else {
        return Ok(());
    };
    let fail = |source_error| ProofError::Prepare {
        path: source.clone(),
        source: source_error,
    };
    let meta = fs::metadata(&source).map_err(fail)?;
    if meta.is_dir() {
        mount["source"] = json!(rootfs::view(&source, room)?);
    } else if meta.is_file() && meta.len() <= COPY_LIMIT {
        let copy = made(room.to_owned())?.join("copy");
        fs::copy(&source, &copy).map_err(fail)?;
        mount["source"] = json!(copy);
    }
    Ok(())
}

/// The source of a bind mount that is not read-only.
fn writable_source(mount: Option<&Map<String, Value>>) -> Option<PathBuf> {
    let mount = mount?;
    let options: Vec<&str> = mount
        .get("options")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let bind = mount.get("type").and_then(Value::as_str) == Some("bind")
        || options.iter().any(|option| matches!(*option, "bind" | "rbind"));
    let read_only = options.iter().any(|option| matches!(*option, "ro" | "rro"));
    let source = mount.get("source").and_then(Value::as_str)?;
    (bind && !read_only).then(|| PathBuf::from(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_written_is_copied() {
        let source = |mount: Value| writable_source(mount.as_object());
        let bind = json!({"type": "bind", "source": "/a", "options": ["rbind", "rw"]});
        assert_eq!(source(bind), Some("/a".into()));
        let none = json!({"type": "none", "source": "/a", "options": ["bind"]});
        assert_eq!(source(none), Some("/a".into()));
        for mount in [
            json!({"type": "bind", "source": "/a", "options": ["ro"]}),
            json!({"type": "tmpfs", "source": "tmpfs"}),
            json!({"type": "bind"}),
            json!(null),
        ] {
            assert_eq!(source(mount), None);
        }
    }

    #[test]
    fn a_copy_is_another_file() {
        let directory = tempfile::TempDir::new().unwrap();
        let hosts = directory.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 donor").unwrap();
        let mut mount = json!({"type": "bind", "source": hosts, "options": ["rbind"]});
        own_mount(&mut mount, &directory.path().join("0")).unwrap();
        let copy = PathBuf::from(mount["source"].as_str().unwrap());
        assert_ne!(copy, hosts);
        assert_eq!(fs::read_to_string(copy).unwrap(), "127.0.0.1 donor");
    }
}
