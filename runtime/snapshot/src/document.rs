//! The key document and the manifest as bytes.

use serde::Deserialize;
use thiserror::Error;

use crate::{Digest, FORMAT_VERSION, KeyDocument, Manifest, ManifestError, canonical};

/// Most bytes that a key document may have.
pub const MAX_DOCUMENT: usize = 8 << 20;
/// Most snapshots that a key document may hold.
pub const MAX_VARIANTS: usize = 64;

/// Why bytes are not a key document that this build can use.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// More than [`MAX_DOCUMENT`] bytes.
    #[error("the key document has {0} bytes, more than is allowed")]
    Size(usize),
    /// Not JSON, or without a format version.
    #[error("the key document is not JSON with a format version")]
    Json(#[source] serde_json::Error),
    /// Written by a newer thaw, or by something else.
    #[error("format version {0} is not known, this build reads version 1")]
    Format(u64),
    /// The version is known and the fields are not those of that version.
    #[error("the key document does not have the fields of its version")]
    Fields(#[source] serde_json::Error),
    /// More than [`MAX_VARIANTS`].
    #[error("the key document holds {0} snapshots, more than is allowed")]
    Variants(usize),
    /// A snapshot breaks a rule of the format.
    #[error("snapshot {index} of the key document breaks a rule of the format")]
    Manifest {
        /// Its place in the document, from 0.
        index: usize,
        /// The rule.
        #[source]
        source: ManifestError,
    },
}

/// All that may be believed before the version is known.
#[derive(Deserialize)]
struct Head {
    format: u64,
}

impl KeyDocument {
    /// A document of this build's version.
    pub fn new(variants: Vec<Manifest>) -> Self {
        Self {
            format: FORMAT_VERSION,
            variants,
        }
    }

    /// Reads and validates a document. The size is looked at first, then the version, then the rest.
    ///
    /// # Errors
    /// The bytes are too many, are no document of a known version, or hold a snapshot that [`Manifest::validate`]
    /// refuses.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(DocumentError::Size(bytes.len()));
        }
        let head: Head = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        if head.format != u64::from(FORMAT_VERSION) {
            return Err(DocumentError::Format(head.format));
        }
        let document: Self = serde_json::from_slice(bytes).map_err(DocumentError::Fields)?;
        if document.variants.len() > MAX_VARIANTS {
            return Err(DocumentError::Variants(document.variants.len()));
        }
        for (index, manifest) in document.variants.iter().enumerate() {
            manifest
                .validate()
                .map_err(|source| DocumentError::Manifest { index, source })?;
        }
        Ok(document)
    }

    /// The document as canonical JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::text(&canonical::value(self)).into_bytes()
    }
}

impl Manifest {
    /// Names this snapshot: the digest of its canonical JSON.
    pub fn id(&self) -> Digest {
        canonical::digest(&canonical::value(self))
    }
}
