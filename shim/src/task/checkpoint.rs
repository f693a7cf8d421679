//! Checkpoint: containerd's own kind, a dump into a directory that the client names.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::CheckpointTaskRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::oci;
use thaw_runc::CheckpointOptions;
use ttrpc::Code;

use super::Shim;
use super::container::Container;
use super::phase::Verb;
use super::refusal::Refusal;

impl Shim {
    pub(super) async fn checkpoint(&self, request: CheckpointTaskRequest) -> Result<(), Refusal> {
        let container = self.container(&request.id)?;
        let asked = match request.options.as_ref() {
            Some(any) if any.type_url.ends_with("containerd.runc.v1.CheckpointOptions") => {
                oci::CheckpointOptions::parse_from_bytes(&any.value)
                    .map_err(|error| Refusal::invalid(format!("decode the checkpoint options: {error}")))?
            }
            _ => oci::CheckpointOptions::default(),
        };
        let _turn = container.turn.lock().await;
        container.state().init.phase.allow(Verb::Checkpoint)?;
        let work = Work::prepare(&container, &asked.work_path)?;
        let options = options(&request.path, asked, &work.path);
        let failed = |error: &thaw_runc::RuncError| {
            let log = container.bundle.join("criu-dump.log");
            // Without it the message still says what runc said.
            fs::copy(work.path.join("dump.log"), &log).ok();
            let text = format!(
                "OCI runtime checkpoint failed: {} path= {}",
                error.detail(),
                log.display()
            );
            Refusal::new(Code::UNKNOWN, text)
        };
        container
            .runc
            .checkpoint(&container.id, &options)
            .await
            .map_err(|error| failed(&error))
    }
}

fn options(path: &str, asked: oci::CheckpointOptions, work: &Path) -> CheckpointOptions {
    CheckpointOptions {
        image_path: path.into(),
        work_path: work.to_owned(),
        leave_running: !asked.exit,
        tcp_established: asked.open_tcp,
        file_locks: asked.file_locks,
        ext_unix_sk: asked.external_unix_sockets,
        shell_job: asked.terminal,
        empty_ns: asked.empty_namespaces,
        cgroups_mode: (!asked.cgroups_mode.is_empty()).then_some(asked.cgroups_mode),
        ..CheckpointOptions::default()
    }
}

/// CRIU's work directory: the client's, or one of our own that goes afterwards.
struct Work {
    path: PathBuf,
    ours: bool,
}

impl Work {
    fn prepare(container: &Container, asked: &str) -> Result<Self, Refusal> {
        let asked = if asked.is_empty() {
            &container.options.criu_work_path
        } else {
            asked
        };
        let ours = asked.is_empty();
        let path = if ours {
            container.bundle.join("work").join("criu-work")
        } else {
            asked.into()
        };
        fs::create_dir_all(&path).map_err(|error| Refusal::failure(&error))?;
        Ok(Self { path, ours })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.ours {
            // Left over it goes with the bundle.
            fs::remove_dir_all(&self.path).ok();
        }
    }
}
