//! inotify and fanotify.
//!
//! The kernel tells the inode of a watch, and a restore needs its name: files of a root filesystem are other inodes in
//! the clone, and so are those of its mounts. CRIU finds few names by itself (see [`thaw_criu::irmap`]), so they are
//! searched for here, while the application still runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use thaw_criu::irmap;

use super::Refusal;

mod search;

/// An inode, as `fdinfo` of a watch names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Inode {
    /// Device in the kernel's own form: the major number above 20 bits of minor number.
    device: u32,
    number: u64,
}

/// What processes watch, while that is collected.
#[derive(Debug, Default)]
pub(super) struct Watches {
    /// For each inode one who watches it: host pid and descriptor.
    inodes: BTreeMap<Inode, (i32, u32)>,
}

/// What is watched, by its names inside the container.
#[derive(Debug, Default)]
pub(in crate::capture) struct Watched(BTreeMap<Inode, PathBuf>);

impl Watches {
    /// Takes note of the watches of a descriptor of inotify or fanotify.
    pub(super) fn note(&mut self, pid: i32, fd: u32) -> Result<(), Refusal> {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        for line in info.lines().filter(|line| is_inode(line)) {
            // An old kernel gives no handle for a file of an overlay, and CRIU wants to see one.
            let inode = inode(line).filter(|_inode| line.contains(" f_handle:"));
            let inode = inode.ok_or(Refusal::Notify { pid, fd })?;
            self.inodes.entry(inode).or_insert((pid, fd));
        }
        Ok(())
    }

    /// Finds the names of all of them, as the container's `init` sees them.
    pub(super) fn find(self, init: i32) -> Result<Watched, Refusal> {
        let wanted: BTreeSet<Inode> = self.inodes.keys().copied().collect();
        let found = search::names(init, wanted);
        for (inode, &(pid, fd)) in &self.inodes {
            if !found.contains_key(inode) {
                return Err(Refusal::Notify { pid, fd });
            }
        }
        Ok(Watched(found))
    }
}

impl Watched {
    /// Tells CRIU, which will have `work` as its working directory.
    pub(in crate::capture) fn write(&self, work: &Path) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let names = self.0.iter().map(|(inode, path)| irmap::Name {
            device: inode.device,
            inode: inode.number,
            path: path.as_os_str().as_bytes(),
        });
        fs::write(work.join(irmap::FILE), irmap::cache(names))
    }
}

/// Other lines tell the flags of the descriptor, or watch a whole mount, which CRIU finds by itself.
fn is_inode(line: &str) -> bool {
    line.starts_with("inotify ") || line.starts_with("fanotify ino:")
}

fn inode(line: &str) -> Option<Inode> {
    let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
    Some(Inode {
        device: u32::from_str_radix(field("sdev:")?, 16).ok()?,
        number: u64::from_str_radix(field("ino:")?, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, AsRawFd as _};

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    #[test]
    fn a_watch_names_its_inode() {
        let line = "inotify wd:1 ino:61ba sdev:800013 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:ba61";
        let (device, number) = (0x80_0013, 0x61ba);
        assert!(is_inode(line));
        assert_eq!(inode(line), Some(Inode { device, number }));
        assert!(!is_inode("fanotify mnt_id:9 mflags:0 mask:3b ignored_mask:0"));
        assert_eq!(inode("inotify wd:1 ino:x sdev:13"), None);
    }

    #[test]
    fn what_this_process_watches_is_found() {
        let own = std::process::id().cast_signed();
        let place = tempfile::tempdir().unwrap();
        let inner = place.path().join("a folder/#1");
        fs::create_dir_all(&inner).unwrap();
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        let fd = inotify.as_fd().as_raw_fd().cast_unsigned();
        inotify.add_watch(&inner, AddWatchFlags::IN_CREATE).unwrap();

        let mut watches = Watches::default();
        watches.note(own, fd).unwrap();
        let watched = watches.find(own).unwrap();
        let inner = inner.canonicalize().unwrap();
        assert_eq!(watched.0.into_values().collect::<Vec<_>>(), [inner]);
    }
}
