//! A kubelet as the client: what `hack/test-k8s` runs.

#[path = "kubernetes/life.rs"]
mod life;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use thaw_integration::{Cluster, FakeCriu, Pod, THAW, Way, cell, cell_moot, cell_refused, ok, until};

const CLIENT: &str = "Kubernetes";
/// The container of the example.
const REDMINE: &str = "redmine";
/// How often it is scaled with each runtime class.
const ROUNDS: u32 = 5;

/// Asks a URL, from the node, until it answers 200.
fn answers(url: &str) -> Result<()> {
    until(&format!("200 from {url}"), Duration::from_secs(60), || {
        let words = ["curl", "--silent", "--max-time", "10", "--output", "/dev/null"];
        let code = thaw_integration::run(&[&words[..], &["--write-out", "%{http_code}", url]].concat())?;
        Ok((code.stdout == "200").then_some(()))
    })
}

/// What holds for a pod of the example, however it came up.
fn works(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    let hostname = cluster.sh(pod, "hostname; cat /proc/sys/kernel/hostname")?;
    assert_eq!(hostname, format!("{0}\n{0}\n", pod.name));
    cell(CLIENT, "kubectl exec", way);
    let address = pod.address()?.to_owned();
    answers(&format!("http://{address}:3000/"))?;
    let hosts = cluster.sh(pod, "cat /etc/hosts")?;
    ensure!(
        hosts.contains(&address) && hosts.contains(&pod.name),
        "/etc/hosts is another pod's: {hosts}"
    );
    cell(CLIENT, "own hostname, address, /etc/hosts", way);

    assert_eq!(cluster.sh(pod, "cat /etc/app/settings/greeting")?, "hello");
    assert_eq!(cluster.sh(pod, "cat /etc/app/secret/password")?, "not-a-secret");
    cell(CLIENT, "ConfigMap and Secret volumes", way);
    let token = cluster.sh(
        pod,
        "cat /var/run/secrets/kubernetes.io/serviceaccount/token | cut -d. -f2",
    )?;
    let claims = format!("{}==", token.trim().replace('-', "+").replace('_', "/"));
    let claims = cluster.sh(pod, &format!("echo {claims} | base64 -d 2>/dev/null; true"))?;
    ensure!(claims.contains(&pod.name), "the token is another pod's: {claims}");
    cell(CLIENT, "projected service account token", way);
    cluster.sh(
        pod,
        "echo mine > /scratch/file && test -d /dev/shm && echo end > /dev/termination-log",
    )?;
    cell(CLIENT, "emptyDir, /dev/termination-log", way);

    let log = cluster.kubectl(&["logs", &pod.name])?;
    ensure!(log.contains("Completed 200"), "no request in the log: {log}");
    cell(CLIENT, "kubectl logs", way);
    Ok(())
}

fn service_of(cluster: &Cluster, name: &str) -> Result<String> {
    let words = ["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"];
    Ok(format!("http://{}/", cluster.kubectl(&words)?))
}

/// One Redmine becomes five: cold, captured, restored; then the same with containerd's own runtime.
#[test]
fn redmine_scales() -> Result<()> {
    let Some(cluster) = Cluster::enter("redmine_scales") else {
        return Ok(());
    };
    cluster.deploy(&[])?;
    cluster.rolled_out(REDMINE)?;
    let donor = cluster.pod(REDMINE)?;
    assert_eq!(cluster.outcome(&donor, REDMINE)?.reason, "no_snapshot");
    works(&cluster, &donor, Way::Cold)?;
    let service = service_of(&cluster, REDMINE)?;
    answers(&service)?;
    cell(CLIENT, "Service", Way::Cold);
    cluster.capture(&donor, REDMINE)?;
    cell(CLIENT, "thaw capture by pod and container name", Way::Cold);

    cluster.scale(REDMINE, 0)?;
    cluster.scale(REDMINE, 1)?;
    let first = cluster.pod(REDMINE)?;
    cluster.assert_restored(&first, REDMINE)?;
    works(&cluster, &first, Way::Restored)?;
    answers(&service)?;
    cell(CLIENT, "Service", Way::Restored);

    let thawed = cluster.time_scale(REDMINE, 5, ROUNDS)?;
    let pods = cluster.pods(REDMINE)?;
    for pod in &pods {
        cluster.assert_restored(pod, REDMINE)?;
        works(&cluster, pod, Way::Restored)?;
    }
    let addresses: BTreeSet<_> = pods.iter().filter_map(|pod| pod.address().ok()).collect();
    assert_eq!(addresses.len(), 5, "each pod has an address of its own");
    cell(CLIENT, "scale 0, 1, 5", Way::Restored);
    cluster.scale(REDMINE, 0)?;
    cluster.kubectl(&["delete", "deployment", REDMINE])?;

    let stock = scale_the_stock_runtime(&cluster)?;
    figure(thawed, stock)?;
    cluster.done()
}

