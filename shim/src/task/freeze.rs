//! Pause and Resume.

use containerd_shim_protos::events::task::{TaskPaused, TaskResumed};
use containerd_shim_protos::topics::{TASK_PAUSED_EVENT_TOPIC, TASK_RESUMED_EVENT_TOPIC};

use super::Shim;
use super::phase::{Phase, Verb};
use super::refusal::Refusal;

impl Shim {
    pub(super) async fn pause(&self, id: &str) -> Result<(), Refusal> {
        let container = self.container(id)?;
        let _turn = container.turn.lock().await;
        {
            let mut state = container.state();
            state.init.phase.allow(Verb::Pause)?;
            state.init.phase = Phase::Pausing;
        }
        let paused = container.runc.pause(id).await;
        let mut state = container.state();
        // It may have ended meanwhile.
        if state.init.phase == Phase::Pausing {
            state.init.phase = if paused.is_ok() {
                Phase::Paused
            } else {
                Phase::Running
            };
        }
        paused.map_err(|error| Refusal::runc("OCI runtime pause failed", &error))?;
        let event = TaskPaused {
            container_id: id.to_owned(),
            ..TaskPaused::default()
        };
        self.events.publish(TASK_PAUSED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(super) async fn resume(&self, id: &str) -> Result<(), Refusal> {
        let container = self.container(id)?;
        let _turn = container.turn.lock().await;
        {
            let mut state = container.state();
            state.init.phase.allow(Verb::Resume)?;
            // What was killed while it was frozen dies now; that must be told after the event of this call.
            state.init.starting = true;
        }
        let resumed = container.runc.resume(id).await;
        let mut state = container.state();
        state.init.starting = false;
        if resumed.is_ok() {
            state.init.phase = Phase::Running;
            let event = TaskResumed {
                container_id: id.to_owned(),
                ..TaskResumed::default()
            };
            self.events.publish(TASK_RESUMED_EVENT_TOPIC, &event);
        }
        if let Some(end) = state.init.early.take() {
            self.ended(&container, &mut state, "", end);
        }
        resumed.map_err(|error| Refusal::runc("OCI runtime resume failed", &error))
    }
}
