//! A containerd beside the lab's.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::run;
use crate::inventory::processes;
use crate::wait::until;

/// A containerd, which goes on until it is ended.
#[derive(Debug)]
pub(super) struct Daemon {
    line: String,
    log: String,
    socket: String,
}

impl Daemon {
    pub(super) fn start(config: &str, log: &str, socket: &str) -> Result<Self> {
        let daemon = Self {
            line: format!("containerd --config {config}"),
            log: log.to_owned(),
            socket: socket.to_owned(),
        };
        daemon.begin()?;
        Ok(daemon)
    }

    pub(super) fn restart(&self) -> Result<()> {
        self.end()?;
        self.begin()
    }

    fn begin(&self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        // Not a child of ours, so that its end is collected by the lab's init.
        Command::new("setsid")
            .arg("--fork")
            .args(self.line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()?;
        until("containerd", Duration::from_secs(60), || {
            Ok((run(&["ctr", "--address", &self.socket, "version"])?.code == 0).then_some(()))
        })
    }

    pub(super) fn end(&self) -> Result<()> {
        let (pid, _) = processes()?
            .into_iter()
            .find(|(_, line)| line.trim_end() == self.line)
            .with_context(|| format!("{} does not run", self.line))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        until("the end of containerd", Duration::from_secs(30), || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
        })
    }
}
