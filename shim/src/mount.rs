//! The root file system of a container: the mounts that containerd asks for, and undoing them.

mod options;
mod idmap;
mod premounted;
mod table;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use thaw_runc::Spawner;
use thaw_runtime::rootfs::mount_overlay;

use idmap::Namespaces;
pub use idmap::{HoldError, IdMap, MapError, NamespaceError, USER_NAMESPACE_VERB, hold_user_namespace};
pub use options::Parsed;
use premounted::Premounted;
pub use table::mounted_below;

/// How often a busy mount is tried again before it is detached.
const TRIES: u32 = 10;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// One mount, as containerd describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// File system type.
    pub kind: String,
    /// Device, directory or name.
    pub source: String,
    /// Below the rootfs; empty for the rootfs itself.
    pub target: String,
    /// In the form of fstab.
    pub options: Vec<String>,
}

/// The root file system of one container.
#[derive(Debug)]
pub struct Rootfs {
    mounts: Vec<Mount>,
    target: PathBuf,
    upper: Option<PathBuf>,
    premounted: Option<Premounted>,
    namespaces: Namespaces,
}

/// Why a root file system can't be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The options of a mount are none.
    #[error("understand the mount options of the root file system")]
    Options(#[source] io::Error),
    /// There is no user namespace for an id mapping.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

impl Rootfs {
    /// The root file system of the container with this bundle. An empty list means that the client has mounted it
    /// already, at `root`, which is the path in the spec.
    #[must_use]
    pub fn new(mounts: Vec<Mount>, bundle: &Path, root: &Path) -> Self {
        let target = bundle.join("rootfs");
        let premounted = if mounts.is_empty() {
            Premounted::find(&bundle.join(root))
        } else {
            None
        };
        let overlay = mounts
            .iter()
            .find(|mount| mount.kind == "overlay" && mount.target.is_empty());
        let upper = overlay
            .and_then(|mount| {
                mount
                    .options
                    .iter()
                    .find_map(|option| option.strip_prefix("upperdir="))
            })
            .map(PathBuf::from);
        Self {
            upper: premounted
                .as_ref()
                .map(|found| found.upper().to_owned())
                .or(upper),
            mounts,
            target,
            premounted,
            namespaces: Namespaces::default(),
        }
    }

    /// Opens the user namespaces that id-mapped mounts need; comes before mounting, and has nothing to do for others.
    /// `program` is this program.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub async fn prepare(&mut self, program: &Path, spawner: &dyn Spawner) -> Result<(), PrepareError> {
        for one in &self.mounts {
            let parsed = Parsed::parse(&one.options).map_err(PrepareError::Options)?;
            if let Some(ids) = parsed.ids {
                self.namespaces.add(ids, program, spawner).await?;
            }
        }
        Ok(())
    }
}

impl thaw_runtime::boot::Rootfs for Rootfs {
    fn mount(&self) -> io::Result<()> {
        if self.mounts.is_empty() {
            return self.put_back();
        }
        match DirBuilder::new().mode(0o711).create(&self.target) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for one in &self.mounts {
            if let Err(error) = self.mount_below(one) {
                unmount_all(&self.target)?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn unmount(&self) -> io::Result<()> {
        if self.mounts.is_empty() {
            return Ok(());
        }
        unmount_all(&self.target)
    }

    fn take_off(&self) -> io::Result<()> {
        self.premounted
            .as_ref()
            .map_or_else(|| self.unmount(), Premounted::take_off)
    }

    fn put_back(&self) -> io::Result<()> {
        self.premounted.as_ref().map_or(Ok(()), Premounted::put_back)
    }

    /// None of an id-mapped one: the files of a snapshot carry the ids of its donor, which may have had others.
    fn upper(&self) -> Option<&Path> {
        self.upper.as_deref().filter(|_| self.namespaces.is_empty())
    }
}

impl Rootfs {
    fn mount_below(&self, one: &Mount) -> io::Result<()> {
        mount_one(one, &place(&self.target, &one.target)?, &self.namespaces)
    }
}

/// Where below the rootfs a mount goes; nothing may lead out of it.
fn place(rootfs: &Path, target: &str) -> io::Result<PathBuf> {
    let mut at = rootfs.to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::Normal(name) => at.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        if at.is_symlink() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
    }
    Ok(at)
}

fn mount_one(one: &Mount, at: &Path, namespaces: &Namespaces) -> io::Result<()> {
    let parsed = Parsed::parse(&one.options)?;
    match &parsed.ids {
        Some(ids) => idmap::mount_mapped(one, at, &parsed, namespaces.of(ids)?)?,
        None => attach(one, at, &parsed)?,
    }
    if let Some(propagation) = parsed.propagation {
        mount(None::<&str>, at, None::<&str>, propagation, None::<&str>)?;
    }
    Ok(())
}

/// Mounts it but for its propagation and its id mapping.
fn attach(one: &Mount, at: &Path, parsed: &Parsed) -> io::Result<()> {
    let bind = parsed.flags.contains(MsFlags::MS_BIND);
    if one.kind == "overlay" {
        mount_overlay(&one.source, at, parsed.flags, &parsed.data)?;
    } else {
        let kind = (!bind).then_some(one.kind.as_str());
        mount(
            Some(one.source.as_str()),
            at,
            kind,
            parsed.flags,
            Some(parsed.data.as_str()),
        )?;
    }
    if bind && parsed.flags.contains(MsFlags::MS_RDONLY) {
        // The kernel ignores "read only" in the call that makes a bind mount.
        mount(
            None::<&str>,
            at,
            None::<&str>,
            parsed.flags | MsFlags::MS_REMOUNT,
            None::<&str>,
        )?;
    }
    Ok(())
}

/// Unmounts everything at and below `path`, the last mount first. A mount that stays busy is detached: its users keep
/// it, but the path is free. That nothing is mounted, or that the path is gone, is no error.
///
/// # Errors
/// What reading the mount table or `umount` answered.
pub fn unmount_all(path: &Path) -> io::Result<()> {
    let path = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for mounted in mounted_below(&path)?.iter().rev() {
        unmount(mounted)?;
    }
    Ok(())
}

fn unmount(path: &Path) -> io::Result<()> {
    for _ in 0..TRIES {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            // Not a mount point: it went with the one above it.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use thaw_runtime::boot::Rootfs as _;

    use super::*;

    #[test]
    fn the_upper_directory_of_an_overlay_is_known() {
        let overlay = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: ["workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs"]
                .map(str::to_owned)
                .into(),
            ..Mount::default()
        };
        let rootfs = Rootfs::new(vec![overlay], Path::new("/b"), Path::new("rootfs"));
        assert_eq!(rootfs.upper(), Some(Path::new("/s/2/fs")));
        let nowhere = Rootfs::new(Vec::new(), Path::new("/b"), Path::new("/nowhere"));
        assert_eq!(nowhere.upper(), None);
    }

    #[test]
    fn no_mount_leaves_the_rootfs() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path();
        assert_eq!(place(rootfs, "").unwrap(), rootfs);
        assert_eq!(place(rootfs, "/a/b").unwrap(), rootfs.join("a/b"));
        assert!(place(rootfs, "../x").is_err());
        std::os::unix::fs::symlink("/etc", rootfs.join("link")).unwrap();
        assert!(place(rootfs, "link/x").is_err());
    }

    #[test]
    fn nothing_mounted_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        unmount_all(dir.path()).unwrap();
        unmount_all(&dir.path().join("gone")).unwrap();
    }
}
