//! Ending a daemon of the lab, and starting it anew as it was.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::run;
use crate::inventory::processes;
use crate::wait::until;

/// Ends containerd and starts it anew.
///
/// # Errors
/// When it does not come back.
pub fn restart_containerd() -> Result<()> {
    restart_containerd_under(&[])
}

/// As [`restart_containerd`], with the words of another program in front, which runs it.
///
/// # Errors
/// When it does not come back.
pub fn restart_containerd_under(prefix: &[&str]) -> Result<()> {
    restart("containerd --config", "/run/containerd/containerd.log", prefix)?;
    until("containerd", Duration::from_secs(60), || {
        Ok((run(&["ctr", "version"])?.code == 0).then_some(()))
    })
}

/// Ends the kubelet of `hack/test-k8s` and starts it anew.
///
/// # Errors
/// When it does not come back.
pub fn restart_kubelet() -> Result<()> {
    restart("kubelet --config", "/run/cluster/kubelet.log", &[])?;
    until("the kubelet", Duration::from_secs(120), || {
        let healthy = run(&["curl", "--silent", "--fail", "http://127.0.0.1:10248/healthz"])?;
        Ok((healthy.code == 0).then_some(()))
    })
}

/// kill -9 of the shim of the container with this id.
///
/// # Errors
/// When there is none.
pub fn kill_shim_of(id: &str) -> Result<()> {
    let named = format!("-id {id} ");
    let (shim, _) = processes()?
        .into_iter()
        .find(|(_, line)| line.contains("containerd-shim-") && line.contains(&named))
        .with_context(|| format!("{id} has no shim"))?;
    Ok(kill(Pid::from_raw(shim), Signal::SIGKILL)?)
}

/// Ends the daemon whose command line begins so, and starts the same line again, behind the words of `prefix`.
fn restart(beginning: &str, log: &str, prefix: &[&str]) -> Result<()> {
    let (pid, line) = processes()?
        .into_iter()
        .find(|(_, line)| line.starts_with(beginning))
        .with_context(|| format!("{beginning} does not run"))?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    until(
        &format!("the end of {beginning}"),
        Duration::from_secs(60),
        || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
        },
    )?;
    let log = OpenOptions::new().append(true).open(log)?;
    // Not a child of ours, so that its end is collected by the lab's init.
    Command::new("setsid")
        .arg("--fork")
        .args(prefix)
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    Ok(())
}
