//! What this node knows of a store that is out: the circuit breaker.
//!
//! A store that gives no answer would cost every start of a container its whole lookup deadline. So whoever finds it
//! out says so in a note, `STATE/.store/PLACE/outage.json`, and for a while nobody asks. When that rest is over one
//! boot, and only one, asks again ([`Permit::Probe`]); it does not wait long for the answer, but the answer counts
//! whenever it comes: the note goes, or the next rest is twice as long.
//!
//! "Out" is no connection, no answer in time, and an answer that the server itself calls a failure. It is not what a
//! store says quickly and clearly: that there is nothing, that this object may not be read, that a document is broken.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_config::{NodeConfig, StoreUrl};
use thaw_snapshot::Digest;
use thaw_store::StoreError;

use crate::notes;

/// The first rest. A connection that broke once costs the containers of one second their snapshots.
const FIRST_REST: Duration = Duration::from_secs(1);

/// The longest text that is kept of an error.
const WHY_LIMIT: usize = 300;

/// The breaker of one store.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    directory: PathBuf,
    longest: Duration,
    /// How long whoever asks after a rest has the word.
    claim: Duration,
}

/// The note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Outage {
    /// Failures in a row, not counting those that met a rest.
    failures: u32,
    /// When the store may be asked again, in milliseconds since 1970.
    until: u64,
    /// What went wrong last.
    why: String,
}

/// May the store be asked?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Permit {
    /// Yes.
    Free,
    /// Yes, by this caller alone; it has to tell how it went.
    Probe,
    /// No.
    Resting {
        /// Failures so far.
        failures: u32,
        /// For how long still.
        left: Duration,
        /// What went wrong last.
        why: String,
    },
}

/// The directory for notes about the store at `url`, as this node reaches it.
pub(crate) fn directory(config: &NodeConfig, url: &StoreUrl) -> PathBuf {
    let endpoint = config.store.endpoint.as_ref().map(ToString::to_string);
    let place = format!("{url} {}", endpoint.unwrap_or_default());
    config
        .state
        .join(".store")
        .join(Digest::of(place.as_bytes()).hex())
}

impl Breaker {
    pub(crate) fn new(config: &NodeConfig, directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            longest: config.store.rest.max(FIRST_REST),
            claim: config.store.request_timeout,
        }
    }

    fn note(&self) -> PathBuf {
        self.directory.join("outage.json")
    }

    /// The longest time that a note may name.
    fn bound(&self) -> Duration {
        self.longest.max(self.claim)
    }

    pub(crate) fn permit(&self) -> Permit {
        // No outage is the ordinary case, and costs one failed open.
        let Some(outage) = notes::read::<Outage>(&self.note()) else {
            return Permit::Free;
        };
        match notes::left(outage.until, self.bound()) {
            Some(left) => resting(outage, left),
            None => self.claim(outage),
        }
    }

    /// The rest is over: the first to come here asks the store.
    fn claim(&self, seen: Outage) -> Permit {
        let none_yet = Duration::ZERO;
        let Some(_turn) = notes::turn(&self.directory) else {
            return resting(seen, none_yet);
        };
        let Some(outage) = notes::read::<Outage>(&self.note()) else {
            return Permit::Free;
        };
        if let Some(left) = notes::left(outage.until, self.bound()) {
            return resting(outage, left);
        }
        let claimed = Outage {
            until: notes::after(self.claim),
            ..outage.clone()
        };
        match notes::write(&self.note(), &claimed) {
            Ok(()) => Permit::Probe,
            Err(error) => {
                log::debug!("claim {}: {error}", self.note().display());
                resting(outage, none_yet)
            }
        }
    }

    /// The store gave an answer.
    pub(crate) fn answered(&self, permit: &Permit) {
        if *permit == Permit::Probe {
            log::info!("the store answers again");
            if let Err(error) = notes::remove(&self.note()) {
                log::warn!("remove {}: {error}", self.note().display());
            }
        }
    }

    /// The store gave none. One failure counts once: who was free to ask when the note was written adds nothing.
    pub(crate) fn failed(&self, permit: &Permit, why: &str) {
        let _turn = notes::turn(&self.directory);
        let known = notes::read::<Outage>(&self.note());
        if *permit != Permit::Probe && known.is_some() {
            return;
        }
        let failures = known.map_or(0, |outage| outage.failures).saturating_add(1);
        let rest = notes::grown(FIRST_REST, failures, self.longest);
        let outage = Outage {
            failures,
            until: notes::after(rest),
            why: why.chars().take(WHY_LIMIT).collect(),
        };
        log::warn!(
            "the store gave no answer ({why}): it is not asked for {} s",
            rest.as_secs()
        );
        if let Err(error) = notes::write(&self.note(), &outage) {
            log::warn!("write {}: {error}", self.note().display());
        }
    }
}

