//! What happens to a pod in its life, cold and restored.

use std::time::Duration;

use anyhow::{Result, ensure};
use thaw_integration::{Cluster, Pod, Way, cell, restart_containerd, restart_kubelet, spawn, until};

use super::{CLIENT, WEB, answers, assert_way, clone_of, donor_of, pod_that};

/// Files go in and out, a port is forwarded.
fn moves_data(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    let (out, back) = (cluster.lab.path("out"), cluster.lab.path("back"));
    std::fs::write(&out, "by kubectl cp")?;
    let inside = format!("{}:/tmp/copied", pod.name);
    let (out, back) = (out.display().to_string(), back.display().to_string());
    cluster.kubectl(&["cp", "-c", WEB, &out, &inside])?;
    cluster.kubectl(&["cp", "-c", WEB, &inside, &back])?;
    assert_eq!(std::fs::read_to_string(&back)?, "by kubectl cp");
    cell(CLIENT, "kubectl cp", way);

    let target = format!("pod/{}", pod.name);
    let forward = spawn(&cluster.line(&["port-forward", &target, "18000:8000"]))?;
    answers("http://127.0.0.1:18000/healthz")?;
    drop(forward);
    cell(CLIENT, "kubectl port-forward", way);
    Ok(())
}

/// The kubelet knows what the server uses.
fn has_stats(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    until("the memory of the pod", Duration::from_secs(120), || {
        let stats = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/lab/proxy/stats/summary"])?;
        let stats: serde_json::Value = serde_json::from_str(&stats)?;
        let pods = stats["pods"].as_array().cloned().unwrap_or_default();
        let own = pods.iter().find(|one| one["podRef"]["name"] == pod.name.as_str());
        let containers = own.and_then(|one| one["containers"].as_array().cloned());
        let used = containers.into_iter().flatten().any(|container| {
            container["name"] == WEB && container["memory"]["workingSetBytes"].as_u64() > Some(8 << 20)
        });
        Ok(used.then_some(()))
    })?;
    cell(CLIENT, "stats", way);
    Ok(())
}

/// More memory than its limit: the server is killed, and the kubelet says why.
fn runs_out_of_memory(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    // The file counts for the container; the largest process is the server, so the kernel ends that one.
    cluster.sh_in(
        pod,
        WEB,
        "nohup dd if=/dev/zero of=/memory/file bs=64k count=8192 >/dev/null 2>&1 & sleep 0.1",
    )?;
    let after = until("the end of the server", Duration::from_secs(120), || {
        let pods = cluster.pods(WEB)?;
        Ok(pods
            .into_iter()
            .find(|one| one.name == pod.name && one.restarts(WEB) > pod.restarts(WEB)))
    })?;
    let last = &after.status(WEB)["lastState"]["terminated"];
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&"OOMKilled".into(), &137.into()),
        "{last}"
    );
    cell(CLIENT, "OOM kill", way);
    Ok(())
}

/// The daemons are restarted; the pod does not notice.
fn outlives_the_daemons(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    restart_kubelet()?;
    restart_containerd()?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", "node/lab"])?;
    let after = pod_that(cluster, "the pod after the restarts", |one| one.name == pod.name)?;
    assert_eq!(
        after.restarts(WEB),
        0,
        "a restart of the daemons is none of the pod"
    );
    // A kubelet that has just started does not know its pods for a moment, with any runtime.
    let name = until("a kubelet that knows the pod", Duration::from_secs(120), || {
        Ok(cluster.sh_in(&after, WEB, "hostname").ok())
    })?;
    assert_eq!(name, format!("{}\n", pod.name));
    cell(CLIENT, "kubelet and containerd restart", way);
    Ok(())
}

/// The server turns sick, and the kubelet puts another in its place.
fn is_healed(cluster: &Cluster, pod: &Pod, way: Way) -> Result<()> {
    cluster.sh_in(pod, WEB, "touch /tmp/sick")?;
    let healed = pod_that(cluster, "a new server in the pod", |one| one.restarts(WEB) == 1)?;
    assert_eq!(healed.name, pod.name);
    assert_eq!(healed.status("side")["restartCount"], 0);
    assert_eq!(
        cluster.sh_in(&healed, WEB, "hostname; cat /data/file")?,
        format!("{}\nprepared\n", pod.name)
    );
    ensure!(
        healed.status(WEB)["lastState"]["terminated"]["exitCode"] == 137,
        "{}",
        healed.status(WEB)
    );
    // What is started again in its pod starts cold: the snapshot may be what made it sick.
    assert_eq!(cluster.outcome(&healed, WEB)?.reason, "restart_attempt");
    cell(CLIENT, "liveness kill and restart", way);
    Ok(())
}

