//! Step 3: is the dump what a restore will accept?

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thaw_criu::{Images, sockets};

use super::CaptureError;
use super::freeze::Dump;
use super::room::Room;

/// Files of CRIU that no restore reads.
const LEFT_OUT: [&str; 2] = ["stats-dump", "dump.log"];

/// A dump that boot would accept.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) directory: Room,
    pub(super) rootfs: Option<PathBuf>,
    pub(super) frozen: Duration,
    /// Number of TCP connections in it.
    pub(super) established: u32,
}

pub(super) async fn facts(dump: Dump) -> Result<Checked, CaptureError> {
    let work = tokio::task::spawn_blocking(move || {
        let path = dump.directory.path().join("images");
        let images = read(&path).map_err(|source| CaptureError::Read { path, source })?;
        thaw_criu::check(&images).map_err(CaptureError::Check)?;
        let established = sockets::established_tcp(&images)
            .map_err(CaptureError::Facts)?
            .len();
        Ok(Checked {
            directory: dump.directory,
            rootfs: dump.rootfs,
            frozen: dump.frozen,
            established: u32::try_from(established).unwrap_or(u32::MAX),
        })
    });
    work.await
        .map_err(|_error| CaptureError::Thread { step: "check" })?
}

fn read(directory: &Path) -> io::Result<Images> {
    let mut images = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("pages-") && !LEFT_OUT.contains(&name.as_str()) {
            images.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(images)
}
