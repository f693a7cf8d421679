//! The first moments of a restored container: what breaks in a clone breaks soon, and is then the snapshot's fault.
//!
//! A clone that ends within its watch time with an error, and that nobody has sent a signal, puts its snapshot aside on
//! this node; the orchestrator's next attempt starts cold. One that is still there when the time is over, or has done
//! its work and ended well, clears the account of the snapshot.

use std::sync::Arc;
use std::time::Instant;

use thaw_config::NodeConfig;
use thaw_runtime::boot::put_aside;
use thaw_runtime::outcome::{Outcome, Result as Way};
use thaw_runtime::quarantine::{Blame, DIED_EARLY, Quarantine};
use thaw_snapshot::Digest;

use super::container::Container;
use super::process::End;

/// A clone that is being watched, from Start on.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    config: Arc<NodeConfig>,
    snapshot: Digest,
    since: Option<Instant>,
}

impl Watch {
    /// Watches a container that was restored from a snapshot; `None` for any other.
    pub(super) fn of(config: &NodeConfig, outcome: &Outcome) -> Option<Self> {
        let snapshot = outcome.snapshot.as_ref()?.parse().ok()?;
        (outcome.result == Way::Restored).then(|| Self {
            config: Arc::new(config.clone()),
            snapshot,
            since: None,
        })
    }

    /// The container runs: it is well if it still does when the time is over.
    pub(super) fn begin(&mut self, container: &Arc<Container>) {
        self.since = Some(Instant::now());
        let (container, time) = (Arc::downgrade(container), self.config.quarantine.watch);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(container) = container.upgrade()
                && let Some(watch) = container.state().watch.take()
            {
                watch.well();
            }
        });
    }

    /// Somebody wanted its end, or it ended; `None` for the former.
    pub(super) fn end(self, end: Option<End>) {
        let Some(since) = self.since else { return };
        match end {
            Some(end) if end.status == 0 => self.well(),
            Some(end) => self.ill(end, since),
            None => {}
        }
    }

    fn well(self) {
        tokio::task::spawn_blocking(move || Quarantine::new(&self.config).worked(&self.snapshot));
    }

    fn ill(self, end: End, since: Instant) {
        let detail = format!(
            "a container restored from it ended with {} after {:.1} s",
            end.status,
            since.elapsed().as_secs_f64()
        );
        tokio::task::spawn_blocking(move || {
            put_aside(&self.config, &self.snapshot, Blame::Snapshot, DIED_EARLY, &detail);
        });
    }
}
