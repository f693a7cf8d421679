//! Kill: a signal to a process or to all of a container.

use containerd_shim_protos::api::KillRequest;
use nix::libc;
use thaw_runc::Class;

use super::Shim;
use super::phase::Phase;
use super::refusal::Refusal;
use crate::sys;

impl Shim {
    pub(super) async fn kill(&self, request: &KillRequest) -> Result<(), Refusal> {
        let container = self.container(&request.id)?;
        let (pid, ended, phase) = {
            let mut state = container.state();
            let process = state.process(&request.exec_id)?;
            (process.pid, process.ended().is_some(), process.phase)
        };
        if phase == Phase::Deleted {
            return Err(Refusal::not_found("cannot kill a deleted process"));
        }
        if !request.exec_id.is_empty() {
            return kill_exec(pid, ended, request.signal);
        }
        if ended && !request.all {
            return Err(Refusal::not_found("process already finished"));
        }
        if may_end(request.signal)
            && let Some(watch) = container.state().watch.take()
        {
            watch.end(None);
        }
        // containerd closes its connection when it has heard of the exit and deleted the task. It must have heard of the
        // kill by then, or it takes that for failed: under the stock shim too the exit waits for the kill.
        container.state().kills += 1;
        let killed = container
            .runc
            .kill(&request.id, request.signal, request.all)
            .await;
        self.kill_done(&container);
        match killed {
            Ok(()) => Ok(()),
            Err(error) if error.class() == Class::Other => {
                Err(Refusal::runc("OCI runtime kill failed", &error))
            }
            Err(error) => Err(Refusal::not_found(error.detail())),
        }
    }
}

/// Not the signals that no program takes for a wish to end: whoever sends those goes on watching.
fn may_end(signal: u32) -> bool {
    const PASSED_ON: [i32; 4] = [0, libc::SIGCONT, libc::SIGWINCH, libc::SIGCHLD];
    !PASSED_ON
        .iter()
        .any(|harmless| harmless.cast_unsigned() == signal)
}

fn kill_exec(pid: i32, ended: bool, signal: u32) -> Result<(), Refusal> {
    if ended {
        return Err(Refusal::not_found("process already finished"));
    }
    if pid == 0 {
        return Err(Refusal::precondition("process not created"));
    }
    sys::kill(pid, signal).map_err(|error| {
        if error.raw_os_error() == Some(libc::ESRCH) {
            Refusal::not_found("process already finished")
        } else {
            Refusal::failure(&error)
        }
    })
}
