//! Who decides whether a container is restored: the node, its annotations, its spec.

use std::fs;

use anyhow::Result;
use thaw_integration::{Container, Lab, Python, Run, ok};

fn assert_both(lab: &Lab, restored: &[Run], cold: &[(Run, &str)]) -> Result<()> {
    for run in restored {
        run.clone().start()?.assert_restored()?;
    }
    for (run, reason) in cold {
        run.clone().start()?.assert_cold(reason)?;
    }
    lab.nothing_left()
}

#[test]
fn another_spec_is_another_key() -> Result<()> {
    let Some(lab) = Lab::enter("another_spec_is_another_key") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let run = || lab.python_run("one");
    let with = |flags: &[&str]| run().flags(flags);
    assert_both(
        &lab,
        &[
            with(&["--hostname", "other"]),
            with(&["--memory-limit", "200000000"]),
            with(&["--cpus", "1"]),
            with(&["--annotation", "some=thing"]),
            with(&["--label", "some=thing"]),
        ],
        &[
            (with(&["--env", "MORE=1"]), "no_snapshot"),
            (with(&["--env", "HEAP_MB=9"]), "no_snapshot"),
            (run().command(&["python3", "-u", "/srv/server.py"]), "no_snapshot"),
            (with(&["--cap-drop", "CAP_NET_RAW"]), "no_snapshot"),
            (with(&["--cap-add", "CAP_SYS_ADMIN"]), "no_snapshot"),
            (with(&["--seccomp"]), "no_snapshot"),
            (with(&["--allow-new-privs"]), "no_snapshot"),
            (with(&["--cwd", "/"]), "no_snapshot"),
            (with(&["--user", "1:1"]), "no_snapshot"),
            (
                with(&["--mount", "type=bind,src=/tmp,dst=/mnt,options=rbind:ro"]),
                "no_snapshot",
            ),
            (with(&["--read-only"]), "no_snapshot"),
            (with(&["--net-host"]), "host_network"),
            (with(&["--with-ns", "pid:/proc/1/ns/pid"]), "pid_namespace"),
        ],
    )?;
    lab.done()
}

#[test]
fn the_node_and_the_container_decide() -> Result<()> {
    let Some(lab) = Lab::enter("the_node_and_the_container_decide") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let run = || lab.python_run("one");
    let policy = |word: &str| run().flags(&["--annotation", &format!("thaw.dev/snapshot-policy={word}")]);
    let path = |url: &str| run().flags(&["--annotation", &format!("thaw.dev/snapshot-path={url}")]);
    assert_both(
        &lab,
        &[policy("IfPresent"), policy("Required")],
        &[
            (policy("Never"), "policy_never"),
            (policy("never"), "annotation_invalid"),
        ],
    )?;
    let elsewhere = lab.path("else").display().to_string();
    ok(&["cp", "--archive", &lab.store().display().to_string(), &elsewhere])?;
    let empty = format!("file://{}", lab.path("empty").display());
    lab.configure_store(&empty, &format!("allowed_paths = ['file://{elsewhere}']"))?;
    assert_both(
        &lab,
        &[path(&format!("file://{elsewhere}"))],
        &[
            (run(), "no_snapshot"),
            (
                path(&format!("file://{}", lab.store().display())),
                "annotation_invalid",
            ),
            (
                path(&format!("file://{elsewhere}/../store")),
                "annotation_invalid",
            ),
            (path("nonsense"), "annotation_invalid"),
        ],
    )?;
    lab.configure("policy = 'Never'")?;
    assert_both(
        &lab,
        &[],
        &[(run(), "policy_never"), (policy("IfPresent"), "policy_never")],
    )?;
    fs::write("/etc/thaw/config.toml", "policy = 'Perhaps'")?;
    {
        let container = run().start()?;
        // The tool refuses such a file too.
        lab.configure("")?;
        container.assert_cold("config_invalid")?;
    }
    lab.done()
}

/// `Required` fails the start, says why, and leaves nothing.
#[test]
fn required_or_not_at_all() -> Result<()> {
    let Some(lab) = Lab::enter("required_or_not_at_all") else {
        return Ok(());
    };
    let run = || {
        lab.python_run("one")
            .flags(&["--annotation", "thaw.dev/snapshot-policy=Required"])
    };
    let refused = |words: &str| -> Result<()> {
        {
            let (container, ran) = run().try_start()?;
            assert_ne!(ran.code, 0);
            assert!(ran.stderr.contains(words), "{}", ran.stderr);
            assert_eq!(container.status()?, "");
        }
        lab.nothing_left()
    };
    refused("there is no snapshot for this image and spec")?;
    lab.with_snapshot()?;
    {
        let _criu = thaw_integration::FakeCriu::new("exit 1")?;
        refused("restore the processes")?;
        refused("the snapshot has failed here")?;
    }
    lab.forgive()?;
    Python::ready(run().start()?)?.container.assert_restored()?;
    lab.configure("policy = 'Never'")?;
    refused("this node restores nothing")?;
    lab.done()
}

/// A restarted container goes on with the files that it has.
#[test]
fn a_restart_keeps_its_files() -> Result<()> {
    let Some(lab) = Lab::enter("a_restart_keeps_its_files") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    {
        let first = lab.python("one")?;
        first.container.assert_restored()?;
        assert_eq!(first.get("/write?marker")?, "2\n");
        first.container.kill("SIGKILL")?;
        first.container.end()?;
        let again = Container::named("one", None);
        ok(&[
            "ctr",
            "task",
            "start",
            "--detach",
            "--log-uri",
            "file:///tmp/one.log",
            again.id(),
        ])?;
        let again = Python::ready(again)?;
        again.container.assert_cold("rootfs_changed")?;
        assert_eq!(again.get("/write?marker")?, "3\n");
    }
    lab.done()
}
