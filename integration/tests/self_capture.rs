//! Containers that have themselves captured when they are ready, with annotations only.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use thaw_integration::{Bridge, Container, FakeCriu, Lab, Netns, Python, Run, http, ok, run, until};

/// Generous: other tests and builds may run on the same machine.
const LIMIT: Duration = Duration::from_secs(180);

const HTTP: &str = "http:8000/healthz";

/// A Python server that is captured when it is ready.
fn python(lab: &Lab, id: &str, ready: &str) -> Run {
    let ready = format!("thaw.dev/ready={ready}");
    lab.python_run(id)
        .flags(&["--annotation", "thaw.dev/capture=ready", "--annotation", &ready])
}

/// How far its own capture is.
fn standing(container: &Container) -> Result<Option<Value>> {
    let told = ok(&["thaw", "explain", "-o", "json", container.id()])?;
    let told: Value = serde_json::from_str(&told)?;
    Ok(told.get("capture").cloned())
}

/// Waits for the end of its capture: state and code.
fn captured(container: &Container) -> Result<(String, String)> {
    until("the end of the capture", LIMIT, || {
        let Some(standing) = standing(container)? else {
            return Ok(None);
        };
        let text = |name: &str| standing[name].as_str().unwrap_or_default().to_owned();
        Ok(match text("state").as_str() {
            "waiting" | "capturing" => None,
            _ => Some((text("state"), text("code"))),
        })
    })
}

fn assert_published(container: &Container) -> Result<()> {
    let (state, _) = captured(container)?;
    if state != "published" {
        bail!("{}: {:?}", container.id(), standing(container)?);
    }
    Ok(())
}

/// Number of snapshots in the store.
fn snapshots() -> Result<usize> {
    let list: Vec<Value> = serde_json::from_str(&ok(&["thaw", "ls", "-o", "json"])?)?;
    Ok(list.len())
}

