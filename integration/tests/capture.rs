//! Taking a snapshot: the donor and its clients see a pause at most.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use thaw_integration::{Events, Lab, Python, Run, forge, http, ok, run, spawn, until};

/// Asks the server again and again until told to stop; answers how often.
fn client(python: &Python, stop: &Arc<AtomicBool>) -> Result<thread::JoinHandle<Result<u32>>> {
    let (netns, stop) = (python.container.netns()?, Arc::clone(stop));
    Ok(thread::spawn(move || {
        http::inside(&netns, move || {
            let mut answers = 0;
            while !stop.load(Relaxed) {
                http::once(SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)), "/healthz")
                    .with_context(|| format!("after {answers} answers"))?;
                answers += 1;
            }
            Ok(answers)
        })
    }))
}

#[test]
fn clients_of_the_donor_see_no_error() -> Result<()> {
    let Some(lab) = Lab::enter("clients_of_the_donor_see_no_error") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        let stop = Arc::new(AtomicBool::new(false));
        let clients = [client(&donor, &stop)?, client(&donor, &stop)?];
        let first = lab.capture(&donor.container, &[])?;
        let second = lab.capture(&donor.container, &[])?;
        stop.store(true, Relaxed);
        for client in clients {
            assert!(client.join().expect("no panic")? > 10);
        }
        assert_ne!(first["id"], second["id"]);
        assert_eq!(first["key"], second["key"]);
        let clone = Python::ready(lab.python_run("clone").start()?)?;
        assert_eq!(
            clone.container.assert_restored()?.snapshot.as_deref(),
            second["id"].as_str()
        );
    }
    lab.done()
}

#[test]
fn stop_ends_the_donor() -> Result<()> {
    let Some(lab) = Lab::enter("stop_ends_the_donor") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        let events = Events::subscribe()?;
        lab.capture(&donor.container, &["--stop"])?;
        donor.container.end()?;
        let topics: Vec<_> = events.of("donor")?.into_iter().map(|(topic, _)| topic).collect();
        assert_eq!(
            topics.iter().filter(|topic| *topic == "/tasks/exit").count(),
            1,
            "{topics:?}"
        );
        drop(donor);
        Python::ready(lab.python_run("clone").start()?)?
            .container
            .assert_restored()?;
    }
    lab.done()
}

/// Whatever happens to `thaw capture`, the application goes on and nothing half-made is found.
fn interrupt(lab: &Lab, signal: Signal) -> Result<()> {
    let mut stuck = Vec::new();
    for after in [30, 60, 100, 150, 250, 400] {
        let donor = lab.python("donor")?;
        let capture = spawn(&["thaw", "capture", "donor"])?;
        thread::sleep(Duration::from_millis(after));
        capture.signal(signal).ok();
        let code = capture.wait(Duration::from_secs(20))?.code;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000));
        if http::get(
            &donor.container.netns()?,
            address,
            "/healthz",
            Duration::from_secs(1),
        )
        .is_err()
        {
            stuck.push(format!(
                "{signal} after {after} ms (it answered {code}); {}",
                donor.container.status()?
            ));
            ok(&["ctr", "task", "pause", "donor"])?;
            ok(&["ctr", "task", "resume", "donor"])?;
        }
        if lab.store().join("v1/keys").exists() {
            // The signal may come between the last rename and the end; then the snapshot is whole.
            forge::document(&lab.store())?;
            Python::ready(lab.python_run("clone").start()?)?
                .container
                .assert_restored()?;
        }
        // Whatever is left of the first must not hinder a second.
        lab.capture(&donor.container, &[])
            .with_context(|| format!("again after {after} ms"))?;
        donor
            .get("/healthz")
            .with_context(|| format!("a second capture after {stuck:?}"))?;
        run(&["rm", "-rf", &lab.store().display().to_string()])?.ok()?;
    }
    assert!(stuck.is_empty(), "the donor stood still: {stuck:#?}");
    Ok(())
}

