//! Delete: forgets a process that has ended; with init goes the container.

use std::fs;
use std::time::Duration;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::events::task::TaskDelete;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics::TASK_DELETE_EVENT_TOPIC;
use thaw_runtime::boot::{Rootfs, undo_begun};

use super::Shim;
use super::container::Container;
use super::phase::{Phase, Verb};
use super::process::{End, Process};
use super::refusal::Refusal;
use super::time::timestamp_or_never;

/// How long the end of a container that was never started may take to be noticed.
const NOTICE: Duration = Duration::from_secs(5);

impl Shim {
    pub(super) async fn delete(&self, id: &str, exec_id: &str) -> Result<DeleteResponse, Refusal> {
        let container = self.container(id)?;
        if exec_id.is_empty() {
            self.delete_init(&container).await
        } else {
            delete_exec(&container, exec_id).await
        }
    }

    async fn delete_init(&self, container: &Container) -> Result<DeleteResponse, Refusal> {
        let _turn = container.turn.lock().await;
        let (streams, mut watch, held) = {
            let mut state = container.state();
            state.init.phase.allow(Verb::Delete)?;
            (state.init.streams.take(), state.init.watch(), state.held.take())
        };
        let created = watch.borrow().is_none();
        let drained = async {
            if let Some(streams) = streams {
                streams.finish().await;
            }
        };
        // What was never started prints nothing before runc has ended it.
        let deleted = if created {
            // To runc a held container is running, so it wants to be told twice.
            let deleted = container.runc.delete(&container.id, held.is_some()).await;
            tokio::time::timeout(NOTICE, watch.wait_for(Option::is_some))
                .await
                .ok();
            drained.await;
            deleted
        } else {
            drained.await;
            container.runc.delete(&container.id, false).await
        };
        let unmounted = container.rootfs.unmount();
        deleted.map_err(|error| Refusal::runc("failed to delete task", &error))?;
        unmounted.map_err(|error| Refusal::failure(&error))?;
        // A clone that was never started leaves the files as it has found them.
        undo_begun(&container.record, &container.bundle, &container.rootfs)
            .await
            .map_err(|error| Refusal::failure(&error))?;
        if let Err(error) = container.record.remove() {
            log::warn!("remove the record of {}: {error}", container.id);
        }
        let mut state = container.state();
        state.init.phase = Phase::Deleted;
        state.oom = None;
        let response = response(&state.init);
        self.containers().remove(&container.id);
        self.events
            .publish(TASK_DELETE_EVENT_TOPIC, &event(&container.id, &response));
        Ok(response)
    }
}

async fn delete_exec(container: &Container, exec_id: &str) -> Result<DeleteResponse, Refusal> {
    let streams = {
        let mut state = container.state();
        let process = state.process(exec_id)?;
        process.phase.allow(Verb::Delete)?;
        if process.starting {
            return Err(Refusal::precondition("the process is being started"));
        }
        process.streams.take()
    };
    if let Some(streams) = streams {
        streams.finish().await;
    }
    // Never written when it was never started.
    fs::remove_file(container.bundle.join(format!("{exec_id}.pid"))).ok();
    let gone = container.state().execs.remove(exec_id);
    gone.as_ref()
        .map(response)
        .ok_or_else(|| Refusal::not_found(format!("process does not exist {exec_id}")))
}

fn response(process: &Process) -> DeleteResponse {
    let end: Option<End> = process.ended();
    DeleteResponse {
        pid: process.pid.cast_unsigned(),
        exit_status: end.map_or(0, |end| end.status),
        exited_at: MessageField::some(timestamp_or_never(end.map(|end| end.at))),
        ..DeleteResponse::default()
    }
}

fn event(id: &str, response: &DeleteResponse) -> TaskDelete {
    TaskDelete {
        container_id: id.to_owned(),
        pid: response.pid,
        exit_status: response.exit_status,
        exited_at: response.exited_at.clone(),
        ..TaskDelete::default()
    }
}