fn resting(outage: Outage, left: Duration) -> Permit {
    Permit::Resting {
        failures: outage.failures,
        left,
        why: outage.why,
    }
}

/// Does this error mean that the store is out?
pub(crate) fn is_out(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unreachable { .. } | StoreError::Timeout { .. } | StoreError::Failed { .. }
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    fn breaker(directory: &Path) -> Breaker {
        Breaker {
            directory: directory.to_owned(),
            longest: Duration::from_secs(30),
            claim: Duration::from_secs(5),
        }
    }

    fn rest_is_over(breaker: &Breaker) {
        let mut outage: Outage = notes::read(&breaker.note()).unwrap();
        outage.until = 0;
        notes::write(&breaker.note(), &outage).unwrap();
    }

    fn failures(breaker: &Breaker) -> u32 {
        notes::read::<Outage>(&breaker.note()).unwrap().failures
    }

    #[test]
    fn it_rests_probes_and_heals() {
        let directory = tempfile::tempdir().unwrap();
        let breaker = breaker(directory.path());
        assert_eq!(breaker.permit(), Permit::Free);
        breaker.failed(&Permit::Free, "refused");
        // Those who had asked before it was known.
        breaker.failed(&Permit::Free, "refused");
        assert_eq!(failures(&breaker), 1);
        assert!(matches!(breaker.permit(), Permit::Resting { failures: 1, .. }));
        for failed in 2..5 {
            rest_is_over(&breaker);
            assert_eq!(breaker.permit(), Permit::Probe);
            assert!(matches!(breaker.permit(), Permit::Resting { .. }), "one asks");
            breaker.failed(&Permit::Probe, "refused");
            assert_eq!(failures(&breaker), failed);
        }
        rest_is_over(&breaker);
        assert_eq!(breaker.permit(), Permit::Probe);
        breaker.answered(&Permit::Probe);
        assert_eq!(breaker.permit(), Permit::Free);
    }

    #[test]
    fn of_many_one_asks() {
        let directory = tempfile::tempdir().unwrap();
        let breaker = breaker(directory.path());
        breaker.failed(&Permit::Free, "refused");
        rest_is_over(&breaker);
        let asking: Vec<_> = (0..16)
            .map(|_| {
                let breaker = breaker.clone();
                thread::spawn(move || breaker.permit())
            })
            .collect();
        let permits: Vec<_> = asking.into_iter().map(|asked| asked.join().unwrap()).collect();
        let probes = permits.iter().filter(|permit| **permit == Permit::Probe).count();
        assert_eq!(probes, 1, "{permits:?}");
    }

    #[test]
    fn a_garbled_note_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let breaker = breaker(directory.path());
        fs::write(breaker.note(), "garbage").unwrap();
        assert_eq!(breaker.permit(), Permit::Free);
        // One that would forbid the store for ever.
        fs::write(
            breaker.note(),
            format!(r#"{{"failures":4294967295,"until":{},"why":""}}"#, u64::MAX),
        )
        .unwrap();
        assert_eq!(breaker.permit(), Permit::Probe);
        breaker.failed(&Permit::Probe, "refused");
        assert!(matches!(breaker.permit(), Permit::Resting { left, .. } if left <= breaker.longest));
    }

    #[test]
    fn clear_answers_are_answers() {
        let path = String::new;
        assert!(is_out(&StoreError::Timeout {
            attempt: "read",
            path: path(),
            limit: Duration::ZERO,
        }));
        assert!(!is_out(&StoreError::TooLarge {
            path: path(),
            limit: 1
        }));
        assert!(!is_out(&StoreError::Corrupt {
            path: path(),
            got: 1,
            wanted: 2,
        }));
    }
}