#[test]
fn from_cold_to_restored_by_annotations_alone() -> Result<()> {
    let Some(lab) = Lab::enter("from_cold_to_restored_by_annotations_alone") else {
        return Ok(());
    };
    for probe in [
        HTTP,
        "tcp:8000",
        "log:^listening on \\d+$",
        "exec:python3 -c __import__(\"urllib.request\").request.urlopen(\"http://127.0.0.1:8000/healthz\")",
    ] {
        let donor = Python::ready(python(&lab, "donor", probe).start()?)?;
        donor.container.assert_cold("no_snapshot")?;
        assert_published(&donor.container)?;
        assert_eq!(snapshots()?, 1);
        donor.get("/healthz")?;
        let clone = Python::ready(python(&lab, "clone", probe).start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(clone.state()?["hostname"], "clone");
        assert_eq!(standing(&clone.container)?, None);
        drop((donor, clone));
        ok(&["rm", "-r", &lab.store().display().to_string()])?;
    }
    lab.done()
}

/// Waits until its capture has failed, and answers the code and the words.
fn failed(container: &Container) -> Result<(String, String)> {
    let (state, code) = captured(container)?;
    let words = standing(container)?.map(|standing| standing["detail"].to_string());
    anyhow::ensure!(state == "failed", "{state} {code}: {words:?}");
    Ok((code, words.unwrap_or_default()))
}

/// The process that captures the container.
fn helper(container: &Container) -> Result<Pid> {
    until("the process that captures", LIMIT, || {
        let pid = standing(container)?.and_then(|standing| standing["pid"].as_i64());
        Ok(pid.map(|pid| i32::try_from(pid).map(Pid::from_raw)).transpose()?)
    })
}

/// Cold, captured when it answers after a warm-up, restored; each clone answers at its own address, under its own name.
fn captures_itself(name: &str, image: &str, port: u16, path: &'static str) -> Result<()> {
    let Some(lab) = Lab::enter_with_image(name, image) else {
        return Ok(());
    };
    {
        let bridge = Bridge::new()?;
        let ready = format!("thaw.dev/ready=http:{port}{path}");
        let warmup = format!("thaw.dev/warmup=http:{port}{path},3");
        let annotations = [
            "--annotation",
            "thaw.dev/capture=ready",
            "--annotation",
            &ready,
            "--annotation",
            &warmup,
        ];
        let start = |id: &str, number: u8| -> Result<(Container, Netns)> {
            let netns = Netns::new(id)?;
            let (address, mac) = (format!("10.77.0.{number}"), format!("02:77:00:00:00:{number:02}"));
            bridge.join(&netns, &address, &mac)?;
            let network = format!("network:{}", netns.path().display());
            let run = Run::new(id, image).flags(&["--hostname", id, "--with-ns", &network]);
            Ok((run.flags(&annotations).start()?, netns))
        };
        let answers = |number: u8| {
            let address = SocketAddr::from((Ipv4Addr::new(10, 77, 0, number), port));
            http::get(Path::new("/proc/self/ns/net"), address, path, LIMIT).map(drop)
        };
        let (donor, _net) = start("donor", 2)?;
        donor.assert_cold("no_snapshot")?;
        assert_published(&donor)?;
        answers(2)?;
        for (id, number) in [("clone-1", 3), ("clone-2", 4)] {
            let (clone, _net) = start(id, number)?;
            clone.assert_restored()?;
            answers(number)?;
            assert_eq!(clone.sh("hostname")?, format!("{id}\n"));
        }
    }
    lab.done()
}

#[test]
fn redmine_captures_itself() -> Result<()> {
    captures_itself("redmine_captures_itself", "redmine", 3000, "/login")
}

#[test]
fn the_fat_application_captures_itself() -> Result<()> {
    captures_itself("the_fat_application_captures_itself", "fat-app", 3000, "/")
}

#[test]
fn a_virtual_machine_captures_itself() -> Result<()> {
    captures_itself("a_virtual_machine_captures_itself", "jvm", 8080, "/")
}

#[test]
fn worker_processes_are_captured_together() -> Result<()> {
    captures_itself(
        "worker_processes_are_captured_together",
        "prefork",
        8000,
        "/healthz",
    )
}

#[test]
fn the_application_says_itself_that_it_is_ready() -> Result<()> {
    let Some(lab) = Lab::enter("the_application_says_itself_that_it_is_ready") else {
        return Ok(());
    };
    {
        let donor = Python::ready(python(&lab, "donor", "file").start()?)?;
        assert_eq!(standing(&donor.container)?.context("none")?["state"], "waiting");
        donor
            .container
            .sh("mkdir -p /run/thaw && touch /run/thaw/ready")?;
        assert_published(&donor.container)?;
        Python::ready(python(&lab, "clone", "file").start()?)?
            .container
            .assert_restored()?;
    }
    lab.done()
}

#[test]
fn of_two_that_start_at_once_one_is_captured() -> Result<()> {
    let Some(lab) = Lab::enter("of_two_that_start_at_once_one_is_captured") else {
        return Ok(());
    };
    {
        let starts = ["one", "two", "three"].map(|id| {
            let run = python(&lab, id, HTTP);
            std::thread::spawn(move || run.start())
        });
        let containers = starts
            .into_iter()
            .map(|start| start.join().expect("no panic"))
            .collect::<Result<Vec<_>>>()?;
        let mut ends = Vec::new();
        for container in &containers {
            container.assert_cold("no_snapshot")?;
            ends.push(captured(container)?);
        }
        let published = ends.iter().filter(|(state, _)| state == "published").count();
        assert_eq!(published, 1, "{ends:?}");
        let others = ends
            .iter()
            .filter(|(_, code)| code == "lease_held" || code == "already_there");
        assert_eq!(others.count(), 2, "{ends:?}");
        assert_eq!(snapshots()?, 1);
        // Given back: it is nobody's.
        let leases = lab.store().join("v1/leases").display().to_string();
        let given_back = run(&[
            "grep",
            "--recursive",
            "--no-filename",
            "-o",
            "\"expires\":.*",
            &leases,
        ])?;
        assert_eq!(given_back.stdout, "\"expires\":0}\n");
    }
    lab.done()
}

#[test]
fn a_killed_capture_leaves_a_running_container_and_no_lease_for_long() -> Result<()> {
    let Some(lab) = Lab::enter("a_killed_capture_leaves_a_running_container_and_no_lease_for_long") else {
        return Ok(());
    };
    lab.configure("capture.lease = \"3s\"")?;
    // While it waits, and at some moments of the capture.
    for (number, after) in [0, 100, 300, 600, 1000, 2000].into_iter().enumerate() {
        let id = format!("donor-{number}");
        let donor = Python::ready(python(&lab, &id, HTTP).start()?)?;
        let pid = helper(&donor.container)?;
        std::thread::sleep(Duration::from_millis(after));
        // It may be done.
        kill(pid, Signal::SIGKILL).ok();
        donor
            .get("/healthz")
            .with_context(|| format!("killed after {after} ms"))?;
        drop(donor);
        if snapshots()? == 0 {
            // The mark of the one that was killed runs out.
            until("a capture after a killed one", LIMIT, || {
                let next = Python::ready(python(&lab, "next", HTTP).start()?)?;
                let (state, code) = captured(&next.container)?;
                anyhow::ensure!(state == "published" || code == "lease_held", "{state} {code}");
                Ok((state == "published").then_some(()))
            })?;
        }
        Python::ready(python(&lab, "clone", HTTP).start()?)?
            .container
            .assert_restored()?;
        ok(&["rm", "-r", &lab.store().display().to_string()])?;
        lab.empty_cache()?;
    }
    lab.done()
}

#[test]
fn one_that_does_not_become_ready_is_not_captured() -> Result<()> {
    let Some(lab) = Lab::enter("one_that_does_not_become_ready_is_not_captured") else {
        return Ok(());
    };
    lab.configure("capture.ready_deadline = \"2s\"")?;
    for probe in ["tcp:9", "http:8000/none", "log:never", "exec:false", "file"] {
        let donor = Python::ready(python(&lab, "donor", probe).start()?)?;
        let (code, _) = failed(&donor.container)?;
        assert_eq!(code, "not_ready", "{probe}");
        assert_eq!(snapshots()?, 0);
        donor.get("/healthz")?;
    }
    {
        // By hand neither.
        let donor = Python::ready(python(&lab, "donor", "tcp:9").start()?)?;
        let ran = run(&["thaw", "capture", "donor"])?;
        assert_eq!(ran.code, 4, "{ran:?}");
        donor.get("/healthz")?;
    }
    lab.done()
}

/// Ends when it finds itself in another network namespace.
const MORTAL: &str = "\
import os, socket, threading, time
born = os.readlink('/proc/self/ns/net')
def watch():
    while os.readlink('/proc/self/ns/net') == born:
        time.sleep(0.05)
    os._exit(3)
threading.Thread(target=watch).start()
server = socket.create_server(('0.0.0.0', 8000))
while True:
    server.accept()[0].close()
";

#[test]
fn what_does_not_come_back_is_not_published() -> Result<()> {
    let Some(lab) = Lab::enter("what_does_not_come_back_is_not_published") else {
        return Ok(());
    };
    {
        let mortal = |id: &str| python(&lab, id, "tcp:8000").command(&["python3", "-c", MORTAL]);
        let donor = mortal("donor").start()?;
        let (code, words) = failed(&donor)?;
        assert_eq!(code, "proof_failed");
        assert!(
            words.contains("ended within") || words.contains("probe"),
            "{words}"
        );
        assert_eq!((snapshots()?, donor.status()?.as_str()), (0, "RUNNING"));
        // The next replica does not stand still for the same failure.
        let next = mortal("next").start()?;
        assert_eq!(
            captured(&next)?,
            ("skipped".to_owned(), "failed_recently".to_owned())
        );
        let by_hand = run(&["thaw", "capture", "donor"])?;
        assert!(by_hand.stderr.contains("is not published"), "{by_hand:?}");
        assert_eq!(snapshots()?, 0);
        lab.capture(&donor, &["--no-proof"])?;
        assert_eq!(snapshots()?, 1);
    }
    ok(&["rm", "-r", &lab.store().display().to_string()])?;
    {
        let _broken = FakeCriu::new("grep -q proof- /proc/$PPID/cmdline && exit 1\nexec $criu \"$@\"")?;
        let donor = Python::ready(python(&lab, "donor", HTTP).start()?)?;
        assert_eq!(failed(&donor.container)?.0, "proof_failed");
        assert_eq!(snapshots()?, 0);
        donor.get("/healthz")?;
    }
    lab.done()
}

#[test]
fn a_warm_up_is_in_the_snapshot() -> Result<()> {
    let Some(lab) = Lab::enter("a_warm_up_is_in_the_snapshot") else {
        return Ok(());
    };
    {
        let warm = ["--annotation", "thaw.dev/warmup=http:8000/write?warm,5"];
        let donor = Python::ready(python(&lab, "donor", HTTP).flags(&warm).start()?)?;
        assert_published(&donor.container)?;
        assert_eq!(donor.get("/write?warm")?, "6\n");
        let clone = Python::ready(python(&lab, "clone", HTTP).flags(&warm).start()?)?;
        clone.container.assert_restored()?;
        // The request after the capture was not.
        assert_eq!(clone.get("/write?warm")?, "6\n");
    }
    lab.done()
}

/// A watch on a file that is deleted and still open.
const NAMELESS_WATCH: &str = "held = open('/srv/held', 'w')\n\
    assert libc.inotify_add_watch(libc.inotify_init(), b'/srv/held', 2) > 0\nos.unlink('/srv/held')";

/// Prints a line when it holds what can't be dumped, and waits.
fn holding(what: &str) -> String {
    format!("import ctypes, os, socket, time\n{what}\nprint('held', flush=True)\ntime.sleep(1000)")
}

#[test]
fn what_criu_cannot_dump_is_refused_before_the_dump() -> Result<()> {
    let Some(lab) = Lab::enter("what_criu_cannot_dump_is_refused_before_the_dump") else {
        return Ok(());
    };
    let libc = "libc = ctypes.CDLL(None, use_errno=True)\n";
    let cases = [
        (
            "io_uring",
            format!("{libc}ring = libc.syscall(425, 8, ctypes.create_string_buffer(120))\nassert ring > 0"),
        ),
        (
            "unsupported_descriptor",
            format!("{libc}assert libc.syscall(323, 1) > 0"),
        ),
        (
            "unsupported_socket",
            "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)".to_owned(),
        ),
        ("inotify_overlay", format!("{libc}{NAMELESS_WATCH}")),
        (
            "unix_outside",
            "s = socket.socket(socket.AF_UNIX)\ns.connect('/host.sock')".to_owned(),
        ),
        (
            "nested_namespace",
            format!(
                "{libc}assert os.fork() or (libc.unshare(0x04000000) == 0 and time.sleep(1000))\ntime.sleep(1)"
            ),
        ),
    ];
    let mount = "type=bind,src=/run/containerd/containerd.sock.ttrpc,dst=/host.sock,options=rbind:ro";
    for (code, what) in cases {
        let probe = "log:^held$";
        let donor = python(&lab, "donor", probe)
            .flags(&[
                "--cap-add",
                "CAP_SYS_ADMIN",
                "--cap-add",
                "CAP_SYS_PTRACE",
                "--mount",
                mount,
            ])
            .command(&["python3", "-c", &holding(&what)])
            .start()?;
        let (found, words) = failed(&donor).with_context(|| format!("{code}: {:?}", donor.log()))?;
        assert_eq!(found, code, "{words}");
        assert_eq!(donor.status()?, "RUNNING");
        let captures = fs::read_dir(lab.path("cache/captures")).map_or(0, Iterator::count);
        assert_eq!(captures, 0, "there was a dump for {code}");
        drop(donor);
        ok(&["rm", "-r", &lab.store().display().to_string()])?;
    }
    {
        lab.configure("capture.max_memory = \"4MiB\"")?;
        let donor = Python::ready(python(&lab, "donor", HTTP).start()?)?;
        assert_eq!(failed(&donor.container)?.0, "memory_limit");
    }
    lab.done()
}

#[test]
fn secrets_are_named_and_never_told() -> Result<()> {
    let Some(lab) = Lab::enter("secrets_are_named_and_never_told") else {
        return Ok(());
    };
    {
        let key = "key = '-----BEGIN ' + 'PRIVATE KEY-----\\n' + 'Ab1+' * 300 + '\\n'; import runpy; \
                   runpy.run_path('/srv/server.py')";
        let donor = lab
            .python_run("donor")
            .flags(&["--env", "DB_PASSWORD=hunter2hunter2"])
            .command(&["python3", "-c", key])
            .start()?;
        let donor = Python::ready(donor)?;
        let refused = run(&["thaw", "capture", "--refuse-secrets", "donor"])?;
        assert_eq!(refused.code, 4, "{refused:?}");
        assert!(refused.stderr.contains("DB_PASSWORD"), "{refused:?}");
        let captures = fs::read_dir(lab.path("cache/captures")).map_or(0, Iterator::count);
        assert_eq!(captures, 0, "the environment was looked at after the dump");
        let keyed = Python::ready(lab.python_run("keyed").command(&["python3", "-c", key]).start()?)?;
        let searched = run(&["thaw", "capture", "--refuse-secrets", "keyed"])?;
        assert_eq!(searched.code, 4, "{searched:?}");
        assert!(searched.stderr.contains("private keys in memory"), "{searched:?}");
        // What is found after the dump must not cost the application.
        let stopped = run(&["thaw", "capture", "--stop", "--refuse-secrets", "keyed"])?;
        lab.configure("capture.refuse_secrets = true")?;
        for stopped in [stopped, run(&["thaw", "capture", "--stop", "keyed"])?] {
            assert_eq!(stopped.code, 4, "{stopped:?}");
            assert!(stopped.stderr.contains("leave out --stop"), "{stopped:?}");
        }
        keyed.get("/healthz")?;
        drop(keyed);
        lab.configure("")?;
        assert_eq!(snapshots()?, 0);
        donor.get("/healthz")?;
        let warned = run(&["thaw", "capture", "donor"])?;
        assert_eq!(warned.code, 0, "{warned:?}");
        assert!(warned.stderr.contains("DB_PASSWORD"), "{warned:?}");
        assert!(warned.stderr.contains("private keys in memory"), "{warned:?}");
        for ran in [refused, searched, warned] {
            assert!(!format!("{ran:?}").contains("hunter2") && !format!("{ran:?}").contains("Ab1+"));
        }
        assert_eq!(snapshots()?, 1);
    }
    lab.done()
}
