//! Room on disk for one dump.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;
use thaw_config::NodeConfig;

use super::CaptureError;

/// How old a directory must be before it can be one that was left; a younger one may not be locked yet.
const GRACE: Duration = Duration::from_secs(60);

/// A directory that goes when dropped. A capture that is killed leaves it, memory pages and all, so it is locked for
/// as long as its capture lives, and the next capture removes what nobody holds.
#[derive(Debug)]
pub(super) struct Room {
    directory: TempDir,
    _lock: Flock<File>,
}

impl Room {
    /// Makes one beside the cache: on the disk that is meant for memory pages, and out of everybody's sight. It has
    /// the directories `images` and `work`.
    pub(super) fn make(config: &NodeConfig) -> Result<Self, CaptureError> {
        let path = config.cache.join("captures");
        let made = fs::create_dir_all(&path).and_then(|()| {
            sweep(&path, GRACE)?;
            let directory = tempfile::Builder::new().prefix("capture-").tempdir_in(&path)?;
            let lock = lock(directory.path())?;
            for name in ["images", "work"] {
                fs::create_dir(directory.path().join(name))?;
            }
            Ok(Self {
                directory,
                _lock: lock,
            })
        });
        made.map_err(|source| CaptureError::Room { path, source })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// The lock goes with the process, however it ends.
fn lock(directory: &Path) -> io::Result<Flock<File>> {
    let file = File::open(directory)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Removes what captures that were killed have left. What can't be removed is only said: it may go the next time.
fn sweep(captures: &Path, grace: Duration) -> io::Result<()> {
    for entry in fs::read_dir(captures)? {
        let entry = entry?;
        let age = entry.metadata().and_then(|meta| meta.modified());
        let old = age.is_ok_and(|made| made.elapsed().is_ok_and(|age| age >= grace));
        if old
            && entry.file_type()?.is_dir()
            && lock(&entry.path()).is_ok()
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            log::warn!("remove {}: {error}", entry.path().display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_capture_has_left_is_removed_and_no_other() {
        let cache = TempDir::new().unwrap();
        let config = NodeConfig {
            cache: cache.path().to_owned(),
            ..NodeConfig::default()
        };
        let room = Room::make(&config).unwrap();
        let captures = cache.path().join("captures");
        let left = captures.join("capture-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("pages-1.img"), "memory").unwrap();

        sweep(&captures, GRACE).unwrap();
        assert!(left.exists(), "it may be one that is just being made");
        sweep(&captures, Duration::ZERO).unwrap();
        assert!(!left.exists());
        assert!(room.path().join("images").exists());
        drop(room);
        assert_eq!(fs::read_dir(captures).unwrap().count(), 0);
    }
}
