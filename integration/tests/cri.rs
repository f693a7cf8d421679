//! containerd's CRI, as a kubelet uses it: pods, containers in them, cold and restored.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use thaw_integration::cri::{ConfigVersion, Containee, Cri, InPod, Pod, hooks_of, msgmax, outcome_of};
use thaw_integration::{FakeCriu, GRACEFUL, HUNGRY, Lab, Way, cell, cell_moot, http, until};

const CLIENT: &str = "CRI";
const LIMIT: Duration = Duration::from_secs(40);
const BOTH: [Way; 2] = [Way::Cold, Way::Restored];

fn proved(feature: &str, way: Way) {
    cell(CLIENT, feature, way);
}

fn server() -> Containee {
    Containee {
        name: "app",
        image: "python",
        env: vec![("HEAP_MB", "8")],
        ..Containee::default()
    }
}

fn shell(name: &'static str, script: &'static str) -> Containee {
    Containee {
        name,
        image: "static",
        command: vec!["sh", "-c", script],
        ..Containee::default()
    }
}

/// The shell in a pod of its own: cold and captured, then restored.
fn shell_in_both_ways(cri: &Cri, check: impl Fn(&InPod<'_>) -> Result<()>, feature: &str) -> Result<()> {
    for way in BOTH {
        let pod = cri.pod("pod", "thaw", &[])?;
        let app = pod.run(&shell("app", GRACEFUL))?;
        assert_way(&app, way)?;
        if way == Way::Cold {
            until_logged(&app, "up")?;
            cri.capture("pod/app")?;
        }
        check(&app)?;
        proved(feature, way);
    }
    Ok(())
}

/// The shell of `GRACEFUL` ends as it likes.
fn stops(app: &InPod<'_>) -> Result<()> {
    app.stop(30)?;
    ensure!(app.end()?.0 == 3, "{:?}", app.status()?);
    until_logged(app, "bye")
}

fn sidecar() -> Containee {
    shell("sidecar", "while :; do sleep 1; done")
}

fn assert_way(container: &InPod<'_>, way: Way) -> Result<()> {
    let outcome = container.outcome()?;
    let wanted = match way {
        Way::Cold => ("cold", "no_snapshot"),
        Way::Restored => ("restored", "restored"),
    };
    ensure!(
        (outcome.result.as_str(), outcome.reason.as_str()) == wanted,
        "should be {wanted:?}, is {outcome:?}"
    );
    Ok(())
}

fn state(pod: &Pod<'_>) -> Result<Value> {
    let address = SocketAddr::new(pod.address()?, 8000);
    let text = http::get(Path::new("/proc/self/ns/net"), address, "/", LIMIT)?;
    Ok(serde_json::from_str(&text)?)
}

fn until_logged(container: &InPod<'_>, text: &str) -> Result<()> {
    until(&format!("{text:?} in the log"), LIMIT, || {
        Ok(container.log()?.contains(text).then_some(()))
    })
}

/// Everything about a running server that its client can see.
fn check_server(pod: &Pod<'_>, name: &str, app: &InPod<'_>, way: Way) -> Result<()> {
    assert_way(app, way)?;
    let seen = state(pod)?;
    proved("pod network (CNI)", way);
    ensure!(seen["hostname"] == name, "{seen}");
    proved("hostname of the pod", way);
    ensure!(app.exec(&["hostname"])?.ok()?.trim() == name);
    let failed = app.exec(&["sh", "-c", "echo bad >&2; exit 7"])?;
    ensure!(failed.code == 7 && failed.stderr == "bad\n", "{failed:?}");
    proved("exec", way);
    app.exec(&["sh", "-c", "echo said >/proc/1/fd/1; echo cried >/proc/1/fd/2"])?
        .ok()?;
    until_logged(app, "stdout F said")?;
    until_logged(app, "stderr F cried")?;
    proved("logs", way);
    let (cpu, memory) = app.stats()?;
    ensure!(cpu > 0 && memory > 4 << 20, "{cpu} ns, {memory} bytes");
    proved("stats", way);
    Ok(())
}

/// The pod is as CRI has made it, whatever came back in one of its containers.
fn check_pod(pod: &Pod<'_>, name: &str, app: &InPod<'_>, sidecar: &InPod<'_>, way: Way) -> Result<()> {
    for container in [app, sidecar] {
        ensure!(container.exec(&["hostname"])?.ok()?.trim() == name);
        let sysctl = container.exec(&["cat", "/proc/sys/kernel/msgmax"])?.ok()?;
        ensure!(sysctl.trim() == msgmax(name).to_string(), "{sysctl:?}");
    }
    let pids = (app.pid()?, sidecar.pid()?);
    for kind in ["net", "ipc", "uts"] {
        let inode = |pid| anyhow::Ok(fs::metadata(format!("/proc/{pid}/ns/{kind}"))?.ino());
        ensure!(inode(pids.0)? == inode(pids.1)?, "{kind} is not the pod's");
    }
    proved("several containers in a pod share hostname, IPC and network", way);
    let pause = outcome_of(pod.id())?;
    ensure!(pause.reason == "sandbox", "{pause:?}");
    let stages: Vec<_> = pause.stages.iter().map(|stage| stage.name.as_str()).collect();
    ensure!(stages == ["eligible", "create"], "{stages:?}");
    proved("the pause container is never looked up", way);
    Ok(())
}

fn pods(cri: &Cri) -> Result<()> {
    let donor_pod = cri.pod("donor", "thaw", &[])?;
    let sidecar_there = donor_pod.run(&sidecar())?;
    let donor = donor_pod.run(&server())?;
    check_server(&donor_pod, "donor", &donor, Way::Cold)?;
    check_pod(&donor_pod, "donor", &donor, &sidecar_there, Way::Cold)?;
    cri.capture("donor/app")?;
    proved("capture by POD/CONTAINER", Way::Cold);

    // Fails rather than starts cold, if the annotation gets through.
    let required = [("thaw.dev/snapshot-policy", "Required")];
    let clone_pod = cri.pod("clone", "thaw", &required)?;
    let sidecar_here = clone_pod.run(&Containee {
        name: "other",
        ..sidecar()
    });
    ensure!(
        sidecar_here.is_err(),
        "a container without a snapshot has started"
    );
    proved("pod annotations", Way::Cold);
    // With a snapshot the same annotation lets a container through.
    clone_pod.run(&server())?;
    proved("pod annotations", Way::Restored);
    drop(clone_pod);
    let clone_pod = cri.pod("clone", "thaw", &[])?;
    let sidecar_here = clone_pod.run(&sidecar())?;
    let clone = clone_pod.run(&server())?;
    check_server(&clone_pod, "clone", &clone, Way::Restored)?;
    check_pod(&clone_pod, "clone", &clone, &sidecar_here, Way::Restored)?;
    ensure!(state(&clone_pod)?["heap_checksum"] == state(&donor_pod)?["heap_checksum"]);
    ensure!(clone_pod.address()? != donor_pod.address()?);
    cri.capture(&clone.id()[..13])?;
    proved("capture by POD/CONTAINER", Way::Restored);

    let third_pod = cri.pod("third", "thaw", &[("thaw.dev/snapshot-policy", "Never")])?;
    let third = third_pod.run(&server())?;
    ensure!(
        third.outcome()?.reason == "policy_never",
        "{:?}",
        third.outcome()?
    );
    for (container, way) in [(donor, Way::Cold), (clone, Way::Restored)] {
        container.stop(1)?;
        ensure!(container.end()?.0 == 137, "{:?}", container.status()?);
        container.remove()?;
        proved("stop, remove", way);
    }
    Ok(())
}

#[test]
fn cri_runs_pods() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_runs_pods", "pause") else {
        return Ok(());
    };
    pods(&Cri::start(ConfigVersion::newest()?, &["python", "static"])?)?;
    lab.done()
}

