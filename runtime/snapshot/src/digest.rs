//! Content digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>` as in the OCI image spec ("Digests").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a string is not a digest.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseDigestError {
    /// The algorithm is not one that thaw uses.
    #[error("digest does not start with \"sha256:\"")]
    Algorithm,
    /// The value is not 64 lower-case hex digits.
    #[error("digest value is not 64 lower-case hex digits")]
    Value,
}

impl Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest that a finished hasher holds.
    pub fn from_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The value without the algorithm: 64 hex digits, safe as a file name.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where the store keeps the blob of this digest.
    pub fn blob_path(&self) -> String {
        format!("v1/blobs/sha256/{}", self.hex())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("sha256:").ok_or(ParseDigestError::Algorithm)?;
        let digits: Vec<u8> = hex
            .bytes()
            .map(|b| match b {
                b'0'..=b'9' => Ok(b - b'0'),
                b'a'..=b'f' => Ok(b - b'a' + 10),
                _ => Err(ParseDigestError::Value),
            })
            .collect::<Result<_, _>>()?;
        if digits.len() != 64 {
            return Err(ParseDigestError::Value);
        }
        let mut value = [0u8; 32];
        for (byte, pair) in value.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(value))
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let digest = Digest::of(b"thaw");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.blob_path(), format!("v1/blobs/sha256/{}", digest.hex()));
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        assert_eq!("md5:00".parse::<Digest>(), Err(ParseDigestError::Algorithm));
        assert_eq!("sha256:00".parse::<Digest>(), Err(ParseDigestError::Value));
        let upper = Digest::of(b"thaw")
            .to_string()
            .to_uppercase()
            .replace("SHA256", "sha256");
        assert_eq!(upper.parse::<Digest>(), Err(ParseDigestError::Value));
    }
}
