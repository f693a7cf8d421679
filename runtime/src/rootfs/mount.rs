//! Mounting an overlay, also when its options do not fit into the one page that `mount` takes.
//!
//! Then the lower directories share a long common path. A thread with a working directory of its own goes there and names
//! them from there, which is what containerd does in a process of its own.

use std::io;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// containerd's limit: a page less what the kernel needs of it.
const LIMIT: usize = 4096 - 512;

/// Mounts an overlay at `at`, with `data` as its own options.
///
/// # Errors
/// What the kernel answered; `InvalidInput` where the options are too long and the lower directories have no directory
/// in common.
pub fn mount_overlay(source: &str, at: &Path, flags: MsFlags, data: &str) -> io::Result<()> {
    if data.len() >= LIMIT {
        return mount_compact(source, at, flags, data);
    }
    Ok(mount(Some(source), at, Some("overlay"), flags, Some(data))?)
}

/// Mounts it with the lower directories given relative to their common directory.
fn mount_compact(source: &str, at: &Path, flags: MsFlags, data: &str) -> io::Result<()> {
    let (dir, data) = compact_overlay(data).ok_or(io::ErrorKind::InvalidInput)?;
    let at = at.canonicalize()?;
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            // From here on the working directory is this thread's own, and ends with it.
            unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(dir.as_str())?;
            mount(Some(source), &at, Some("overlay"), flags, Some(data.as_str())).map_err(io::Error::from)
        });
        work.join()
            .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

/// The common directory of the lower directories, and the options with them relative to it. `None` where there is none.
#[must_use]
pub fn compact_overlay(data: &str) -> Option<(String, String)> {
    let lower = data
        .split(',')
        .find_map(|option| option.strip_prefix("lowerdir="))?;
    let dirs: Vec<&str> = lower.split(':').collect();
    let common = dirs
        .iter()
        .skip(1)
        .fold(dirs.first()?.to_string(), |common, dir| shared(&common, dir));
    let (dir, _) = common.rsplit_once('/')?;
    let prefix = format!("{dir}/");
    let short: Option<Vec<&str>> = dirs.iter().map(|path| path.strip_prefix(&prefix)).collect();
    let short = format!("lowerdir={}", short?.join(":"));
    Some((prefix, data.replacen(&format!("lowerdir={lower}"), &short, 1)))
}

fn shared(a: &str, b: &str) -> String {
    a.chars()
        .zip(b.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_directories_become_relative_and_nothing_else_changes() {
        let data = "workdir=/s/snapshots/9/work,lowerdir=/s/snapshots/12/fs:/s/snapshots/1/fs,index=off";
        let (dir, short) = compact_overlay(data).unwrap();
        assert_eq!(dir, "/s/snapshots/");
        assert_eq!(short, "workdir=/s/snapshots/9/work,lowerdir=12/fs:1/fs,index=off");
        assert_eq!(compact_overlay("upperdir=/u"), None);
    }

    /// A name that is not there tells that it was the kernel that refused.
    #[test]
    fn what_is_too_long_needs_a_common_directory() {
        let mounted = |lower: &str| {
            let data = format!("lowerdir={lower}");
            mount_overlay("overlay", Path::new("/none"), MsFlags::empty(), &data).unwrap_err()
        };
        assert_ne!(mounted("none").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(mounted(&"none:".repeat(1000)).kind(), io::ErrorKind::InvalidInput);
    }
}
