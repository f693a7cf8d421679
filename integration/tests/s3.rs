//! The same through an S3 server as through a folder.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use thaw_integration::{Container, Lab, Python, ok, processes, spawn, until};
use thaw_store::StoreOptions;

/// Generous: other tests and builds may run on the same machine.
const LIMIT: Duration = Duration::from_secs(180);

/// The lab's server keeps its own records under names that leave no room for a prefix.
fn url() -> String {
    "s3://thaw".to_owned()
}

/// The rules that `file://` and the in-memory store keep in the unit tests, conditional writes among them.
#[test]
fn the_server_keeps_the_rules() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("the_server_keeps_the_rules") else {
        return Ok(());
    };
    let options = StoreOptions {
        allow_http: true,
        ..StoreOptions::default()
    };
    let name = format!("rules{}", std::process::id());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store = thaw_store::open(&url().parse::<url::Url>()?, &options).await?;
        thaw_store::conformance::run(&*store, &name, true).await?;
        anyhow::Ok(())
    })?;
    lab.done()
}

#[test]
fn capture_and_boot_through_s3() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("capture_and_boot_through_s3") else {
        return Ok(());
    };
    lab.configure_store(&url(), "store.allow_http = true")?;
    {
        let donor = lab.python("donor")?;
        donor.container.assert_cold("no_snapshot")?;
        donor.get("/write?marker")?;
        let before = donor.state()?;
        let taken = lab.capture(&donor.container, &[])?;
        assert_eq!(taken["store"], url());
        for fetched in [false, true] {
            if fetched {
                lab.empty_cache()?;
            }
            let clone = Python::ready(lab.python_run("clone").start()?)?;
            let outcome = clone.container.assert_restored()?;
            assert_eq!(
                outcome.bytes["fetched"].as_u64().is_some_and(|bytes| bytes > 0),
                fetched,
                "{outcome:?}"
            );
            let state = clone.state()?;
            assert_eq!(state["heap_checksum"], before["heap_checksum"]);
            assert_eq!(state["hostname"], "clone");
            assert_eq!(clone.get("/write?marker")?, "2\n");
        }
    }
    remove_all()?;
    lab.python("cold")?.container.assert_cold("no_snapshot")?;
    lab.done()
}

/// A Python server that captures itself when it answers.
fn capturing(lab: &Lab, id: &str) -> Result<Container> {
    let annotations = ["thaw.dev/capture=ready", "thaw.dev/ready=http:8000/healthz"];
    let flags = annotations.map(|annotation| ["--annotation", annotation]);
    lab.python_run(id).flags(flags.as_flattened()).start()
}

/// How far its own capture is, as `thaw explain` has it; null as long as nothing is noted.
fn standing(container: &Container) -> Result<Value> {
    let told = ok(&["thaw", "explain", "-o", "json", container.id()])?;
    Ok(serde_json::from_str::<Value>(&told)?["capture"].take())
}

/// The code with which its capture has ended.
fn ended(container: &Container) -> Result<String> {
    until("the end of the capture", LIMIT, || {
        let standing = standing(container)?;
        let text = |name: &str| standing[name].as_str().unwrap_or_default().to_owned();
        let going = ["", "waiting", "capturing"].contains(&text("state").as_str());
        Ok((!going).then(|| text("code")))
    })
}

fn snapshots() -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&ok(&["thaw", "-o", "json", "ls"])?)?)
}

fn remove_all() -> Result<()> {
    for snapshot in snapshots()? {
        ok(&["thaw", "rm", snapshot["id"].as_str().context("no id")?])?;
    }
    Ok(())
}

/// The server compares and writes in one step, so of two captures of one key one takes the lease. It gives it back,
/// and that of a capture that was killed runs out.
#[test]
fn one_capture_of_a_key_through_s3() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("one_capture_of_a_key_through_s3") else {
        return Ok(());
    };
    lab.configure_store(&url(), "store.allow_http = true\ncapture.lease = \"5s\"")?;
    {
        let (one, other) = (capturing(&lab, "one")?, capturing(&lab, "other")?);
        let mut codes = [ended(&one)?, ended(&other)?];
        codes.sort_unstable();
        assert_eq!(codes[1], "published", "{codes:?}");
        assert!(
            ["already_there", "lease_held"].contains(&codes[0].as_str()),
            "{codes:?}"
        );
        assert_eq!(snapshots()?.len(), 1);
    }
    remove_all()?;
    {
        // Given back: nobody waits for it to run out.
        let again = capturing(&lab, "again")?;
        assert_eq!(ended(&again)?, "published");
    }
    remove_all()?;
    {
        let killed = capturing(&lab, "killed")?;
        let pid = until("a capture at work", LIMIT, || {
            let standing = standing(&killed)?;
            Ok(standing["pid"]
                .as_i64()
                .filter(|_pid| standing["code"] == "capturing"))
        })?;
        ok(&["kill", "-KILL", &pid.to_string()])?;
        until("a capture after a killed one", LIMIT, || {
            let next = capturing(&lab, "next")?;
            next.assert_cold("no_snapshot")?;
            let code = ended(&next)?;
            anyhow::ensure!(code == "published" || code == "lease_held", "{code}");
            Ok((code == "published").then_some(()))
        })?;
        assert_eq!(snapshots()?.len(), 1);
    }
    remove_all()?;
    lab.done()
}

/// Two who replace a snapshot by hand: what one has read is no longer there for the other, which looks again.
#[test]
fn two_captures_by_hand_through_s3() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("two_captures_by_hand_through_s3") else {
        return Ok(());
    };
    lab.configure_store(&url(), "store.allow_http = true")?;
    {
        let (one, other) = (lab.python("one")?, lab.python("other")?);
        let captures = [&one, &other].map(|python| spawn(&["thaw", "capture", python.container.id()]));
        for capture in captures {
            let ran = capture?.wait(LIMIT)?;
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        assert_eq!(snapshots()?.len(), 1, "of one class of machines there is one");
        lab.python("clone")?.container.assert_restored()?;
    }
    remove_all()?;
    lab.done()
}

/// The server is stopped, not killed: it accepts connections and says nothing.
#[test]
fn a_hanging_server_costs_little() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("a_hanging_server_costs_little") else {
        return Ok(());
    };
    lab.configure_store(&url(), "store.allow_http = true")?;
    let (pid, _) = processes()?
        .into_iter()
        .find(|(_, line)| line.starts_with("s3s-fs"))
        .context("no server")?;
    let signal = |name: &str| Command::new("kill").args([name, &pid.to_string()]).status();
    signal("-STOP")?;
    let started = Instant::now();
    let tried = lab.python_run("cold").start();
    let took = started.elapsed();
    signal("-CONT")?;
    tried?.assert_cold("lookup_timeout")?;
    assert!(took < Duration::from_secs(3), "{took:?}");
    lab.done()
}
