//! Copy-on-write views of directories of the donor.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::ProofError;
use crate::boot;
use crate::rootfs::{Overlay, mount_overlay};

/// The donor's root filesystem as the snapshotter had prepared it: its lower directories under a new upper one.
#[derive(Debug)]
pub(super) struct Rootfs {
    at: PathBuf,
    upper: PathBuf,
    options: String,
}

impl Rootfs {
    /// To be mounted at `at`, with changes below `room`.
    pub(super) fn like(donor: &Path, at: PathBuf, room: &Path) -> Result<Self, ProofError> {
        let overlay = Overlay::at(donor).ok().flatten().ok_or(ProofError::Rootfs)?;
        let lower = overlay
            .options
            .iter()
            .find(|option| option.starts_with("lowerdir="))
            .ok_or(ProofError::Rootfs)?;
        let (upper, work) = upper_and_work(room)?;
        let options = format!("{lower},upperdir={},workdir={}", upper.display(), work.display());
        Ok(Self { at, upper, options })
    }
}

impl boot::Rootfs for Rootfs {
    fn mount(&self) -> io::Result<()> {
        overlay(&self.at, &self.options)
    }

    fn unmount(&self) -> io::Result<()> {
        loop {
            match umount2(&self.at, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                // Nothing is mounted there any more.
                Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take_off(&self) -> io::Result<()> {
        self.unmount()
    }

    fn put_back(&self) -> io::Result<()> {
        Ok(())
    }

    fn upper(&self) -> Option<&Path> {
        Some(&self.upper)
    }
}

/// Mounts a view of `directory` in `room`, and answers where.
pub(super) fn view(directory: &Path, room: &Path) -> Result<PathBuf, ProofError> {
    let (upper, work) = upper_and_work(room)?;
    let at = made(room.join("view"))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        directory.display(),
        upper.display(),
        work.display()
    );
    let mounted = overlay(&at, &options).and_then(|()| share(&at));
    mounted.map_err(|source| ProofError::Mount {
        path: directory.to_owned(),
        source,
    })?;
    Ok(at)
}

/// Docker's volumes lie on a mount that is shared, and follow it. CRIU makes the container's mount follow the source again
/// (`criu/mount-v2.c: move_mount_set_group`), which a private one does not let it.
fn share(at: &Path) -> io::Result<()> {
    let nothing = None::<&Path>;
    Ok(mount(nothing, at, nothing, MsFlags::MS_SHARED, nothing)?)
}

fn overlay(at: &Path, options: &str) -> io::Result<()> {
    mount_overlay("overlay", at, MsFlags::empty(), options)
}

fn upper_and_work(room: &Path) -> Result<(PathBuf, PathBuf), ProofError> {
    Ok((made(room.join("upper"))?, made(room.join("work"))?))
}

pub(super) fn made(path: PathBuf) -> Result<PathBuf, ProofError> {
    match fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(ProofError::Prepare { path, source }),
    }
}
