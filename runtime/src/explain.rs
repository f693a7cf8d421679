//! Why a container was not restored: the nearest snapshot in the store, and what sets the start apart from it.
//!
//! A start asks the store for one key and learns no more than that there is nothing. The manifests keep the documents
//! that the keys are hashes of, so somebody with more time can list them and compare, field by field. This is for the
//! tool; no shim does it.

use std::cmp::Reverse;

use serde::Serialize;
use serde_json::Value;
use thaw_config::{NodeConfig, Policy, PolicyError};
use thaw_runc::PlainSpawner;
use thaw_snapshot::fingerprint::diff;
use thaw_snapshot::matching::mismatches;
use thaw_snapshot::{Digest, Manifest};
use thaw_store::{KeyPath, ListError, OpenError, Store};

use crate::boot::{memory_limit, place, store_options};
use crate::host;
use crate::key::{Bundle, KeyError, SHARED, Start, read_bundle};
use crate::outcome::Outcome;
use crate::record::{Container, Record, RecordError};
use crate::words::chain;

/// Why a start can't be compared with the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// How the container is driven can't be read.
    #[error("read what thaw knows of the container")]
    Record(#[source] RecordError),
    /// It is gone.
    #[error("find the bundle of the container, which is gone")]
    Gone,
    /// Its spec can't be read.
    #[error("read the container's spec")]
    Spec(#[source] KeyError),
    /// Its annotations can't be followed.
    #[error("follow the container's annotations")]
    Annotation(#[source] PolicyError),
    /// The store can't be opened.
    #[error("open the store")]
    Store(#[source] OpenError),
    /// The store can't be listed.
    #[error("look for snapshots of the image")]
    List(#[source] ListError),
}

/// The snapshot in the store that is most like the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// Its id.
    pub snapshot: Digest,
    /// When it was taken.
    pub created: String,
    /// What differs in what makes two starts alike, in the order of the fields. Empty when the start would find it.
    pub differences: Vec<Difference>,
    /// What of this node and the container's limits does not fit.
    pub unfit: Vec<String>,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path in the fingerprint, as in `process.args` or `env.MODE`; or `scope`.
    pub field: String,
    /// What the snapshot has; `None` where it has nothing.
    pub snapshot: Option<String>,
    /// What the container has.
    pub container: Option<String>,
}

/// What more there is to say of a start than its outcome does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct More {
    /// For a cold start: the nearest snapshot, if there is any of the same image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Nearest>,
    /// For a restored one: variables of which the processes have the donor's values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stale_env: Vec<String>,
}

/// Looks at the store for what explains the outcome of a container.
///
/// # Errors
/// See [`ExplainError`]; the outcome itself stands without this.
pub async fn explain(config: &NodeConfig, outcome: &Outcome) -> Result<More, ExplainError> {
    let Some(key) = outcome.key.as_deref().and_then(|path| KeyPath::parse(path).ok()) else {
        // It was not looked up: the reason says it all.
        return Ok(More::default());
    };
    let container = Record::new(&config.state, &outcome.namespace, &outcome.id).container();
    let container = container
        .map_err(ExplainError::Record)?
        .ok_or(ExplainError::Gone)?;
    let bundle = read_bundle(&container.bundle).map_err(ExplainError::Spec)?;
    let annotations = bundle.spec.annotations().clone().unwrap_or_default();
    let policy = Policy::resolve(config, &annotations).map_err(ExplainError::Annotation)?;
    let url = policy.store.as_ref().unwrap_or(&config.store.url);
    let store = thaw_store::open(url.as_url(), &store_options(&config.store)).await;
    let store = store.map_err(ExplainError::Store)?;
    let asked = Asked {
        config,
        outcome,
        container: &container,
        bundle: &bundle,
        policy: &policy,
    };
    match outcome.result {
        crate::outcome::Result::Restored => asked.restored(&*store, &key).await,
        crate::outcome::Result::Cold => asked.cold(&*store, &key).await,
    }
}

struct Asked<'a> {
    config: &'a NodeConfig,
    outcome: &'a Outcome,
    container: &'a Container,
    bundle: &'a Bundle,
    policy: &'a Policy,
}

impl Asked<'_> {
    fn start(&self) -> Start<'_> {
        let stdin = self.container.stdin;
        Start::new(
            &self.outcome.namespace,
            &self.bundle.spec,
            stdin,
            &self.policy.ignore_env,
        )
    }

    async fn restored(&self, store: &dyn Store, key: &KeyPath) -> Result<More, ExplainError> {
        let listing = thaw_store::list_some(store, |path| path == key).await;
        let snapshots = listing.map_err(ExplainError::List)?.snapshots.into_iter();
        let chosen = |manifest: &Manifest| Some(manifest.id().to_string()) == self.outcome.snapshot;
        let donor = snapshots
            .map(|(_, manifest)| manifest)
            .find(chosen)
            .map(|manifest| manifest.donor);
        // The snapshot may have been removed since; what the container's own spec says is known still.
        let mut stale_env = self.start().stale_env();
        stale_env.extend(donor.into_iter().flat_map(|donor| donor.stale_env));
        stale_env.sort_unstable();
        stale_env.dedup();
        Ok(More {
            stale_env,
            nearest: None,
        })
    }

    async fn cold(&self, store: &dyn Store, key: &KeyPath) -> Result<More, ExplainError> {
        let listing = thaw_store::list_some(store, |path| of_one_image(path, key)).await;
        let listing = listing.map_err(ExplainError::List)?;
        for (path, error) in &listing.unreadable {
            log::warn!("left out {path}: {}", chain(error));
        }
        let start = self.start();
        let mut near: Vec<(Vec<Difference>, Manifest)> = listing
            .snapshots
            .into_iter()
            .map(|(_, manifest)| (differences(&start, &manifest, self.config.shared_scope), manifest))
            .collect();
        near.sort_by_cached_key(|(fields, manifest)| {
            (fields.len(), Reverse(manifest.created.clone()), manifest.id())
        });
        let Some((differences, manifest)) = near.into_iter().next() else {
            return Ok(More::default());
        };
        let nearest = Nearest {
            snapshot: manifest.id(),
            created: manifest.created.clone(),
            differences,
            unfit: self.unfit(&manifest).await,
        };
        Ok(More {
            nearest: Some(nearest),
            stale_env: Vec::new(),
        })
    }

    async fn unfit(&self, manifest: &Manifest) -> Vec<String> {
        let config = self.config;
        let learned = host::facts(&config.state, &config.criu, &self.container.runc, &PlainSpawner).await;
        let host = match learned {
            Ok(host) => host,
            Err(error) => return vec![chain(&error)],
        };
        let place = place(&host, memory_limit(&self.bundle.spec));
        mismatches(manifest, place)
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// Whether two keys are of one image on one platform, in whatever scope: `v1/keys/<scope>/<platform>/<config>/<hash>`.
fn of_one_image(one: &KeyPath, other: &KeyPath) -> bool {
    fn image(path: &KeyPath) -> Vec<&str> {
        path.as_str().split('/').skip(3).take(2).collect()
    }
    image(one) == image(other)
}

/// What sets a start apart from a snapshot of the same image. The start's values are hashed as in the snapshot's scope,
/// so that those that are equal look equal.
fn differences(start: &Start<'_>, manifest: &Manifest, shared: bool) -> Vec<Difference> {
    let mut found = Vec::new();
    let scope = &manifest.key.scope;
    let own = start.scope();
    if *scope != own && !(shared && scope == SHARED) {
        found.push(Difference {
            field: "scope".to_owned(),
            snapshot: Some(scope.clone()),
            container: Some(own),
        });
    }
    let own = start.fingerprint(scope);
    let (there, here) = (&manifest.fingerprint, own.document());
    if there.get("version") != here.get("version") {
        // Another thaw wrote it; the other fields can't be compared.
        found.push(difference("version", there.get("version"), here.get("version")));
        return found;
    }
    let fields = diff(there, here).into_iter();
    found.extend(fields.map(|field| difference(&field.path, field.left.as_ref(), field.right.as_ref())));
    found
}

fn difference(field: &str, snapshot: Option<&Value>, container: Option<&Value>) -> Difference {
    let hidden = field.starts_with("env.");
    Difference {
        field: field.to_owned(),
        snapshot: snapshot.map(|value| words(value, hidden, "a value")),
        container: container.map(|value| words(value, hidden, "another value")),
    }
}

/// A value in short. Those of the environment are hashes, which tell nobody anything, or say what of the pod they are.
fn words(value: &Value, hidden: bool, instead: &str) -> String {
    match value {
        Value::String(text) if hidden => match text.strip_prefix('=') {
            Some(of_pod) => format!("the {of_pod}"),
            None => instead.to_owned(),
        },
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
