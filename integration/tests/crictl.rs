//! crictl: what it can do with a container of containerd's CRI that started cold, and with one that was restored.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use thaw_integration::cri::{ConfigVersion, Cri};
use thaw_integration::{Crictl, GRACEFUL, HUNGRY, Lab, Way, cell, http, spawn, until};

const CLIENT: &str = "crictl";
const LIMIT: Duration = Duration::from_secs(40);
const BOTH: [Way; 2] = [Way::Cold, Way::Restored];

fn enter(name: &str) -> Option<Lab> {
    Lab::enter_with_tool(name, "crictl")
}

fn proved(feature: &str, way: Way) {
    cell(CLIENT, feature, way);
}

fn until_logged(container: &Crictl, text: &str) -> Result<()> {
    until(&format!("{text:?} in the log"), LIMIT, || {
        Ok(container.verb(&["logs"])?.contains(text).then_some(()))
    })
}

/// It has started so, and can be captured by the names that crictl shows.
fn came_up(cri: &Cri, name: &str, container: &Crictl, way: Way) -> Result<()> {
    let outcome = container.outcome()?;
    let wanted = match way {
        Way::Cold => "no_snapshot",
        Way::Restored => "restored",
    };
    ensure!(outcome.reason == wanted, "{outcome:?}");
    cri.capture(&format!("{name}/app"))?;
    proved("capture by POD/CONTAINER", way);
    Ok(())
}

/// What crictl sees of the server in the pod.
fn watches(pod: &str, container: &Crictl, way: Way) -> Result<()> {
    ensure!(container.exec(&["hostname"])?.ok()?.trim() == pod);
    let failed = container.exec(&["sh", "-c", "exit 7"])?;
    ensure!(
        failed.code != 0 && failed.stderr.contains("exit code 7"),
        "{failed:?}"
    );
    proved("exec", way);
    container.exec(&["sh", "-c", "echo said >/proc/1/fd/1"])?.ok()?;
    until_logged(container, "said")?;
    proved("logs", way);
    let stats: Value = serde_json::from_str(&container.verb(&["stats", "--output", "json", "--id"])?)?;
    let memory = &stats["stats"][0]["memory"]["workingSetBytes"]["value"];
    let memory: u64 = memory.as_str().unwrap_or_default().parse()?;
    ensure!(memory > 4 << 20, "{stats}");
    proved("stats", way);
    Ok(())
}

/// A port of the pod, at an address of the node that nothing else listens on.
fn forwards(pod: &str, container: &Crictl, port: u16, way: Way) -> Result<()> {
    let ports = format!("{port}:8000");
    let forward = spawn(&Crictl::line(&["port-forward", container.pod(), &ports]))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let seen = http::get(Path::new("/proc/self/ns/net"), address, "/", LIMIT);
    forward.signal(Signal::SIGKILL)?;
    let said = forward.wait(LIMIT)?;
    let seen: Value = serde_json::from_str(&seen.with_context(|| format!("{said:?}"))?)?;
    ensure!(seen["hostname"] == pod, "{seen}");
    proved("port-forward", way);
    Ok(())
}

#[test]
fn crictl_runs_a_server() -> Result<()> {
    let Some(lab) = enter("crictl_runs_a_server") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["python"])?;
        for (way, name, port) in [(Way::Cold, "donor", 18001), (Way::Restored, "clone", 18002)] {
            let container = Crictl::run(name, "python", &[])?;
            // A connection that the server refuses ends crictl's port-forward.
            let ask = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz')";
            until("the server", LIMIT, || {
                Ok((container.exec(&["python3", "-c", ask])?.code == 0).then_some(()))
            })?;
            came_up(&cri, name, &container, way)?;
            watches(name, &container, way)?;
            forwards(name, &container, port, way)?;
            container.verb(&["stop", "--timeout", "1"])?;
            ensure!(container.end()?.0 == 137, "{}", container.status()?);
            container.verb(&["rm"])?;
            proved("stop, rm", way);
        }
    }
    lab.done()?;
    for way in BOTH {
        proved("nothing is left", way);
    }
    Ok(())
}

/// Standard input and output of a running container.
#[test]
fn crictl_attaches() -> Result<()> {
    let Some(lab) = enter("crictl_attaches") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["static"])?;
        let script = "echo up; while read word; do echo got $word on $(hostname); done; sleep 1000";
        for (way, name) in [(Way::Cold, "donor"), (Way::Restored, "clone")] {
            let container = Crictl::run(name, "static", &["sh", "-c", script])?;
            if way == Way::Cold {
                until_logged(&container, "up")?;
            }
            came_up(&cri, name, &container, way)?;
            let mut client = spawn(&Crictl::line(&["attach", "--stdin", container.id()]))?;
            client.write("words\n")?;
            until_logged(&container, &format!("got words on {name}"))?;
            client.close_stdin();
            let said = client.wait(LIMIT)?;
            ensure!(said.stdout.contains(&format!("got words on {name}")), "{said:?}");
            proved("attach", way);
        }
    }
    lab.done()
}

/// A shell that ends as it likes, next to another container of its pod.
#[test]
fn crictl_stops_one_of_two() -> Result<()> {
    let Some(lab) = enter("crictl_stops_one_of_two") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["static"])?;
        for (way, name) in [(Way::Cold, "donor"), (Way::Restored, "clone")] {
            let container = Crictl::run(name, "static", &["sh", "-c", GRACEFUL])?;
            let sidecar = container.beside("side", "static", &["sh", "-c", "while :; do sleep 1; done"])?;
            if way == Way::Cold {
                until_logged(&container, "up")?;
            }
            came_up(&cri, name, &container, way)?;
            let script = "hostname; for ns in net ipc uts; do readlink /proc/self/ns/$ns; done";
            let seen = container.exec(&["sh", "-c", script])?.ok()?;
            ensure!(seen.starts_with(&format!("{name}\n")), "{seen}");
            ensure!(Crictl::exec_in(&sidecar, &["sh", "-c", script])?.ok()? == seen);
            proved("several containers in a pod share hostname, IPC and network", way);
            container.verb(&["stop", "--timeout", "30"])?;
            ensure!(container.end()?.0 == 3, "{}", container.status()?);
            until_logged(&container, "bye")?;
            Crictl::exec_in(&sidecar, &["true"])?
                .ok()
                .context("the other one")?;
            proved("stop with grace period, exit code", way);
        }
    }
    lab.done()
}

#[test]
fn crictl_reports_lack_of_memory() -> Result<()> {
    let Some(lab) = enter("crictl_reports_lack_of_memory") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["python"])?;
        for (way, name) in [(Way::Cold, "donor"), (Way::Restored, "clone")] {
            let container = Crictl::run_with_memory(96 << 20, name, "python", &["python3", "-c", HUNGRY])?;
            if way == Way::Cold {
                until_logged(&container, "ready")?;
            }
            came_up(&cri, name, &container, way)?;
            container.exec(&["touch", "/dev/shm/go"])?.ok()?;
            let end = container.end()?;
            ensure!(end == (137, "OOMKilled".to_owned()), "{end:?}");
            proved("lack of memory is reported", way);
        }
    }
    lab.done()
}
