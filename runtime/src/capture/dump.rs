//! The processes: `runc checkpoint`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thaw_runc::{CheckpointOptions, Runc, Status, first_criu_error};

use super::find::Donor;
use super::noting::Noting;
use super::{CaptureError, Request};
use crate::task::kill_below;

/// How long the application may stand still. CRIU writes hundreds of MB per second, so a dump of 10 GB is far below.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// How long runc may clean up after a CRIU that was killed.
const GRACE: Duration = Duration::from_secs(5);

pub(super) async fn dump(
    donor: &Donor,
    request: &Request,
    directory: &Path,
    script: &Path,
    limit: Duration,
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
    let noting = Arc::new(Noting::new(Arc::clone(&donor.runc.spawner)));
    let runc = Runc {
        spawner: noting.clone(),
        ..donor.runc.clone()
    };
    let checkpoint = runc.checkpoint(&request.id, &options);
    tokio::pin!(checkpoint);
    if let Ok(dumped) = tokio::time::timeout(limit, &mut checkpoint).await {
        return dumped.map_err(|source| CaptureError::Dump {
            criu: first_criu_error(&work_path.join("dump.log")),
            source,
        });
    }
    if let Some(pid) = noting.latest() {
        // CRIU, not runc, which then undoes what it has done.
        kill_below(pid);
        if tokio::time::timeout(GRACE, checkpoint).await.is_err() {
            // Only fails when it has just ended by itself.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
    let_go(donor, request).await?;
    Err(CaptureError::DumpDeadline {
        seconds: limit.as_secs(),
    })
}

/// CRIU freezes the container's cgroup while it stops the processes (`freeze-cgroup`, which runc passes); killed then,
/// it leaves it frozen.
async fn let_go(donor: &Donor, request: &Request) -> Result<(), CaptureError> {
    let state = donor.runc.state(&request.id).await;
    if donor.paused || state.is_ok_and(|state| state.status != Status::Paused) {
        return Ok(());
    }
    let (root, id) = (donor.runc.root.clone(), request.id.clone());
    let resumed = donor.runc.resume(&request.id).await;
    resumed.map_err(|source| CaptureError::Resume { root, id, source })
}

/// Deleted files that are still open travel in the images, up to 64 MiB each (CRIU's default is 1 MiB). Without a
/// connection there is nothing for the network lock to protect, and it costs two program starts. A watch is carried
/// over by its name or not at all (`force-irmap`): by its handle it would be of the donor's file, where that still is.
fn criu_options(donor: &Donor, script: &Path) -> String {
    let lock = if donor.connected {
        ""
    } else {
        "network-lock skip\n"
    };
    format!(
        "ghost-limit 64M\nforce-irmap\naction-script {}\n{lock}",
        script.display()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use serde_json::json;
    use tempfile::TempDir;
    use thaw_config::{NodeConfig, Policy};
    use thaw_runc::PlainSpawner;

    use super::*;
    use crate::key::Bundle;
    use crate::record::Container;

    /// A container under the fake runc of the stories, in `root`.
    fn donor(root: &Path) -> Donor {
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/story/fakes/runc");
        symlink(fake, root.join("runc")).unwrap();
        let json = json!({"ociVersion": "1.2.0"});
        Donor {
            container: Container {
                bundle: root.to_owned(),
                runc: root.join("runc"),
                root: root.to_owned(),
                systemd_cgroup: false,
                terminal: false,
                stdin: false,
                containerd: PathBuf::new(),
            },
            bundle: Bundle {
                spec: serde_json::from_value(json.clone()).unwrap(),
                json,
            },
            runc: Runc::new(root.join("runc"), root, Arc::new(PlainSpawner)),
            policy: Policy::resolve(&NodeConfig::default(), &HashMap::new()).unwrap(),
            pid: 0,
            started: 0,
            upper: root.to_owned(),
            rootfs: root.to_owned(),
            hostname: String::new(),
            addresses: Vec::new(),
            connected: false,
            paused: false,
        }
    }

    /// A dump that hangs, with the container in the state `status` after CRIU was killed. Answers runc's verbs.
    async fn hang(status: &str, paused_before: bool) -> Vec<String> {
        let root = TempDir::new().unwrap();
        let path = |name: &str| root.path().join(name);
        let donor = Donor {
            paused: paused_before,
            ..donor(root.path())
        };
        fs::write(path("checkpoint.mode"), "hang").unwrap();
        fs::write(path("status"), status).unwrap();
        let request = Request {
            namespace: "default".to_owned(),
            id: "clone".to_owned(),
            shared: false,
            stop: false,
            proof: false,
            refuse_secrets: false,
            mode: thaw_store::PutMode::Replace,
            helper: PathBuf::new(),
        };
        let limit = Duration::from_millis(500);
        let dumped = dump(&donor, &request, root.path(), &path("script"), limit).await;
        assert!(
            matches!(dumped, Err(CaptureError::DumpDeadline { .. })),
            "{dumped:?}"
        );
        let hung = fs::read_to_string(path("checkpoint.pids")).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", hung.trim()));
        assert!(
            stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")),
            "still there"
        );
        let calls = fs::read_to_string(path("calls")).unwrap();
        calls
            .lines()
            .map(|call| call.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dump_that_hangs_ends_and_leaves_nothing_frozen() {
        assert_eq!(hang("paused", false).await, ["checkpoint", "state", "resume"]);
        assert_eq!(hang("running", false).await, ["checkpoint", "state"]);
        assert_eq!(
            hang("paused", true).await,
            ["checkpoint", "state"],
            "it was paused by somebody else"
        );
    }
}
