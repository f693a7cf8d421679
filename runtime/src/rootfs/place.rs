//! Where entries go: below the upper directory, through directories only.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

/// Linux's own limits (limits.h): NAME_MAX, and PATH_MAX without the final zero.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4095;

/// The path of an entry: relative, made of plain names only; empty for the upper directory itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryPath(PathBuf);

impl EntryPath {
    /// `None` for anything that [`super::diff`] doesn't write: `..`, `.`, empty names, a slash in front, zeros, and
    /// what is longer than Linux takes.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let plain = |name: &[u8]| {
            !name.is_empty() && name != b"." && name != b".." && name.len() <= NAME_MAX && !name.contains(&0)
        };
        let good = bytes.len() <= PATH_MAX && bytes.split(|byte| *byte == b'/').all(plain);
        good.then(|| Self(Path::new(OsStr::from_bytes(bytes)).to_owned()))
    }

    /// The upper directory itself.
    pub(super) fn root() -> Self {
        Self(PathBuf::new())
    }

    pub(super) fn as_path(&self) -> &Path {
        &self.0
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }

    /// Parent and name.
    pub(super) fn split(&self) -> (&Path, &OsStr) {
        (
            self.0.parent().unwrap_or(Path::new("")),
            self.0.file_name().unwrap_or_default(),
        )
    }
}

/// The upper directory and the directory of the entry before, which is mostly the one of the next entry too.
#[derive(Debug)]
pub(super) struct Place {
    root: OwnedFd,
    last: (PathBuf, OwnedFd),
}

impl Place {
    pub(super) fn open(upper: &Path) -> io::Result<Self> {
        let root = open_upper(upper)?;
        let last = (PathBuf::new(), root.try_clone()?);
        Ok(Self { root, last })
    }

    /// The directory `path`, with no symbolic link and no mount on the way to it.
    pub(super) fn directory(&mut self, path: &Path) -> io::Result<&OwnedFd> {
        if self.last.0 != path {
            self.last = (path.to_owned(), self.open_directory(path)?);
        }
        Ok(&self.last.1)
    }

    pub(super) fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        if path.as_os_str().is_empty() {
            return self.root.try_clone();
        }
        open_beneath(&self.root, path)
    }
}

/// Opens a directory below `root`, with no symbolic link and no mount on the way.
pub(super) fn open_beneath(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
        );
    Ok(openat2(root, path, how)?)
}

/// Makes a file that is not there yet.
pub(super) fn create(directory: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
}

pub(super) fn set_owner(directory: &OwnedFd, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(fchownat(directory, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

pub(super) fn set_mtime(directory: &OwnedFd, name: &OsStr, mtime: (i64, i64)) -> io::Result<()> {
    let mtime = TimeSpec::new(mtime.0, mtime.1);
    Ok(utimensat(
        directory,
        name,
        &TimeSpec::UTIME_OMIT,
        &mtime,
        UtimensatFlags::NoFollowSymlink,
    )?)
}

pub(super) fn set_mtime_of(open: impl AsFd, mtime: (i64, i64)) -> io::Result<()> {
    let mtime = TimeSpec::new(mtime.0, mtime.1);
    Ok(futimens(open, &TimeSpec::UTIME_OMIT, &mtime)?)
}

/// Opens the upper directory by its full path: the last name of it may not be a symbolic link.
pub(super) fn open_upper(upper: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(open(upper, flags, Mode::empty())?)
}
