//! What a node remembers of a container while it lives: `/run/thaw/<namespace>/<id>/`.
//!
//! `outcome.json` says how it came up, `container.json` how the shim drives it, so that a capture can find it, and
//! `capture.json` how far it is with capturing itself, `begun.json` that a restore has begun and has not been started. They
//! are read by programs of the same user only (the directory is closed to others).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thaw_runc::Runc;

use crate::boot::{Begun, Request};
use crate::capture::Standing;
use crate::outcome::Outcome;

mod find;

pub use find::{FindError, find};

/// The most that is read of a record.
const RECORD_LIMIT: u64 = 1 << 20;
/// The note of a restore that has begun.
const BEGUN: &str = "begun.json";

/// The directory of one container.
#[derive(Debug, Clone)]
pub struct Record {
    directory: PathBuf,
}

/// How a shim drives a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Container {
    /// The bundle directory.
    pub bundle: PathBuf,
    /// The runc binary.
    pub runc: PathBuf,
    /// `--root` of runc.
    pub root: PathBuf,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// Its process has a pty.
    pub terminal: bool,
    /// Its client feeds standard input.
    pub stdin: bool,
    /// containerd's gRPC socket.
    pub containerd: PathBuf,
}

/// Why a record can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file can't be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// It is not what this version writes.
    #[error("understand {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
}

impl Record {
    /// The record of a container below the state directory `state`.
    #[must_use]
    pub fn new(state: &Path, namespace: &str, id: &str) -> Self {
        Self {
            directory: state.join(plain(namespace)).join(plain(id)),
        }
    }

    /// The state directory that it is below.
    #[must_use]
    pub fn state(&self) -> &Path {
        // `new` has put two names behind it.
        self.directory.ancestors().nth(2).unwrap_or(&self.directory)
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory, closed to others.
    ///
    /// # Errors
    /// What `mkdir` answered.
    pub(crate) fn make(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
    }

    /// Writes both files. A record that can't be written costs the container nothing, so that is only logged.
    pub(crate) fn write(&self, request: &Request, runc: &Runc, outcome: &Outcome) {
        let container = Container {
            bundle: request.bundle.clone(),
            runc: runc.binary.clone(),
            root: runc.root.clone(),
            systemd_cgroup: runc.systemd_cgroup,
            terminal: request.terminal,
            stdin: request.stdin,
            containerd: request.containerd.clone(),
        };
        let written = self
            .make()
            .and_then(|()| self.put("container.json", &container))
            .and_then(|()| self.put("outcome.json", outcome));
        if let Err(error) = written {
            log::warn!("write the record of {}: {error}", request.id);
        }
    }

    pub(crate) fn put(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let path = self.directory.join(name);
        let temp = self.directory.join(format!(".{name}"));
        fs::write(&temp, serde_json::to_vec(value)?)?;
        fs::rename(temp, path)
    }

    /// How the container came up; `None` when thaw did not start it, or it is gone.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn outcome(&self) -> Result<Option<Outcome>, RecordError> {
        self.get("outcome.json")
    }

    /// How the shim drives it; `None` when thaw did not start it, or it is gone.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn container(&self) -> Result<Option<Container>, RecordError> {
        self.get("container.json")
    }

    /// How far it is with capturing itself; `None` when it does not, or it is gone.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn capture(&self) -> Result<Option<Standing>, RecordError> {
        self.get("capture.json")
    }

    /// Notes that, unless the record is gone.
    pub(crate) fn put_capture(&self, standing: &Standing) -> io::Result<()> {
        self.put("capture.json", standing)
    }

    /// The restore that has begun, and of which no process has run yet; `None` when there is none.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn begun(&self) -> Result<Option<Begun>, RecordError> {
        self.get(BEGUN)
    }

    /// Notes that a restore begins, before it changes anything.
    pub(crate) fn put_begun(&self, begun: &Begun) -> io::Result<()> {
        self.put(BEGUN, begun)
    }

    /// Forgets that: it was undone, or its processes are about to run. No error when nothing has begun.
    ///
    /// # Errors
    /// What `unlink` answered. What the container writes would be taken for the snapshot's then, so it must not run.
    pub fn forget_begun(&self) -> io::Result<()> {
        match fs::remove_file(self.directory.join(BEGUN)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, RecordError> {
        let path = self.directory.join(name);
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RecordError::Read { path, source }),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| RecordError::Json { path, source })
    }

    /// Forgets the container; no error when there is nothing to forget.
    ///
    /// # Errors
    /// What removing the directory answered.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    fs::File::open(path)?.take(RECORD_LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

/// containerd allows `[A-Za-z0-9._-]` in names and ids, none at an end but a letter or digit; anything else becomes
/// harmless here rather than a path.
fn plain(name: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(safe).collect();
    if name.starts_with('.') {
        format!("_{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_the_state_directory() {
        let record = Record::new(Path::new("/run/thaw"), "..", "a/../b");
        assert_eq!(record.directory(), Path::new("/run/thaw/_../a_.._b"));
    }
}
