//! What has failed on a node is left alone there, for a while and with the reason.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use thaw_integration::{Container, FakeCriu, Lab, Run, ok, run, until};

/// Ends with 5 when there is a file /crash, and with 3 when it is asked to.
const APP: &str = "trap 'exit 3' TERM; while [ ! -e /crash ]; do sleep 0.1; done; exit 5";

fn app(id: &str) -> Run {
    Run::new(id, "static").command(&["sh", "-c", APP])
}

fn listed() -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&ok(&["thaw", "-o", "json", "quarantine", "ls"])?)?;
    Ok(list.as_array().context("no list")?.clone())
}

fn restored() -> Result<Container> {
    let clone = app("clone").start()?;
    clone.assert_restored()?;
    Ok(clone)
}

/// Started again after it died, as a kubelet would: as a new container.
#[test]
fn a_clone_that_dies_early_is_not_cloned_again() -> Result<()> {
    let Some(lab) = Lab::enter("a_clone_that_dies_early_is_not_cloned_again") else {
        return Ok(());
    };
    // Whatever happens in the test is early, on any machine.
    lab.configure("quarantine.watch = '10m'")?;
    {
        let donor = app("donor").start()?;
        lab.capture(&donor, &[])?;
    }
    // Whoever is told to end does not die.
    for signal in ["SIGTERM", "SIGKILL"] {
        let clone = restored()?;
        clone.kill(signal)?;
        ensure!(clone.end()? != 0);
    }
    ensure!(listed()?.is_empty(), "{:?}", listed()?);
    {
        let clone = restored()?;
        clone.sh("touch /crash")?;
        ensure!(clone.end()? == 5);
    }
    let one = until("the note", Duration::from_secs(10), || Ok(listed()?.pop()))?;
    ensure!(one["reason"] == "died_early", "{one}");
    ensure!(one["failures"] == 1, "{one}");
    ensure!(
        one["left_seconds"]
            .as_u64()
            .is_some_and(|left| left > 0 && left <= 60),
        "{one}"
    );
    ensure!(
        one["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("ended with 5")),
        "{one}"
    );
    {
        let next = app("clone").start()?;
        let outcome = next.assert_cold("quarantined")?;
        ensure!(outcome.snapshot.as_deref() == one["id"].as_str(), "{outcome:?}");
        let told = ok(&["thaw", "explain", next.id()])?;
        ensure!(
            told.contains("died_early") && told.contains("thaw quarantine clear"),
            "{told}"
        );
    }
    let id = one["id"].as_str().context("no id")?;
    let table = ok(&["thaw", "quarantine", "ls"])?;
    ensure!(table.contains(&id["sha256:".len()..][..12]), "{table}");
    ensure!(run(&["thaw", "quarantine", "clear", "0123456789"])?.code == 3);
    ok(&["thaw", "quarantine", "clear", &id[..15]])?;
    ensure!(listed()?.is_empty());
    drop(restored()?);
    lab.done()
}

/// The time doubles with each failure, and a clone that lives on ends the count.
#[test]
fn failures_are_counted_until_one_works() -> Result<()> {
    let Some(lab) = Lab::enter("failures_are_counted_until_one_works") else {
        return Ok(());
    };
    lab.configure("quarantine.first = '1s'\nquarantine.longest = '20s'\nquarantine.watch = '1s'")?;
    {
        let donor = app("donor").start()?;
        lab.capture(&donor, &[])?;
    }
    let over = |failures: u64| {
        until("the end of the quarantine", Duration::from_secs(60), || {
            let list = listed()?;
            let one = list.first().context("nothing failed")?;
            ensure!(one["failures"] == failures, "{one}");
            Ok((one["left_seconds"] == 0).then_some(()))
        })
    };
    for failures in 1..=3 {
        {
            let _criu = FakeCriu::new("exit 1")?;
            app("clone").start()?.assert_cold("restore_failed")?;
        }
        over(failures)?;
    }
    {
        let clone = restored()?;
        until("a clean account", Duration::from_secs(20), || {
            Ok(listed()?.is_empty().then_some(()))
        })?;
        clone.sh("true")?;
    }
    lab.done()
}
