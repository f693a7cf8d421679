//! The names of inodes: a walk through the mounts in which they are, nearest to the root first.
//!
//! The container may change its files meanwhile, and CRIU looks again whether a name is still that of the inode. No
//! symbolic link is followed, so the walk stays in the container.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, major, minor};

use super::Inode;
use crate::rootfs::unescape;

/// The most files that are looked at. A million take some seconds; a container with more of them is no use to anybody.
const LIMIT: usize = 1_000_000;

/// Those of `wanted` that have a name in the mount namespace of `init`, with that name.
pub(super) fn names(init: i32, wanted: BTreeSet<Inode>) -> BTreeMap<Inode, PathBuf> {
    let mut walk = Walk {
        wanted,
        found: BTreeMap::new(),
        left: LIMIT,
    };
    let devices: BTreeSet<u32> = walk.wanted.iter().map(|inode| inode.device).collect();
    let mounts = fs::read(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // Gone: it watches nothing any more.
    if let Ok(root) = open(format!("/proc/{init}/root").as_str(), flags, Mode::empty()) {
        for line in mounts.split(|&byte| byte == b'\n') {
            if let Some((device, point)) = mount(line)
                && devices.contains(&device)
            {
                walk.mount(&root, device, &point);
            }
        }
    }
    walk.found
}

/// Device and place of a mount (`man 5 proc_pid_mountinfo`).
fn mount(line: &[u8]) -> Option<(u32, PathBuf)> {
    let mut fields = line.split(|&byte| byte == b' ').skip(2);
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = of_parts(major.parse().ok()?, minor.parse().ok()?)?;
    Some((device, unescape(fields.nth(1)?)))
}

/// The kernel's own form, which has 12 bits for the major number and 20 for the minor one.
fn of_parts(major: u64, minor: u64) -> Option<u32> {
    let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
}

#[derive(Debug)]
struct Walk {
    wanted: BTreeSet<Inode>,
    found: BTreeMap<Inode, PathBuf>,
    /// How many files may still be looked at.
    left: usize,
}

impl Walk {
    /// Looks through the mount of `device` at `point`, but not through what is mounted in it.
    fn mount(&mut self, root: &OwnedFd, device: u32, point: &Path) {
        let mut folders = VecDeque::new();
        let meta = open_in(root, point, OFlag::O_PATH).and_then(|file| file.metadata());
        if let Ok(meta) = meta {
            self.look(&meta, device, point.to_owned(), &mut folders);
        }
        while let Some(folder) = folders.pop_front() {
            let Ok(entries) = entries(root, &folder) else {
                continue;
            };
            for entry in entries.flatten() {
                if self.wanted.is_empty() || self.left == 0 {
                    return;
                }
                self.left -= 1;
                // Relative to the open folder, and without following a link.
                if let Ok(meta) = entry.metadata() {
                    self.look(&meta, device, folder.join(entry.file_name()), &mut folders);
                }
            }
        }
    }

    fn look(&mut self, meta: &Metadata, device: u32, path: PathBuf, folders: &mut VecDeque<PathBuf>) {
        // CRIU compares the same two numbers. An overlay over several filesystems gives files the numbers of theirs.
        if of_parts(major(meta.dev()), minor(meta.dev())) != Some(device) {
            return;
        }
        let number = meta.ino();
        let inode = Inode { device, number };
        if meta.is_dir() {
            folders.push_back(path.clone());
        }
        if self.wanted.remove(&inode) {
            self.found.insert(inode, path);
        }
    }
}

/// What is in a folder. The link in /proc leads to the open folder itself, wherever that is by now.
fn entries(root: &OwnedFd, folder: &Path) -> io::Result<fs::ReadDir> {
    let folder = open_in(root, folder, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// Opens a path of the container, with no symbolic link on the way.
fn open_in(root: &OwnedFd, path: &Path, flags: OFlag) -> io::Result<File> {
    let beneath = path.strip_prefix("/").unwrap_or(path);
    let beneath = if beneath.as_os_str().is_empty() {
        Path::new(".")
    } else {
        beneath
    };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(File::from(openat2(root, beneath, how)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_a_device_and_a_place() {
        let line = br"36 35 98:1048575 / /mnt/a\040b rw,noatime - ext4 /dev/root rw";
        let place = PathBuf::from("/mnt/a b");
        assert_eq!(mount(line), Some((98 << 20 | 0xf_ffff, place)));
        assert_eq!(mount(b""), None);
        assert_eq!(of_parts(0, 1 << 20), None);
    }
}
