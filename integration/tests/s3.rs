//! The same through an S3 server as through a folder.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use thaw_integration::{Lab, Python, ok, processes};
use thaw_store::StoreOptions;

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
        let store = thaw_store::open(&url().parse::<url::Url>()?, &options)?;
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
    let list: serde_json::Value = serde_json::from_str(&ok(&["thaw", "-o", "json", "ls"])?)?;
    let id = list[0]["id"].as_str().context("no id")?;
    ok(&["thaw", "rm", id])?;
    lab.python("cold")?.container.assert_cold("no_snapshot")?;
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
