//! Starts containers with whatever is in the store, and counts them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use thaw_integration::{Lab, Python, patience};

/// A cold start in the lab takes some 0.3 s in a debug build; the rest is room for a slow machine.
const SOON: Duration = Duration::from_secs(8);
/// Most memory that a shim may ever have used, in KiB. A snapshot of this size needs a tenth of it.
const SHIM_MEMORY: u64 = 256 << 10;

/// What a snapshot can be refused for when its images are not what they should be.
pub(crate) const BAD_IMAGES: &[&str] = &[
    "images_invalid",
    "rights_exceeded",
    "rewrite_failed",
    "restore_failed",
];

/// Counts the starts of a test.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    cold: u32,
    restored: u32,
}

impl Tally {
    /// Starts a container with what is in the store now. It must run, cold for one of these reasons.
    pub(crate) fn cold(&mut self, lab: &Lab, what: &str, reasons: &[&str]) -> Result<()> {
        let (result, reason) = start(lab).with_context(|| what.to_owned())?;
        if result != "cold" || !reasons.contains(&reason.as_str()) {
            bail!("{what}: should be cold for one of {reasons:?}, is {result}: {reason}");
        }
        self.cold += 1;
        Ok(())
    }

    /// As [`Tally::cold`], where the damage may also be one that the application does not need.
    pub(crate) fn runs(&mut self, lab: &Lab, what: &str, reasons: &[&str]) -> Result<()> {
        let (result, reason) = start(lab).with_context(|| what.to_owned())?;
        if result == "restored" {
            self.restored += 1;
            return Ok(());
        }
        ensure!(
            reasons.contains(&reason.as_str()),
            "{what}: cold for {reason}, not one of {reasons:?}"
        );
        self.cold += 1;
        Ok(())
    }

    #[expect(clippy::print_stdout, reason = "the number is what the test is about")]
    pub(crate) fn say(&self, name: &str) {
        let all = self.cold + self.restored;
        println!(
            "{name}: {all} of {all} containers ran, {} cold, {} restored",
            self.cold, self.restored
        );
    }
}

/// Starts a container and asks it; answers how it came up.
fn start(lab: &Lab) -> Result<(String, String)> {
    // Each damage has to be met anew: what failed before would not be looked at.
    lab.forgive()?;
    let outcome = {
        let started = Instant::now();
        let container = lab.python_run("victim").start()?;
        let took = started.elapsed();
        let outcome = container.outcome()?;
        ensure!(took < patience(SOON), "the start took {took:?}: {outcome:?}");
        let memory = shim_memory(container.pid()?)?;
        ensure!(
            memory < SHIM_MEMORY,
            "the shim has used {memory} KiB: {outcome:?}"
        );
        let python = Python::ready(container).with_context(|| format!("{outcome:?}"))?;
        // The donor has made the file, so a cold container must not have it.
        let times = if outcome.result == "restored" {
            "2\n"
        } else {
            "1\n"
        };
        ensure!(
            python.get("/write?marker")? == times,
            "the root filesystem is not as it should be"
        );
        ensure!(python.container.sh("hostname")? == "victim\n", "another hostname");
        outcome
    };
    lab.nothing_left()?;
    let left = lab.path("cache").join("tmp");
    for entry in fs::read_dir(&left).into_iter().flatten() {
        let path = entry?.path();
        ensure!(
            path.extension().is_some_and(|end| end == "lock"),
            "{} is left in the cache",
            path.display()
        );
    }
    Ok((outcome.result, outcome.reason))
}

/// The most memory in KiB that the parent of a container's init has had.
fn shim_memory(init: i32) -> Result<u64> {
    let number = |pid: i32, name: &str| -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let digits = line.and_then(|rest| rest.split_whitespace().next());
        Ok(digits.with_context(|| format!("no {name} of {pid}"))?.parse()?)
    };
    number(i32::try_from(number(init, "PPid:")?)?, "VmHWM:")
}
