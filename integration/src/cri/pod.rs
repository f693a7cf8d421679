//! Pods and the containers in them.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::messages::{
    ContainerConfig, ContainerMetadata, ContainerSecurity, ContainerStatsResponse, ContainerStatus,
    ContainerStatusResponse, CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, Id, ImageSpec,
    KeyValue, LinuxContainer, NamespaceOption, Nothing, PodSandboxConfig, PodSandboxStatusResponse,
    Resources, StopContainerRequest,
};
use super::{Cri, KUBERNETES, LIMIT, SOCKET, outcome_of};
use crate::command::{Ran, ok};
use crate::container::Outcome;
use crate::run::full_name;
use crate::wait::until;

/// A pod; removed when dropped.
#[derive(Debug)]
pub struct Pod<'a> {
    cri: &'a Cri,
    id: String,
    config: PodSandboxConfig,
}

/// What to run in a pod.
#[derive(Debug, Clone, Default)]
pub struct Containee {
    /// Its name in the pod.
    pub name: &'static str,
    /// Image of the lab, or the whole name of any.
    pub image: &'static str,
    /// Another command than the image's.
    pub command: Vec<&'static str>,
    /// Environment.
    pub env: Vec<(&'static str, &'static str)>,
    /// Limit of its memory in bytes; 0: none.
    pub memory: i64,
}

impl<'a> Pod<'a> {
    pub(super) fn new(cri: &'a Cri, id: String, config: PodSandboxConfig) -> Self {
        Self { cri, id, config }
    }

    /// Id of its sandbox.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its address.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self) -> Result<IpAddr> {
        let id = Id { id: self.id.clone() };
        let answer: PodSandboxStatusResponse = self.cri.call("PodSandboxStatus", id)?;
        let network = answer.status.and_then(|status| status.network);
        Ok(network.context("a pod without network")?.ip.parse()?)
    }

    /// A container gets the namespaces of its pod.
    fn namespaces(&self) -> Option<NamespaceOption> {
        let linux = self.config.linux.as_ref()?;
        linux.security_context.as_ref()?.namespace_options.clone()
    }

    fn config_of(&self, what: &Containee) -> ContainerConfig {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: what.name.to_owned(),
            }),
            image: Some(ImageSpec {
                image: full_name(what.image),
            }),
            command: words(&what.command),
            envs: what
                .env
                .iter()
                .map(|(key, value)| KeyValue {
                    key: (*key).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
            log_path: format!("{}.log", what.name),
            linux: Some(LinuxContainer {
                resources: Some(Resources {
                    memory_limit_in_bytes: what.memory,
                }),
                security_context: Some(ContainerSecurity {
                    namespace_options: self.namespaces(),
                }),
            }),
        }
    }

    /// Creates a container in it and starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn run(&self, what: &Containee) -> Result<InPod<'a>> {
        let config = self.config_of(what);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let Id { id } = self.cri.call("CreateContainer", request)?;
        let made = InPod {
            cri: self.cri,
            id,
            log: PathBuf::from(&self.config.log_directory).join(format!("{}.log", what.name)),
        };
        let id = Id { id: made.id.clone() };
        let Nothing {} = self.cri.call("StartContainer", id)?;
        Ok(made)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        for verb in ["StopPodSandbox", "RemovePodSandbox"] {
            let id = Id { id: self.id.clone() };
            self.cri.call::<_, Nothing>(verb, id).ok();
        }
    }
}

/// A container in a pod. It goes with its pod.
#[derive(Debug)]
pub struct InPod<'a> {
    cri: &'a Cri,
    id: String,
    log: PathBuf,
}

impl InPod<'_> {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Pid of its init.
    ///
    /// # Errors
    /// When it has none.
    pub fn pid(&self) -> Result<i32> {
        let list = ok(&[
            "ctr",
            "--address",
            SOCKET,
            "--namespace",
            KUBERNETES,
            "task",
            "list",
        ])?;
        let line = list.lines().find(|line| line.starts_with(&self.id));
        let pid = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(pid.with_context(|| format!("{} has no task", self.id))?.parse()?)
    }

    /// How it came up, as `thaw explain` tells.
    ///
    /// # Errors
    /// When thaw does not know.
    pub fn outcome(&self) -> Result<Outcome> {
        outcome_of(&self.id)
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// When containerd refuses; a bad exit code is no error.
    pub fn exec(&self, words: &[&str]) -> Result<Ran> {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: words.iter().map(|&word| word.to_owned()).collect(),
            timeout: 60,
        };
        let answer: ExecSyncResponse = self.cri.call("ExecSync", request)?;
        Ok(Ran {
            line: words.join(" "),
            code: answer.exit_code,
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// Its log, in CRI's format.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// What it uses: CPU time in nanoseconds, and its working set in bytes.
    ///
    /// # Errors
    /// When containerd does not know.
    pub fn stats(&self) -> Result<(u64, u64)> {
        let id = Id { id: self.id.clone() };
        let answer: ContainerStatsResponse = self.cri.call("ContainerStats", id)?;
        let stats = answer.stats.context("no stats")?;
        let [cpu, memory] = [stats.cpu, stats.memory].map(|usage| usage.and_then(|usage| usage.value));
        Ok((
            cpu.context("no CPU time")?.value,
            memory.context("no memory")?.value,
        ))
    }

    /// Its status.
    ///
    /// # Errors
    /// When containerd does not know.
    pub fn status(&self) -> Result<ContainerStatus> {
        let id = Id { id: self.id.clone() };
        let answer: ContainerStatusResponse = self.cri.call("ContainerStatus", id)?;
        answer.status.context("no status")
    }

    /// Waits for its end, and answers exit code and reason.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&self) -> Result<(i32, String)> {
        until("the end of a container", LIMIT, || {
            let status = self.status()?;
            Ok((status.finished_at > 0).then_some((status.exit_code, status.reason)))
        })
    }

    /// Stops it: its stop signal, and SIGKILL after `grace` seconds.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&self, grace: i64) -> Result<()> {
        let request = StopContainerRequest {
            container_id: self.id.clone(),
            timeout: grace,
        };
        let Nothing {} = self.cri.call("StopContainer", request)?;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// When containerd refuses.
    pub fn remove(&self) -> Result<()> {
        let id = Id { id: self.id.clone() };
        let Nothing {} = self.cri.call("RemoveContainer", id)?;
        Ok(())
    }
}
