//! What this node remembers of keys without a usable snapshot, for a moment: `STATE/.store/PLACE/misses/KEY`.
//!
//! The replicas of a deployment start together, and each would ask a store at the other end of a connection of its
//! own for the same key. A directory is asked again: that costs less than the note.
//!
//! A snapshot that this node publishes is found at once: publishing leaves a note with its time, and only a question
//! that was asked later may say "none".

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_config::{NodeConfig, Scheme, StoreUrl};
use thaw_snapshot::{Digest, Key, KeyDocument};
use thaw_store::{LookupError, StoreError};

use crate::{notes, outage};

/// From this many notes on, whoever writes one sweeps the old ones out.
const CROWDED: usize = 256;

/// The misses of one store.
#[derive(Debug, Clone)]
pub(crate) struct Misses {
    directory: PathBuf,
    /// How long a miss holds.
    hold: Duration,
}

/// The note of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// When this was asked, or published; in milliseconds since 1970.
    at: u64,
    /// What the store said; `None` when there is a snapshot since.
    said: Option<Said>,
}

/// What a store can say of a key, quickly and clearly, beside a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// There is nothing under it.
    Nothing,
    /// It may not be read.
    Denied,
    /// Something that is no key document, or that of another key.
    Broken,
}

impl Said {
    /// What an answer comes to; `None` for a key document, and for none at all.
    pub(crate) fn of(answer: &Result<Option<KeyDocument>, LookupError>) -> Option<Self> {
        match answer {
            Ok(None) => Some(Self::Nothing),
            Ok(Some(_)) => None,
            Err(LookupError::Store(StoreError::Denied { .. })) => Some(Self::Denied),
            Err(
                LookupError::Document { .. }
                | LookupError::WrongKey { .. }
                | LookupError::Store(StoreError::TooLarge { .. }),
            ) => Some(Self::Broken),
            Err(_) => None,
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "there was no snapshot for this image and spec",
            Self::Denied => "the store did not allow to read the key",
            Self::Broken => "what stood under the key could not be read",
        })
    }
}

/// Tells the starts on this node that there is a snapshot under `key` in the store at `url` now.
pub(crate) fn note_published(config: &NodeConfig, url: &StoreUrl, key: &Key) {
    if url.scheme() != Scheme::File {
        let directory = outage::directory(config, url);
        Misses::new(&directory, config.store.remember_misses).published(key);
    }
}

impl Misses {
    /// `directory` is that of the store, see [`crate::outage::directory`].
    pub(crate) fn new(directory: &Path, hold: Duration) -> Self {
        Self {
            directory: directory.join("misses"),
            hold,
        }
    }

    fn note(&self, key: &Key) -> PathBuf {
        self.directory.join(Digest::of(key.path().as_bytes()).hex())
    }

    /// What the store said of `key` and how long ago, if that still holds.
    pub(crate) fn known(&self, key: &Key) -> Option<(Said, Duration)> {
        let known: Known = notes::read(&self.note(key))?;
        let age = Duration::from_millis(notes::now().checked_sub(known.at)?);
        Some((known.said?, age)).filter(|_| age < self.hold)
    }

    /// The store has nothing of use under `key`; it was asked at `asked`, in milliseconds since 1970.
    pub(crate) fn missed(&self, key: &Key, asked: u64, said: Said) {
        let Some(_turn) = notes::turn(&self.directory) else {
            return;
        };
        let note = self.note(key);
        if notes::read::<Known>(&note).is_some_and(|known| known.said.is_none() && known.at >= asked) {
            return;
        }
        self.sweep();
        let known = Known {
            at: asked,
            said: Some(said),
        };
        if let Err(error) = notes::write(&note, &known) {
            log::debug!("write {}: {error}", note.display());
        }
    }

    /// There is a snapshot under `key` now.
    fn published(&self, key: &Key) {
        // Also without a turn: a miss that stays for a moment is the lesser harm.
        let _turn = notes::turn(&self.directory);
        let known = Known {
            at: notes::now(),
            said: None,
        };
        if let Err(error) = notes::write(&self.note(key), &known) {
            log::warn!("write {}: {error}", self.note(key).display());
        }
    }

    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        if paths.len() < CROWDED {
            return;
        }
        let now = notes::now();
        for path in paths {
            // An answer that is still on its way may not be older than a minute: no lookup takes as long.
            let hold = self.hold.max(Duration::from_secs(60)).as_millis();
            let old = |known: &Known| u128::from(now.saturating_sub(known.at)) > hold;
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && notes::read::<Known>(&path).as_ref().is_none_or(old) {
                notes::remove(&path).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(scope: &str) -> Key {
        Key {
            scope: scope.to_owned(),
            platform: "linux-amd64".to_owned(),
            config: Digest::of(b"image"),
            fingerprint: Digest::of(b"fingerprint"),
        }
    }

    #[test]
    fn a_miss_holds_for_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let misses = Misses::new(directory.path(), Duration::from_secs(60));
        assert_eq!(misses.known(&key("a")), None);
        misses.missed(&key("a"), notes::now(), Said::Nothing);
        assert!(misses.known(&key("a")).is_some());
        assert_eq!(misses.known(&key("b")), None);
        let short = Misses::new(directory.path(), Duration::ZERO);
        assert_eq!(short.known(&key("a")), None);
    }

    #[test]
    fn what_was_published_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let misses = Misses::new(directory.path(), Duration::from_secs(60));
        let asked = notes::now();
        misses.published(&key("a"));
        // The answer to a question from before.
        misses.missed(&key("a"), asked, Said::Nothing);
        assert_eq!(misses.known(&key("a")), None);
        // It was removed since.
        misses.missed(&key("a"), notes::now() + 3_600_000, Said::Nothing);
        assert_eq!(misses.known(&key("a")), None, "a time to come is no time");
        misses.missed(&key("b"), asked, Said::Nothing);
        misses.published(&key("b"));
        assert_eq!(misses.known(&key("b")), None);
    }

    #[test]
    fn old_ones_are_swept_out() {
        let directory = tempfile::tempdir().unwrap();
        let misses = Misses::new(directory.path(), Duration::from_secs(60));
        for number in 0..CROWDED {
            misses.missed(&key(&number.to_string()), 1, Said::Nothing);
        }
        misses.missed(&key("last"), notes::now(), Said::Nothing);
        let left = fs::read_dir(directory.path().join("misses")).unwrap().count();
        assert!(left <= 3, "{left}");
        assert!(misses.known(&key("last")).is_some());
    }
}
