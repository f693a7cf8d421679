//! `delete`: clean up what a shim that is gone has left. It also runs after an ordinary end, when nothing is left.

use std::env;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{self, Message, MessageField};

use thaw_config::NodeConfig;
use thaw_runtime::boot::{LeftError, undo_begun_now};
use thaw_runtime::capture::remove_left_proofs_now;
use thaw_runtime::record::Record;

use crate::flags::Flags;
use crate::mount::{Rootfs, unmount_all};
use crate::options::Options;
use crate::spec::Spec;
use crate::task::time::timestamp;

/// 128 + SIGKILL: what the container is said to have died of.
const KILLED: u32 = 137;

/// What can keep it from cleaning up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    #[error("find the bundle")]
    Bundle(#[source] std::io::Error),
    #[error("delete container {id}")]
    Delete {
        id: String,
        #[source]
        source: thaw_runc::RuncError,
    },
    #[error("unmount the root file system in {}", bundle.display())]
    Unmount {
        bundle: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("undo the restore of {id}")]
    Undo {
        id: String,
        #[source]
        source: LeftError,
    },
    #[error("encode the answer")]
    Encode(#[source] protobuf::Error),
}

/// Does it and returns the encoded `DeleteResponse`.
pub(crate) fn run(flags: &Flags) -> Result<Vec<u8>, RemoveError> {
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => env::current_dir().map_err(RemoveError::Bundle)?,
    };
    let options = Options::load(&bundle);
    let root = options.root(&flags.namespace);
    let spec = Spec::read(&bundle).unwrap_or_default();
    // First of all, since it ends processes of which runc may not know yet.
    let state = NodeConfig::load(None)
        .map_or_else(|_error| NodeConfig::default().state, |loaded| loaded.config.state);
    let record = Record::new(&state, &flags.namespace, &flags.id);
    let rootfs = Rootfs::new(Vec::new(), &bundle, &spec.root.path);
    let undone = undo_begun_now(&record, &bundle, &rootfs);
    // runc takes 20 ms to find out that there is nothing to do, which is the ordinary case.
    if root.join(&flags.id).exists() {
        thaw_runc::delete_now(options.binary(), &root, &flags.id).map_err(|source| RemoveError::Delete {
            id: flags.id.clone(),
            source,
        })?;
    }
    // A shim that was killed could not clean up after the process that captured its container.
    remove_left_proofs_now(&state, options.binary());
    remove_cgroup(&spec);
    unmount_all(&bundle.join("rootfs")).map_err(|source| RemoveError::Unmount {
        bundle: bundle.clone(),
        source,
    })?;
    // Its note stays, for the next Create.
    undone.map_err(|source| RemoveError::Undo {
        id: flags.id.clone(),
        source,
    })?;
    // A record that stays is found by nobody and goes with the next boot of the machine.
    record.remove().ok();
    let response = DeleteResponse {
        pid: init_pid(&bundle),
        exit_status: KILLED,
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..DeleteResponse::default()
    };
    response.write_to_bytes().map_err(RemoveError::Encode)
}

/// Removes the cgroup that the spec names if runc, killed half-way, has left it behind: it has no state then from
/// which it could know. The kernel refuses to remove one with processes or other cgroups in it, so nothing that lives
/// is touched. One of the systemd form (`slice:prefix:name`) is systemd's to remove.
fn remove_cgroup(spec: &Spec) {
    let Some(path) = cgroup_below_root(&spec.linux.cgroups_path) else {
        return;
    };
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        // It is not there, as a rule.
        fs::remove_dir(hierarchy.join(path)).ok();
    }
}

/// A cgroup path of the cgroupfs form without its first slash, if it stays below the root.
fn cgroup_below_root(path: &str) -> Option<&Path> {
    let below = Path::new(path.strip_prefix('/')?);
    let plain = below
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && !path.contains(':') && below.components().next().is_some()).then_some(below)
}

fn init_pid(bundle: &Path) -> u32 {
    fs::read_to_string(bundle.join("init.pid"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cgroup_below_the_root_is_removed() {
        assert_eq!(cgroup_below_root("/default/c1"), Some(Path::new("default/c1")));
        for other in ["", "/", "c1", "/../x", "/a/../..", "system.slice:x:y"] {
            assert_eq!(cgroup_below_root(other), None, "{other:?}");
        }
    }
}