fn scale_the_stock_runtime(cluster: &Cluster) -> Result<Vec<Duration>> {
    cluster
        .apply("{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: stock}, handler: runc}")?;
    cluster.deploy(&[("runtimeClassName: thaw", "runtimeClassName: stock")])?;
    cluster.rolled_out(REDMINE)?;
    let stock = cluster.time_scale(REDMINE, 5, ROUNDS)?;
    cluster.scale(REDMINE, 0)?;
    Ok(stock)
}

/// The figure of the README: both ways in one run, on one node.
fn figure(thawed: Vec<Duration>, stock: Vec<Duration>) -> Result<()> {
    let [(thawed, all_thawed), (stock, all_stock)] = [median(thawed), median(stock)];
    let times = stock.as_secs_f64() / thawed.as_secs_f64();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    print_figure(&format!(
        "Redmine from 1 to 5, all ready: {:.1} s with the stock runtime class, {:.1} s with thaw: {times:.1} times \
         sooner (medians of {all_stock} and {all_thawed} s, load {load})",
        stock.as_secs_f64(),
        thawed.as_secs_f64(),
    ));
    ensure!(times >= 8.0, "{times:.1} times sooner, but 8 were promised");
    Ok(())
}

/// The median, and all of them in seconds.
fn median(mut took: Vec<Duration>) -> (Duration, String) {
    took.sort_unstable();
    let all: Vec<_> = took
        .iter()
        .map(|one| format!("{:.1}", one.as_secs_f64()))
        .collect();
    (took[took.len() / 2], all.join(", "))
}

#[expect(clippy::print_stdout, reason = "hack/test-k8s repeats these lines at its end")]
fn print_figure(text: &str) {
    println!("FIGURE {text}");
}

/// What the README tells people to type.
#[test]
fn the_quick_start() -> Result<()> {
    let Some(cluster) = Cluster::enter("the_quick_start") else {
        return Ok(());
    };
    let printed = cluster.quick_start()?;
    let times = |words: &str| printed.matches(words).count();
    assert_eq!(
        (times("started cold"), times("was restored")),
        (1, 4),
        "{printed}"
    );
    cluster.done()
}

/// containerd takes both sample files: that of version 3 is the cluster's own, that of version 2 is migrated.
#[test]
fn containerd_takes_the_samples() -> Result<()> {
    let Some(cluster) = Cluster::enter("containerd_takes_the_samples") else {
        return Ok(());
    };
    for sample in ["containerd-v2.toml", "containerd-v3.toml"] {
        let path = format!("/src/config/examples/{sample}");
        let all = ok(&["containerd", "--config", &path, "config", "dump"])?;
        let (_, handler) = all
            .split_once("runtimes.thaw]")
            .ok_or_else(|| anyhow::anyhow!("{sample} brings no handler: {all}"))?;
        ensure!(handler.contains("io.containerd.thaw.v1"), "{sample}: {handler}");
        ensure!(handler.contains("thaw.dev/*"), "{sample}: {handler}");
    }
    cluster.done()
}

/// A server with a sidecar, whose Deployment is in `kubernetes/web.yaml`.
const WEB: &str = "web";

/// Starts the Deployment, cold.
fn donor_of(cluster: &Cluster) -> Result<Pod> {
    cluster.apply(include_str!("kubernetes/web.yaml"))?;
    cluster.rolled_out(WEB)?;
    cluster.pod(WEB)
}

