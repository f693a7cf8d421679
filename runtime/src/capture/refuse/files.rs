//! Descriptors and mappings.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::watches::Watches;
use super::{Refusal, field, mounts, sockets};

/// Kernel objects behind a descriptor that no restore can make again, by the beginning of their name in /proc.
const OBJECTS: [&str; 8] = [
    "anon_inode:[userfaultfd]",
    "anon_inode:[perf_event]",
    "anon_inode:kvm",
    "anon_inode:[secretmem]",
    "anon_inode:iommufd",
    "/dev/kvm",
    "/dev/fuse",
    "/dev/nvidia",
];

/// The name of an io_uring, as a descriptor and as a mapping.
const IO_URING: &str = "anon_inode:[io_uring]";

pub(super) fn check(pid: i32, unix: &mut sockets::Unix, watches: &mut Watches) -> Result<(), Refusal> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    if maps.contains(IO_URING) {
        return Err(Refusal::IoUring { pid });
    }
    let mounts = mounts(pid);
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(link) = fs::read_link(entry.path()) else {
            continue;
        };
        let held = Held {
            pid,
            fd,
            link: &link,
            place: &entry.path(),
        };
        held.check(&mounts)?;
        let name = link.to_string_lossy();
        if name == "anon_inode:inotify" || name == "anon_inode:[fanotify]" {
            watches.note(pid, fd)?;
        }
        if name.starts_with("socket:") {
            sockets::check(pid, fd, &entry.path())?;
            unix.note(pid, fd, &link);
        }
    }
    Ok(())
}

/// One descriptor.
struct Held<'a> {
    pid: i32,
    fd: u32,
    link: &'a Path,
    place: &'a Path,
}

impl Held<'_> {
    fn check(&self, mounts: &BTreeSet<u64>) -> Result<(), Refusal> {
        let (pid, fd) = (self.pid, self.fd);
        let name = self.link.to_string_lossy();
        if name == IO_URING {
            return Err(Refusal::IoUring { pid });
        }
        if OBJECTS.iter().any(|object| name.starts_with(object)) {
            return Err(Refusal::Descriptor {
                pid,
                fd,
                what: name.into_owned(),
            });
        }
        if name.starts_with('/') && !name.starts_with("/memfd:") && self.is_outside(mounts) {
            return Err(Refusal::FileOutside {
                pid,
                fd,
                path: PathBuf::from(name.into_owned()),
            });
        }
        Ok(())
    }

    /// Files, folders and FIFOs; terminals and other devices have ways of their own.
    fn is_outside(&self, mounts: &BTreeSet<u64>) -> bool {
        let Ok(meta) = fs::metadata(self.place) else {
            return false;
        };
        let kind = meta.file_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_fifo()) {
            return false;
        }
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", self.pid, self.fd)).unwrap_or_default();
        let mount = field(&info, "mnt_id:").and_then(|text| text.trim().parse().ok());
        mount.is_some_and(|mount| !mounts.contains(&mount))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_mount_is_outside() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let own = std::process::id().cast_signed();
        use std::os::fd::AsRawFd as _;
        let fd = file.as_file().as_raw_fd().cast_unsigned();
        let place = PathBuf::from(format!("/proc/{own}/fd/{fd}"));
        let held = Held {
            pid: own,
            fd,
            link: file.path(),
            place: &place,
        };
        assert!(held.check(&mounts(own)).is_ok());
        assert!(matches!(
            held.check(&BTreeSet::new()),
            Err(Refusal::FileOutside { .. })
        ));
        let userfault = Held {
            link: Path::new("anon_inode:[userfaultfd]"),
            ..held
        };
        assert!(matches!(
            userfault.check(&mounts(own)),
            Err(Refusal::Descriptor { .. })
        ));
    }
}
