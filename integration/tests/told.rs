//! A restored application can know that it is one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use thaw_integration::{Container, Lab, Python, Run, ok, processes, run, until};

const FILE: &str = "/run/thaw/restored.json";
const LIMIT: Duration = Duration::from_secs(20);

fn told(container: &Container) -> Result<Value> {
    let text = container.sh(&format!("cat {FILE}"))?;
    serde_json::from_str(&text).with_context(|| format!("{text:?}"))
}

#[test]
fn restored_json_tells_a_clone_what_it_is() -> Result<()> {
    let Some(lab) = Lab::enter("restored_json_tells_a_clone_what_it_is") else {
        return Ok(());
    };
    {
        let run = |id: &str| {
            let pod = format!("io.kubernetes.cri.sandbox-name=pod-of-{id}");
            let uid = format!("io.kubernetes.cri.sandbox-uid=uid-of-{id}");
            let hostname = format!("HOSTNAME={id}");
            let run = lab
                .python_run(id)
                .flags(&["--env", &hostname, "--annotation", &pod]);
            run.flags(&["--annotation", &uid]).start()
        };
        let donor = Python::ready(run("donor")?)?;
        assert_eq!(donor.container.exec(&["test", "-e", "/run/thaw"])?.code, 1);
        let taken = lab.capture(&donor.container, &[])?;
        let one = Python::ready(run("one")?)?;
        let two = Python::ready(run("two")?)?;
        let mut generations = Vec::new();
        for clone in [&one, &two] {
            let container = &clone.container;
            container.assert_restored()?;
            let found = told(container)?;
            let id = container.id();
            for (name, wanted) in [
                ("container", id),
                ("hostname", id),
                ("namespace", "default"),
                ("snapshot", taken["id"].as_str().context("no id")?),
            ] {
                assert_eq!(found[name], wanted, "{name}: {found}");
            }
            assert_eq!(found["format"], 1);
            assert_eq!(found["pod"]["name"], format!("pod-of-{id}"));
            assert_eq!(found["pod"]["uid"], format!("uid-of-{id}"));
            assert_eq!(found["env"]["HOSTNAME"], id);
            assert_eq!(found["env"]["HEAP_MB"], "8");
            assert!(found["restored"].as_str() > found["captured"].as_str(), "{found}");
            generations.push(found["generation"].to_string());
            let mode = container.sh(&format!("stat -c '%a %u %g' {FILE}; ls -A /run/thaw"))?;
            assert_eq!(mode, "400 0 0\nrestored.json\n");
        }
        assert_ne!(generations[0], generations[1]);

        // A snapshot of a clone: the file that it brings along is replaced.
        lab.capture(&one.container, &[])?;
        let third = Python::ready(run("third")?)?;
        third.container.assert_restored()?;
        let found = told(&third.container)?;
        assert_eq!(found["hostname"], "third");
        assert!(!generations.contains(&found["generation"].to_string()));
    }
    lab.done()
}

/// Notices a jump of the wall clock, and tells whether the file was there then.
const LOOKING: &str = "
import os, time
last = time.time()
while True:
    there, now = os.path.exists('/run/thaw/restored.json'), time.time()
    if now - last > 3: print('jump', there, flush=True)
    last = now
    time.sleep(0.01)
";

#[test]
fn restored_json_is_there_with_the_first_instruction() -> Result<()> {
    let Some(lab) = Lab::enter("restored_json_is_there_with_the_first_instruction") else {
        return Ok(());
    };
    {
        let run = |id: &str| Run::new(id, "python").command(&["python3", "-c", LOOKING]);
        let donor = run("donor").start()?;
        std::thread::sleep(Duration::from_millis(300));
        lab.capture(&donor, &["--stop"])?;
        std::thread::sleep(Duration::from_secs(4));
        let clone = run("clone").start()?;
        clone.assert_restored()?;
        let first = until("a line of the clone", LIMIT, || {
            Ok(clone.log()?.lines().next().map(str::to_owned))
        })?;
        assert_eq!(first, "jump True");
    }
    lab.done()
}

