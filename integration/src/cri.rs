//! containerd's CRI, asked as a kubelet asks it: a containerd of its own with the sample configuration, pods with a
//! CNI network, containers in them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use containerd_client::tonic::codegen::http::uri::PathAndQuery;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{self, client::Grpc};
use prost::Message;
use tokio::runtime::Runtime;
use tonic_prost::ProstCodec;

use crate::command::{ok, run};
use crate::container::Outcome;
use crate::run::full_name;
use crate::wait::until;

mod config;
mod daemon;
mod messages;
mod pod;

pub use config::ConfigVersion;
use daemon::Daemon;
pub use messages::ContainerStatus;
pub(crate) use messages::NAMESPACE_CONTAINER;
use messages::{
    Id, IdMapping, ImageSpec, LinuxPod, NamespaceOption, Nothing, OfImage, PodSandboxConfig,
    PodSandboxMetadata, RunPodSandboxRequest, SandboxSecurity, StatusResponse, UserNamespace,
};
pub use pod::{Containee, InPod, Pod};

/// Longer than anything takes that works.
const LIMIT: Duration = Duration::from_secs(120);
const FOLDER: &str = "/run/cri";
const SOCKET: &str = "/run/cri/containerd.sock";
/// The same, as CRI's clients are told.
pub(crate) const ENDPOINT: &str = "unix:///run/cri/containerd.sock";
/// Where the hooks of the handler `counted` write.
const HOOKS: &str = "/run/cri/hooks";
/// Kept for the life of the lab, for its images.
const ROOT: &str = "/var/lib/thaw/cri";
/// containerd's namespace for Kubernetes.
pub const KUBERNETES: &str = "k8s.io";

/// How many ids a pod with a user namespace gets, as from the kubelet.
pub const MAPPED: u32 = 65536;

const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "cri0", "isGateway": true, "ipMasq": false,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.66.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;

/// The daemon and a client of it; ended when dropped.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
    daemon: Daemon,
}

impl Cri {
    /// Starts it, with these images of the lab.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(version: ConfigVersion, images: &[&str]) -> Result<Self> {
        let config = format!("{FOLDER}/config.toml");
        fs::create_dir_all(format!("{FOLDER}/cni"))?;
        fs::write(format!("{FOLDER}/cni/10-pods.conflist"), NETWORK)?;
        fs::write(&config, version.text()?)?;
        write_counting_spec()?;
        let daemon = Daemon::start(&config, &format!("{FOLDER}/containerd.log"), SOCKET)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let connected = runtime.block_on(containerd_client::connect(SOCKET));
        let channel = connected.context("connect to containerd")?;
        let cri = Self {
            runtime,
            channel,
            daemon,
        };
        cri.wait_ready()?;
        for image in images.iter().chain(&["pause"]) {
            import(image)?;
        }
        Ok(cri)
    }

    /// Ends the daemon and starts it anew.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart(&self) -> Result<()> {
        self.daemon.restart()?;
        self.wait_ready()
    }

    fn wait_ready(&self) -> Result<()> {
        until("CRI", LIMIT, || {
            let asked = self.call::<_, StatusResponse>("Status", Nothing {});
            let conditions = asked.ok().and_then(|answer| answer.status);
            let conditions = conditions.map(|status| status.conditions).unwrap_or_default();
            // There are more, about settings that will go.
            let ready = |kind| conditions.iter().any(|one| one.kind == kind && one.status);
            Ok((ready("RuntimeReady") && ready("NetworkReady")).then_some(()))
        })
    }

    /// What the handler has said of user namespaces and of recursive read-only mounts, in this order: what a kubelet
    /// goes by. `None` when it was not asked.
    ///
    /// # Errors
    /// When containerd does not know the handler.
    pub fn features(&self, handler: &str) -> Result<Option<(bool, bool)>> {
        let answer: StatusResponse = self.call("Status", Nothing {})?;
        let found = answer.handlers.into_iter().find(|one| one.name == handler);
        let features = found.with_context(|| format!("no handler {handler}"))?.features;
        Ok(features.map(|known| (known.user_namespaces, known.recursive_read_only_mounts)))
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// When containerd can't.
    pub fn pull(&self, image: &str) -> Result<()> {
        let Id { id: _ } = self.call_of("ImageService", "PullImage", of_image(image))?;
        Ok(())
    }

    /// Removes an image.
    ///
    /// # Errors
    /// When containerd can't.
    pub fn remove(&self, image: &str) -> Result<()> {
        let Nothing {} = self.call_of("ImageService", "RemoveImage", of_image(image))?;
        Ok(())
    }

    /// A call of CRI's `RuntimeService`.
    fn call<Q, A>(&self, verb: &str, request: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.call_of("RuntimeService", verb, request)
    }

    fn call_of<Q, A>(&self, service: &str, verb: &str, request: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.{service}/{verb}"))?;
        let mut client = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            let asked = async {
                let ready = client.ready().await;
                ready.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
                let codec = ProstCodec::default();
                client.unary(tonic::Request::new(request), path, codec).await
            };
            let answer = tokio::time::timeout(LIMIT, asked).await;
            let answer = answer.with_context(|| format!("containerd does not answer {verb}"))?;
            let answer: tonic::Response<A> = answer.with_context(|| verb.to_owned())?;
            Ok(answer.into_inner())
        })
    }

    /// Runs a pod with a hostname, and a value of `kernel.msgmax` in its IPC namespace that no other pod has.
    ///
    /// # Errors
    /// When it does not start.
    pub fn pod(&self, name: &str, handler: &str, annotations: &[(&str, &str)]) -> Result<Pod<'_>> {
        let mut config = config_of(name)?;
        config.annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        if let Some(linux) = &mut config.linux {
            linux.sysctls = HashMap::from([("kernel.msgmax".to_owned(), msgmax(name).to_string())]);
        }
        self.run(config, handler)
    }

    /// Runs a pod with a user namespace, as the kubelet does it for `hostUsers: false`: its [`MAPPED`] ids begin with
    /// `first` on the host.
    ///
    /// # Errors
    /// When it does not start.
    pub fn pod_with_users(&self, name: &str, handler: &str, first: u32) -> Result<Pod<'_>> {
        let ids = vec![IdMapping {
            host_id: first,
            container_id: 0,
            length: MAPPED,
        }];
        let mut config = config_of(name)?;
        if let Some(security) = config
            .linux
            .as_mut()
            .and_then(|linux| linux.security_context.as_mut())
        {
            security.namespace_options = Some(NamespaceOption {
                userns_options: Some(UserNamespace {
                    uids: ids.clone(),
                    gids: ids,
                }),
                ..namespaces()
            });
        }
        self.run(config, handler)
    }

    fn run(&self, config: PodSandboxConfig, handler: &str) -> Result<Pod<'_>> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let Id { id } = self.call("RunPodSandbox", request)?;
        Ok(Pod::new(self, id, config))
    }

    /// `thaw capture -n k8s.io`.
    ///
    /// # Errors
    /// When it fails.
    pub fn capture(&self, container: &str) -> Result<()> {
        ok(&["thaw", "-n", KUBERNETES, "capture", container]).map(drop)
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        self.daemon.end().ok();
        fs::remove_dir_all(format!("{FOLDER}/logs")).ok();
        fs::remove_file(HOOKS).ok();
    }
}

