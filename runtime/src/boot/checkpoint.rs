//! A restore that the client asks for itself: containerd's Create with a checkpoint directory, as
//! `ctr containers restore --live` and `docker start --checkpoint` send it.
//!
//! The client has chosen the checkpoint and brings the root filesystem that goes with it, so there is nothing to match
//! and nothing to fall back to. The stock shim restores at Start; here it happens at Create and is held, so that the
//! pid and the namespaces are real in between (design decision 1).

use std::fs;
use std::path::Path;

use thaw_runc::{RestoreOptions, first_criu_error};

use super::bundle::for_restore;
use super::eligible::network_of;
use super::restore::{forget_pid, kill_left};
use super::{
    Boot, CreateError, Created, Held, HooksError, PID_FILE, Reason, Request, Rootfs, Streams, hooks,
};
use crate::key::{Bundle, read_bundle};
use crate::outcome::Result as Way;
use crate::record::Record;
use crate::timeline::Timeline;

/// The client's dump may hold connections; without this they would make the restore fail.
const CRIU_OPTIONS: &str = "leave-stopped\ntcp-close\n";

impl Boot {
    /// Restores the checkpoint in the directory `checkpoint`, as it is, and holds it.
    ///
    /// # Errors
    /// See [`CreateError`]. Nothing stays behind.
    pub async fn create_from_checkpoint(
        &self,
        request: &Request,
        checkpoint: &Path,
        rootfs: &dyn Rootfs,
        streams: &dyn Streams,
    ) -> Result<Created, CreateError> {
        let mut timeline = Timeline::start();
        let record = Record::new(&self.config.state, &request.namespace, &request.id);
        self.undo_left(request, &record, rootfs).await?;
        timeline.stage("rootfs");
        rootfs.mount().map_err(|source| CreateError::Mount {
            path: request.bundle.join("rootfs"),
            source,
        })?;
        timeline.stage("restore");
        match self
            .restore_checkpoint(request, checkpoint, &record, streams)
            .await
        {
            Ok((pid, bundle)) => {
                if let Err(error) = self.run_hooks(request, &bundle, &record, pid).await {
                    self.undo_checkpoint(request, rootfs, &record).await;
                    return Err(CreateError::Hooks(error));
                }
                timeline.asked_for(checkpoint);
                let outcome = timeline.finish(request, Way::Restored);
                record.write(request, &self.runc, &outcome);
                log::info!("{}", outcome.summary());
                let held = Some(Held::new(pid, Vec::new()));
                Ok(Created {
                    pid,
                    outcome,
                    held,
                    capture: None,
                })
            }
            Err(reason) => {
                self.undo_checkpoint(request, rootfs, &record).await;
                Err(CreateError::Checkpoint(reason))
            }
        }
    }

    async fn restore_checkpoint(
        &self,
        request: &Request,
        checkpoint: &Path,
        record: &Record,
        streams: &dyn Streams,
    ) -> Result<(i32, Bundle), Reason> {
        forget_pid(&request.bundle)?;
        let read = read_bundle(&request.bundle).map_err(Reason::Spec)?;
        let network = network_of(&read.spec);
        let directory = record.directory().join("restore");
        let (bundle, work) = (directory.join("bundle"), directory.join("work"));
        let edited = for_restore(&read, &request.bundle, &bundle, &network, &self.helper);
        let criu_config = directory.join("criu.conf");
        record
            .make()
            .and_then(|()| fs::create_dir_all(&bundle))
            .and_then(|()| fs::create_dir_all(&work))
            .and_then(|()| fs::write(bundle.join("config.json"), &edited.config))
            .and_then(|()| fs::write(&criu_config, CRIU_OPTIONS))
            .map_err(|source| Reason::Prepare {
                path: directory,
                source,
            })?;
        let options = RestoreOptions {
            bundle,
            image_path: checkpoint.to_owned(),
            work_path: work.clone(),
            pid_file: request.bundle.join(PID_FILE),
            console_socket: streams.console_socket().map(Path::to_owned),
            lsm_profile: None,
            lsm_mount_context: None,
            tcp_established: false,
            lazy_pages: false,
            criu_config,
        };
        let stdio = streams.stdio().map_err(Reason::Streams)?;
        let deadline = self.config.deadlines.restore;
        let restored = self
            .restorer()
            .restore(&request.id, &options, stdio, deadline)
            .await;
        let pid = restored.map_err(|source| Reason::Restore {
            criu: first_criu_error(&work.join("restore.log")),
            source,
        })?;
        if let Some(limits) = edited.limits {
            let set = self.runc.update(&request.id, limits).await;
            set.map_err(Reason::Limits)?;
        }
        Ok((pid, read))
    }

    async fn run_hooks(
        &self,
        request: &Request,
        read: &Bundle,
        record: &Record,
        pid: i32,
    ) -> Result<(), HooksError> {
        let restored = record.directory().join("restore/bundle");
        let spawner = &*self.runc.spawner;
        hooks::run(read, (&request.id, pid), &request.bundle, &restored, spawner).await
    }

    /// The client hears of the restore; what goes wrong here is only said.
    async fn undo_checkpoint(&self, request: &Request, rootfs: &dyn Rootfs, record: &Record) {
        kill_left(&request.bundle);
        if let Err(error) = self.runc.delete(&request.id, true).await {
            log::warn!("delete {}: {error}", request.id);
        }
        if let Err(error) = rootfs.unmount() {
            log::warn!("unmount the rootfs of {}: {error}", request.id);
        }
        if let Err(error) = record.remove() {
            log::warn!("remove {}: {error}", record.directory().display());
        }
    }
}
