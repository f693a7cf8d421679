//! Small files in the state directory by which the shims of a node tell each other things.
//!
//! Each shim is a process of its own, and any of them may be killed at any moment. So a note appears by rename, whole
//! or not at all; whoever changes what is there takes a turn, for as long as a read and a rename take and never
//! across anything slow; and a note that can't be understood is as good as none. The state directory is gone after a
//! reboot, and everything that a note says with it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most that is read of a note, in bytes.
const LIMIT: u64 = 16 << 10;

/// How often a turn is asked for, and how long it is waited in between. A turn takes some ten microseconds; whoever
/// gets none goes on without.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_micros(200);

/// Reads a note; `None` when there is none, or none of this kind.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text)
        .inspect_err(|error| log::debug!("ignore {}: {error}", path.display()))
        .ok()
}

/// Writes a note in the place of what is there.
pub(crate) fn write(path: &Path, note: &impl Serialize) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut file = tempfile::Builder::new().prefix(".note-").tempfile_in(directory)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Removes a note; none there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A turn to change the notes in `directory`, until it is dropped. `None` when others were always faster.
pub(crate) fn turn(directory: &Path) -> Option<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .ok()?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(directory.join(".turn"))
        .ok()?;
    for _ in 0..TRIES {
        if file.try_lock().is_ok() {
            return Some(file);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long until `end`; `None` when it has passed. A clock that was set back must not make a rest endless, so an end
/// that is further away than `longest` has passed too.
pub(crate) fn left(end: u64, longest: Duration) -> Option<Duration> {
    let left = Duration::from_millis(end.saturating_sub(now()));
    (!left.is_zero() && left <= longest).then_some(left)
}

/// `first`, doubled with each of `failures` after the first, and at most `longest`.
pub(crate) fn grown(first: Duration, failures: u32, longest: Duration) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor.max(1)).min(longest)
}

/// The time `from_now` in milliseconds since 1970.
pub(crate) fn after(from_now: Duration) -> u64 {
    now().saturating_add(u64::try_from(from_now.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_doubles_up_to_the_longest() {
        let times: Vec<u64> = (0..9).map(|n| grown(s(60), n, s(3600)).as_secs()).collect();
        assert_eq!(times, [60, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(grown(s(60), u32::MAX, s(3600)), s(3600));
    }

    #[test]
    fn an_end_that_cannot_be_has_passed() {
        assert!(left(now() + 5_000, s(10)).is_some());
        assert!(left(now() + 50_000, s(10)).is_none());
        assert!(left(now() - 1, s(10)).is_none());
        assert!(left(u64::MAX, s(10)).is_none());
    }

    #[test]
    fn what_is_no_note_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        for garbage in [&b"garbage"[..], b"", b"{}", &[b' '; 100_000]] {
            fs::write(&path, garbage).unwrap();
            assert_eq!(read::<u64>(&path), None);
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/proc/sys/kernel/pid_max", &path).unwrap();
        assert_eq!(read::<u64>(&path), None);
        write(&path, &7).unwrap();
        assert_eq!(read::<u64>(&path), Some(7));
        remove(&path).unwrap();
        remove(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read::<u64>(&path), None);
    }

    #[test]
    fn one_turn_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = turn(directory.path());
        assert!(first.is_some());
        assert!(turn(directory.path()).is_none());
        drop(first);
        assert!(turn(directory.path()).is_some());
    }
}
