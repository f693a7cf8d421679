//! Looking after snapshots: ours in the store, and containerd's own.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use thaw_integration::{Lab, ok, run};

#[test]
fn snapshots_are_listed_shown_and_removed() -> Result<()> {
    let Some(lab) = Lab::enter("snapshots_are_listed_shown_and_removed") else {
        return Ok(());
    };
    let json = |words: &[&str]| -> Result<Value> {
        Ok(serde_json::from_str(&ok(
            &[&["thaw", "-o", "json"], words].concat()
        )?)?)
    };
    assert_eq!(json(&["ls"])?, serde_json::json!([]));
    lab.with_snapshot()?;
    let list = json(&["ls"])?;
    let id = list[0]["id"].as_str().context("no id")?.to_owned();
    let short = &id["sha256:".len()..][..8];
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert_eq!(list[0]["image"], "localhost/thaw/python:latest");
    assert!(ok(&["thaw", "ls"])?.contains(&id["sha256:".len()..][..12]));
    let shown = json(&["inspect", short])?;
    assert!(shown.to_string().contains(&id), "{shown}");
    assert!(ok(&["thaw", "inspect", &id])?.contains(short));
    for verb in ["inspect", "rm"] {
        assert_eq!(run(&["thaw", verb, "ffffffff00"])?.code, 3);
    }
    let gone = json(&["rm", short])?;
    assert_eq!(gone[0]["id"].as_str(), Some(id.as_str()));
    assert_eq!(json(&["ls"])?, serde_json::json!([]));
    assert!(
        std::fs::read_dir(lab.store().join("v1/blobs/sha256"))?
            .next()
            .is_none(),
        "blobs are left"
    );
    lab.python("cold")?.container.assert_cold("no_snapshot")?;
    assert_eq!(run(&["thaw", "explain", "cold"])?.code, 3);
    lab.done()
}

/// containerd's own checkpoints, which `ctr` can restore under the stock runtime.
#[test]
fn ctr_tasks_checkpoint() -> Result<()> {
    let Some(lab) = Lab::enter("ctr_tasks_checkpoint") else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        ok(&["ctr", "task", "checkpoint", "donor"])?;
        donor.get("/healthz")?;
    }
    remove_checkpoints()?;
    lab.done()
}

/// ctr names the images of checkpoints by the second.
const NEXT_NAME: Duration = Duration::from_millis(1100);

/// `ctr` of containerd 1.7 gives these options to io.containerd.runc.v2 alone.
#[test]
fn ctr_tasks_checkpoint_options() -> Result<()> {
    let Some(lab) = Lab::enter_since_containerd("ctr_tasks_checkpoint_options", 2) else {
        return Ok(());
    };
    {
        let donor = lab.python("donor")?;
        let folder = lab.path("checkpoint");
        std::fs::create_dir_all(&folder)?;
        let folder = folder.display().to_string();
        ok(&["ctr", "task", "checkpoint", "--image-path", &folder, "donor"])?;
        donor.get("/healthz")?;
        assert!(std::fs::exists(format!("{folder}/inventory.img"))?, "no images");
        thread::sleep(NEXT_NAME);
        ok(&["ctr", "task", "checkpoint", "--exit", "donor"])?;
        donor.container.end()?;
    }
    remove_checkpoints()?;
    lab.done()
}

fn remove_checkpoints() -> Result<()> {
    for line in ok(&["ctr", "image", "list", "--quiet"])?
        .lines()
        .filter(|line| line.contains("checkpoint"))
    {
        ok(&["ctr", "image", "remove", line])?;
    }
    Ok(())
}