/// A place that is not to be trusted means a cold start, and the proof of the snapshot sees that first.
#[test]
fn restored_json_and_a_run_that_leads_elsewhere() -> Result<()> {
    let Some(lab) = Lab::enter("restored_json_and_a_run_that_leads_elsewhere") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        donor.container.sh("mkdir /srv/trap; ln -s /srv/trap /run/thaw")?;
        let refused = run(&["thaw", "capture", donor.container.id()])?;
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains("restored_file_failed"), "{refused:?}");
        assert_eq!(donor.container.sh("ls -A /srv/trap")?, "");
        lab.capture(&donor.container, &["--no-proof"])?;
        let clone = Python::ready(lab.python_run("clone").start()?)?;
        clone.container.assert_cold("restored_file_failed")?;
        assert_eq!(clone.container.exec(&["test", "-e", "/srv/trap"])?.code, 1);
    }
    lab.done()
}

const SIGNALLED: &str = "
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: print('told', open('/run/thaw/restored.json').read().count('generation'), flush=True))
print('ready', flush=True)
while True: time.sleep(0.1)
";

/// What the record says of on-restore, when it is over.
fn announced(container: &Container) -> Result<Value> {
    until("the end of on-restore", LIMIT, || {
        let outcome: Value = serde_json::from_str(&ok(&["thaw", "explain", "-o", "json", container.id()])?)?;
        Ok(outcome.get("on_restore").cloned())
    })
}

#[test]
fn on_restore_sends_a_signal() -> Result<()> {
    let Some(lab) = Lab::enter("on_restore_sends_a_signal") else {
        return Ok(());
    };
    {
        let action = ["--annotation", "thaw.dev/on-restore=signal:SIGUSR1"];
        let run = |id: &str| {
            Run::new(id, "python")
                .flags(&action)
                .command(&["python3", "-c", SIGNALLED])
        };
        let donor = run("donor").start()?;
        until("the donor", LIMIT, || {
            Ok(donor.log()?.contains("ready").then_some(()))
        })?;
        lab.capture(&donor, &[])?;
        let clone = run("clone").start()?;
        clone.assert_restored()?;
        until("the signal", LIMIT, || {
            Ok(clone.log()?.contains("told 1\n").then_some(()))
        })?;
        assert_eq!(announced(&clone)?["result"], "done");
        // A cold start is told nothing.
        assert_eq!(donor.log()?, "ready\n");
    }
    lab.done()
}

#[test]
fn on_restore_runs_a_command() -> Result<()> {
    let Some(lab) = Lab::enter("on_restore_runs_a_command") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    lab.configure("deadlines.on_restore = \"2s\"")?;
    {
        let run = |id: &str, action: &str| {
            let action = format!("thaw.dev/on-restore={action}");
            let hostname = format!("HOSTNAME={id}");
            let flags = ["--annotation", &action, "--env", &hostname];
            Python::ready(lab.python_run(id).flags(&flags).start()?)
        };
        let clone = run("good", "exec:cp /proc/self/environ /srv/told")?;
        clone.container.assert_restored()?;
        assert_eq!(announced(&clone.container)?["result"], "done");
        let environment = clone.container.sh("tr '\\0' '\\n' </srv/told")?;
        assert!(environment.contains("HOSTNAME=good\n"), "{environment}");
        drop(clone);

        let clone = run("bad", "exec:cat /no/such/file")?;
        clone.container.assert_restored()?;
        let end = announced(&clone.container)?;
        assert_eq!(end["result"], "failed", "{end}");
        assert!(
            end["detail"]
                .as_str()
                .is_some_and(|said| said.contains("/no/such/file")),
            "{end}"
        );
        clone.get("/healthz")?;
        drop(clone);

        let clone = run("slow", "exec:sleep 4321")?;
        clone.container.assert_restored()?;
        assert_eq!(announced(&clone.container)?["result"], "timeout");
        until("the end of the command", LIMIT, || {
            let left = processes()?
                .iter()
                .any(|(_, line)| line.starts_with("sleep 4321"));
            Ok((!left).then_some(()))
        })?;
        clone.get("/healthz")?;
        drop(clone);

        let cold = run("wrong", "reload")?;
        cold.container.assert_cold("annotation_invalid")?;
    }
    lab.done()
}
