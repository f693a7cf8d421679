//! Overlays whose options do not fit into the one page that `mount` takes.
//!
//! The lower directories share a long common path. A thread with a working directory of its own goes there and names
//! them from there, which is what containerd does in a process of its own.

use std::io;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// containerd's limit: a page less what the kernel needs of it.
const LIMIT: usize = 4096 - 512;

/// The options need compacting.
pub(super) fn too_long(data: &str) -> bool {
    data.len() >= LIMIT
}

/// Mounts an overlay with the lower directories given relative to their common directory.
pub(super) fn mount_compact(source: &str, at: &Path, flags: MsFlags, data: &str) -> io::Result<()> {
    let (dir, data) = compact(data).ok_or(io::ErrorKind::InvalidInput)?;
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

/// The common directory of the lower directories, and the options with them relative to it.
pub(super) fn compact(data: &str) -> Option<(String, String)> {
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
        let (dir, short) = compact(data).unwrap();
        assert_eq!(dir, "/s/snapshots/");
        assert_eq!(short, "workdir=/s/snapshots/9/work,lowerdir=12/fs:1/fs,index=off");
        assert_eq!(compact("upperdir=/u"), None);
    }

    #[test]
    fn the_limit_is_containerds() {
        assert!(!too_long(&"x".repeat(3583)));
        assert!(too_long(&"x".repeat(3584)));
    }
}
