//! One function per kind of entry.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchown, linkat, mkfifoat, symlinkat};
use xattr::FileExt as _;

use super::super::entry::Attributes;
use super::super::place::{EntryPath, create, set_mtime, set_mtime_of, set_owner};
use super::super::sparse::{Segment, decode_map};
use super::super::{OPAQUE, Stats, WHITEOUT};
use super::{ApplyError, Target};

/// Before the owner is set, nobody else may open it.
const PRIVATE: Mode = Mode::S_IRWXU;

impl Target {
    /// A whiteout, or the mark of an opaque directory.
    pub(super) fn marker(&mut self, path: &EntryPath, number: u64) -> Result<(), ApplyError> {
        let (parent, name) = path.split();
        if name.as_bytes() == OPAQUE {
            let opaque = self.marks.opaque();
            // The root of an overlay is merged whatever it says.
            if parent.as_os_str().is_empty() {
                return Err(ApplyError::Name(number));
            }
            let made = self
                .place
                .open_directory(parent)
                .and_then(|fd| File::from(fd).set_xattr(opaque, b"y"));
            return made.map_err(failed(path));
        }
        let hidden = name.as_bytes().get(WHITEOUT.len()..).and_then(EntryPath::parse);
        let Some(hidden) =
            hidden.filter(|hidden| !hidden.as_path().as_os_str().as_bytes().starts_with(WHITEOUT))
        else {
            return Err(ApplyError::Name(number));
        };
        let made = self.place.directory(parent).and_then(|directory| {
            Ok(mknodat(
                directory,
                hidden.as_path(),
                SFlag::S_IFCHR,
                Mode::empty(),
                makedev(0, 0),
            )?)
        });
        made.map_err(failed(path))
    }

    pub(super) fn directory(&mut self, path: EntryPath, of: &Attributes) -> Result<(), ApplyError> {
        let (parent, name) = path.split();
        let mut make = || -> io::Result<()> {
            if !path.is_root() {
                mkdirat(self.place.directory(parent)?, name, PRIVATE)?;
            }
            let directory = File::from(self.place.open_directory(path.as_path())?);
            dress(&directory, of)
        };
        make().map_err(failed(&path))?;
        self.directories.push((path, of.mtime));
        Ok(())
    }

    pub(super) fn file(
        &mut self,
        path: &EntryPath,
        of: &Attributes,
        stored: u64,
        sparse: Option<u64>,
        content: &mut impl Read,
    ) -> Result<(), ApplyError> {
        let segments = match sparse {
            None => vec![Segment {
                offset: 0,
                length: stored,
            }],
            Some(size) => decode_map(content, stored, size)
                .map_err(ApplyError::Archive)?
                .ok_or(ApplyError::Malformed(self.stats.entries))?,
        };
        // The map was checked against the stored size, so this can't overflow.
        self.stats.bytes = self
            .stats
            .bytes
            .saturating_add(segments.iter().map(|segment| segment.length).sum());
        if self.stats.bytes > self.limits.bytes {
            return Err(ApplyError::Limit(self.limits));
        }
        let (parent, name) = path.split();
        let made = self
            .place
            .directory(parent)
            .and_then(|directory| create(directory, name));
        let mut file = made.map_err(failed(path))?;
        for segment in &segments {
            self.copy(&mut file, segment, path, content)?;
        }
        let finish = || -> io::Result<()> {
            if let Some(size) = sparse {
                file.set_len(size)?;
            }
            dress(&file, of)?;
            set_mtime_of(&file, of.mtime)
        };
        finish().map_err(failed(path))
    }

    fn copy(
        &mut self,
        file: &mut File,
        segment: &Segment,
        path: &EntryPath,
        content: &mut impl Read,
    ) -> Result<(), ApplyError> {
        if segment.offset > 0 {
            file.seek(SeekFrom::Start(segment.offset)).map_err(failed(path))?;
        }
        let mut left = segment.length;
        while left > 0 {
            self.in_time()?;
            let want = usize::try_from(left).map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
            content
                .read_exact(&mut self.buffer[..want])
                .map_err(ApplyError::Archive)?;
            file.write_all(&self.buffer[..want]).map_err(failed(path))?;
            left -= want as u64;
        }
        Ok(())
    }

    pub(super) fn hard_link(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), ApplyError> {
        let refused = || ApplyError::Link(path.as_path().to_owned());
        let target = EntryPath::parse(target).ok_or_else(refused)?;
        let (from, old) = target.split();
        // The directory was empty before, so whatever is there comes from this archive.
        let from = self.place.open_directory(from).map_err(failed(path))?;
        let found =
            fstatat(&from, old, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|error| failed(path)(error.into()))?;
        let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
        if !matches!(kind, SFlag::S_IFREG | SFlag::S_IFLNK | SFlag::S_IFIFO) {
            return Err(refused());
        }
        let (parent, name) = path.split();
        let made = self
            .place
            .directory(parent)
            .and_then(|directory| Ok(linkat(&from, old, directory, name, AtFlags::empty())?));
        made.map_err(failed(path))
    }

    pub(super) fn symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        of: &Attributes,
    ) -> Result<(), ApplyError> {
        let (parent, name) = path.split();
        let target = Path::new(std::ffi::OsStr::from_bytes(target));
        let made = self.place.directory(parent).and_then(|directory| {
            symlinkat(target, directory, name)?;
            set_owner(directory, name, of.uid, of.gid)?;
            set_mtime(directory, name, of.mtime)
        });
        made.map_err(failed(path))
    }

    pub(super) fn fifo(&mut self, path: &EntryPath, of: &Attributes) -> Result<(), ApplyError> {
        let (parent, name) = path.split();
        let made = self.place.directory(parent).and_then(|directory| {
            mkfifoat(directory, name, PRIVATE)?;
            set_owner(directory, name, of.uid, of.gid)?;
            // It was made two lines above, and nobody else works here: no symbolic link to follow.
            fchmodat(
                directory,
                name,
                Mode::from_bits_truncate(of.mode),
                FchmodatFlags::FollowSymlink,
            )?;
            set_mtime(directory, name, of.mtime)
        });
        made.map_err(failed(path))
    }

    /// Sets the times of the directories, the deepest first.
    pub(super) fn finish(mut self) -> Result<Stats, ApplyError> {
        for (path, mtime) in std::mem::take(&mut self.directories).into_iter().rev() {
            let set = self
                .place
                .open_directory(path.as_path())
                .and_then(|fd| set_mtime_of(&fd, mtime));
            set.map_err(failed(&path))?;
        }
        Ok(self.stats)
    }
}

/// Owner first: changing it clears the set-id bits and the file capabilities (chown(2), capabilities(7)).
fn dress(file: &File, of: &Attributes) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(of.uid)), Some(Gid::from_raw(of.gid)))?;
    fchmod(file, Mode::from_bits_truncate(of.mode))?;
    of.xattrs
        .iter()
        .try_for_each(|(name, value)| file.set_xattr(name, value))
}

fn failed(path: &EntryPath) -> impl Fn(io::Error) -> ApplyError + use<> {
    let path = path.as_path().to_owned();
    move |source| ApplyError::Make {
        path: path.clone(),
        source,
    }
}
