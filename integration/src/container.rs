//! A container, started by `ctr` and removed by its exact id.

use std::cell::Cell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::cgroup::unified;
use crate::command::{Ran, ok, run};
use crate::http;
use crate::wait::until;

/// Long enough for anything that works, on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

/// How a container came up: what `thaw explain -o json` prints.
#[derive(Debug, Clone, Deserialize)]
pub struct Outcome {
    /// `restored` or `cold`.
    pub result: String,
    /// Stable code.
    pub reason: String,
    /// The deciding fact.
    pub detail: String,
    /// What it was looked up by, as its path in the store.
    #[serde(default)]
    pub key: Option<String>,
    /// Snapshot that was restored or tried.
    pub snapshot: Option<String>,
    /// Bytes moved, by kind.
    pub bytes: Value,
    /// Stages with their milliseconds.
    pub stages: Vec<Stage>,
}

impl Outcome {
    /// What stands for the image in the key.
    ///
    /// # Errors
    /// When the container was not looked up.
    pub fn image_key(&self) -> Result<String> {
        let key = self.key.as_deref().with_context(|| format!("no key: {self:?}"))?;
        Ok(key.split('/').nth(4).unwrap_or_default().to_owned())
    }
}

/// One stage of a boot.
#[derive(Debug, Clone, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
}

/// A container; its task and record are removed when dropped.
#[derive(Debug)]
pub struct Container {
    id: String,
    log: Option<PathBuf>,
    execs: Cell<u32>,
}

impl Container {
    /// A guard for the container of this id, whether it is there yet or not.
    #[must_use]
    pub fn named(id: &str, log: Option<PathBuf>) -> Self {
        Self {
            id: id.to_owned(),
            log,
            execs: Cell::new(0),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Pid of its init and the status, as containerd tells them.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn task(&self) -> Result<Option<(i32, String)>> {
        let list = ok(&["ctr", "task", "list"])?;
        let fields = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = fields
            .into_iter()
            .find(|fields| fields.first() == Some(&self.id.as_str()));
        found
            .map(|fields| Ok((fields[1].parse()?, fields[2].to_owned())))
            .transpose()
    }

    /// Pid of its init.
    ///
    /// # Errors
    /// When it has no task.
    pub fn pid(&self) -> Result<i32> {
        Ok(self
            .task()?
            .with_context(|| format!("{} has no task", self.id))?
            .0)
    }

    /// `RUNNING`, `STOPPED`, `PAUSED`; empty when there is no task.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn status(&self) -> Result<String> {
        Ok(self.task()?.map(|(_, status)| status).unwrap_or_default())
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// When it has no task.
    pub fn netns(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/ns/net", self.pid()?)))
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// When `ctr` can't be run; a bad exit code is no error.
    pub fn exec(&self, words: &[&str]) -> Result<Ran> {
        self.execs.set(self.execs.get() + 1);
        let name = format!("exec-{}", self.execs.get());
        let mut line = vec!["ctr", "task", "exec", "--exec-id", &name, &self.id];
        line.extend(words);
        run(&line)
    }

    /// Runs a shell script in it that has to succeed, and answers its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.exec(&["sh", "-c", script])?.ok()
    }

    /// How it came up.
    ///
    /// # Errors
    /// When thaw does not know.
    pub fn outcome(&self) -> Result<Outcome> {
        Ok(serde_json::from_str(&ok(&[
            "thaw", "explain", "-o", "json", &self.id,
        ])?)?)
    }

    /// The outcome as the shim has written it down, without what a store says to it.
    ///
    /// # Errors
    /// When there is no record.
    pub fn recorded(&self) -> Result<Outcome> {
        let path = format!("/run/thaw/default/{}/outcome.json", self.id);
        let text = fs::read(&path).with_context(|| path)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Fails unless it was restored.
    ///
    /// # Errors
    /// With the reason why not.
    pub fn assert_restored(&self) -> Result<Outcome> {
        let outcome = self.outcome()?;
        if outcome.result != "restored" {
            bail!("{} started cold: {}: {}", self.id, outcome.reason, outcome.detail);
        }
        Ok(outcome)
    }

    /// Fails unless it started cold for this reason.
    ///
    /// # Errors
    /// With the reason that it has.
    pub fn assert_cold(&self, reason: &str) -> Result<Outcome> {
        let outcome = self.outcome()?;
        if outcome.result != "cold" || outcome.reason != reason {
            bail!("{} should be cold for {reason}, is {outcome:?}", self.id);
        }
        Ok(outcome)
    }

    /// What it has printed.
    ///
    /// # Errors
    /// When its log can't be read.
    pub fn log(&self) -> Result<String> {
        let path = self.log.as_ref().context("its output goes to a client")?;
        Ok(fs::read_to_string(path)?)
    }

    /// Sends its init a signal.
    ///
    /// # Errors
    /// What containerd says.
    pub fn kill(&self, signal: &str) -> Result<()> {
        ok(&["ctr", "task", "kill", "--signal", signal, &self.id]).map(drop)
    }

    /// Waits for its end, removes the task and answers the exit code.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&self) -> Result<i32> {
        until(&format!("the end of {}", self.id), LIMIT, || {
            Ok((self.status()? == "STOPPED").then_some(()))
        })?;
        let ran = run(&["ctr", "task", "delete", &self.id])?;
        // It answers 0 and tells the code in a warning.
        let told = ran.stderr.split("non-zero exit code ").nth(1);
        let digits = told.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        let code = digits.map_or(Ok(0), str::parse)?;
        ran.ok()?;
        Ok(code)
    }

    /// A file of its cgroup, under cgroup v1 of that of the controller.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn cgroup_file(&self, controller: &str, name: &str) -> Result<String> {
        let hierarchy = if unified() { "." } else { controller };
        let path = format!("/sys/fs/cgroup/{hierarchy}/default/{}/{name}", self.id);
        Ok(fs::read_to_string(&path)
            .with_context(|| format!("read {path}"))?
            .trim()
            .to_owned())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        run(&["ctr", "task", "delete", "--force", &self.id]).ok();
        run(&["ctr", "container", "delete", &self.id]).ok();
        if let Some(log) = &self.log {
            fs::remove_file(log).ok();
        }
    }
}

/// A container of the Python server.
#[derive(Debug)]
pub struct Python {
    /// The container.
    pub container: Container,
    netns: PathBuf,
}

impl Python {
    /// Waits until the server in `container` answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn ready(container: Container) -> Result<Self> {
        let netns = container.netns()?;
        let python = Self { container, netns };
        python
            .get("/healthz")
            .with_context(|| format!("log: {:?}", python.container.log()))?;
        Ok(python)
    }

    /// The body of an answer.
    ///
    /// # Errors
    /// When there is no 200 in time.
    pub fn get(&self, path: &str) -> Result<String> {
        http::get(
            &self.netns,
            SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            path,
            LIMIT,
        )
    }

    /// What the server knows of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn state(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("/")?)?)
    }
}
