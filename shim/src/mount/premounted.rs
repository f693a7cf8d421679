//! A root file system that the client has mounted by itself, as Docker does.
//!
//! It is the client's, and is left as it is. Only where a snapshot changes files, the overlay is taken off for that
//! long, and mounted again with the same options: an overlay must not see its upper directory change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use thaw_runtime::rootfs::Overlay;

use super::{Mount, Namespaces, PAUSE, TRIES, mount_one};

/// The overlay of one container.
#[derive(Debug)]
pub(super) struct Premounted {
    at: PathBuf,
    overlay: Overlay,
    /// The mount as it is now; [`OFF`] while there is none.
    mount: AtomicU64,
}

/// No mount has this number.
const OFF: u64 = 0;

impl Premounted {
    /// The overlay at `at`, if it is one that can be taken off: unmounting it here must unmount it for the client
    /// too. So it is not the copy that a subordinate mount namespace has got. (A private mount is fine: it is in the
    /// namespace in which it was made, because the shim's is older than the mount.)
    pub(super) fn find(at: &Path) -> Option<Self> {
        let found = Overlay::at(at)
            .inspect_err(|error| log::warn!("read the mount table: {error}"))
            .ok()??;
        (!found.slave && !found.covered).then(|| Self {
            at: at.to_owned(),
            mount: AtomicU64::new(found.id),
            overlay: found,
        })
    }

    pub(super) fn upper(&self) -> &Path {
        &self.overlay.upper
    }

    pub(super) fn take_off(&self) -> io::Result<()> {
        let mount = self.mount.load(Ordering::Relaxed);
        if mount == OFF {
            return Ok(());
        }
        if self.mounted()? != Some(mount) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "somebody else has mounted something there",
            ));
        }
        for _ in 0..TRIES {
            match umount2(&self.at, MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {
                    self.mount.store(OFF, Ordering::Relaxed);
                    return Ok(());
                }
                // Detaching it would leave its users with an overlay that sees the change.
                Err(Errno::EBUSY) => thread::sleep(PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EBUSY.into())
    }

    pub(super) fn put_back(&self) -> io::Result<()> {
        if self.mount.load(Ordering::Relaxed) != OFF {
            return Ok(());
        }
        let again = Mount {
            kind: "overlay".to_owned(),
            source: self.overlay.source.clone(),
            target: String::new(),
            options: self.overlay.options.clone(),
        };
        mount_one(&again, &self.at, &Namespaces::default())?;
        if !self.overlay.shared {
            mount(
                None::<&str>,
                &self.at,
                None::<&str>,
                MsFlags::MS_PRIVATE,
                None::<&str>,
            )?;
        }
        let mount = self.mounted()?.ok_or(io::ErrorKind::NotFound)?;
        self.mount.store(mount, Ordering::Relaxed);
        Ok(())
    }

    /// The mount that is at the place now.
    fn mounted(&self) -> io::Result<Option<u64>> {
        let found = Overlay::at(&self.at)?;
        Ok(found
            .filter(|found| found.upper == self.overlay.upper && !found.covered)
            .map(|found| found.id))
    }
}