#[test]
fn an_interrupted_capture_leaves_a_running_donor() -> Result<()> {
    let Some(lab) = Lab::enter("an_interrupted_capture_leaves_a_running_donor") else {
        return Ok(());
    };
    interrupt(&lab, Signal::SIGINT)?;
    lab.done()
}

#[test]
fn a_killed_capture_leaves_a_running_donor() -> Result<()> {
    let Some(lab) = Lab::enter("a_killed_capture_leaves_a_running_donor") else {
        return Ok(());
    };
    interrupt(&lab, Signal::SIGKILL)?;
    lab.done()
}

/// Health checks run at any time. They are not of the application, so the clone does not have them.
#[test]
fn an_exec_during_the_capture() -> Result<()> {
    let Some(lab) = Lab::enter("an_exec_during_the_capture") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        let mut exec = spawn(&[
            "ctr",
            "task",
            "exec",
            "--exec-id",
            "long",
            "donor",
            "sh",
            "-c",
            "cat; echo end",
        ])?;
        thread::sleep(Duration::from_millis(300));
        lab.capture(&donor.container, &[])?;
        donor.get("/healthz")?;
        exec.write("input\n")?;
        assert_eq!(exec.wait(Duration::from_secs(5))?.ok()?, "input\nend\n");
        let clone = Python::ready(lab.python_run("clone").start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(clone.container.sh("grep -lx cat /proc/[0-9]*/comm || true")?, "");
    }
    lab.done()
}

#[test]
fn two_captures_at_the_same_time() -> Result<()> {
    let Some(lab) = Lab::enter("two_captures_at_the_same_time") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        let captures = [
            spawn(&["thaw", "capture", "donor"])?,
            spawn(&["thaw", "capture", "donor"])?,
        ];
        let mut codes = Vec::new();
        for capture in captures {
            let ran = capture.wait(Duration::from_secs(20))?;
            codes.push((ran.code, ran.stderr));
        }
        assert!(codes.iter().any(|(code, _)| *code == 0), "{codes:?}");
        donor.get("/healthz")?;
        Python::ready(lab.python_run("clone").start()?)?
            .container
            .assert_restored()?;
    }
    lab.done()
}

#[test]
fn what_cannot_be_captured() -> Result<()> {
    let Some(lab) = Lab::enter("what_cannot_be_captured") else {
        return Ok(());
    };
    {
        let none = run(&["thaw", "capture", "nobody"])?;
        assert_eq!(none.code, 3, "{}", none.stderr);
        assert!(none.stderr.contains("nobody"), "{}", none.stderr);
        let stock = Run::new("stock", "static")
            .runtime(thaw_integration::STOCK)
            .command(&["sleep", "100"])
            .start()?;
        assert_eq!(run(&["thaw", "capture", stock.id()])?.code, 3);
        let host = Run::new("host", "static")
            .flags(&["--net-host"])
            .command(&["sleep", "100"])
            .start()?;
        let refused = run(&["thaw", "capture", host.id()])?;
        assert_eq!(refused.code, 4, "{}", refused.stderr);
        assert_eq!(host.status()?, "RUNNING");
        let ended = Run::new("ended", "static").command(&["true"]).start()?;
        until("its end", Duration::from_secs(5), || {
            Ok((ended.status()? == "STOPPED").then_some(()))
        })?;
        let refused = run(&["thaw", "capture", ended.id()])?;
        assert_ne!(refused.code, 0);
        assert_eq!(run(&["thaw", "frobnicate"])?.code, 2);
        assert!(!lab.store().join("v1/keys").exists());
    }
    lab.done()
}

/// A container that was paused stays paused, and its clone runs.
#[test]
fn a_paused_donor_stays_paused() -> Result<()> {
    let Some(lab) = Lab::enter("a_paused_donor_stays_paused") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        ok(&["ctr", "task", "pause", "donor"])?;
        lab.capture(&donor.container, &[])?;
        assert_eq!(donor.container.status()?, "PAUSED");
        Python::ready(lab.python_run("clone").start()?)?
            .container
            .assert_restored()?;
        ok(&["ctr", "task", "resume", "donor"])?;
        donor.get("/healthz")?;
    }
    lab.done()
}
