//! The daemon: its events, its restart.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Background, run, spawn};
use crate::inventory::processes;
use crate::wait::until;

/// The events that containerd publishes from now on.
#[derive(Debug)]
pub struct Events(Background);

impl Events {
    /// Subscribes.
    ///
    /// # Errors
    /// When `ctr` can't be run.
    pub fn subscribe() -> Result<Self> {
        let client = spawn(&["ctr", "events"])?;
        // There is no sign of the subscription, so an event of our own has to come through... which would take a
        // second client; ctr is up in some 30 ms.
        std::thread::sleep(Duration::from_millis(300));
        Ok(Self(client))
    }

    /// Ends the subscription and answers topic and payload of each event that names `id`; the container has to be gone.
    ///
    /// # Errors
    /// When the client does not end.
    pub fn of(self, id: &str) -> Result<Vec<(String, String)>> {
        // Shims hand their last events over while they end.
        std::thread::sleep(Duration::from_millis(600));
        self.0.signal(Signal::SIGKILL)?;
        let text = self.0.wait(Duration::from_secs(5))?.stdout;
        let named = text.lines().filter(|line| line.contains(&format!("\"{id}\"")));
        let parts = named.filter_map(|line| {
            let at = line.find(" /")?;
            let (topic, payload) = line[at + 1..].split_once(' ')?;
            Some((topic.to_owned(), payload.to_owned()))
        });
        Ok(parts.collect())
    }
}

/// Ends containerd and starts it anew.
///
/// # Errors
/// When it does not come back.
pub fn restart_containerd() -> Result<()> {
    let (pid, line) = processes()?
        .into_iter()
        .find(|(_, line)| line.starts_with("containerd --config"))
        .context("containerd does not run")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    until("the end of containerd", Duration::from_secs(10), || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
    })?;
    let log = OpenOptions::new()
        .append(true)
        .open("/run/containerd/containerd.log")?;
    // Not a child of ours, so that its end is collected by the lab's init.
    Command::new("setsid")
        .arg("--fork")
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    until("containerd", Duration::from_secs(15), || {
        Ok((run(&["ctr", "version"])?.code == 0).then_some(()))
    })
}
