//! A container that Docker started.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Docker;
use crate::command::{Ran, ok};
use crate::compatibility::Way;
use crate::container::Outcome;
use crate::http;
use crate::wait::until;

/// One container; removed by its name when dropped.
#[derive(Debug)]
pub struct Docked<'a> {
    docker: &'a Docker,
    name: String,
    port: u16,
}

impl<'a> Docked<'a> {
    /// A guard for the container of this name, whether it is there yet or not.
    #[must_use]
    pub fn named(docker: &'a Docker, name: &str, port: u16) -> Self {
        Self {
            docker,
            name: name.to_owned(),
            port,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `docker inspect` says at this place (a JSON pointer).
    ///
    /// # Errors
    /// When there is no such container.
    pub fn inspect(&self, pointer: &str) -> Result<Value> {
        let text = self.docker.ok(&["inspect", "--type", "container", &self.name])?;
        let all: Value = serde_json::from_str(&text)?;
        Ok(all.pointer(&format!("/0{pointer}")).cloned().unwrap_or_default())
    }

    /// Its full id.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn id(&self) -> Result<String> {
        Ok(self.inspect("/Id")?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until `docker inspect` says `wanted` at this place.
    ///
    /// # Errors
    /// When it does not, with what it says.
    pub fn until(&self, pointer: &str, wanted: &Value) -> Result<()> {
        let mut last = Value::Null;
        let waited = until(
            &format!("{wanted} at {pointer} of {}", self.name),
            Docker::LIMIT,
            || {
                last = self.inspect(pointer)?;
                Ok((last == *wanted).then_some(()))
            },
        );
        waited.with_context(|| format!("it is {last}"))
    }

    /// Its address on the bridge.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let found = self.inspect("/NetworkSettings/Networks/bridge/IPAddress")?;
        let text = found.as_str().unwrap_or_default();
        text.parse()
            .with_context(|| format!("understand the address {text:?}"))
    }

    /// The body of an answer, through the port that is published on the loopback interface of the host.
    ///
    /// # Errors
    /// When there is no 200 in time.
    pub fn get(&self, path: &str) -> Result<String> {
        self.get_from(
            SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)),
            path,
            Docker::LIMIT,
        )
    }

    /// The body of an answer from this address, as the host sees it.
    ///
    /// # Errors
    /// When there is no 200 within `limit`.
    pub fn get_from(&self, from: SocketAddr, path: &str, limit: Duration) -> Result<String> {
        http::get(&self.docker.host(), from, path, limit)
    }

    /// The port that is published.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// When the client can't be run; a bad exit code is no error.
    pub fn exec(&self, words: &[&str]) -> Result<Ran> {
        self.docker.run(&[&["exec", &self.name], words].concat())
    }

    /// Runs a shell script in it that has to succeed, and answers its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.exec(&["sh", "-c", script])?.ok()
    }

    /// What Docker has logged of it: standard output, then standard error.
    ///
    /// # Errors
    /// When the client fails.
    pub fn log(&self) -> Result<String> {
        let ran = self.docker.run(&["logs", &self.name])?;
        Ok(format!("{}{}", ran.stdout, ran.stderr))
    }

    /// Kills its init from outside, as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn crash(&self) -> Result<()> {
        let pid = self.inspect("/State/Pid")?.as_i64().unwrap_or_default();
        let pid = i32::try_from(pid)?;
        if pid <= 0 {
            bail!("{} does not run", self.name);
        }
        Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?)
    }

    /// How it came up.
    ///
    /// # Errors
    /// When thaw does not know.
    pub fn outcome(&self) -> Result<Outcome> {
        let words = ["thaw", "--namespace", "moby", "explain", "-o", "json", &self.name];
        Ok(serde_json::from_str(&ok(&words)?)?)
    }

    /// Fails unless it was restored.
    ///
    /// # Errors
    /// With the reason why not.
    pub fn assert_restored(&self) -> Result<()> {
        self.assert_outcome("restored", "restored")
    }

    /// Fails unless it started cold for this reason.
    ///
    /// # Errors
    /// With the reason that it has.
    pub fn assert_cold(&self, reason: &str) -> Result<()> {
        self.assert_outcome("cold", reason)
    }

    /// Fails unless it came up in this way: cold, because there is no snapshot, or restored.
    ///
    /// # Errors
    /// With the reason that it has.
    pub fn assert_way(&self, way: Way) -> Result<()> {
        match way {
            Way::Cold => self.assert_cold("no_snapshot"),
            Way::Restored => self.assert_restored(),
        }
    }

    fn assert_outcome(&self, result: &str, reason: &str) -> Result<()> {
        let outcome = self.outcome()?;
        if outcome.result != result || outcome.reason != reason {
            bail!("{} should be {result} ({reason}), is {outcome:?}", self.name);
        }
        Ok(())
    }

    /// Takes a snapshot of it by its name.
    ///
    /// # Errors
    /// When it fails.
    pub fn capture(&self) -> Result<Value> {
        let words = ["thaw", "--namespace", "moby", "capture", "-o", "json", &self.name];
        Ok(serde_json::from_str(&ok(&words)?)?)
    }
}

impl Drop for Docked<'_> {
    fn drop(&mut self) {
        self.docker.run(&["rm", "--force", "--volumes", &self.name]).ok();
    }
}
