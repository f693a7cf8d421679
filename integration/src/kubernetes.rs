//! The cluster of `hack/test-k8s`, as one test sees it: a namespace of its own, driven by `kubectl`.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::command::{ok, run, run_within};
use crate::container::Outcome;
use crate::inventory::processes;
use crate::lab::{Lab, skip};
use crate::wait::until;

mod api;

use api::Api;

/// Long enough for a cold Redmine next to four others, on a machine that has more to do.
const LIMIT: Duration = Duration::from_secs(300);
/// containerd's namespace of everything that the kubelet starts.
const NAMESPACE: &str = "k8s.io";
/// The files of `config/examples`, as a user has them.
const EXAMPLES: &str = "/src/config/examples";

/// A namespace of the cluster, and the lab around it.
#[derive(Debug)]
pub struct Cluster {
    /// Store and configuration.
    pub lab: Lab,
    namespace: String,
}

/// A pod, as the API server describes it.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name, which is its hostname.
    pub name: String,
    description: Value,
}

impl Cluster {
    /// Makes the namespace, or says that `name` is skipped because there is no cluster.
    ///
    /// # Panics
    /// When the cluster can't be used.
    #[must_use]
    pub fn enter(name: &str) -> Option<Self> {
        if std::env::var_os("THAW_TEST_KUBERNETES").is_none() {
            skip(name, "no cluster, see hack/test-k8s");
            return None;
        }
        let lab = Lab::enter(name)?;
        let namespace = name.replace('_', "-");
        let made = Self { lab, namespace };
        let class = format!("{EXAMPLES}/kubernetes-runtimeclass.yaml");
        let prepared = ok(&["kubectl", "create", "namespace", &made.namespace])
            .and_then(|_| {
                ok(&[
                    "kubectl",
                    "label",
                    "node",
                    "lab",
                    "--overwrite",
                    "thaw.dev/ready=true",
                ])
            })
            .and_then(|_| ok(&["kubectl", "apply", "-f", &class]));
        prepared.unwrap_or_else(|error| panic!("prepare the cluster: {error:#}"));
        Some(made)
    }

