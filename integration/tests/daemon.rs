//! containerd and the shim are restarted, killed and replaced; containers do not mind.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use thaw_integration::{
    Container, FakeCriu, Lab, Python, Run, STOCK, THAW, kill_shim_of, ok, restart_containerd,
    run as run_words, spawn, until,
};

const SOON: Duration = Duration::from_secs(5);
/// For what a busy machine may take long for.
const PATIENT: Duration = Duration::from_secs(60);

fn shell(runtime: &str, script: &str) -> Run {
    Run::new("cold", "static")
        .runtime(runtime)
        .command(&["sh", "-c", script])
}

fn gone(container: &Container) -> Result<()> {
    until("the end of its task", SOON, || {
        Ok(container.status()?.is_empty().then_some(()))
    })
}

/// containerd forgets the task of a killed shim some time after it has stopped to list it.
fn start_again(run: &Run) -> Result<Container> {
    until("a second start", SOON, || {
        let (container, ran) = run.clone().try_start()?;
        Ok((ran.code == 0).then_some(container))
    })
}

#[test]
fn containers_outlive_containerd() -> Result<()> {
    let Some(lab) = Lab::enter("containers_outlive_containerd") else {
        return Ok(());
    };
    for runtime in [STOCK, THAW] {
        let container = shell(
            runtime,
            "trap 'exit 6' TERM; while :; do echo tick; sleep 0.1; done",
        )
        .start()?;
        let before = container.pid()?;
        restart_containerd()?;
        ensure!(container.pid()? == before, "another pid");
        assert_eq!(container.sh("echo here")?, "here\n");
        let seen = container.log()?.len();
        until("more output", SOON, || {
            Ok((container.log()?.len() > seen).then_some(()))
        })?;
        container.kill("SIGTERM")?;
        assert_eq!(container.end()?, 6, "{runtime}");
    }
    lab.done()
}

#[test]
fn a_clone_outlives_containerd() -> Result<()> {
    let Some(lab) = Lab::enter("a_clone_outlives_containerd") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    {
        let clone = lab.python("clone")?;
        clone.container.assert_restored()?;
        restart_containerd()?;
        clone.get("/healthz")?;
        assert_eq!(clone.container.sh("hostname")?, "clone\n");
        clone.container.assert_restored()?;
        clone.container.kill("SIGKILL")?;
        assert_eq!(clone.container.end()?, 137);
    }
    lab.done()
}

/// kill -9 of the shim: containerd learns of it, and the next container of that id starts.
#[test]
fn a_killed_shim_is_cleaned_up() -> Result<()> {
    let Some(lab) = Lab::enter("a_killed_shim_is_cleaned_up") else {
        return Ok(());
    };
    for runtime in [STOCK, THAW] {
        let container = shell(runtime, "sleep 100").start()?;
        kill_shim_of("cold")?;
        gone(&container)?;
        drop(container);
        // Its socket stays, under both runtimes, until the next container of that id has ended.
        let again = start_again(&shell(runtime, "exit 5"))?;
        assert_eq!(again.end()?, 5, "{runtime}");
    }
    lab.done()
}

#[test]
fn a_killed_shim_of_a_clone_is_cleaned_up() -> Result<()> {
    let Some(lab) = Lab::enter("a_killed_shim_of_a_clone_is_cleaned_up") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    for _ in 0..2 {
        let clone = Python::ready(start_again(&lab.python_run("clone"))?)?;
        clone.container.assert_restored()?;
        kill_shim_of("clone")?;
        gone(&clone.container)?;
    }
    drop(start_again(&lab.python_run("clone"))?);
    lab.done()
}

/// The shim is killed while it restores: the start fails, and the next one is restored.
#[test]
fn a_shim_killed_half_way_hinders_nobody() -> Result<()> {
    let Some(lab) = Lab::enter("a_shim_killed_half_way_hinders_nobody") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    lab.python("warm")?;
    for after in [40, 80, 120, 160] {
        let run = lab.python_run("clone");
        std::thread::scope(|scope| {
            let start = scope.spawn(|| run.try_start());
            std::thread::sleep(Duration::from_millis(after));
            // It may not be there yet.
            kill_shim_of("clone").ok();
            drop(start.join().expect("no panic")?);
            anyhow::Ok(())
        })?;
        let clone = Python::ready(start_again(&lab.python_run("clone"))?)?;
        clone
            .container
            .assert_restored()
            .with_context(|| format!("killed after {after} ms"))?;
    }
    lab.done()
}

