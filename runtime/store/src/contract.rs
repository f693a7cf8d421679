//! Stand-ins for what the snapshot crate is about to say itself: where objects live and what a manifest's id is.

use thaw_snapshot::{Digest, Key, KeyDocument, Manifest};

pub(crate) use serde_json::Error as ParseError;

pub(crate) trait KeyPlace {
    fn path(&self) -> String;
}

impl KeyPlace for Key {
    fn path(&self) -> String {
        let Key {
            scope,
            platform,
            config,
            fingerprint,
        } = self;
        format!(
            "v1/keys/{scope}/{platform}/{}/{}.json",
            config.hex(),
            fingerprint.hex()
        )
    }
}

pub(crate) trait BlobPlace {
    fn blob_path(&self) -> String;
}

impl BlobPlace for Digest {
    fn blob_path(&self) -> String {
        format!("v1/blobs/sha256/{}", self.hex())
    }
}

pub(crate) trait ManifestId {
    fn id(&self) -> Digest;
}

impl ManifestId for Manifest {
    fn id(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

pub(crate) trait ParseDocument: Sized {
    fn parse(bytes: &[u8]) -> Result<Self, ParseError>;
}

impl ParseDocument for KeyDocument {
    fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        serde_json::from_slice(bytes)
    }
}