/// The server of the pod came up in this way; nobody has captured it when it is cold.
fn assert_way(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    match way {
        Way::Cold => {
            let outcome = cluster.outcome(pod, WEB)?;
            ensure!(outcome.reason == "no_snapshot", "{outcome:?}");
            Ok(())
        }
        Way::Restored => cluster.assert_restored(pod, WEB).map(drop),
    }
}

/// Captures the server of the Deployment, and lets another pod take its place.
fn clone_of(cluster: &Cluster, donor: &Pod) -> Result<Pod> {
    cluster.capture(donor, WEB)?;
    cluster.scale(WEB, 0)?;
    cluster.scale(WEB, 1)?;
    let clone = cluster.pod(WEB)?;
    cluster.assert_restored(&clone, WEB)?;
    Ok(clone)
}

/// Waits for a pod that is ready and meets `condition`.
fn pod_that(cluster: &Cluster, what: &str, condition: impl Fn(&Pod) -> bool) -> Result<Pod> {
    until(what, Duration::from_secs(120), || {
        let pods = cluster.pods(WEB)?;
        Ok(pods.into_iter().find(|pod| pod.is_ready(WEB) && condition(pod)))
    })
}

/// Nobody calls `thaw capture`: annotations of the pod do.
#[test]
fn a_deployment_captures_itself() -> Result<()> {
    let Some(cluster) = Cluster::enter("a_deployment_captures_itself") else {
        return Ok(());
    };
    let labels = "      labels: { app: web }\n";
    let asked = "      annotations: { thaw.dev/capture: ready, \"thaw.dev/ready\": \"http:8000/healthz\" }\n";
    let manifest = include_str!("kubernetes/web.yaml").replace(labels, &format!("{labels}{asked}"));
    ensure!(
        manifest.contains(asked),
        "web.yaml has no labels to put annotations below"
    );
    cluster.apply(&manifest)?;
    cluster.rolled_out(WEB)?;
    let donor = cluster.pod(WEB)?;
    let note = format!("/run/thaw/k8s.io/{}/capture.json", cluster.id(&donor, WEB)?);
    let mut last = String::new();
    let published = until("the capture", Duration::from_secs(180), || {
        last = std::fs::read_to_string(&note).unwrap_or_default();
        Ok(last.contains("\"published\"").then_some(()))
    });
    published.with_context(|| format!("{note}: {last}"))?;
    cell(CLIENT, "capture by annotation when ready", Way::Cold);
    cluster.scale(WEB, 0)?;
    cluster.scale(WEB, 1)?;
    cluster.assert_restored(&cluster.pod(WEB)?, WEB)?;
    cell(CLIENT, "capture by annotation when ready", Way::Restored);
    cluster.done()
}

/// A snapshot of one Kubernetes namespace is nothing for another.
#[test]
fn tenants_do_not_share() -> Result<()> {
    let Some(cluster) = Cluster::enter("tenants_do_not_share") else {
        return Ok(());
    };
    let clone = clone_of(&cluster, &donor_of(&cluster)?)?;
    let manifest = cluster.lab.path("neighbour.yaml").display().to_string();
    std::fs::write(&manifest, include_str!("kubernetes/web.yaml"))?;
    let neighbour = Neighbour;
    ok(&["kubectl", "create", "namespace", "neighbour"])?;
    let kubectl = |words: &[&str]| ok(&[&["kubectl", "--namespace", "neighbour"], words].concat());
    kubectl(&["apply", "-f", &manifest])?;
    kubectl(&["rollout", "status", "deployment/web", "--timeout=50s"])?;
    let pod = kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let outcome = cluster.outcome_of(&format!("neighbour/{pod}/{WEB}"))?;
    assert_eq!(
        (outcome.result.as_str(), outcome.reason.as_str()),
        ("cold", "no_snapshot")
    );
    cluster.assert_restored(&clone, WEB)?;
    cell(CLIENT, "snapshot of another namespace", Way::Cold);
    cell_refused(
        CLIENT,
        "snapshot of another namespace",
        Way::Restored,
        "`no_snapshot`",
    );
    drop(neighbour);
    cluster.done()
}

