//! A kubelet as the client: what `hack/test-k8s` runs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use thaw_integration::{Cluster, Pod, Way, cell, ok, until};

const CLIENT: &str = "Kubernetes";
/// The container of the example.
const REDMINE: &str = "redmine";

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

    let thawed = cluster.scale(REDMINE, 5)?;
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

fn scale_the_stock_runtime(cluster: &Cluster) -> Result<Duration> {
    cluster
        .apply("{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: stock}, handler: runc}")?;
    cluster.deploy(&[("runtimeClassName: thaw", "runtimeClassName: stock")])?;
    cluster.rolled_out(REDMINE)?;
    let stock = cluster.scale(REDMINE, 5)?;
    cluster.scale(REDMINE, 0)?;
    Ok(stock)
}

/// The figure of the README: both ways in one run, on one node.
fn figure(thawed: Duration, stock: Duration) -> Result<()> {
    let times = stock.as_secs_f64() / thawed.as_secs_f64();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    print_figure(&format!(
        "Redmine from 1 to 5, all ready: {:.1} s with the stock runtime class, {:.1} s with thaw: {times:.1} times \
         sooner (load {load})",
        stock.as_secs_f64(),
        thawed.as_secs_f64(),
    ));
    ensure!(times >= 8.0, "{times:.1} times sooner, but 8 were promised");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "hack/test-k8s repeats these lines at its end")]
fn print_figure(text: &str) {
    println!("FIGURE {text}");
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