/// The other version of containerd's configuration, with the sample for it.
#[test]
fn cri_takes_configuration_version_2() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_takes_configuration_version_2", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::Two, &["static"])?;
        shell_in_both_ways(&cri, stops, "stop with grace period, exit code")?;
    }
    lab.done()?;
    cell(CLIENT, "containerd configuration version 2", Way::Cold);
    cell(CLIENT, "containerd configuration version 2", Way::Restored);
    Ok(())
}

#[test]
fn cri_reports_lack_of_memory() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_reports_lack_of_memory", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["python"])?;
        let eater = Containee {
            name: "eater",
            image: "python",
            command: vec!["python3", "-c", HUNGRY],
            memory: 96 << 20,
            ..Containee::default()
        };
        for way in BOTH {
            let pod = cri.pod("hungry", "thaw", &[])?;
            let container = pod.run(&eater)?;
            assert_way(&container, way)?;
            if way == Way::Cold {
                until_logged(&container, "ready")?;
                cri.capture("eater")?;
            }
            container.exec(&["touch", "/dev/shm/go"])?.ok()?;
            let (code, reason) = container.end()?;
            ensure!((code, reason.as_str()) == (137, "OOMKilled"), "{code} {reason}");
            proved("lack of memory is reported", way);
        }
    }
    lab.done()
}

