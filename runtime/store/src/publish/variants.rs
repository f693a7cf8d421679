//! What stands under a key, and what will when one more snapshot is there: one of each class of machines.

use thaw_snapshot::matching::{Place, mismatches, same_class};
use thaw_snapshot::{KeyDocument, MAX_DOCUMENT, MAX_VARIANTS, Manifest};

use super::PublishError;
use crate::store::{KeyPath, PutMode, Store, StoreError};

/// A key document as it was found.
#[derive(Debug)]
pub(super) struct Standing {
    /// Its snapshots; none where it can't be used, or is not there.
    variants: Vec<Manifest>,
    /// There is one that can't be used: of a newer format, or broken.
    unusable: bool,
    /// How to write the next one.
    pub(super) mode: PutMode,
}

impl Standing {
    pub(super) async fn find(store: &dyn Store, path: &KeyPath) -> Result<Self, PublishError> {
        let read = match store.get_key_version(path, MAX_DOCUMENT as u64).await {
            Ok(read) => read,
            // No version is known of what was not read.
            Err(StoreError::TooLarge { .. }) => return Ok(Self::unusable(PutMode::Replace)),
            Err(error) => return Err(PublishError::Document(error)),
        };
        let Some((bytes, version)) = read else {
            return Ok(Self {
                variants: Vec::new(),
                unusable: false,
                mode: PutMode::IfAbsent,
            });
        };
        let mode = PutMode::IfStill(version);
        Ok(match KeyDocument::parse(&bytes) {
            Ok(document) => Self {
                variants: document.variants,
                unusable: false,
                mode,
            },
            Err(_) => Self::unusable(mode),
        })
    }

    fn unusable(mode: PutMode) -> Self {
        Self {
            variants: Vec::new(),
            unusable: true,
            mode,
        }
    }

    /// There is a snapshot already that a machine like the donor's of this one would restore, or nobody knows.
    pub(super) fn is_taken(&self, manifest: &Manifest) -> bool {
        let place = Place {
            host: &manifest.host,
            memory_limit: None,
            exists: |_path| true,
        };
        self.unusable
            || self
                .variants
                .iter()
                .any(|other| mismatches(other, place).is_empty())
    }

    /// The document with this snapshot in it, in the place of the one of its class. When there is no room for all, the
    /// oldest of the others go.
    ///
    /// # Errors
    /// Its size in bytes, when there is not even room for this one alone.
    pub(super) fn with(&self, manifest: &Manifest) -> Result<Vec<u8>, usize> {
        let another_class = |other: &&Manifest| !same_class(&other.host, &manifest.host);
        let of_key = self.variants.iter().filter(|other| other.key == manifest.key);
        let mut others: Vec<Manifest> = of_key.filter(another_class).cloned().collect();
        // Times are in UTC, so they sort as text but for fractions of a second.
        others.sort_by(|one, other| other.created.cmp(&one.created));
        others.truncate(MAX_VARIANTS - 1);
        loop {
            let variants = others.iter().rev().chain([manifest]).cloned().collect();
            let bytes = KeyDocument::new(variants).to_bytes();
            if bytes.len() <= MAX_DOCUMENT {
                return Ok(bytes);
            }
            if others.pop().is_none() {
                return Err(bytes.len());
            }
        }
    }
}
