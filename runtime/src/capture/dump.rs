//! The processes: `runc checkpoint`.

use std::fs;
use std::path::Path;

use thaw_runc::{CheckpointOptions, first_criu_error};

use super::find::Donor;
use super::{CaptureError, Request};

pub(super) async fn dump(
    donor: &Donor,
    request: &Request,
    directory: &Path,
    script: &Path,
) -> Result<(), CaptureError> {
    let criu_config = directory.join("criu.conf");
    fs::write(&criu_config, criu_options(donor, script)).map_err(|source| CaptureError::Room {
        path: criu_config.clone(),
        source,
    })?;
    let work_path = directory.join("work");
    let options = CheckpointOptions {
        image_path: directory.join("images"),
        work_path: work_path.clone(),
        leave_running: !request.stop,
        tcp_established: true,
        tcp_skip_in_flight: true,
        file_locks: true,
        ext_unix_sk: true,
        criu_config: Some(criu_config),
        ..CheckpointOptions::default()
    };
    let dumped = donor.runc.checkpoint(&request.id, &options).await;
    dumped.map_err(|source| CaptureError::Dump {
        criu: first_criu_error(&work_path.join("dump.log")),
        source,
    })
}

/// Deleted files that are still open travel in the images, up to 64 MiB each (CRIU's default is 1 MiB). Without a
/// connection there is nothing for the network lock to protect, and it costs two program starts.
fn criu_options(donor: &Donor, script: &Path) -> String {
    let lock = if donor.connected {
        ""
    } else {
        "network-lock skip\n"
    };
    format!("ghost-limit 64M\naction-script {}\n{lock}", script.display())
}
