//! Whose fault a failed try was. What is put aside, and for how long, follows from it: see [`crate::quarantine`].

use std::io::ErrorKind;

use thaw_config::NodeConfig;
use thaw_runc::RuncError;
use thaw_snapshot::Digest;
use thaw_store::{Cache, EntryError, FetchError};

use super::{Reason, memory};
use crate::quarantine::{Blame, Quarantine};
use crate::rootfs::ApplyError;

/// From this failure on, a cached snapshot is fetched anew for the next try: bits that flip on a disk don't show in
/// what the seal looks at.
const DISTRUST: u32 = 2;

impl Reason {
    /// Whose fault it is; `None` when it says nothing of the snapshot, so that the next container may try it.
    #[must_use]
    pub fn blame(&self) -> Option<Blame> {
        match self {
            Self::Fetch(error) => Some(of_fetch(error)),
            Self::Entry(EntryError::Read { .. } | EntryError::Changed { .. }) => Some(Blame::Passing),
            Self::Rootfs(ApplyError::Make { source, .. }) if is_full(source.kind()) => Some(Blame::Passing),
            Self::Rootfs(ApplyError::Deadline(_)) => Some(Blame::Passing),
            Self::Entry(_)
            | Self::Images(_)
            | Self::Facts(_)
            | Self::Pagemap(_)
            | Self::PageFiles
            | Self::Rights(_)
            | Self::Mounts(_)
            | Self::Rootfs(_)
            | Self::Gone { .. } => Some(Blame::Snapshot),
            Self::Restore { source, .. } => of_restore(source),
            Self::Memory(error) => Some(memory::blame(error)),
            // What this container asked for: a name that is too long, limits that are too tight.
            Self::Edit(_) | Self::Limits(_) | Self::Mount(_) => Some(Blame::Passing),
            _ => None,
        }
    }
}

fn of_fetch(error: &FetchError) -> Blame {
    match error {
        FetchError::Missing { .. }
        | FetchError::WrongDigest { .. }
        | FetchError::Truncated { .. }
        | FetchError::TooLarge { .. }
        | FetchError::Decompress { .. }
        | FetchError::Manifest(_) => Blame::Snapshot,
        _ => Blame::Passing,
    }
}

fn of_restore(error: &RuncError) -> Option<Blame> {
    match error {
        RuncError::Failed { .. } => Some(Blame::Snapshot),
        // A machine that is too slow now, or a CRIU that somebody has killed.
        RuncError::Deadline { .. } | RuncError::CriuDied { .. } => Some(Blame::Passing),
        _ => None,
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Puts a snapshot aside that has failed on this node.
pub fn put_aside(config: &NodeConfig, snapshot: &Digest, blame: Blame, reason: &str, detail: &str) {
    let failures = Quarantine::new(config).failed(snapshot, blame, reason, detail);
    if blame == Blame::Snapshot && failures >= DISTRUST {
        let removed = Cache::open(&config.cache).and_then(|cache| cache.remove(snapshot));
        if let Err(error) = removed {
            log::warn!(
                "remove {snapshot} from the cache: {}",
                crate::words::chain(&error)
            );
        }
    }
}
