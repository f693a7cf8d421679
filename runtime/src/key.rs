//! The spec of a container, and the key that follows from it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::Value;
use thaw_snapshot::fingerprint::Facts;
use thaw_snapshot::{Fingerprint, ImageFacts, Key};

/// The largest `config.json` that is read; containerd's own messages end at 16 MiB.
const SPEC_LIMIT: u64 = 16 << 20;

/// `config.json`, as it is and as it is understood.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    /// As it is, with what this version does not know.
    pub(crate) json: Value,
    /// As it is understood.
    pub(crate) spec: Spec,
}

/// Why a spec can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file can't be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// It is not an OCI runtime spec.
    #[error("understand {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
}

pub(crate) fn read_bundle(bundle: &Path) -> Result<Bundle, KeyError> {
    let path = bundle.join("config.json");
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(SPEC_LIMIT).read_to_end(&mut text));
    if let Err(source) = read {
        return Err(KeyError::Read { path, source });
    }
    let parsed = serde_json::from_slice::<Value>(&text).and_then(|json| {
        Ok(Bundle {
            spec: serde_json::from_value(json.clone())?,
            json,
        })
    });
    parsed.map_err(|source| KeyError::Json { path, source })
}

/// The default scope: nobody outside the containerd namespace may share the snapshot.
fn scope(namespace: &str) -> String {
    namespace.to_owned()
}

/// A container's fingerprint.
pub(crate) fn fingerprint_of(namespace: &str, spec: &Spec, stdin: bool) -> Fingerprint {
    Fingerprint::of(spec, Facts { stdin }, &scope(namespace))
}

/// What a container is looked up by.
pub(crate) fn key_of(namespace: &str, image: &ImageFacts, spec: &Spec, stdin: bool) -> Key {
    Key {
        scope: scope(namespace),
        platform: platform(),
        config: image.config,
        fingerprint: fingerprint_of(namespace, spec, stdin).digest(),
    }
}

/// As image documents name it, which is as Go does.
fn platform() -> String {
    format!(
        "{}-{}",
        oci_spec::image::Os::default(),
        oci_spec::image::Arch::default()
    )
}
