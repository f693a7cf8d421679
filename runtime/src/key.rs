//! The spec of a container, and the key that follows from it.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::Value;
use thaw_snapshot::fingerprint::{Facts, annotation, cri, env, stale_env};
use thaw_snapshot::{Digest, Fingerprint, Key, MAX_LIST, MAX_NAME};

use crate::boot::{Network, network_of};
use crate::network;

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

/// The scope of the snapshots that were published for everybody. No namespace of containerd can have this name.
pub(crate) const SHARED: &str = "*";

/// What of a start, beside the image, decides on its key.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    namespace: &'a str,
    spec: &'a Spec,
    stdin: bool,
    ignore_env: &'a [String],
    addresses: Vec<IpAddr>,
}

impl<'a> Start<'a> {
    /// Looks at the addresses of the pod, if the environment holds one that could be of it.
    pub(crate) fn new(namespace: &'a str, spec: &'a Spec, stdin: bool, ignore_env: &'a [String]) -> Self {
        Self {
            namespace,
            spec,
            stdin,
            ignore_env,
            addresses: pod_addresses(spec),
        }
    }

    /// Who may share the snapshot when nobody has said anything: the containerd namespace, and in Kubernetes the pod's
    /// namespace in it. A containerd namespace has no slash, so no two of these are the same.
    pub(crate) fn scope(&self) -> String {
        match annotation(self.spec, cri::SANDBOX_NAMESPACE) {
            Some(pod) => format!("{}/{pod}", self.namespace),
            None => self.namespace.to_owned(),
        }
    }

    /// The fingerprint within a scope.
    pub(crate) fn fingerprint(&self, scope: &str) -> Fingerprint {
        Fingerprint::of(self.spec, self.facts(), scope)
    }

    /// What the container is looked up by within a scope.
    pub(crate) fn key(&self, scope: String, config: Digest) -> Key {
        Key {
            fingerprint: self.fingerprint(&scope).digest(),
            scope,
            platform: platform(),
            config,
        }
    }

    /// Variables whose values are the donor's after a restore, as many of them as a manifest may list.
    pub(crate) fn stale_env(&self) -> Vec<String> {
        let mut names = stale_env(self.spec, self.facts());
        names.retain(|name| name.len() <= MAX_NAME);
        names.truncate(MAX_LIST);
        names
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            stdin: self.stdin,
            ignore_env: self.ignore_env,
            addresses: &self.addresses,
        }
    }
}

/// Addresses of the pod whose network the container joins. Only asked for when a value in its environment consists of
/// addresses: the visit to the namespace costs a thread.
fn pod_addresses(spec: &Spec) -> Vec<IpAddr> {
    let env = spec
        .process()
        .as_ref()
        .and_then(|process| process.env().as_deref())
        .unwrap_or_default();
    let an_address = |entry: &String| {
        entry
            .split_once('=')
            .is_some_and(|(_, value)| env::addresses_in(value).is_some())
    };
    if annotation(spec, cri::SANDBOX_ID).is_none() || !env.iter().any(an_address) {
        return Vec::new();
    }
    let Network::Joined(path) = network_of(spec) else {
        return Vec::new();
    };
    match network::addresses(&path) {
        Ok(mut found) => {
            found.retain(|address| !address.is_loopback());
            found
        }
        Err(error) => {
            // Without them an address in the environment counts like any other value: a miss at worst.
            log::warn!("look at the addresses in {}: {error}", path.display());
            Vec::new()
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope(namespace: &str, annotations: Value) -> String {
        let spec = json!({"ociVersion": "1.2.0", "annotations": annotations});
        let spec: Spec = serde_json::from_value(spec).unwrap();
        Start::new(namespace, &spec, false, &[]).scope()
    }

    #[test]
    fn tenants_have_scopes_of_their_own() {
        let of_pod = |name: &str| json!({cri::SANDBOX_NAMESPACE: name});
        assert_eq!(scope("default", json!({})), "default");
        assert_eq!(scope("k8s.io", of_pod("shop")), "k8s.io/shop");
        // Nobody gets into another's by the name of a pod's namespace, nor into the shared one.
        let names = ["", "shop", "../default", "/", "*", "a/../shop", "_none"];
        let mut scopes: Vec<String> = names.iter().map(|name| scope("k8s.io", of_pod(name))).collect();
        scopes.extend(["k8s.io", "shop", "default", SHARED].map(str::to_owned));
        let paths: std::collections::BTreeSet<String> = scopes
            .iter()
            .map(|scope| {
                let digest = Digest::of(b"x");
                let (scope, platform) = (scope.clone(), platform());
                let key = Key {
                    scope,
                    platform,
                    config: digest,
                    fingerprint: digest,
                };
                assert_eq!(key.path().split('/').count(), 6, "{}", key.path());
                key.path()
            })
            .collect();
        assert_eq!(paths.len(), scopes.len());
    }
}
