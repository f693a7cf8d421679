//! Exec: notes one more process for a container, and what its terminal and standard input need while it runs.

use std::collections::hash_map::Entry;

use containerd_shim_protos::api::{CloseIORequest, ExecProcessRequest, ResizePtyRequest};
use containerd_shim_protos::events::task::TaskExecAdded;
use containerd_shim_protos::topics::TASK_EXEC_ADDED_EVENT_TOPIC;
use serde_json::Value;
use ttrpc::Code;

use super::Shim;
use super::create::check_id;
use super::phase::{Phase, Verb};
use super::process::Process;
use super::refusal::Refusal;
use crate::io::Spec;
use crate::sys;

impl Shim {
    pub(super) fn exec(&self, request: &ExecProcessRequest) -> Result<(), Refusal> {
        let container = self.container(&request.id)?;
        check_id(&request.exec_id)?;
        let mut oci: Value = serde_json::from_slice(&request.spec.value)
            .map_err(|error| Refusal::invalid(format!("understand the process to run: {error}")))?;
        let Value::Object(fields) = &mut oci else {
            return Err(Refusal::invalid("the process to run is no object"));
        };
        fields.insert("terminal".to_owned(), Value::Bool(request.terminal));
        let mut process = Process::new(Spec {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        });
        process.oci = oci.to_string().into_bytes();
        let mut state = container.state();
        state.init.phase.allow(Verb::Exec)?;
        match state.execs.entry(request.exec_id.clone()) {
            Entry::Occupied(entry) => {
                let text = format!("id {}: already exists", entry.key());
                return Err(Refusal::new(Code::ALREADY_EXISTS, text));
            }
            Entry::Vacant(entry) => entry.insert(process),
        };
        let event = TaskExecAdded {
            container_id: request.id.clone(),
            exec_id: request.exec_id.clone(),
            ..TaskExecAdded::default()
        };
        self.events.publish(TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(super) fn close_io(&self, request: &CloseIORequest) -> Result<(), Refusal> {
        let container = self.container(&request.id)?;
        let mut state = container.state();
        let process = state.process(&request.exec_id)?;
        if request.stdin
            && let Some(streams) = &mut process.streams
        {
            streams.close_stdin();
        }
        Ok(())
    }

    pub(super) fn resize_pty(&self, request: &ResizePtyRequest) -> Result<(), Refusal> {
        let container = self.container(&request.id)?;
        let console = {
            let mut state = container.state();
            let process = state.process(&request.exec_id)?;
            if !request.exec_id.is_empty() && process.phase == Phase::Stopped {
                return Err(Refusal::new(Code::UNKNOWN, "cannot resize a stopped container"));
            }
            process.streams.as_ref().and_then(crate::io::Attached::console)
        };
        let Some(console) = console else { return Ok(()) };
        let size = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        sys::resize(&*console, size(request.width), size(request.height))
            .map_err(|error| Refusal::failure(&error))
    }
}