/// A second namespace; removed when dropped.
struct Neighbour;

impl Drop for Neighbour {
    fn drop(&mut self) {
        let words = [
            "kubectl",
            "delete",
            "namespace",
            "neighbour",
            "--ignore-not-found",
            "--timeout=50s",
        ];
        thaw_integration::run(&words).ok();
    }
}

/// Each container of the pod is looked up by itself, and all are in the pod.
fn has_several(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    let pause = cluster.outcome_of(&cluster.id(pod, "")?)?;
    assert_eq!(pause.reason, "sandbox", "the pause container is never looked up");
    assert!(
        pause.stages.iter().all(|stage| stage.name != "lookup"),
        "{pause:?}"
    );
    assert_eq!(cluster.outcome(pod, "side")?.reason, "no_snapshot");
    assert_way(cluster, pod, way)?;
    for container in [WEB, "side"] {
        let hostname = cluster.sh_in(pod, container, "hostname")?;
        assert_eq!(hostname, format!("{}\n", pod.name));
    }
    cell(CLIENT, "several containers in one pod", way);
    Ok(())
}

/// The image of the pod's server has the key that it has when `ctr` runs it.
fn has_the_image_key_of_ctr(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    let ctr = ["ctr", "-n", "k8s.io"];
    let image = "localhost/thaw/python:latest";
    let words = [
        "run",
        "--detach",
        "--runtime",
        THAW,
        image,
        "by-ctr",
        "sleep",
        "100",
    ];
    ok(&[&ctr[..], &words].concat())?;
    let outcome = cluster.outcome_of("by-ctr");
    ok(&[&ctr[..], &["task", "delete", "--force", "by-ctr"]].concat())?;
    ok(&[&ctr[..], &["container", "delete", "by-ctr"]].concat())?;
    assert_eq!(cluster.outcome(pod, WEB)?.image_key()?, outcome?.image_key()?);
    cell(CLIENT, "image key as with ctr", way);
    Ok(())
}

/// Of the containers of a pod only the one with a snapshot is restored, and while it is, the others answer.
#[test]
fn containers_of_one_pod() -> Result<()> {
    let Some(cluster) = Cluster::enter("containers_of_one_pod") else {
        return Ok(());
    };
    let donor = donor_of(&cluster)?;
    has_several(&cluster, &donor, Way::Cold)?;
    has_the_image_key_of_ctr(&cluster, &donor, Way::Cold)?;
    let clone = clone_of(&cluster, &donor)?;
    has_several(&cluster, &clone, Way::Restored)?;
    has_the_image_key_of_ctr(&cluster, &clone, Way::Restored)?;

    cluster.lab.configure("deadlines.restore = \"120s\"")?;
    cluster.scale(WEB, 0)?;
    let slow = FakeCriu::new("sleep 15; exec $criu \"$@\"")?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=1"])?;
    let restoring = until("the sidecar next to a restore", Duration::from_secs(120), || {
        let pods = cluster.pods(WEB)?;
        let Some(pod) = pods.into_iter().next() else {
            return Ok(None);
        };
        let (side, web) = (cluster.id(&pod, "side"), cluster.id(&pod, WEB));
        Ok(side.is_ok().then_some(()).and(web.is_ok().then_some(pod)))
    })?;
    assert_eq!(cluster.sh(&restoring, "echo $((6 * 7))")?, "42\n");
    let side = cluster.id(&restoring, "side")?;
    ok(&["ctr", "-n", "k8s.io", "tasks", "list"])?;
    ok(&[
        "ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGCONT", &side,
    ])?;
    ensure!(
        cluster.outcome(&restoring, WEB).is_err(),
        "the restore was over before the sidecar had answered"
    );
    drop(slow);
    let restored = pod_that(&cluster, "the end of the slow restore", |pod| {
        pod.name == restoring.name
    })?;
    cluster.assert_restored(&restored, WEB)?;
    cell(CLIENT, "exec next to a restore", Way::Restored);
    cell_moot(CLIENT, "exec next to a restore", Way::Cold);
    cluster.done()
}