/// The pod is deleted, and the next one gets variables that its predecessor did not have.
fn is_replaced(cluster: &Cluster, pod: &Pod, service: &str, way: Way) -> Result<Pod> {
    cluster.kubectl(&["create", "service", "clusterip", service, "--tcp=80:80"])?;
    cluster.kubectl(&["delete", "pod", &pod.name, "--timeout=120s"])?;
    let next = pod_that(cluster, "the next pod", |one| one.name != pod.name)?;
    assert_way(cluster, &next, way)?;
    cell(CLIENT, "deletion", way);
    let variable = format!("{}_SERVICE_HOST", service.to_uppercase());
    let asked = cluster.sh_in(&next, WEB, &format!("env | grep -c ^{variable}= || true"))?;
    assert_eq!(asked, "1\n", "the pod was to have the links of the new service");
    cell(CLIENT, "links of services that came later", way);
    Ok(next)
}

/// What happens to a pod in its life. Answers a new one of the Deployment.
fn lives(cluster: &Cluster, pod: &Pod, service: &str, way: Way) -> Result<Pod> {
    moves_data(cluster, pod, way)?;
    has_stats(cluster, pod, way)?;
    outlives_the_daemons(cluster, pod, way)?;
    is_healed(cluster, pod, way)?;
    let next = is_replaced(cluster, pod, service, way)?;
    runs_out_of_memory(cluster, &next, way)?;
    cluster.scale(WEB, 0)?;
    // Its end so soon after the restore speaks against the snapshot, which is to be used again.
    cluster.lab.forgive()?;
    cluster.scale(WEB, 1)?;
    cluster.pod(WEB)
}

#[test]
fn a_pod_lives_on() -> Result<()> {
    let Some(cluster) = Cluster::enter("a_pod_lives_on") else {
        return Ok(());
    };
    let donor = lives(&cluster, &donor_of(&cluster)?, "early", Way::Cold)?;
    let clone = clone_of(&cluster, &donor)?;
    let last = lives(&cluster, &clone, "late", Way::Restored)?;
    assert_way(&cluster, &last, Way::Restored)?;
    cluster.capture(&last, WEB)?;
    cell(CLIENT, "thaw capture by pod and container name", Way::Restored);
    cluster.done()
}

/// A shell that ends as it likes when the kubelet, which finds it sick, asks it to.
#[test]
fn a_graceful_stop_has_its_exit_code() -> Result<()> {
    let Some(cluster) = Cluster::enter("a_graceful_stop_has_its_exit_code") else {
        return Ok(());
    };
    cluster.apply(include_str!("graceful.yaml"))?;
    cluster.rolled_out("graceful")?;
    cluster.scale("graceful", 0)?;
    cluster.scale("graceful", 1)?;
    cluster.scale("graceful", 5)?;
    for pod in cluster.pods("graceful")? {
        assert_eq!(cluster.outcome(&pod, "shell")?.reason, "no_snapshot");
    }
    cell(CLIENT, "scale 0, 1, 5", Way::Cold);
    cluster.scale("graceful", 1)?;
    for way in [Way::Cold, Way::Restored] {
        let pod = cluster.pod("graceful")?;
        if way == Way::Cold {
            cluster.capture(&pod, "shell")?;
        } else {
            cluster.assert_restored(&pod, "shell")?;
        }
        cluster.sh(&pod, "touch /tmp/sick")?;
        until("another shell", Duration::from_secs(120), || {
            Ok((cluster.pod("graceful")?.restarts("shell") == 1).then_some(()))
        })?;
        let last = cluster.pod("graceful")?.status("shell")["lastState"]["terminated"].clone();
        assert_eq!(
            (&last["exitCode"], &last["reason"]),
            (&3.into(), &"Error".into()),
            "{last}"
        );
        let said = cluster.kubectl(&["logs", "--previous", &pod.name])?;
        ensure!(said.contains("bye"), "{said}");
        cell(CLIENT, "stop with grace period, exit code", way);
        cluster.scale("graceful", 0)?;
        cluster.scale("graceful", 1)?;
    }
    cluster.done()
}