/// While CRIU takes its time, the rest of the pod goes on.
#[test]
fn cri_a_slow_restore_stalls_nobody() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_a_slow_restore_stalls_nobody", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["python", "static"])?;
        {
            let pod = cri.pod("donor", "thaw", &[])?;
            let donor = pod.run(&server())?;
            state(&pod)?;
            cri.capture(donor.id())?;
        }
        let pod = cri.pod("clone", "thaw", &[])?;
        let (sidecar, other) = (pod.run(&sidecar())?, pod.run(&shell("other", GRACEFUL))?);
        until_logged(&other, "up")?;
        let begun = lab.path("begun");
        let go = lab.path("go");
        let wait = format!(
            "touch {}\nfor n in $(seq 250); do [ -e {} ] && break; sleep 0.1; done\nexec $criu \"$@\"",
            begun.display(),
            go.display()
        );
        let _criu = FakeCriu::new(&wait)?;
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| pod.run(&server()));
            until("CRIU", LIMIT, || Ok(begun.exists().then_some(())))?;
            let started = Instant::now();
            let asked = (|| {
                sidecar.exec(&["true"])?.ok()?;
                ensure!(sidecar.status()?.finished_at == 0);
                sidecar.stats()?;
                other.stop(20)?;
                ensure!(other.end()?.0 == 3, "{:?}", other.status()?);
                anyhow::Ok(started.elapsed())
            })();
            // CRIU would go on by itself after 25 s; nobody has waited for that.
            let waits = !starting.is_finished();
            fs::write(&go, "")?;
            let clone = starting.join().expect("no panic")?;
            let took = asked?;
            ensure!(
                waits,
                "the restore was done before the others had answered ({took:?})"
            );
            assert_way(&clone, Way::Restored)?;
            state(&pod)?;
            anyhow::Ok(())
        })?;
        let feature = "a slow restore stalls no other container of the pod";
        proved(feature, Way::Restored);
        cell_moot(CLIENT, feature, Way::Cold);
    }
    lab.done()
}

#[test]
fn cri_containers_outlive_containerd() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_containers_outlive_containerd", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["static"])?;
        let restarted = |app: &InPod<'_>| {
            let before = app.pid()?;
            cri.restart()?;
            let after = app.pid().context("after the restart")?;
            ensure!(after == before, "another process");
            let said = app.exec(&["echo", "here"]).context("after the restart")?;
            ensure!(said.ok()? == "here\n");
            stops(app).context("after the restart")
        };
        shell_in_both_ways(&cri, restarted, "containerd is restarted")?;
    }
    lab.done()
}

/// What the hooks of a container were told, which has ended by now.
fn check_hooks(id: &str, pid: i32) -> Result<()> {
    let hooks = hooks_of(id)?;
    let phases: Vec<_> = hooks.iter().map(|(phase, _)| phase.as_str()).collect();
    ensure!(phases == ["create", "stop"], "{hooks:?}");
    ensure!(hooks[0].1["pid"] == pid, "{hooks:?}, but the pid is {pid}");
    for (_, state) in &hooks {
        let bundle = state["bundle"].as_str().context("no bundle")?;
        ensure!(bundle.ends_with(id), "not the container's own bundle: {state}");
    }
    Ok(())
}

/// Cold, restored, and cold after a restore has failed.
#[test]
fn cri_runs_hooks_once() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_runs_hooks_once", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["static"])?;
        for (way, fails) in [(Way::Cold, false), (Way::Restored, false), (Way::Cold, true)] {
            let pod = cri.pod("pod", "counted", &[])?;
            let criu = fails.then(|| FakeCriu::new("exit 1")).transpose()?;
            let app = pod.run(&shell("app", GRACEFUL))?;
            drop(criu);
            if fails {
                ensure!(app.outcome()?.reason == "restore_failed", "{:?}", app.outcome()?);
            } else {
                assert_way(&app, way)?;
            }
            if (way, fails) == (Way::Cold, false) {
                until_logged(&app, "up")?;
                cri.capture("pod/app")?;
            }
            let (id, pid) = (app.id().to_owned(), app.pid()?);
            app.stop(30)?;
            app.remove()?;
            check_hooks(&id, pid)?;
            proved("OCI hooks run once", way);
        }
    }
    lab.done()
}
