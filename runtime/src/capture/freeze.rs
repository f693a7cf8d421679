//! Step 2: everything stands still while memory and files are copied.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thaw_config::NodeConfig;

use super::find::Donor;
use super::{CaptureError, Request, dump};
use crate::rootfs::{self, Marks};

/// A dump on this node's disk; goes when dropped.
#[derive(Debug)]
pub(super) struct Dump {
    /// What keeps the files.
    pub(super) directory: TempDir,
    /// The tar of root filesystem changes, if there are any.
    pub(super) rootfs: Option<PathBuf>,
    /// How long it took.
    pub(super) frozen: Duration,
}

pub(super) async fn take(
    config: &NodeConfig,
    request: &Request,
    donor: &Donor,
) -> Result<Dump, CaptureError> {
    let directory = room(config)?;
    let tar = directory.path().join("rootfs.tar");
    let since = Instant::now();
    if !donor.was_paused {
        donor
            .runc
            .pause(&request.id)
            .await
            .map_err(CaptureError::Freeze)?;
    }
    let taken = if request.stop {
        // The dump ends the application, so it comes when nothing else can fail.
        match diff(donor.upper.clone(), tar.clone()).await {
            Ok(changed) => dump::dump(donor, request, directory.path())
                .await
                .map(|()| changed),
            Err(error) => Err(error),
        }
    } else {
        let (changed, dumped) = tokio::join!(
            diff(donor.upper.clone(), tar.clone()),
            dump::dump(donor, request, directory.path())
        );
        dumped.and(changed)
    };
    let ended = request.stop && taken.is_ok();
    let resumed = if donor.was_paused && !ended {
        Ok(())
    } else {
        donor.runc.resume(&request.id).await
    };
    let frozen = since.elapsed();
    let changed = taken?;
    match resumed {
        // Processes that were killed in a frozen cgroup die when it thaws; then there may be nothing to thaw.
        Err(_) if ended => {}
        Err(source) => {
            let (root, id) = (donor.runc.root.clone(), request.id.clone());
            return Err(CaptureError::Resume { root, id, source });
        }
        Ok(()) => {}
    }
    Ok(Dump {
        directory,
        rootfs: changed.then_some(tar),
        frozen,
    })
}

/// A directory beside the cache: on the disk that is meant for memory pages, and out of everybody's sight.
fn room(config: &NodeConfig) -> Result<TempDir, CaptureError> {
    let path = config.cache.join("captures");
    let made = fs::create_dir_all(&path)
        .and_then(|()| tempfile::Builder::new().prefix("capture-").tempdir_in(&path));
    let directory = made.map_err(|source| CaptureError::Room { path, source })?;
    for name in ["images", "work"] {
        let path = directory.path().join(name);
        fs::create_dir(&path).map_err(|source| CaptureError::Room { path, source })?;
    }
    Ok(directory)
}

/// Writes the changes to `tar`; says whether there were any.
async fn diff(upper: PathBuf, tar: PathBuf) -> Result<bool, CaptureError> {
    let work = tokio::task::spawn_blocking(move || {
        if rootfs::is_empty(&upper).map_err(|source| CaptureError::Room {
            path: upper.clone(),
            source,
        })? {
            return Ok(false);
        }
        let room = |source| CaptureError::Room {
            path: tar.clone(),
            source,
        };
        let mut out = BufWriter::with_capacity(1 << 20, File::create_new(&tar).map_err(room)?);
        rootfs::diff(&upper, Marks::Trusted, &mut out).map_err(CaptureError::Rootfs)?;
        out.flush().map_err(room)?;
        Ok(true)
    });
    work.await
        .map_err(|_error| CaptureError::Thread { step: "rootfs diff" })?
}
