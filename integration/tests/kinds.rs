//! Containers of many kinds, each captured and restored: rights, mounts, and what a process can hold open.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use thaw_integration::{Events, Lab, Python, Run, ok, until};

/// The rights of init and what is mounted. A file is masked by a bind of /dev/null, the container's own or the
/// machine's, which is on a devtmpfs: both are the same device.
const RIGHTS: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/1/status; \
    cut -d' ' -f2,3 /proc/mounts | sed 's/devtmpfs/tmpfs/' | sort";

fn same_rights(lab: &Lab, flags: &[&str]) -> Result<()> {
    {
        let run = |id: &str| lab.python_run(id).flags(flags);
        let donor = Python::ready(run("donor").start()?)?;
        let rights = donor.container.sh(RIGHTS)?;
        lab.capture(&donor.container, &[])?;
        let clone = Python::ready(run("clone").start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(clone.container.sh(RIGHTS)?, rights);
        assert_eq!(clone.state()?["heap_checksum"], donor.state()?["heap_checksum"]);
    }
    lab.nothing_left()
}

#[test]
fn rights_come_back_as_they_were() -> Result<()> {
    let Some(lab) = Lab::enter("rights_come_back_as_they_were") else {
        return Ok(());
    };
    for flags in [
        ["--seccomp"].as_slice(),
        &["--cap-drop", "CAP_NET_RAW", "--cap-drop", "CAP_SYS_CHROOT"],
        &["--cap-add", "CAP_SYS_ADMIN"],
        &["--allow-new-privs"],
        &["--read-only", "--env", "PYTHONDONTWRITEBYTECODE=1"],
        &["--mount", "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m"],
    ] {
        same_rights(&lab, flags).with_context(|| format!("{flags:?}"))?;
    }
    lab.done()
}

/// `ctr` of containerd 1.7 can't ask for one.
#[test]
fn a_cpuset_comes_back() -> Result<()> {
    let Some(lab) = Lab::enter_since_containerd("a_cpuset_comes_back", 2) else {
        return Ok(());
    };
    same_rights(&lab, &["--cpuset-cpus", "0"])?;
    lab.done()
}

#[test]
fn another_user_comes_back() -> Result<()> {
    let Some(lab) = Lab::enter_with_all_rights("another_user_comes_back") else {
        return Ok(());
    };
    same_rights(&lab, &["--user", "1000:1000"])?;
    lab.done()
}

/// The clone has the files of its own source, which is another folder.
#[test]
fn sources_of_mounts_are_the_clones_own() -> Result<()> {
    let Some(lab) = Lab::enter("sources_of_mounts_are_the_clones_own") else {
        return Ok(());
    };
    {
        let run = |id: &str| -> Result<Run> {
            let source = lab.path(id);
            fs::create_dir_all(&source)?;
            fs::write(source.join("name"), id)?;
            let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", source.display());
            let allow = "thaw.dev/persistent-mounts=allow";
            Ok(lab
                .python_run(id)
                .flags(&["--mount", &mount, "--annotation", allow]))
        };
        let donor = Python::ready(run("donor")?.start()?)?;
        lab.capture(&donor.container, &[])?;
        let clone = Python::ready(run("clone")?.start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(
            clone.container.sh("cat /data/name; echo new > /data/made")?,
            "clone"
        );
        assert!(lab.path("clone").join("made").exists());
        assert!(!lab.path("donor").join("made").exists());
    }
    lab.done()
}

/// Files, sockets, pipes, locks, timers and watches that a process holds while it is captured.
const HOLDS: &str = r#"
import ctypes, fcntl, mmap, os, select, signal, socket, sys, tempfile, threading, time
ghost = open("/srv/ghost", "w+"); ghost.write("unlinked"); ghost.flush(); os.unlink("/srv/ghost")
locked = open("/srv/locked", "w"); fcntl.flock(locked, fcntl.LOCK_EX)
a, b = socket.socketpair(); a.sendall(b"in flight")
unix = socket.socket(socket.AF_UNIX); unix.bind("/srv/unix"); unix.listen()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0))
six = socket.socket(socket.AF_INET6); six.bind(("::1", 7001)); six.listen()
loop = socket.socket(); loop.bind(("127.0.0.1", 0)); loop.listen()
near = socket.create_connection(loop.getsockname()); far, _ = loop.accept(); near.sendall(b"loop")
shared = mmap.mmap(-1, 4096); shared[:6] = b"shared"
mapped_file = open("/srv/mapped", "w+b"); mapped_file.truncate(4096); mapped = mmap.mmap(mapped_file.fileno(), 4096)
memfd = os.memfd_create("thaw"); os.write(memfd, b"memory file")
r, w = os.pipe(); os.write(w, b"piped")
epoll = select.epoll(); epoll.register(r, select.EPOLLIN)
libc = ctypes.CDLL(None); watch = libc.inotify_init(); libc.inotify_add_watch(watch, b"/etc", 0x100)
timer_hits = []
signal.signal(signal.SIGALRM, lambda *_: timer_hits.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
child = os.fork()
if child == 0:
    shared[6:11] = b"child"
    while True: time.sleep(0.05)
time.sleep(0.3)
print("ready", flush=True)
while not os.path.exists("/srv/go"): time.sleep(0.05)
facts = []
ghost.seek(0); facts.append(ghost.read())
try:
    other = open("/srv/locked", "w"); fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB); facts.append("not locked")
