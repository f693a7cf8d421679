//! What a container changed in its root filesystem: taken from the upper directory of its overlay, put into another.
//!
//! The changes travel as a tar archive in the form of an OCI image layer ("Whiteouts" in its layer.md): `.wh.NAME`
//! for a removed file, `.wh..wh..opq` for a directory whose lower content is hidden. What a layer of an image
//! usually drops is kept, because the restored process remembers it: nanoseconds of the modification time, `user.*`
//! attributes, hard links, named pipes. Holes stay holes ("PAX 1.0" sparse format of the GNU tar manual).
//!
//! Not kept: sockets (CRIU makes the bound ones again), overlayfs's own attributes, ACLs and security labels (as in
//! image layers). Device nodes and what overlayfs can't say in a layer (redirects, metadata-only copies) are refused
//! at both ends. Files carry the ids that they have on the host.
//!
//! [`diff`] reads what a container wrote, [`apply`] what a store sent; neither is trusted.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

mod diff;
mod entry;
mod sparse;
mod pax;
mod apply;
mod place;
mod clear;
mod overlay;
mod mount;

pub use apply::{ApplyError, apply};
pub use clear::clear;
pub use diff::{DiffError, diff};
pub use mount::{compact_overlay, mount_overlay};
pub use overlay::{Overlay, unescape};

/// Prefix of the entry that removes a file.
const WHITEOUT: &[u8] = b".wh.";
/// The entry that hides the lower content of its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where an overlay keeps its own marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Marks {
    /// In `trusted.overlay.*`, as everywhere but in user namespaces.
    #[default]
    Trusted,
    /// In `user.overlay.*`, with the mount option `userxattr`.
    User,
}

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Files, directories, links, whiteouts; the upper directory itself counts too.
    pub entries: u64,
    /// Content of files in bytes, holes left out.
    pub bytes: u64,
}

/// How much an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Content of files in bytes, holes left out.
    pub bytes: u64,
}

/// What [`apply`] changes of the upper directory itself, kept so that [`clear`] can undo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAttributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
}

impl Marks {
    /// The one that a mount with these options uses.
    pub fn from_options<S: AsRef<str>>(options: &[S]) -> Self {
        let user = options
            .iter()
            .flat_map(|option| option.as_ref().split(','))
            .any(|option| option == "userxattr");
        if user { Self::User } else { Self::Trusted }
    }

    /// What the names of its attributes begin with.
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The attribute of a directory that hides what is below it.
    fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

impl RootAttributes {
    /// Those of `upper` now.
    ///
    /// # Errors
    /// What `lstat` answered.
    pub fn of(upper: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(upper)?;
        let mtime = (found.mtime(), found.mtime_nsec());
        Ok(Self {
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            mtime,
        })
    }

    fn restore(&self, upper: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(upper, Some(self.uid), Some(self.gid))?;
        let mode = Mode::from_bits_truncate(self.mode);
        fchmodat(nix::fcntl::AT_FDCWD, upper, mode, FchmodatFlags::FollowSymlink)?;
        let mtime = TimeSpec::new(self.mtime.0, self.mtime.1);
        let flag = UtimensatFlags::NoFollowSymlink;
        utimensat(nix::fcntl::AT_FDCWD, upper, &TimeSpec::UTIME_OMIT, &mtime, flag)?;
        Ok(())
    }
}

/// Nothing is in `upper`: the container has not changed anything yet.
///
/// # Errors
/// What reading the directory answered.
pub fn is_empty(upper: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(upper)?.next().transpose()?.is_none())
}

#[cfg(test)]
mod tests;
