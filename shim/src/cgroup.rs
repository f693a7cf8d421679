//! The cgroup of a container: finding it, figures from it, and the shim's own place.

mod files;
mod v1;
mod v2;
pub mod oom;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};

/// Where the controllers are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The cgroup of a container. It is looked up once, by the pid of init, and stays valid after init has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup {
    /// A directory per controller.
    V1(BTreeMap<String, PathBuf>),
    /// One directory.
    V2(PathBuf),
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// The cgroup is gone.
    #[error("cgroup does not exist")]
    Gone,
    /// A file of it could not be read.
    #[error("read the cgroup")]
    Read(#[source] io::Error),
    /// The figures do not fit their message.
    #[error("encode the figures")]
    Encode(#[source] protobuf::Error),
}

impl Cgroup {
    /// The cgroup of a process.
    ///
    /// # Errors
    /// What reading `/proc` answered.
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Ok(if unified() {
            Self::v2(&text)
        } else {
            Self::v1(&text)
        })
    }

    fn v2(text: &str) -> Self {
        let path = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or("/");
        Self::V2(below(Path::new(MOUNT), path))
    }

    fn v1(text: &str) -> Self {
        let mut dirs = BTreeMap::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            for controller in controllers.split(',').filter(|name| !name.is_empty()) {
                // The directory `systemd` is that of the hierarchy `name=systemd`.
                let name = controller.trim_start_matches("name=");
                dirs.insert(name.to_owned(), below(&Path::new(MOUNT).join(name), path));
            }
        }
        Self::V1(dirs)
    }

    /// The figures, as the message that containerd's clients know for this kind of cgroup.
    ///
    /// # Errors
    /// See [`StatsError`].
    pub fn stats(&self) -> Result<Any, StatsError> {
        let (type_url, value) = match self {
            Self::V1(dirs) => (
                "io.containerd.cgroups.v1.Metrics",
                v1::metrics(dirs)?.write_to_bytes(),
            ),
            Self::V2(dir) => (
                "io.containerd.cgroups.v2.Metrics",
                v2::metrics(dir)?.write_to_bytes(),
            ),
        };
        let value = value.map_err(StatsError::Encode)?;
        Ok(Any {
            type_url: type_url.to_owned(),
            value,
            ..Any::default()
        })
    }

    /// On v2, lets every ancestor hand all its controllers down, so that a container may make cgroups of its own.
    /// What a level refuses (it may hold processes itself) stays as it is.
    pub fn enable_controllers(&self) {
        let Self::V2(dir) = self else { return };
        let Ok(controllers) = fs::read_to_string(Path::new(MOUNT).join("cgroup.controllers")) else {
            return;
        };
        let all: String = controllers
            .split_whitespace()
            .map(|name| format!("+{name} "))
            .collect();
        let mut ancestors: Vec<&Path> = dir
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(MOUNT))
            .collect();
        ancestors.reverse();
        for ancestor in ancestors {
            if let Err(error) = fs::write(ancestor.join("cgroup.subtree_control"), all.trim_end()) {
                log::debug!("controllers of {} stay as they are: {error}", ancestor.display());
            }
        }
    }
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// The host has cgroup v2 only.
fn unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Moves a process into an existing cgroup, in every hierarchy that has it.
///
/// # Errors
/// What the file system answered; `NotFound` when no hierarchy has it.
pub fn join(path: &str, pid: u32) -> io::Result<()> {
    let dirs: Vec<PathBuf> = if unified() {
        vec![below(Path::new(MOUNT), path)]
    } else {
        fs::read_dir(MOUNT)?
            .filter_map(Result::ok)
            .map(|entry| below(&entry.path(), path))
            .collect()
    };
    let mut joined = false;
    for dir in dirs.iter().filter(|dir| dir.is_dir()) {
        fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        joined = true;
    }
    if joined {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_per_controller_on_v1() {
        let Cgroup::V1(dirs) =
            Cgroup::v1("4:memory:/default/c1\n3:cpu,cpuacct:/default/c1\n1:name=systemd:/x\n0::/\n")
        else {
            panic!("it is v1")
        };
        assert_eq!(dirs["memory"], Path::new("/sys/fs/cgroup/memory/default/c1"));
        assert_eq!(dirs["cpuacct"], Path::new("/sys/fs/cgroup/cpuacct/default/c1"));
        assert_eq!(dirs["systemd"], Path::new("/sys/fs/cgroup/systemd/x"));
        assert_eq!(dirs.len(), 4);
    }

    #[test]
    fn one_directory_on_v2() {
        assert_eq!(Cgroup::v2("0::/a/b\n"), Cgroup::V2("/sys/fs/cgroup/a/b".into()));
    }
}