except OSError: facts.append("locked")
facts.append(b.recv(100).decode())
peer = socket.socket(socket.AF_UNIX); peer.connect("/srv/unix"); facts.append("unix")
udp.sendto(b"udp", udp.getsockname()); facts.append(udp.recv(10).decode())
socket.create_connection(("::1", 7001)); facts.append("six")
far.settimeout(3)
try: facts.append(far.recv(10).decode() or "closed")
except OSError as error: facts.append("closed")
facts.append(shared[:11].decode())
mapped[:3] = b"map"; mapped.flush(); facts.append(open("/srv/mapped").read(3))
os.lseek(memfd, 0, 0); facts.append(os.read(memfd, 100).decode())
facts.append(str(len(epoll.poll(1)))); facts.append(os.read(r, 100).decode())
open("/etc/watched", "w").close(); facts.append("watch" if select.select([watch], [], [], 1)[0] else "blind")
before = len(timer_hits); time.sleep(0.5); facts.append("timer" if len(timer_hits) > before else "no timer")
os.kill(child, 9); facts.append(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
print("facts:", *facts, sep="|", flush=True)
"#;

#[test]
fn what_a_process_holds_comes_back() -> Result<()> {
    let Some(lab) = Lab::enter("what_a_process_holds_comes_back") else {
        return Ok(());
    };
    {
        let run = |id: &str| {
            Run::new(id, "python")
                .flags(&["--hostname", id])
                .command(&["python3", "-c", HOLDS])
        };
        let donor = run("donor").start()?;
        until("the donor", Duration::from_secs(10), || {
            Ok(donor.log()?.contains("ready").then_some(()))
        })?;
        lab.capture(&donor, &[])?;
        let clone = run("clone").start()?;
        clone.assert_restored()?;
        for container in [&donor, &clone] {
            container.sh("touch /srv/go")?;
            assert_eq!(container.end()?, 0, "{}", container.log()?);
        }
        let facts = |log: String| {
            log.lines()
                .find(|line| line.starts_with("facts:"))
                .map(str::to_owned)
        };
        assert_eq!(facts(clone.log()?), facts(donor.log()?));
    }
    lab.done()
}

/// Watches on folders and files of many mounts: of the root filesystem where CRIU looks by itself and where it does not,
/// of a folder and of a file of the host, and of a tmpfs. Answers the numbers of the watches that have fired.
const WATCHES: &str = r#"
import ctypes, os, select, struct, time
libc = ctypes.CDLL(None)
os.makedirs("/opt/a folder/#1", exist_ok=True)
watched = ["/", "/etc/hostname", "/srv/server.py", "/opt/a folder/#1", "/usr", "/data", "/data/inner", "/one-file", "/dev/shm"]
fd = libc.inotify_init()
for number, path in enumerate(watched, 1):
    assert libc.inotify_add_watch(fd, path.encode(), 0x106) == number, path
print("ready", flush=True)
while not os.path.exists("/srv/go"): time.sleep(0.05)
for path in watched:
    if os.path.isdir(path): open(path + "/made", "w").close()
    else: os.chmod(path, 0o640)
time.sleep(0.1)
fired, events = set(), os.read(fd, 65536)
while events:
    number, _, _, length = struct.unpack("iIII", events[:16])
    fired.add(number); events = events[16 + length:]
print("fired:", *sorted(fired), flush=True)
"#;

/// The clone watches its own files, also where the donor's are still there.
#[test]
fn watches_come_back() -> Result<()> {
    let Some(lab) = Lab::enter("watches_come_back") else {
        return Ok(());
    };
    {
        let run = |id: &str| -> Result<Run> {
            let (folder, file) = (lab.path(id), lab.path(&format!("{id}.file")));
            fs::create_dir_all(folder.join("inner"))?;
            fs::write(&file, id)?;
            let bind =
                |from: &Path, to: &str| format!("type=bind,src={},dst={to},options=rbind:rw", from.display());
            let (folder, file) = (bind(&folder, "/data"), bind(&file, "/one-file"));
            let run = Run::new(id, "python").command(&["python3", "-c", WATCHES]);
            let allow = "thaw.dev/persistent-mounts=allow";
            Ok(run.flags(&["--mount", &folder, "--mount", &file, "--annotation", allow]))
        };
        let donor = run("donor")?.start()?;
        until("the donor", Duration::from_secs(20), || {
            Ok(donor.log()?.contains("ready").then_some(()))
        })?;
        lab.capture(&donor, &[])?;
        let clone = run("clone")?.start()?;
        clone.assert_restored()?;
        for container in [&donor, &clone] {
            container.sh("touch /srv/go")?;
            assert_eq!(container.end()?, 0, "{}", container.log()?);
            let log = container.log()?;
            assert!(
                log.contains("fired: 1 2 3 4 5 6 7 8 9"),
                "{}: {log}",
                container.id()
            );
        }
    }
    lab.done()
}

/// One that has ended and that nobody has asked for yet.
const DEAD_CHILD: &str = r#"
import os, time
child = os.fork()
if child == 0: os._exit(3)
while not os.path.exists("/srv/go"): time.sleep(0.05)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

#[test]
fn a_dead_child_comes_back() -> Result<()> {
    let Some(lab) = Lab::enter("a_dead_child_comes_back") else {
        return Ok(());
    };
    {
        let run = |id: &str| Run::new(id, "python").command(&["python3", "-c", DEAD_CHILD]);
        let donor = run("donor").start()?;
        until("the dead child", Duration::from_secs(10), || {
            Ok(donor
                .sh("grep -l '^State:.Z' /proc/[0-9]*/status || true")?
                .contains("status")
                .then_some(()))
        })?;
        lab.capture(&donor, &[])?;
        let clone = run("clone").start()?;
        clone.assert_restored()?;
        for container in [&donor, &clone] {
            container.sh("touch /srv/go")?;
            assert_eq!(container.end()?, 3);
        }
    }
    lab.done()
}

/// A clone is a container like any other, so it can be a donor.
#[test]
fn a_clone_of_a_clone() -> Result<()> {
    let Some(lab) = Lab::enter("a_clone_of_a_clone") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    {
        for generation in 1..4 {
            let id = format!("generation-{generation}");
            let clone = lab.python(&id)?;
            clone.container.assert_restored()?;
            assert_eq!(clone.state()?["hostname"], id.as_str());
            // The first donor has written one line, and each clone one more.
            assert_eq!(clone.get("/write?marker")?, format!("{}\n", generation + 1));
            lab.capture(&clone.container, &[]).with_context(|| id.clone())?;
        }
    }
    lab.done()
}

/// The same events and the same metrics as of a cold start.
#[test]
fn a_clone_reports_like_any_other() -> Result<()> {
    let Some(lab) = Lab::enter("a_clone_reports_like_any_other") else {
        return Ok(());
    };
    let life = |reason: &str| -> Result<(Vec<String>, Vec<String>)> {
        let events = Events::subscribe()?;
        let python = lab.python("one")?;
        assert_eq!(python.container.outcome()?.reason, reason);
        python.container.sh("true")?;
        ok(&["ctr", "task", "pause", "one"])?;
        assert_eq!(python.container.status()?, "PAUSED");
        ok(&["ctr", "task", "resume", "one"])?;
        python.get("/healthz")?;
        let metrics = ok(&["ctr", "task", "metrics", "one"])?;
        let names = metrics
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned);
        let names = names.filter(|name| name != "TIMESTAMP").collect();
        python.container.kill("SIGKILL")?;
        assert_eq!(python.container.end()?, 137);
        drop(python);
        Ok((
            events.of("one")?.into_iter().map(|(topic, _)| topic).collect(),
            names,
        ))
    };
    let cold = life("no_snapshot")?;
    lab.with_snapshot()?;
    assert_eq!(life("restored")?, cold);
    lab.done()
}
