//! A restore whose shim was killed in the middle of it is undone by whoever comes next: the shim's `delete`, or the next
//! Create of the container.
//!
//! From before the first change of the root filesystem until Start, a note in the record says so. While it is there no
//! process of the container has run, so all that is in the upper directory is of the snapshot: a cold start must not
//! find it, and nobody misses it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thaw_runc::CRIU_CONFIG_FILE;

use super::Rootfs;
use super::restore::empty;
use crate::key::read_bundle;
use crate::record::{Record, RecordError};
use crate::rootfs::{self, Overlay, RootAttributes};
use crate::task;

/// How long killed processes may take to end. containerd gives `delete` five seconds for everything.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two looks at them.
const PAUSE: Duration = Duration::from_millis(10);

/// The most that is read of the environment of a process.
const ENVIRONMENT_LIMIT: u64 = 1 << 20;

/// What a restore changes, and how it was before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begun {
    /// The upper directory; it was empty.
    pub(crate) upper: PathBuf,
    /// Its attributes.
    pub(crate) before: RootAttributes,
}

/// Why it can't be undone. The note stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeftError {
    /// The note can't be read, so nobody knows what was changed.
    #[error("read the note of the restore")]
    Note(#[source] RecordError),
    /// What was restored does not end.
    #[error("end the processes {pids:?}")]
    Alive {
        /// Their host pids.
        pids: Vec<i32>,
    },
    /// The root filesystem is still mounted somewhere, and would see the change.
    #[error("empty {} while an overlay uses it", upper.display())]
    Used {
        /// The upper directory.
        upper: PathBuf,
    },
    /// The upper directory can't be put back.
    #[error("put {} back as it was", upper.display())]
    Upper {
        /// The upper directory.
        upper: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

/// Undoes the restore that the record notes, if it does, and leaves the root filesystem mounted or not, as it was. What
/// runc knows of the container is left to the caller.
///
/// # Errors
/// See [`LeftError`].
pub async fn undo_begun(record: &Record, bundle: &Path, rootfs: &dyn Rootfs) -> Result<(), LeftError> {
    let Some(begun) = record.begun().map_err(LeftError::Note)? else {
        return Ok(());
    };
    let failed = |source| LeftError::Upper {
        upper: begun.upper.clone(),
        source,
    };
    let makers = Makers::of(record, bundle);
    let ended = tokio::task::spawn_blocking(move || makers.end()).await;
    ended.map_err(|error| failed(io::Error::other(error)))??;
    if begun.is_of(rootfs) {
        if rootfs.upper().is_none() {
            begun.check_unused()?;
        }
        if begun.upper.exists() {
            let emptied = empty(rootfs, begun.upper.clone(), begun.before).await;
            emptied.map_err(failed)?;
        }
    }
    record.forget_begun().map_err(failed)
}

/// The same in a process that ends soon. The root filesystem is taken off and stays so: the client, too, is about to
/// unmount it, and would not know of a new mount.
///
/// # Errors
/// See [`LeftError`].
pub fn undo_begun_now(record: &Record, bundle: &Path, rootfs: &dyn Rootfs) -> Result<(), LeftError> {
    let Some(begun) = record.begun().map_err(LeftError::Note)? else {
        return Ok(());
    };
    let failed = |source| LeftError::Upper {
        upper: begun.upper.clone(),
        source,
    };
    Makers::of(record, bundle).end()?;
    if begun.is_of(rootfs) {
        rootfs.take_off().map_err(failed)?;
        begun.check_unused()?;
        if begun.upper.exists() {
            rootfs::clear(&begun.upper, &begun.before).map_err(failed)?;
        }
    }
    record.forget_begun().map_err(failed)
}

impl Begun {
    /// Another upper directory is that of another container, which has got the same id since.
    fn is_of(&self, rootfs: &dyn Rootfs) -> bool {
        rootfs.upper().is_none_or(|upper| upper == self.upper)
    }

    fn check_unused(&self) -> Result<(), LeftError> {
        let upper = self.upper.clone();
        match Overlay::mounted_with(&upper) {
            Ok(false) => Ok(()),
            Ok(true) => Err(LeftError::Used { upper }),
            Err(source) => Err(LeftError::Upper { upper, source }),
        }
    }
}

fn cgroup_of_bundle(bundle: &Path) -> Option<PathBuf> {
    let spec = read_bundle(bundle).ok()?.spec;
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    cgroup(path.to_str()?)
}

/// The cgroup that a spec names, as `/proc/PID/cgroup` does. `None` for one that may hold others too.
///
/// The systemd form is `SLICE:PREFIX:NAME`; the name of a slice holds the names of those above it (`man 5
/// systemd.slice`).
fn cgroup(path: &str) -> Option<PathBuf> {
    let found = match path.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] if !name.is_empty() => {
            let slice = if slice.is_empty() { "system.slice" } else { slice };
            let mut found = PathBuf::from("/");
            let parts = slice.strip_suffix(".slice")?;
            let ends = parts.match_indices('-').map(|(at, _)| at).chain([parts.len()]);
            found.extend(ends.map(|end| format!("{}.slice", &parts[..end])));
            found.join(format!("{prefix}-{name}.scope"))
        }
        [path] if path.starts_with('/') => PathBuf::from(path),
        _ => return None,
    };
    let mut parts = found.components().skip(1).peekable();
    let plain = parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)));
    plain.then_some(found)
}

