//! The scratch container as runc knows it, and the ones that a capture left which was killed.

use std::fs;
use std::path::{Path, PathBuf};

use thaw_runc::Runc;
use thaw_snapshot::Digest;

/// What the names of their cgroups begin with.
const CGROUP_PREFIX: &str = "thaw-proof-";

/// A scratch container; deleted when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) runc: Runc,
    pub(super) id: String,
}

/// Where runc keeps the state of all of them. No containerd namespace has such a name.
pub(super) fn root(state: &Path) -> PathBuf {
    state.join(".proofs")
}

impl Scratch {
    /// The name tells whose it is: the donor's, and this process's.
    pub(super) fn new(runc: Runc, namespace: &str, id: &str) -> Self {
        let donor = Digest::of(format!("{namespace}/{id}").as_bytes()).hex();
        let donor: String = donor.chars().take(12).collect();
        Self {
            runc,
            id: format!("proof-{donor}-{}", std::process::id()),
        }
    }

    /// In the form of the cgroup driver.
    pub(super) fn cgroup(&self) -> String {
        if self.runc.systemd_cgroup {
            format!("system.slice:thaw:{}", self.id)
        } else {
            format!("/thaw-{}", self.id)
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let root = &self.runc.root;
        if root.join(&self.id).exists()
            && let Err(error) = thaw_runc::delete_now(&self.runc.binary, root, &self.id)
        {
            log::warn!("delete the scratch container: {}", crate::words::chain(&error));
        }
        // Somebody else's may be in it.
        fs::remove_dir(root).ok();
    }
}

/// Deletes the scratch containers of captures that do not live any more. `runc` is asked below a root of its own.
pub async fn remove_left_proofs(state: &Path, runc: &Runc) {
    let runc = Runc {
        root: root(state),
        log: None,
        ..runc.clone()
    };
    for name in left(&runc.root) {
        said(&name, runc.delete(&name, true).await);
    }
    remove_cgroups();
    // Another capture may have one in it.
    fs::remove_dir(&runc.root).ok();
}

/// As [`remove_left_proofs`], for a short-lived process without a runtime.
pub fn remove_left_proofs_now(state: &Path, runc: &Path) {
    let root = root(state);
    for name in left(&root) {
        said(&name, thaw_runc::delete_now(runc, &root, &name));
    }
    remove_cgroups();
    fs::remove_dir(&root).ok();
}

fn left(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| maker_is_gone(name)).collect()
}

fn maker_is_gone(name: &str) -> bool {
    let maker = name.rsplit_once('-').map(|(_, pid)| pid).unwrap_or_default();
    !Path::new("/proc").join(maker).exists()
}

/// Removes the empty cgroups of scratch containers whose runc was ended between making them and noting the container.
/// With cgroup v1 they are in each hierarchy, with v2 at the root.
fn remove_cgroups() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let hierarchies = hierarchies.map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(CGROUP_PREFIX) && maker_is_gone(&name) {
                // One that is in use stays.
                fs::remove_dir(entry.path()).ok();
            }
        }
    }
}

fn said(name: &str, deleted: Result<(), thaw_runc::RuncError>) {
    if let Err(error) = deleted {
        log::warn!(
            "delete the scratch container {name}: {}",
            crate::words::chain(&error)
        );
    }
}
