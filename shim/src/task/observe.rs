//! What only looks: State, Pids, Wait, Stats, Connect.

use containerd_shim_protos::api::{
    ConnectResponse, PidsResponse, ProcessInfo, StateResponse, StatsResponse, WaitResponse,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;

use super::Shim;
use super::phase::Phase;
use super::refusal::Refusal;
use super::time::{timestamp, timestamp_or_never};
use crate::cgroup::StatsError;

impl Shim {
    pub(super) fn state(&self, id: &str, exec_id: &str) -> Result<StateResponse, Refusal> {
        let container = self.container(id)?;
        let mut state = container.state();
        let init = state.init.phase;
        let process = state.process(exec_id)?;
        let phase = match (process.phase, init) {
            // A frozen container freezes its execs.
            (Phase::Running, Phase::Pausing | Phase::Paused) => init,
            (phase, _) => phase,
        };
        let end = process.ended();
        Ok(StateResponse {
            id: if exec_id.is_empty() {
                id.to_owned()
            } else {
                exec_id.to_owned()
            },
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.pid.cast_unsigned(),
            status: phase.status().into(),
            stdin: process.spec.stdin.clone(),
            stdout: process.spec.stdout.clone(),
            stderr: process.spec.stderr.clone(),
            terminal: process.spec.terminal,
            exit_status: end.map_or(0, |end| end.status),
            exited_at: MessageField::some(timestamp_or_never(end.map(|end| end.at))),
            exec_id: exec_id.to_owned(),
            ..StateResponse::default()
        })
    }

    pub(super) async fn pids(&self, id: &str) -> Result<PidsResponse, Refusal> {
        let container = self.container(id)?;
        let pids = container
            .runc
            .ps(id)
            .await
            .map_err(|error| Refusal::runc("OCI runtime ps failed", &error))?;
        let state = container.state();
        let info = |pid: i32| {
            let exec = state.execs.iter().find(|(_, process)| process.pid == pid);
            ProcessInfo {
                pid: pid.cast_unsigned(),
                info: exec.map(|(exec_id, _)| details(exec_id)).into(),
                ..ProcessInfo::default()
            }
        };
        Ok(PidsResponse {
            processes: pids.into_iter().map(info).collect(),
            ..PidsResponse::default()
        })
    }

    pub(super) async fn wait(&self, id: &str, exec_id: &str) -> Result<WaitResponse, Refusal> {
        let mut watch = {
            let container = self.container(id)?;
            let mut state = container.state();
            state.process(exec_id)?.watch()
        };
        // The end stays readable after the process is forgotten; it only fails when it was forgotten before its end.
        let end = watch.wait_for(Option::is_some).await.ok().and_then(|end| *end);
        let end = end.ok_or_else(|| Refusal::not_found("process does not exist"))?;
        Ok(WaitResponse {
            exit_status: end.status,
            exited_at: MessageField::some(timestamp(end.at)),
            ..WaitResponse::default()
        })
    }

    pub(super) fn stats(&self, id: &str) -> Result<StatsResponse, Refusal> {
        let container = self.container(id)?;
        let gone = || Refusal::not_found("cgroup does not exist");
        let stats = container
            .cgroup
            .as_ref()
            .ok_or_else(gone)?
            .stats()
            .map_err(|error| match error {
                StatsError::Gone => gone(),
                other => Refusal::failure(&other),
            })?;
        Ok(StatsResponse {
            stats: MessageField::some(stats),
            ..StatsResponse::default()
        })
    }

    /// Never an error: containerd asks at its start, when the container may be gone.
    pub(super) fn connect(&self, id: &str) -> ConnectResponse {
        let pid = self
            .container(id)
            .map_or(0, |container| container.state().init.pid);
        ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid.cast_unsigned(),
            ..ConnectResponse::default()
        }
    }
}

fn details(exec_id: &str) -> Any {
    let details = ProcessDetails {
        exec_id: exec_id.to_owned(),
        ..ProcessDetails::default()
    };
    Any {
        type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
        // One short string always fits.
        value: details.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}
