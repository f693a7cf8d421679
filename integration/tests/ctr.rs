//! ctr: what it can do with a container that started cold, and with one that was restored.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use thaw_integration::{Container, Events, GRACEFUL, HUNGRY, Lab, Netns, Python, Run, Way, cell, ok, until};

const CLIENT: &str = "ctr";
const LIMIT: Duration = Duration::from_secs(40);
const BOTH: [(Way, &str); 2] = [(Way::Cold, "donor"), (Way::Restored, "clone")];

fn proved(feature: &str, way: Way) {
    cell(CLIENT, feature, way);
}

/// It came up in this way; a cold one is captured.
fn came_up(lab: &Lab, container: &Container, way: Way) -> Result<()> {
    match way {
        Way::Cold => {
            container.assert_cold("no_snapshot")?;
            lab.capture(container, &[])?;
        }
        Way::Restored => drop(container.assert_restored()?),
    }
    Ok(())
}

fn until_logged(container: &Container, text: &str) -> Result<()> {
    until(&format!("{text:?} in the log"), LIMIT, || {
        Ok(container.log()?.contains(text).then_some(()))
    })
}

#[test]
fn ctr_runs_a_server() -> Result<()> {
    let Some(lab) = Lab::enter("ctr_runs_a_server") else {
        return Ok(());
    };
    for (way, name) in BOTH {
        let netns = Netns::new(name)?;
        let joined = format!("network:{}", netns.path().display());
        let server = Python::ready(lab.python_run(name).flags(&["--with-ns", &joined]).start()?)?;
        came_up(&lab, &server.container, way)?;
        proved("run --detach", way);
        let inside = std::fs::read_link(format!("/proc/{}/ns/net", server.container.pid()?))?;
        let given = ok(&[
            "stat",
            "--format",
            "net:[%i]",
            &netns.path().display().to_string(),
        ])?;
        ensure!(
            inside.display().to_string() == given.trim(),
            "{inside:?}, not {given}"
        );
        proved("network namespace that the client has made", way);
        ensure!(server.state()?["hostname"] == name);
        proved("own hostname", way);
        let failed = server.container.exec(&["sh", "-c", "echo bad >&2; exit 7"])?;
        ensure!(failed.code == 7 && failed.stderr.contains("bad"), "{failed:?}");
        proved("exec", way);
        server
            .container
            .sh("echo said >/proc/1/fd/1; echo cried >/proc/1/fd/2")?;
        until_logged(&server.container, "said")?;
        until_logged(&server.container, "cried")?;
        proved("logs", way);
        let metrics = ok(&["ctr", "task", "metrics", name])?;
        let used = metrics
            .lines()
            .find(|line| line.starts_with("memory.usage_in_bytes"));
        let used: u64 = used
            .and_then(|line| line.split_whitespace().nth(1))
            .with_context(|| metrics.clone())?
            .parse()?;
        ensure!(used > 8 << 20, "{metrics}");
        proved("metrics", way);
        ok(&["ctr", "task", "pause", name])?;
        ensure!(server.container.status()? == "PAUSED");
        ok(&["ctr", "task", "resume", name])?;
        server.get("/healthz")?;
        proved("pause, resume", way);
    }
    lab.done()?;
    for (way, _) in BOTH {
        proved("nothing is left", way);
    }
    Ok(())
}

/// The pid that an event of this topic tells.
fn pid_in(events: &[(String, String)], topic: &str) -> Result<Value> {
    let told = events.iter().find(|(name, _)| name == topic);
    let (_, payload) = told.with_context(|| format!("no {topic} in {events:?}"))?;
    let payload: Value = serde_json::from_str(payload)?;
    Ok(payload["pid"].clone())
}

#[test]
fn ctr_stops_with_the_exit_code() -> Result<()> {
    let Some(lab) = Lab::enter("ctr_stops_with_the_exit_code") else {
        return Ok(());
    };
    for (way, name) in BOTH {
        let events = Events::subscribe()?;
        let container = Run::new(name, "static")
            .command(&["sh", "-c", GRACEFUL])
            .start()?;
        if way == Way::Cold {
            until_logged(&container, "up")?;
        }
        came_up(&lab, &container, way)?;
        let pid = container.pid()?;
        container.kill("SIGTERM")?;
        ensure!(container.end()? == 3);
        until_logged(&container, "bye")?;
        proved("signal, exit code", way);
        drop(container);
        let told = events.of(name)?;
        ensure!(pid_in(&told, "/tasks/create")? == pid, "{told:?}");
        ensure!(pid_in(&told, "/tasks/start")? == pid, "{told:?}");
        proved("the pid after Create stays", way);
    }
    lab.done()
}

#[test]
fn ctr_reports_lack_of_memory() -> Result<()> {
    let Some(lab) = Lab::enter("ctr_reports_lack_of_memory") else {
        return Ok(());
    };
    for (way, name) in BOTH {
        let events = Events::subscribe()?;
        let run = Run::new(name, "python").flags(&["--memory-limit", "100663296"]);
        let container = run.command(&["python3", "-c", HUNGRY]).start()?;
        if way == Way::Cold {
            until_logged(&container, "ready")?;
        }
        came_up(&lab, &container, way)?;
        container.sh("touch /dev/shm/go")?;
        ensure!(container.end()? == 137);
        drop(container);
        let told = events.of(name)?;
        ensure!(told.iter().any(|(topic, _)| topic == "/tasks/oom"), "{told:?}");
        proved("OOM kill reported", way);
    }
    lab.done()
}
