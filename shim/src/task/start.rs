//! Start: the user's program runs afterwards.

use std::sync::Arc;

use containerd_shim_protos::events::task::{TaskExecStarted, TaskStart};
use containerd_shim_protos::topics::{TASK_EXEC_STARTED_EVENT_TOPIC, TASK_START_EVENT_TOPIC};
use thaw_runc::ExecOptions;
use thaw_runtime::boot::Streams;

use super::Shim;
use super::container::Container;
use super::phase::{Phase, Verb};
use super::process::End;
use super::refusal::Refusal;
use super::registry::Target;
use crate::io::{Attached, Prepared};

impl Shim {
    pub(super) async fn start(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<u32, Refusal> {
        let container = self.container(id)?;
        if exec_id.is_empty() {
            self.start_init(&container).await
        } else {
            self.start_exec(&container, exec_id).await
        }
    }

    async fn start_init(&self, container: &Arc<Container>) -> Result<u32, Refusal> {
        let _turn = container.turn.lock().await;
        {
            let mut state = container.state();
            state.init.phase.allow(Verb::Start)?;
            state.init.starting = true;
        }
        let held = container.state().held.take();
        let mut announce = None;
        let started = match held {
            Some(mut held) => {
                announce = held.take_announce();
                // From here on the files in the root filesystem are its own.
                let forgotten = container.record.forget_begun();
                forgotten
                    .map_err(|error| Refusal::failure(&error))
                    .and_then(|()| held.resume().map_err(|error| Refusal::failure(&error)))
            }
            None => {
                let started = container.runc.start(&container.id).await;
                started.map_err(|error| Refusal::runc("OCI runtime start failed", &error))
            }
        };
        let mut state = container.state();
        state.init.starting = false;
        let pid = state.init.pid.cast_unsigned();
        if started.is_ok() {
            state.init.phase = Phase::Running;
            if let Some(watch) = &mut state.watch {
                watch.begin(container);
            }
            let event = TaskStart {
                container_id: container.id.clone(),
                pid,
                ..TaskStart::default()
            };
            self.events.publish(TASK_START_EVENT_TOPIC, &event);
            if let Some(announce) = announce {
                let container = Arc::clone(container);
                // Nobody waits for it: the start has succeeded.
                tokio::spawn(async move {
                    let (runc, record) = (&container.runc, &container.record);
                    announce.run(runc, &container.id, record).await;
                });
            }
        }
        if let Some(end) = state.init.early.take() {
            self.ended(container, &mut state, "", end);
        }
        let capture = std::mem::take(&mut state.capture);
        drop(state);
        if capture && started.is_ok() {
            self.capture_when_ready(container);
        }
        started.map(|()| pid)
    }

    async fn start_exec(&self, container: &Arc<Container>, exec_id: &str) -> Result<u32, Refusal> {
        let _starting = self.registry.starting();
        {
            let mut state = container.state();
            if state.reaped {
                let text = format!("container {} init process is not running", container.id);
                return Err(Refusal::precondition(text));
            }
            let process = state.process(exec_id)?;
            process.phase.allow(Verb::Start)?;
            if process.starting {
                return Err(Refusal::precondition("the process is being started"));
            }
            process.set_starting();
            state.live_execs += 1;
        }
        match self.run_exec(container, exec_id).await {
            Ok((pid, streams)) => self.exec_started(container, exec_id, pid, streams),
            Err(refusal) => {
                let mut state = container.state();
                if let Ok(process) = state.process(exec_id) {
                    process.never_ran();
                }
                self.exec_gone(container, &mut state);
                Err(refusal)
            }
        }
    }

    async fn run_exec(&self, container: &Container, exec_id: &str) -> Result<(i32, Attached), Refusal> {
        let (spec, process) = {
            let mut state = container.state();
            let process = state.process(exec_id)?;
            (process.spec.clone(), process.oci.clone())
        };
        let failure = |error: std::io::Error| Refusal::failure(&error);
        let owner = self.owner(&container.id, &container.options);
        let prepared = Prepared::open(&spec, owner, &self.reaper)
            .await
            .map_err(failure)?;
        let options = ExecOptions {
            process,
            process_file: container.bundle.join(format!("{exec_id}.process.json")),
            pid_file: container.bundle.join(format!("{exec_id}.pid")),
            console_socket: prepared.console_socket().map(Into::into),
        };
        let stdio = prepared.stdio().map_err(failure)?;
        let pid = container
            .runc
            .exec(&container.id, &options, stdio)
            .await
            .map_err(|error| Refusal::runc("OCI runtime exec failed", &error))?;
        let attached = prepared.attach().await.inspect_err(|_| {
            // Nobody would ever hear of it. It only fails when it has just ended.
            crate::sys::kill(pid, 9).ok();
        });
        Ok((pid, attached.map_err(failure)?))
    }

    fn exec_started(
        &self,
        container: &Arc<Container>,
        exec_id: &str,
        pid: i32,
        streams: Attached,
    ) -> Result<u32, Refusal> {
        let target = Target {
            container: Arc::clone(container),
            exec_id: exec_id.to_owned(),
        };
        let mut state = container.state();
        let exit = self.registry.add(pid, target);
        let process = state.process(exec_id)?;
        process.pid = pid;
        process.phase = Phase::Running;
        process.starting = false;
        process.streams = Some(streams);
        let event = TaskExecStarted {
            container_id: container.id.clone(),
            exec_id: exec_id.to_owned(),
            pid: pid.cast_unsigned(),
            ..TaskExecStarted::default()
        };
        self.events.publish(TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        if let Some(exit) = exit {
            self.ended(container, &mut state, exec_id, End::new(exit.status, exit.at));
        }
        Ok(pid.cast_unsigned())
    }
}
