//! The two versions of cgroups.

use std::path::Path;

/// The machine has cgroup v2, and nothing else.
#[must_use]
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
