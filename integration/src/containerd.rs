//! Which containerd there is, and what it publishes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::command::{Background, ok, spawn};

/// The first number of the version of the lab's containerd.
///
/// # Errors
/// When it does not say one.
pub(crate) fn major_version() -> Result<u32> {
    // "containerd MODULE VERSION REVISION"; some builds put a v before the version.
    let text = ok(&["containerd", "--version"])?;
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    let number = version.trim_start_matches('v').split('.').next();
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no version in {text:?}"))
}

/// The events that containerd publishes from now on.
#[derive(Debug)]
pub struct Events(Background);

impl Events {
    /// Subscribes.
    ///
    /// # Errors
    /// When `ctr` can't be run.
    pub fn subscribe() -> Result<Self> {
        let client = spawn(&["ctr", "events"])?;
        // There is no sign of the subscription, so an event of our own has to come through... which would take a
        // second client; ctr is up in some 30 ms.
        std::thread::sleep(Duration::from_millis(300));
        Ok(Self(client))
    }

    /// Ends the subscription and answers topic and payload of each event that names `id`; the container has to be gone.
    ///
    /// # Errors
    /// When the client does not end.
    pub fn of(self, id: &str) -> Result<Vec<(String, String)>> {
        // Shims hand their last events over while they end.
        std::thread::sleep(Duration::from_millis(600));
        self.0.signal(Signal::SIGKILL)?;
        let text = self.0.wait(Duration::from_secs(5))?.stdout;
        let named = text.lines().filter(|line| line.contains(&format!("\"{id}\"")));
        let parts = named.filter_map(|line| {
            let at = line.find(" /")?;
            let (topic, payload) = line[at + 1..].split_once(' ')?;
            Some((topic.to_owned(), payload.to_owned()))
        });
        Ok(parts.collect())
    }
}
