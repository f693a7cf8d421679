//! Snapshots that are left alone on this node, because they have failed here: `STATE/.quarantine/ID.json`.
//!
//! The first failure puts a snapshot aside for a minute, each further one for twice as long, and a clone that
//! outlives its watch time clears the account. What is not the snapshot's fault, such as a full disk, a store that
//! broke off or a machine too slow, puts it aside for seconds only: trying again at once would fail again at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_config::NodeConfig;
use thaw_snapshot::Digest;

use crate::notes;

/// For what is not the snapshot's fault: long enough for a burst of starts to go by.
const PASSING_FIRST: Duration = Duration::from_secs(10);
const PASSING_LONGEST: Duration = Duration::from_secs(300);

/// The longest text that is kept of a reason.
const DETAIL_LIMIT: usize = 500;

/// The code of a container that ended within its watch time.
pub const DIED_EARLY: &str = "died_early";

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The snapshot's, as far as anybody can tell: the same will happen again.
    Snapshot,
    /// The node's or the store's, at that moment.
    Passing,
}

/// The snapshots that are left alone on one node.
#[derive(Debug, Clone)]
pub struct Quarantine {
    directory: PathBuf,
    first: Duration,
    longest: Duration,
}

/// One snapshot that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inmate {
    /// Its id.
    pub snapshot: Digest,
    /// Failures since the last success.
    pub failures: u32,
    /// Until when, in milliseconds since 1970.
    pub until: u64,
    /// Code of the last failure: one of `docs/reasons.md`, or [`DIED_EARLY`].
    pub reason: String,
    /// That failure in words.
    pub detail: String,
}

impl Inmate {
    /// For how long still; `None` when it may be tried again.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let until_then = self.until.saturating_sub(notes::now());
        (until_then > 0).then(|| Duration::from_millis(until_then))
    }
}

impl Quarantine {
    /// That of the node with this configuration.
    #[must_use]
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            directory: config.state.join(".quarantine"),
            first: config.quarantine.first,
            longest: config.quarantine.longest.max(config.quarantine.first),
        }
    }

    fn note(&self, snapshot: &Digest) -> PathBuf {
        self.directory.join(format!("{}.json", snapshot.hex()))
    }

    fn get(&self, snapshot: &Digest) -> Option<Inmate> {
        notes::read::<Inmate>(&self.note(snapshot)).filter(|inmate| inmate.snapshot == *snapshot)
    }

    /// Why this snapshot is left alone now, if it is.
    #[must_use]
    pub fn check(&self, snapshot: &Digest) -> Option<Inmate> {
        let inmate = self.get(snapshot)?;
        notes::left(inmate.until, self.longest.max(PASSING_LONGEST)).map(|_left| inmate)
    }

    /// It has failed here. Answers how often, this time included. A node that can't write it down goes on without.
    pub fn failed(&self, snapshot: &Digest, blame: Blame, reason: &str, detail: &str) -> u32 {
        let _turn = notes::turn(&self.directory);
        let before = self.get(snapshot).map_or(0, |inmate| inmate.failures);
        let failures = before.saturating_add(1);
        let time = match blame {
            Blame::Snapshot => notes::grown(self.first, failures, self.longest),
            Blame::Passing => notes::grown(PASSING_FIRST, failures, PASSING_LONGEST),
        };
        let inmate = Inmate {
            snapshot: *snapshot,
            failures,
            until: notes::after(time),
            reason: reason.to_owned(),
            detail: detail.chars().take(DETAIL_LIMIT).collect(),
        };
        log::warn!(
            "snapshot {snapshot} is left alone for {} s: {reason}: {detail}",
            time.as_secs()
        );
        if let Err(error) = notes::write(&self.note(snapshot), &inmate) {
            log::warn!("write {}: {error}", self.note(snapshot).display());
        }
        failures
    }

    /// It has worked here.
    pub fn worked(&self, snapshot: &Digest) {
        if let Err(error) = notes::remove(&self.note(snapshot)) {
            log::warn!("remove {}: {error}", self.note(snapshot).display());
        }
    }

    /// All of them, also those whose time is over, in the order of their ids.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn list(&self) -> io::Result<Vec<Inmate>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            found.extend(named(&entry?.path()).and_then(|id| self.get(&id)));
        }
        found.sort_by_key(|inmate| inmate.snapshot);
        Ok(found)
    }

    /// Lets one go; says whether it was there.
    ///
    /// # Errors
    /// When the note can't be removed.
    pub fn clear(&self, snapshot: &Digest) -> io::Result<bool> {
        match fs::remove_file(self.note(snapshot)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The snapshot whose note has this path.
fn named(path: &Path) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?.strip_suffix(".json")?;
    format!("sha256:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine(state: &Path) -> Quarantine {
        Quarantine::new(&NodeConfig {
            state: state.to_owned(),
            ..NodeConfig::default()
        })
    }

    fn minutes(inmate: &Inmate) -> u64 {
        (inmate.left().unwrap_or_default().as_secs() + 30) / 60
    }

    #[test]
    fn each_failure_doubles_the_time_and_a_success_ends_it() {
        let state = tempfile::tempdir().unwrap();
        let quarantine = quarantine(state.path());
        let (bad, other) = (Digest::of(b"bad"), Digest::of(b"other"));
        assert!(quarantine.check(&bad).is_none());
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            quarantine.failed(&bad, Blame::Snapshot, "restore_failed", "no");
            assert_eq!(minutes(&quarantine.check(&bad).unwrap()), expected);
        }
        assert!(quarantine.check(&other).is_none());
        quarantine.worked(&bad);
        assert!(quarantine.check(&bad).is_none());
        quarantine.failed(&bad, Blame::Snapshot, "restore_failed", "no");
        assert_eq!(minutes(&quarantine.check(&bad).unwrap()), 1);
    }

    #[test]
    fn what_passes_is_forgiven_soon() {
        let state = tempfile::tempdir().unwrap();
        let quarantine = quarantine(state.path());
        let id = Digest::of(b"a");
        quarantine.failed(&id, Blame::Passing, "fetch_failed", "disk full");
        assert!(quarantine.check(&id).unwrap().left().unwrap() <= PASSING_FIRST);
        for _ in 0..40 {
            quarantine.failed(&id, Blame::Passing, "fetch_failed", "disk full");
        }
        assert!(quarantine.check(&id).unwrap().left().unwrap() <= PASSING_LONGEST);
    }

    #[test]
    fn it_is_listed_and_cleared() {
        let state = tempfile::tempdir().unwrap();
        let quarantine = quarantine(state.path());
        assert!(quarantine.list().unwrap().is_empty());
        let id = Digest::of(b"a");
        quarantine.failed(&id, Blame::Snapshot, DIED_EARLY, "code 3");
        // Neither is a note of ours.
        fs::write(state.path().join(".quarantine/README"), "hello").unwrap();
        let garbled = Digest::of(b"b");
        fs::write(quarantine.note(&garbled), "garbage").unwrap();
        // Somebody's copy under another name says nothing about that other one.
        fs::copy(quarantine.note(&id), quarantine.note(&Digest::of(b"c"))).unwrap();
        let listed = quarantine.list().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].snapshot, listed[0].reason.as_str()), (id, DIED_EARLY));
        assert!(quarantine.clear(&id).unwrap());
        assert!(!quarantine.clear(&id).unwrap());
        assert!(quarantine.check(&garbled).is_none());
    }
}
