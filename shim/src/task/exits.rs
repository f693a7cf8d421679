//! What follows from the end of a process.
//!
//! containerd and Docker rely on the order: the start event of a process before its exit event, the exit events of
//! all execs before that of init, an OOM event before the exit it caused.

use std::sync::Arc;

use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics::TASK_EXIT_EVENT_TOPIC;
use thaw_runtime::words::chain;
use tokio::sync::mpsc;

use super::Shim;
use super::container::{Container, State};
use super::phase::Phase;
use super::process::{End, Process};
use super::registry::Target;
use super::time::timestamp;
use crate::reaper::Exit;

const SIGKILL: u32 = 9;

impl Shim {
    /// Takes the exits of container processes, for as long as the shim lives.
    pub async fn follow(self: Arc<Self>, mut exits: mpsc::UnboundedReceiver<Exit>) {
        while let Some(exit) = exits.recv().await {
            if let Some(target) = self.registry.take(&exit) {
                self.exited(&target, End::new(exit.status, exit.at));
            }
        }
    }

    /// A process has ended; when its start is still on its way, that must be told first.
    pub(super) fn exited(&self, target: &Target, end: End) {
        let mut state = target.container.state();
        match state.process(&target.exec_id) {
            Ok(process) if process.starting => process.early = Some(end),
            Ok(_) => self.ended(&target.container, &mut state, &target.exec_id, end),
            Err(_) => log::debug!("exec {} ended after it was deleted", target.exec_id),
        }
    }

    /// A process has ended and nothing has to be told before.
    pub(super) fn ended(&self, container: &Arc<Container>, state: &mut State, exec_id: &str, end: End) {
        if exec_id.is_empty() {
            self.init_ended(container, state, end);
        } else if let Ok(process) = state.process(exec_id) {
            process.set_ended(end);
            self.publish_exit(container, exec_id, process, end);
            self.exec_gone(container, state);
        }
    }

    /// One exec less that init's exit event has to wait for.
    pub(super) fn exec_gone(&self, container: &Container, state: &mut State) {
        state.live_execs = state.live_execs.saturating_sub(1);
        self.finish_stashed(container, state);
    }

    /// One signal less that init's exit event has to wait for.
    pub(super) fn kill_done(&self, container: &Container) {
        let mut state = container.state();
        state.kills = state.kills.saturating_sub(1);
        self.finish_stashed(container, &mut state);
    }

    fn finish_stashed(&self, container: &Container, state: &mut State) {
        if state.live_execs == 0
            && state.kills == 0
            && let Some(end) = state.stashed.take()
        {
            self.finish_init(container, state, end);
        }
    }

    fn init_ended(&self, container: &Arc<Container>, state: &mut State, end: End) {
        state.reaped = true;
        if let Some(watch) = state.watch.take() {
            watch.end(Some(end));
        }
        let paused = matches!(state.init.phase, Phase::Paused | Phase::Pausing);
        if paused || container.outlives_init {
            tokio::spawn(end_the_rest(Arc::clone(container), paused));
        }
        state.stashed = Some(end);
        self.finish_stashed(container, state);
    }

    fn finish_init(&self, container: &Container, state: &mut State, end: End) {
        if let Some(oom) = &state.oom {
            oom.check();
        }
        state.init.set_ended(end);
        self.publish_exit(container, "", &state.init, end);
    }

    fn publish_exit(&self, container: &Container, exec_id: &str, process: &Process, end: End) {
        let event = TaskExit {
            container_id: container.id.clone(),
            id: if exec_id.is_empty() {
                container.id.clone()
            } else {
                exec_id.to_owned()
            },
            pid: process.pid.cast_unsigned(),
            exit_status: end.status,
            exited_at: MessageField::some(timestamp(end.at)),
            ..TaskExit::default()
        };
        self.events.publish(TASK_EXIT_EVENT_TOPIC, &event);
    }
}

/// Init is gone. What is frozen could not die, and what has no pid namespace of its own did not.
async fn end_the_rest(container: Arc<Container>, paused: bool) {
    if paused && let Err(error) = container.runc.resume(&container.id).await {
        log::warn!(
            "let the rest of {} run to its end: {}",
            container.id,
            chain(&error)
        );
    }
    if container.outlives_init
        && let Err(error) = container.runc.kill(&container.id, SIGKILL, true).await
    {
        log::warn!("end the other processes of {}: {}", container.id, chain(&error));
    }
}