/// The same where the store's files are in the root filesystem already, and the next start is a cold one of the same
/// container: it finds the files of a first start, and nothing of the snapshot.
#[test]
fn a_shim_killed_half_way_leaves_a_first_start() -> Result<()> {
    let Some(lab) = Lab::enter("a_shim_killed_half_way_leaves_a_first_start") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let (held, hold) = (lab.path("held"), lab.path("hold"));
    let script = format!(
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = post-restore ] || exit 0\ntouch {}\nexec sleep 600\n",
        held.display()
    );
    std::fs::write(&hold, script)?;
    ok(&["chmod", "755", &hold.display().to_string()])?;
    let before = format!("touch {}; exec sleep 600", held.display());
    let restored = format!(
        "echo action-script {} >>\"$CRIU_CONFIG_FILE\"; exec $criu \"$@\"",
        hold.display()
    );
    for (step, criu) in [("before CRIU", before), ("with processes", restored)] {
        lab.configure("deadlines.restore = '10m'")?;
        kill_in_restore(&lab, &criu, &held).with_context(|| step.to_owned())?;
        lab.nothing_left().with_context(|| step.to_owned())?;
    }
    lab.done()
}

/// Starts the container `again` with a CRIU that is held, kills the shim then, and starts it again without thaw.
fn kill_in_restore(lab: &Lab, criu: &str, held: &Path) -> Result<()> {
    const START: &[&str] = &[
        "ctr",
        "task",
        "start",
        "--detach",
        "--log-uri=file:///tmp/again.log",
        "again",
    ];
    let run = lab.python_run("again").foreground();
    let words: Vec<&str> = ["ctr", "container", "create"]
        .into_iter()
        .chain(run.iter().skip(2).map(String::as_str))
        .collect();
    let container = Container::named("again", Some("/tmp/again.log".into()));
    ok(&words)?;
    {
        let _criu = FakeCriu::new(criu)?;
        let start = spawn(START)?;
        until("a restore in the middle", PATIENT, || {
            Ok(held.exists().then_some(()))
        })?;
        let note = Path::new("/run/thaw/default/again/begun.json");
        let begun: serde_json::Value = serde_json::from_slice(&std::fs::read(note)?)?;
        let upper = begun["upper"].as_str().context("no upper directory")?;
        ensure!(
            Path::new(upper).join("srv/marker").exists(),
            "nothing is changed yet"
        );
        kill_shim_of("again")?;
        ensure!(start.wait(PATIENT)?.code != 0, "the start has succeeded");
        until("the upper directory as it was", PATIENT, || {
            Ok(std::fs::read_dir(upper)?.next().is_none().then_some(()))
        })?;
        std::fs::remove_file(held)?;
    }
    lab.configure("policy = 'Never'")?;
    until("a second start", PATIENT, || {
        Ok((run_words(START)?.code == 0).then_some(()))
    })?;
    let python = Python::ready(container)?;
    python.container.assert_cold("policy_never")?;
    ensure!(python.get("/write?marker")? == "1\n", "files of the snapshot");
    Ok(())
}

/// Our shim under the stock shim's name, which is how callers that send options of runc reach it.
#[test]
fn options_of_runc_under_the_stock_name() -> Result<()> {
    let Some(lab) = Lab::enter("options_of_runc_under_the_stock_name") else {
        return Ok(());
    };
    let ours = ok(&["which", "containerd-shim-thaw-v1"])?;
    let place = "/usr/local/sbin/containerd-shim-runc-v2";
    std::fs::write(lab.path("runc"), "#!/bin/sh\ntouch $0.used\nexec runc \"$@\"\n")?;
    ok(&["chmod", "755", &lab.path("runc").display().to_string()])?;
    ok(&["ln", "-sf", ours.trim(), place])?;
    // containerd remembers where it has found a shim.
    restart_containerd()?;
    let tried = with_options(&lab);
    std::fs::remove_file(place)?;
    restart_containerd()?;
    tried?;
    lab.done()
}

fn with_options(lab: &Lab) -> Result<()> {
    let (runc, root) = (
        lab.path("runc").display().to_string(),
        lab.path("root").display().to_string(),
    );
    let flags = ["--runc-binary", &runc, "--runc-root", &root];
    let container = shell(STOCK, "sleep 100").flags(&flags).start()?;
    container.assert_cold("no_snapshot")?;
    ensure!(lab.path("runc.used").exists(), "another runc was used");
    ensure!(
        lab.path("root/default/cold").exists(),
        "another root was used: {}",
        ok(&["find", &root])?
    );
    container.kill("SIGKILL")?;
    ensure!(container.end()? == 137, "the exit code");
    ensure!(!lab.path("root/default/cold").exists(), "state of runc is left");
    Ok(())
}