/// What [`Cri::pod`] gives the pod of this name.
#[must_use]
pub fn msgmax(name: &str) -> usize {
    8192 + name.bytes().map(usize::from).sum::<usize>()
}

fn config_of(name: &str) -> Result<PodSandboxConfig> {
    let logs = PathBuf::from(format!("{FOLDER}/logs/{name}"));
    fs::create_dir_all(&logs)?;
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "default".to_owned(),
        }),
        hostname: name.to_owned(),
        log_directory: logs.display().to_string(),
        linux: Some(LinuxPod {
            security_context: Some(SandboxSecurity {
                namespace_options: Some(namespaces()),
            }),
            ..LinuxPod::default()
        }),
        ..PodSandboxConfig::default()
    })
}

fn of_image(name: &str) -> OfImage {
    OfImage {
        image: Some(ImageSpec {
            image: name.to_owned(),
        }),
    }
}

/// As of an ordinary pod: containers have pids of their own and share the rest.
fn namespaces() -> NamespaceOption {
    NamespaceOption {
        pid: NAMESPACE_CONTAINER,
        ..NamespaceOption::default()
    }
}

fn import(image: &str) -> Result<()> {
    let name = full_name(image);
    let ctr = ["ctr", "--address", SOCKET, "--namespace", KUBERNETES, "image"];
    let there = ok(&[&ctr[..], &["list", "--quiet"]].concat())?;
    if there.lines().any(|line| line == name) {
        return Ok(());
    }
    let folder = std::env::var("THAW_LAB_IMAGES").context("where are the images?")?;
    let archive = format!("{folder}/{image}.tar");
    ensure!(Path::new(&archive).exists(), "the lab has no image {image}");
    ok(&[&ctr[..], &["import", &archive]].concat())?;
    Ok(())
}

/// containerd's default spec with a hook at the beginning and one at the end of each container.
fn write_counting_spec() -> Result<()> {
    let mut spec: serde_json::Value = serde_json::from_str(&ok(&["ctr", "oci", "spec"])?)?;
    let hook = |phase: &str| {
        let script = format!("echo {phase} $(cat) >>{HOOKS}");
        serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    spec["hooks"] = serde_json::json!({"createRuntime": hook("create"), "poststop": hook("stop")});
    Ok(fs::write(format!("{FOLDER}/counted.json"), spec.to_string())?)
}

/// The states that the hooks of the handler `counted` were given for a container: `create` or `stop`, and the state.
///
/// # Errors
/// When what they wrote can't be read.
pub fn hooks_of(id: &str) -> Result<Vec<(String, serde_json::Value)>> {
    let text = fs::read_to_string(HOOKS).unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        let (phase, state) = line.split_once(' ').context("a line without a state")?;
        let state: serde_json::Value = serde_json::from_str(state)?;
        if state["id"] == id {
            found.push((phase.to_owned(), state));
        }
    }
    Ok(found)
}

/// How a container or sandbox of CRI came up.
///
/// # Errors
/// When thaw does not know.
pub fn outcome_of(id: &str) -> Result<Outcome> {
    let ran = run(&["thaw", "-n", KUBERNETES, "explain", "-o", "json", id])?;
    if ran.code != 0 {
        bail!("{}", ran.stderr);
    }
    Ok(serde_json::from_str(&ran.stdout)?)
}
