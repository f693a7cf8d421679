//! A restored container can't be told from a cold one, except that it was faster.

use anyhow::{Context as _, Result};
use serde_json::Value;
use thaw_integration::{Lab, Netns, Python, Run, unified, until};

fn text<'a>(state: &'a Value, name: &str) -> &'a str {
    state[name].as_str().unwrap_or_default()
}

#[test]
fn a_clone_is_a_container_of_its_own() -> Result<()> {
    let Some(lab) = Lab::enter("a_clone_is_a_container_of_its_own") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        donor.container.assert_cold("no_snapshot")?;
        let before = donor.state()?;
        let taken = lab.capture(&donor.container, &[])?;
        assert!(taken["frozen_ms"].as_u64().is_some_and(|ms| ms > 0), "{taken}");
        assert_eq!(before["heap_checksum"], donor.state()?["heap_checksum"]);

        let clone = Python::ready(lab.python_run("clone").start()?)?;
        let outcome = clone.container.assert_restored()?;
        assert_eq!(outcome.snapshot.as_deref(), taken["id"].as_str());
        let state = clone.state()?;
        assert_eq!(state["heap_checksum"], before["heap_checksum"]);
        assert_eq!(state["pid"], before["pid"]);
        assert_eq!(text(&state, "hostname"), "clone");
        assert_eq!(text(&donor.state()?, "hostname"), "donor");
        assert_ne!(state["random"], donor.state()?["random"]);
        let uptime = state["uptime"].as_f64();
        assert!(
            uptime >= before["uptime"].as_f64(),
            "the monotonic clock went back: {uptime:?}"
        );

        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", clone.container.pid()?))?;
        assert!(
            cgroup.contains("/default/clone") && !cgroup.contains("donor"),
            "{cgroup}"
        );
        let lo = clone.container.sh("cat /sys/class/net/lo/flags")?;
        assert_eq!(lo.trim(), "0x9", "lo is not up");
        drop(clone);
        assert_eq!(text(&donor.state()?, "hostname"), "donor");
    }
    lab.done()
}

