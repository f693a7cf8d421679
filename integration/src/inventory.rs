//! What there is on the node: processes, mounts, cgroups, namespaces, sockets, state.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::command::ok;

/// Everything that a container can leave behind, one line each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory(BTreeSet<String>);

/// Folders of which every entry counts, with how deep to look.
const FOLDERS: &[(&str, usize)] = &[
    ("/run/netns", 1),
    ("/run/containerd/s", 1),
    ("/run/containerd/runc", 2),
    ("/run/runc", 2),
    ("/run/containerd/io.containerd.runtime.v2.task", 2),
    ("/var/lib/containerd/io.containerd.runtime.v2.task", 2),
    ("/run/thaw", 3),
    ("/var/lib/thaw/cache/captures", 1),
    ("/run/criu", 2),
];

/// Made once and kept: what is known of the host, and the folders of a namespace.
const KEPT: &[&str] = &[
    "/run/thaw/host.json",
    "/run/thaw/default",
    "/run/containerd/runc/default",
    "/run/thaw/moby",
    "/run/containerd/runc/moby",
    "/run/thaw/k8s.io",
    "/run/containerd/runc/k8s.io",
];

impl Inventory {
    /// Looks.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn take() -> Result<Self> {
        let mut found = BTreeSet::new();
        // A test may have started the daemon anew.
        let processes = processes()?
            .into_iter()
            .filter(|(_, line)| !line.starts_with("containerd --config"));
        found.extend(processes.map(|(pid, line)| format!("process {pid} {line}")));
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            // The mount that keeps named network namespaces is made with the first and stays.
            if let Some(path) = line.split(' ').nth(4).filter(|path| *path != "/run/netns") {
                found.insert(format!("mount {path}"));
            }
        }
        for controller in entries(Path::new("/sys/fs/cgroup")) {
            if !fs::symlink_metadata(&controller).is_ok_and(|meta| meta.is_symlink()) {
                walk(Path::new(&controller), 8, &mut |path, folder| {
                    // The folder of a containerd namespace is nobody's, nor is Docker's.
                    let common = ["/default", "/docker", "/k8s.io"]
                        .iter()
                        .any(|name| path.ends_with(name));
                    if folder && !common {
                        found.insert(format!("cgroup {path}"));
                    }
                });
            }
        }
        for (folder, depth) in FOLDERS {
            walk(Path::new(folder), *depth, &mut |path, _folder| {
                // Notes about network namespaces, stores and snapshots are about something else than a container.
                let kept = KEPT.contains(&path) || path.starts_with("/run/thaw/.");
                let empty =
                    ["default", "moby"].map(|namespace| format!("io.containerd.runtime.v2.task/{namespace}"));
                if !kept && !empty.iter().any(|end| path.ends_with(end)) {
                    found.insert(format!("file {path}"));
                }
            });
        }
        for namespace in ok(&["ctr", "namespaces", "list", "--quiet"])?.lines() {
            for what in ["containers", "snapshots", "tasks"] {
                for line in ok(&["ctr", "--namespace", namespace, what, "list"])?
                    .lines()
                    .skip(1)
                {
                    found.insert(format!("{namespace} {what} {line}"));
                }
            }
        }
        Ok(Self(found))
    }

    /// Each thing that there is.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// What is there and was not in `before`.
    #[must_use]
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Fails with what is there and was not in `before`.
    ///
    /// # Errors
    /// The list.
    pub fn same_as(&self, before: &Self) -> Result<()> {
        let left = self.beyond(before);
        if !left.is_empty() {
            bail!("left behind:\n  {}", left.join("\n  "));
        }
        Ok(())
    }
}

/// Every process of the lab (it has pids of its own) except this one and threads of the kernel, with its command line.
///
/// # Errors
/// When /proc can't be read.
pub fn processes() -> Result<Vec<(i32, String)>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // One that has just ended can't be read.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if pid.cast_unsigned() != own && !of_the_kernel(&stat) {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let name = stat.split(['(', ')']).nth(1).unwrap_or_default();
            found.push((
                pid,
                if line.is_empty() {
                    format!("[{name}]")
                } else {
                    line
                },
            ));
        }
    }
    Ok(found)
}

/// A thread of the kernel, which a machine of one's own shows. `man 5 proc_pid_stat`: the flags are the seventh field
/// behind the name, `PF_KTHREAD` of `linux/sched.h` among them.
fn of_the_kernel(stat: &str) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let flags = behind_name.split_whitespace().nth(6);
    flags.is_some_and(|flags| flags.parse::<u32>().is_ok_and(|flags| flags & PF_KTHREAD != 0))
}

fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.path().to_str().map(str::to_owned))
        .collect()
}

fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&str, bool)) {
    if depth == 0 {
        return;
    }
    for path in entries(folder) {
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        visit(&path, is_folder);
        if is_folder {
            walk(Path::new(&path), depth - 1, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_kernel_are_told_by_their_flags() {
        assert!(of_the_kernel("35 (kworker/0:1) I 2 0 0 0 -1 69238880 0 0 0 0"));
        assert!(!of_the_kernel("35 (sh) S 2 35 35 0 -1 4194560 0 0 0 0"));
        assert!(!of_the_kernel(&fs::read_to_string("/proc/self/stat").unwrap()));
    }
}
