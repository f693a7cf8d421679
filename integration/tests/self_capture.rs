//! Containers that have themselves captured when they are ready, with annotations only.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use thaw_integration::{Container, Lab, Python, Run, ok, until};

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