/// The processes of a restore.
struct Makers {
    /// runc puts CRIU there before it asks for a restore, so everything that CRIU makes is there.
    cgroup: Option<PathBuf>,
    /// What names CRIU before that.
    variable: Vec<u8>,
}

impl Makers {
    fn of(record: &Record, bundle: &Path) -> Self {
        let config = record.directory().join("restore/criu.conf");
        let variable = format!("{CRIU_CONFIG_FILE}=").into_bytes();
        Self {
            cgroup: cgroup_of_bundle(bundle),
            variable: [&variable, config.as_os_str().as_bytes()].concat(),
        }
    }

    /// Kills them, and waits for their end.
    fn end(&self) -> Result<(), LeftError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let pids = self.living();
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(LeftError::Alive { pids });
            }
            task::end(&pids);
            thread::sleep(PAUSE);
        }
    }

    fn living(&self) -> Vec<i32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| (self.in_cgroup(*pid) || self.is_criu(*pid)) && task::started(*pid).is_some())
            .collect()
    }

    fn in_cgroup(&self, pid: i32) -> bool {
        let Some(cgroup) = &self.cgroup else { return false };
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.splitn(3, ':').nth(2))
            .any(|path| Path::new(path).starts_with(cgroup))
    }

    /// Containers are not looked at: reading the memory of a process may take as long as the process likes.
    fn is_criu(&self, pid: i32) -> bool {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let of_it = namespace(&pid.to_string());
        if of_it.is_none() || of_it != namespace("self") {
            return false;
        }
        let mut variables = Vec::new();
        if let Ok(file) = File::open(format!("/proc/{pid}/environ")) {
            // What could be read counts: it may be ending.
            file.take(ENVIRONMENT_LIMIT).read_to_end(&mut variables).ok();
        }
        variables
            .split(|&byte| byte == 0)
            .any(|variable| variable == self.variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_of_its_own_is_named() {
        for (path, found) in [
            ("/default/c1", "/default/c1"),
            ("system.slice:docker:c1", "/system.slice/docker-c1.scope"),
            (":docker:c1", "/system.slice/docker-c1.scope"),
            ("a-b.slice:cri:c1", "/a.slice/a-b.slice/cri-c1.scope"),
        ] {
            assert_eq!(cgroup(path).as_deref(), Some(Path::new(found)), "{path}");
        }
        for other in ["", "/", "c1", "/../x", "a.slice:b", "a:b:c", "a.slice:b:"] {
            assert_eq!(cgroup(other), None, "{other:?}");
        }
    }
}