    /// Runs `kubectl` in the namespace and answers its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        run_within(LIMIT, &self.line(words))?.ok()
    }

    /// The command line of `kubectl` in the namespace.
    #[must_use]
    pub fn line<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&["kubectl", "--namespace", &self.namespace], words].concat()
    }

    /// Applies the Deployment of `config/examples` and what belongs to it, after these replacements. The cluster knows
    /// the lab's Redmine by the name of the image.
    ///
    /// # Errors
    /// When one of them is not in the file, and when `kubectl` fails.
    pub fn deploy(&self, replacements: &[(&str, &str)]) -> Result<()> {
        let mut text = fs::read_to_string(format!("{EXAMPLES}/kubernetes-deployment.yaml"))?;
        for (from, to) in replacements {
            ensure!(text.contains(from), "the example does not say {from:?}");
            text = text.replace(from, to);
        }
        self.apply(&text)
    }

    /// Runs the lines for a cluster that are in the README, and answers what they print.
    ///
    /// # Errors
    /// When one of them fails, or the README has none.
    pub fn quick_start(&self) -> Result<String> {
        let readme = fs::read_to_string("/src/README.md")?;
        let (_, after) = readme
            .split_once("`hack/test-k8s` runs these lines")
            .context("the README has no lines for Kubernetes")?;
        let (_, block) = after.split_once("```sh\n").context("no block of lines")?;
        let (lines, _) = block.split_once("```").context("no end of the lines")?;
        // They name no namespace, so it is the one of the context.
        let config = self.lab.path("kubeconfig").display().to_string();
        let own = ok(&["kubectl", "config", "view", "--raw", "--flatten"])?;
        fs::write(&config, own)?;
        let namespace = format!("--namespace={}", self.namespace);
        ok(&[
            "kubectl",
            "--kubeconfig",
            &config,
            "config",
            "set-context",
            "--current",
            &namespace,
        ])?;
        let environment = format!("KUBECONFIG={config}");
        run_within(
            LIMIT,
            &[
                "env",
                "-C",
                "/src",
                &environment,
                "bash",
                "-euo",
                "pipefail",
                "-c",
                lines,
            ],
        )?
        .ok()
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// When `kubectl` fails.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let path = self.lab.path("manifest.yaml").display().to_string();
        fs::write(&path, manifest)?;
        self.kubectl(&["apply", "-f", &path]).map(drop)
    }

    /// Scales a Deployment, waits until all its pods are ready (or gone), and answers how long that took.
    ///
    /// # Errors
    /// When they don't become so.
    pub fn scale(&self, deployment: &str, replicas: u32) -> Result<Duration> {
        let target = format!("deployment/{deployment}");
        let begin = Instant::now();
        self.kubectl(&["scale", &target, &format!("--replicas={replicas}")])?;
        self.rolled_out(deployment)?;
        let took = begin.elapsed();
        until(&format!("{replicas} pods"), LIMIT, || {
            Ok((self.pods(deployment)?.len() == replicas as usize).then_some(()))
        })?;
        Ok(took)
    }

    /// How long a Deployment of one pod takes to become `replicas` that are ready: once for each of `rounds`.
    ///
    /// The kubelet looks once a second what has started, so the rounds begin in even parts of that second.
    ///
    /// # Errors
    /// As [`Cluster::scale`].
    pub fn time_scale(&self, deployment: &str, replicas: u32, rounds: u32) -> Result<Vec<Duration>> {
        let api = Api::start(self.lab.path("api"))?;
        let mut took = Vec::new();
        for round in 0..rounds {
            self.scale(deployment, 1)?;
            std::thread::sleep(Duration::from_secs(1) * round / rounds);
            took.push(api.scale(&self.namespace, deployment, replicas, LIMIT)?);
        }
        Ok(took)
    }

    /// Waits until all pods of a Deployment are ready.
    ///
    /// # Errors
    /// When they don't become so, with what the cluster says of them.
    pub fn rolled_out(&self, deployment: &str) -> Result<()> {
        let target = format!("deployment/{deployment}");
        let waited = self.kubectl(&["rollout", "status", &target, "--timeout=280s"]);
        if let Err(error) = waited {
            let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp"])?;
            return Err(error.context(format!("the events of {}:\n{events}", self.namespace)));
        }
        Ok(())
    }

    /// The pods of a Deployment, also those that are about to end.
    ///
    /// # Errors
    /// When `kubectl` fails.
    pub fn pods(&self, app: &str) -> Result<Vec<Pod>> {
        let selector = format!("--selector=app={app}");
        let list: Value = serde_json::from_str(&self.kubectl(&["get", "pods", &selector, "-o", "json"])?)?;
        let items = list["items"].as_array().context("a list of pods")?;
        items.iter().map(Pod::new).collect()
    }

    /// The only pod of a Deployment.
    ///
    /// # Errors
    /// When it has none or several.
    pub fn pod(&self, app: &str) -> Result<Pod> {
        match <[Pod; 1]>::try_from(self.pods(app)?) {
            Ok([pod]) => Ok(pod),
            Err(pods) => bail!("{app} has {} pods", pods.len()),
        }
    }

    /// The id that containerd knows a pod's container by; the pause container has the name "".
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn id(&self, pod: &Pod, container: &str) -> Result<String> {
        let kind = if container.is_empty() {
            r#"labels."io.cri-containerd.kind"==sandbox"#.to_owned()
        } else {
            format!(r#"labels."io.kubernetes.container.name"=={container}"#)
        };
        let filter = format!(r#"{kind},labels."io.kubernetes.pod.name"=={}"#, pod.name);
        let list = ok(&["ctr", "-n", NAMESPACE, "containers", "list", "--quiet", &filter])?;
        match list.lines().collect::<Vec<_>>().as_slice() {
            [id] => Ok((*id).to_owned()),
            ids => bail!("{}/{container} has {} ids", pod.name, ids.len()),
        }
    }

    /// Runs a shell script in a pod's first container that has to succeed, and answers its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn sh(&self, pod: &Pod, script: &str) -> Result<String> {
        self.kubectl(&["exec", "--quiet", &pod.name, "--", "sh", "-c", script])
    }

    /// As [`Cluster::sh`] in the container of this name.
    ///
    /// # Errors
    /// As [`Cluster::sh`].
    pub fn sh_in(&self, pod: &Pod, container: &str, script: &str) -> Result<String> {
        self.kubectl(&["exec", "-c", container, &pod.name, "--", "sh", "-c", script])
    }

    /// `thaw capture` of a pod's container, by the names that Kubernetes gave them.
    ///
    /// # Errors
    /// When it fails.
    pub fn capture(&self, pod: &Pod, container: &str) -> Result<Value> {
        let name = self.full_name(pod, container);
        let words = ["thaw", "-n", NAMESPACE, "capture", "-o", "json", &name];
        Ok(serde_json::from_str(&run_within(LIMIT, &words)?.ok()?)?)
    }

    /// How a pod's container came up.
    ///
    /// # Errors
    /// When thaw does not know.
    pub fn outcome(&self, pod: &Pod, container: &str) -> Result<Outcome> {
        self.outcome_of(&self.full_name(pod, container))
    }

    /// How the container of this id came up.
    ///
    /// # Errors
    /// When thaw does not know.
    pub fn outcome_of(&self, id: &str) -> Result<Outcome> {
        let words = ["thaw", "-n", NAMESPACE, "explain", "-o", "json", id];
        Ok(serde_json::from_str(&ok(&words)?)?)
    }

    /// Fails unless the pod's container was restored.
    ///
    /// # Errors
    /// With the reason why not.
    pub fn assert_restored(&self, pod: &Pod, container: &str) -> Result<Outcome> {
        let outcome = self.outcome(pod, container)?;
        if outcome.result != "restored" {
            bail!(
                "{}/{container} started cold: {}: {}",
                pod.name,
                outcome.reason,
                outcome.detail
            );
        }
        Ok(outcome)
    }

    fn full_name(&self, pod: &Pod, container: &str) -> String {
        format!("{}/{}/{container}", self.namespace, pod.name)
    }

    /// Removes everything that is in the namespace, and fails with what is left of it on the node.
    ///
    /// # Errors
    /// The list.
    pub fn done(self) -> Result<()> {
        self.kubectl(&["delete", "namespace", &self.namespace, "--timeout=280s"])?;
        let mut last = Vec::new();
        let waited = until("an empty node", Duration::from_secs(60), || {
            last = leftovers()?;
            Ok(last.is_empty().then_some(()))
        });
        waited.with_context(|| format!("left behind:\n  {}", last.join("\n  ")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a failure the next test should find an empty node; this one's error is the one to tell.
        run(&[
            "kubectl",
            "delete",
            "namespace",
            &self.namespace,
            "--ignore-not-found",
        ])
        .ok();
    }
}

impl Pod {
    fn new(description: &Value) -> Result<Self> {
        let name = description["metadata"]["name"].as_str();
        Ok(Self {
            name: name.context("a pod without a name")?.to_owned(),
            description: description.clone(),
        })
    }

    /// Its address.
    ///
    /// # Errors
    /// When it has none yet.
    pub fn address(&self) -> Result<&str> {
        self.description["status"]["podIP"]
            .as_str()
            .with_context(|| format!("{} has no address", self.name))
    }

    /// How often a container of it was started anew.
    #[must_use]
    pub fn restarts(&self, container: &str) -> u64 {
        self.status(container)["restartCount"]
            .as_u64()
            .unwrap_or_default()
    }

    /// Whether a container of it is ready.
    #[must_use]
    pub fn is_ready(&self, container: &str) -> bool {
        self.status(container)["ready"] == true
    }

    /// What the kubelet says of a container.
    #[must_use]
    pub fn status(&self, container: &str) -> &Value {
        let statuses = self.description["status"]["containerStatuses"].as_array();
        let found = statuses.and_then(|all| all.iter().find(|status| status["name"] == container));
        found.unwrap_or(&Value::Null)
    }
}

/// What pods may leave behind: processes, mounts, cgroups, records, containers and their root filesystems.
fn leftovers() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let shims = processes()?
        .into_iter()
        .filter(|(_, line)| line.contains("containerd-shim-") || line.contains("criu"));
    found.extend(shims.map(|(pid, line)| format!("process {pid} {line}")));
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let path = line.split(' ').nth(4).unwrap_or_default();
        if ["/run/netns/", "/run/containerd/io.", "/var/lib/kubelet/pods/"]
            .iter()
            .any(|start| path.starts_with(start))
        {
            found.push(format!("mount {path}"));
        }
    }
    let cgroups = ok(&[
        "find",
        "/sys/fs/cgroup",
        "-type",
        "d",
        "-path",
        "*/kubepods/*/pod*",
    ])?;
    found.extend(cgroups.lines().map(|path| format!("cgroup {path}")));
    for folder in [
        "/run/thaw/k8s.io",
        "/run/containerd/runc/k8s.io",
        "/run/netns",
        "/run/containerd/s",
    ] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("file {}", entry.path().display())));
    }
    let containers = ok(&["ctr", "-n", NAMESPACE, "containers", "list", "-q"])?;
    found.extend(containers.lines().map(|id| format!("container {id}")));
    let snapshots = ok(&["ctr", "-n", NAMESPACE, "snapshots", "list"])?;
    let active = snapshots.lines().filter(|line| line.contains("Active"));
    found.extend(active.map(|line| format!("snapshot {line}")));
    Ok(found)
}