#[test]
fn exec_and_logs_reach_the_clone() -> Result<()> {
    let Some(lab) = Lab::enter("exec_and_logs_reach_the_clone") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    {
        let clone = Python::ready(lab.python_run("clone").start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(
            clone.container.sh("hostname; cat /proc/1/comm")?,
            "clone\npython3\n"
        );
        assert_eq!(
            clone.container.exec(&["sh", "-c", "echo bad >&2; exit 7"])?.code,
            7
        );
        clone
            .container
            .sh("echo said > /proc/1/fd/1; echo cried > /proc/1/fd/2")?;
        until("the clone's output", std::time::Duration::from_secs(5), || {
            let log = clone.container.log()?;
            Ok((log.contains("said") && log.contains("cried")).then_some(()))
        })?;
        clone.container.kill("SIGKILL")?;
        assert_eq!(clone.container.end()?, 128 + 9);
    }
    lab.done()
}

/// Also a server that handles signals, with a child at any moment.
#[test]
fn signals_and_the_exit_code_of_a_clone() -> Result<()> {
    let Some(lab) = Lab::enter("signals_and_the_exit_code_of_a_clone") else {
        return Ok(());
    };
    {
        let script = "trap 'echo bye; exit 3' TERM; while :; do sleep 0.2; done";
        let run = |id: &str| Run::new(id, "static").command(&["sh", "-c", script]);
        let donor = run("donor").start()?;
        lab.capture(&donor, &[])?;
        let clone = run("clone").start()?;
        clone.assert_restored()?;
        clone.kill("SIGTERM")?;
        assert_eq!(clone.end()?, 3);
        assert_eq!(clone.log()?, "bye\n");
        donor.kill("SIGTERM")?;
        assert_eq!(donor.end()?, 3);
    }
    lab.done()
}

#[test]
fn limits_hold_after_a_restore() -> Result<()> {
    let Some(lab) = Lab::enter("limits_hold_after_a_restore") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    {
        let limits = ["--memory-limit", "134217728", "--cpus", "0.5"];
        let clone = Python::ready(lab.python_run("clone").flags(&limits).start()?)?;
        clone.container.assert_restored()?;
        let files: &[_] = if unified() {
            &[
                ("memory", "memory.max", "134217728"),
                ("cpu", "cpu.max", "50000 100000"),
            ]
        } else {
            &[
                ("memory", "memory.limit_in_bytes", "134217728"),
                ("cpu", "cpu.cfs_quota_us", "50000"),
                ("cpu", "cpu.cfs_period_us", "100000"),
            ]
        };
        for &(controller, name, value) in files {
            assert_eq!(clone.container.cgroup_file(controller, name)?, value, "{name}");
        }
    }
    lab.done()
}

const CHANGE: &str = r#"
import os
os.makedirs("/srv/new/deep")
open("/srv/new/deep/file", "w").write("content")
os.chown("/srv/new/deep/file", 12, 34)
os.chmod("/srv/new/deep/file", 0o4750)
os.link("/srv/new/deep/file", "/srv/hard")
os.symlink("new/deep/file", "/srv/soft")
os.unlink("/etc/services")
os.rename("/etc/init.d", "/etc/moved") if os.path.isdir("/etc/init.d") else None
import shutil
shutil.rmtree("/etc/dpkg"); os.mkdir("/etc/dpkg"); open("/etc/dpkg/only", "w").close()
os.setxattr("/srv/hard", "user.thaw", b"kept")
with open("/srv/sparse", "wb") as f:
    f.seek(64 << 20); f.write(b"end")
os.mkfifo("/srv/fifo")
os.utime("/srv/hard", ns=(1, 1234567890123456789))
"#;
const LOOK: &str = r#"
import os, stat
s = os.stat("/srv/hard")
print(open("/srv/soft").read(), s.st_ino == os.stat("/srv/new/deep/file").st_ino, s.st_nlink, oct(s.st_mode), s.st_uid,
      s.st_gid, s.st_mtime_ns, os.getxattr("/srv/hard", "user.thaw"), os.readlink("/srv/soft"))
print(os.path.exists("/etc/services"), os.listdir("/etc/dpkg"), os.path.exists("/etc/init.d"), os.path.exists("/etc/debian_version"))
b = os.stat("/srv/sparse")
print(b.st_size, b.st_blocks < 64, stat.S_ISFIFO(os.stat("/srv/fifo").st_mode))
"#;

#[test]
fn the_clone_sees_the_donors_files() -> Result<()> {
    let Some(lab) = Lab::enter("the_clone_sees_the_donors_files") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        donor.container.exec(&["python3", "-c", CHANGE])?.ok()?;
        assert_eq!(donor.get("/write?log")?, "1\n");
        let seen = donor.container.exec(&["python3", "-c", LOOK])?.ok()?;
        assert!(
            seen.starts_with("content True 2 0o104750 12 34 1234567890123456789 b'kept'"),
            "{seen}"
        );
        assert!(seen.contains("False ['only'] False True"), "{seen}");
        lab.capture(&donor.container, &[])?;

        let clone = Python::ready(lab.python_run("clone").start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(clone.container.exec(&["python3", "-c", LOOK])?.ok()?, seen);
        // They are the clone's own from here on.
        assert_eq!(clone.get("/write?log")?, "2\n");
        assert_eq!(clone.get("/write?log")?, "3\n");
        assert_eq!(donor.get("/write?log")?, "2\n");
    }
    lab.done()
}

fn start_many(lab: &Lab, ids: impl Iterator<Item = usize>) -> Result<Vec<Python>> {
    std::thread::scope(|scope| {
        let start = |n: usize| {
            let run = lab.python_run(&format!("clone-{n}"));
            scope.spawn(move || Python::ready(run.start()?))
        };
        let threads: Vec<_> = ids.map(start).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

#[test]
fn ten_clones_at_once_and_again() -> Result<()> {
    let Some(lab) = Lab::enter("ten_clones_at_once_and_again") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    for round in 0..2 {
        let clones = start_many(&lab, 0..10).with_context(|| format!("round {round}"))?;
        for clone in &clones {
            clone.container.assert_restored()?;
        }
        for clone in &clones {
            assert_eq!(text(&clone.state()?, "hostname"), clone.container.id());
        }
    }
    lab.done()
}

#[test]
fn twenty_restores_in_a_row() -> Result<()> {
    let Some(lab) = Lab::enter("twenty_restores_in_a_row") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    for n in 0..20 {
        let id = format!("row-{n}");
        let clone = lab.python(&id)?;
        clone.container.assert_restored()?;
        assert_eq!(text(&clone.state()?, "hostname"), id);
    }
    lab.done()
}

#[test]
fn forked_workers_come_back() -> Result<()> {
    let Some(lab) = Lab::enter("forked_workers_come_back") else {
        return Ok(());
    };
    {
        let run = |id: &str| lab.python_run(id).flags(&["--env", "WORKERS=3"]);
        let pids = "for p in /proc/[0-9]*; do grep -qsx python3 $p/comm && echo ${p#/proc/}; done; true";
        let donor = Python::ready(run("donor").start()?)?;
        let before = donor.container.sh(pids)?;
        lab.capture(&donor.container, &[])?;
        let clone = Python::ready(run("clone").start()?)?;
        clone.container.assert_restored()?;
        let after = clone.container.sh(pids)?;
        assert_eq!(after, before);
        assert_eq!(before.lines().count(), 4);
        let state = clone.state()?;
        assert_eq!(state["ppid"], 1);
        assert_eq!(text(&state, "hostname"), "clone");
        assert_eq!(
            clone
                .container
                .exec(&["sh", "-c", "grep -h State /proc/[1-4]/status | grep -c stopped"])?
                .code,
            1
        );
    }
    lab.done()
}

#[test]
fn a_clone_in_a_given_network_namespace() -> Result<()> {
    let Some(lab) = Lab::enter("a_clone_in_a_given_network_namespace") else {
        return Ok(());
    };
    {
        let (a, b) = (Netns::new("ring-a")?, Netns::new("ring-b")?);
        let run = |id: &str, netns: &Netns| {
            let flag = format!("network:{}", netns.path().display());
            lab.python_run(id).flags(&["--with-ns", &flag])
        };
        let donor = Python::ready(run("donor", &a).start()?)?;
        lab.capture(&donor.container, &[])?;
        let clone = Python::ready(run("clone", &b).start()?)?;
        clone.container.assert_restored()?;
        let inode = |path: std::path::PathBuf| {
            anyhow::Ok(std::fs::metadata(path)?).map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
        };
        assert_eq!(inode(clone.container.netns()?)?, inode(b.path())?);
        assert_eq!(text(&clone.state()?, "hostname"), "clone");
        // The kind of network is the same, a new one or a given one.
        let own = Python::ready(lab.python_run("own").start()?)?;
        own.container.assert_restored()?;
    }
    lab.done()
}
