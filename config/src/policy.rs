//! What holds for one container: the node's rules, narrowed by annotations.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::node::NodeConfig;
use crate::on_restore::{OnRestore, OnRestoreError};
use crate::readiness::{Probe, ReadinessError, Warmup};
use crate::store_url::{StoreUrl, StoreUrlError};

/// Annotation: `IfPresent`, `Never` or `Required`.
pub const ANNOTATION_POLICY: &str = "thaw.dev/snapshot-policy";
/// Annotation: the URL of the store to look in, under one of the node's `allowed_paths`.
pub const ANNOTATION_PATH: &str = "thaw.dev/snapshot-path";
/// Annotation: `auto`, `established` or `close`.
pub const ANNOTATION_TCP: &str = "thaw.dev/tcp";
/// Annotation: `signal:NAME` or `exec:COMMAND ARGUMENT...`, done when a restored container runs.
pub const ANNOTATION_ON_RESTORE: &str = "thaw.dev/on-restore";

/// Annotation: names of environment variables, separated by commas, that may differ from the donor's.
pub const ANNOTATION_IGNORE_ENV: &str = "thaw.dev/ignore-env";
/// Annotation: `refuse` or `allow`.
pub const ANNOTATION_MOUNTS: &str = "thaw.dev/persistent-mounts";

/// Most names that [`ANNOTATION_IGNORE_ENV`] may list: it is for a few values that the application reads again.
pub const MAX_IGNORED: usize = 64;
/// Most bytes of one of these names.
const MAX_VARIABLE: usize = 256;
/// Annotation: `ready` has the container captured as soon as it is ready, `never` (as without it) does not.
pub const ANNOTATION_CAPTURE: &str = "thaw.dev/capture";
/// Annotation: how to tell that it is ready; see [`Probe`].
pub const ANNOTATION_READY: &str = "thaw.dev/ready";
/// Annotation: requests that are sent when it is ready and before it is captured; see [`Warmup`].
pub const ANNOTATION_WARMUP: &str = "thaw.dev/warmup";

/// Whether a container is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnapshotPolicy {
    /// When a snapshot fits; otherwise it starts cold.
    IfPresent,
    /// Never: no look-up at all.
    Never,
    /// Restored, or not started: the start fails with the reason.
    Required,
}

/// What becomes of TCP connections that were open when the snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpMode {
    /// Kept when their local address exists in the new network namespace, closed otherwise.
    Auto,
    /// Kept.
    Established,
    /// Closed: the application sees the end of the connection and reconnects.
    Close,
}

/// Whether a container that can write to storage which outlives it is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PersistentMounts {
    /// It starts cold: the memory of the donor may not go with what has been written since.
    Refuse,
    /// It is restored: its owner says that the application copes.
    Allow,
}

/// What holds for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether it is restored.
    pub snapshot: SnapshotPolicy,
    /// The store to look in, when it is not the node's own.
    pub store: Option<StoreUrl>,
    /// What becomes of its connections.
    pub tcp: TcpMode,
    /// Variables of its environment that may differ from the donor's, sorted. The restored process keeps the
    /// donor's values.
    pub ignore_env: Vec<String>,
    /// Whether writable persistent mounts keep it from being restored.
    pub persistent_mounts: PersistentMounts,
    /// How it is told that it was restored.
    pub on_restore: Option<OnRestore>,
    /// It is captured when it is ready, if it started cold.
    pub capture: Option<SelfCapture>,
    /// How to tell that it is ready, also when it is captured by hand.
    pub ready: Option<Probe>,
    /// What it is sent before it is captured, also by hand.
    pub warmup: Option<Warmup>,
}

/// A container that has itself captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfCapture {
    /// How to tell that it is ready.
    pub ready: Probe,
}

/// Annotations that can't be followed.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("can't follow the annotation {annotation}")]
pub struct PolicyError {
    /// Which annotation.
    pub annotation: &'static str,
    /// The container must not start cold in spite of this: it said `Required`, or the node does.
    pub required: bool,
    /// What is wrong with it.
    #[source]
    pub problem: PolicyProblem,
}

/// What is wrong with an annotation. No message repeats more than a short piece of the value.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyProblem {
    /// Not one of the words that it knows.
    #[error("{found:?} is none of {known}")]
    Word {
        /// The value, cut.
        found: String,
        /// What would have been right.
        known: &'static str,
    },
    /// Not a list of names of variables.
    #[error("not a list of at most {MAX_IGNORED} names of variables, separated by commas")]
    Names,
    /// The node's policy is `Never`.
    #[error("this node restores nothing (policy = \"Never\")")]
    NodeSaysNever,
    /// Not a store.
    #[error("not the URL of a store")]
    Url(#[source] StoreUrlError),
    /// Not a probe or a warm-up.
    #[error("not understood")]
    Readiness(#[source] ReadinessError),
    /// `capture = ready` without a way to tell.
    #[error("capture=ready needs the annotation {ANNOTATION_READY}")]
    NoProbe,
    /// Not under a prefix that the node's `allowed_paths` lists.
    #[error("the node's allowed_paths does not cover it")]
    NotAllowed,
    /// Nothing that can be done to a restored container.
    #[error("not an action")]
    Action(#[source] OnRestoreError),
}

impl Policy {
    /// The policy of a container with these annotations (of its OCI spec).
    ///
    /// `Never` wins over everything, from either side: a container may always opt out. `Required` of the node
    /// stays when the container says `IfPresent`.
    ///
    /// # Errors
    /// The first annotation that can't be followed. None when the container is to start cold anyway.
    pub fn resolve(node: &NodeConfig, annotations: &HashMap<String, String>) -> Result<Self, PolicyError> {
        use SnapshotPolicy::{IfPresent, Never, Required};
        let node_required = node.policy == Required;
        let fail = |annotation, required, problem| PolicyError {
            annotation,
            required,
            problem,
        };
        let asked = word(annotations, ANNOTATION_POLICY, SnapshotPolicy::WORDS)
            .map_err(|problem| fail(ANNOTATION_POLICY, node_required, problem))?;
        let snapshot = match (node.policy, asked) {
            (Never, Some(Required)) => {
                return Err(fail(ANNOTATION_POLICY, true, PolicyProblem::NodeSaysNever));
            }
            (Never, _) | (_, Some(Never)) => {
                // Somebody may still take a snapshot of it.
                let mounts = word(annotations, ANNOTATION_MOUNTS, PersistentMounts::WORDS);
                let (ready, warmup) = Wishes::of(node, annotations)
                    .map_or((None, None), |wishes| (wishes.ready, wishes.warmup));
                return Ok(Self {
                    snapshot: Never,
                    store: None,
                    tcp: node.tcp,
                    ignore_env: names(annotations).unwrap_or_default(),
                    persistent_mounts: mounts.ok().flatten().unwrap_or(node.persistent_mounts),
                    capture: None,
                    ready,
                    warmup,
                    on_restore: None,
                });
            }
            (Required, _) | (_, Some(Required)) => Required,
            (IfPresent, _) => IfPresent,
        };
        let required = snapshot == Required;
        let store = store(node, annotations).map_err(|problem| fail(ANNOTATION_PATH, required, problem))?;
        let tcp = word(annotations, ANNOTATION_TCP, TcpMode::WORDS)
            .map_err(|problem| fail(ANNOTATION_TCP, required, problem))?;
        let ignore_env =
            names(annotations).map_err(|problem| fail(ANNOTATION_IGNORE_ENV, required, problem))?;
        let mounts = word(annotations, ANNOTATION_MOUNTS, PersistentMounts::WORDS)
            .map_err(|problem| fail(ANNOTATION_MOUNTS, required, problem))?;
        let wishes = Wishes::of(node, annotations)
            .map_err(|(annotation, problem)| fail(annotation, required, problem))?;
        Ok(Self {
            snapshot,
            store,
            tcp: tcp.unwrap_or(node.tcp),
            ignore_env,
            persistent_mounts: mounts.unwrap_or(node.persistent_mounts),
            capture: wishes.capture,
            ready: wishes.ready,
            warmup: wishes.warmup,
            on_restore: annotations
                .get(ANNOTATION_ON_RESTORE)
                .map(|text| text.parse())
                .transpose()
                .map_err(|error| fail(ANNOTATION_ON_RESTORE, required, PolicyProblem::Action(error)))?,
        })
    }
}

/// What a container wants of captures.
struct Wishes {
    capture: Option<SelfCapture>,
    ready: Option<Probe>,
    warmup: Option<Warmup>,
}

impl Wishes {
    fn of(
        node: &NodeConfig,
        annotations: &HashMap<String, String>,
    ) -> Result<Self, (&'static str, PolicyProblem)> {
        let at = |annotation| move |problem| (annotation, problem);
        let ready: Option<Probe> = readiness(annotations, ANNOTATION_READY).map_err(at(ANNOTATION_READY))?;
        let warmup = readiness(annotations, ANNOTATION_WARMUP).map_err(at(ANNOTATION_WARMUP))?;
        let capture = self_capture(node, annotations, ready.as_ref()).map_err(at(ANNOTATION_CAPTURE))?;
        Ok(Self {
            capture,
            ready,
            warmup,
        })
    }
}

fn self_capture(
    node: &NodeConfig,
    annotations: &HashMap<String, String>,
    ready: Option<&Probe>,
) -> Result<Option<SelfCapture>, PolicyProblem> {
    let Some(text) = annotations.get(ANNOTATION_CAPTURE) else {
        return Ok(None);
    };
    match (text.as_str(), ready) {
        ("never", _) => Ok(None),
        ("ready", None) => Err(PolicyProblem::NoProbe),
        ("ready", Some(ready)) => Ok(node
            .capture
            .by_annotation
            .then(|| SelfCapture { ready: ready.clone() })),
        (other, _) => Err(PolicyProblem::Word {
            found: other.chars().take(32).collect(),
            known: "ready, never",
        }),
    }
}

fn readiness<T: FromStr<Err = ReadinessError>>(
    annotations: &HashMap<String, String>,
    name: &str,
) -> Result<Option<T>, PolicyProblem> {
    let text = annotations.get(name);
    text.map(|text| text.parse())
        .transpose()
        .map_err(PolicyProblem::Readiness)
}

fn word<T: FromStr>(
    annotations: &HashMap<String, String>,
    name: &str,
    known: &'static str,
) -> Result<Option<T>, PolicyProblem> {
    let Some(text) = annotations.get(name) else {
        return Ok(None);
    };
    let found = text.chars().take(32).collect();
    text.parse()
        .map(Some)
        .or(Err(PolicyProblem::Word { found, known }))
}

/// The variables that [`ANNOTATION_IGNORE_ENV`] lists, sorted, each once.
fn names(annotations: &HashMap<String, String>) -> Result<Vec<String>, PolicyProblem> {
    let Some(text) = annotations.get(ANNOTATION_IGNORE_ENV) else {
        return Ok(Vec::new());
    };
    let plain = |name: &str| {
        name.len() <= MAX_VARIABLE && !name.contains('=') && name.chars().all(|c| c.is_ascii_graphic())
    };
    let mut names = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !plain(name) || names.len() == MAX_IGNORED {
            return Err(PolicyProblem::Names);
        }
        names.push(name.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn store(
    node: &NodeConfig,
    annotations: &HashMap<String, String>,
) -> Result<Option<StoreUrl>, PolicyProblem> {
    let Some(text) = annotations.get(ANNOTATION_PATH) else {
        return Ok(None);
    };
    let url: StoreUrl = text.parse().map_err(PolicyProblem::Url)?;
    if node.allowed_paths.iter().any(|prefix| url.is_within(prefix)) {
        Ok(Some(url))
    } else {
        Err(PolicyProblem::NotAllowed)
    }
}

/// A word that is not known. Who parsed it knows the words that are.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("not a known word")]
pub struct UnknownWord;

impl SnapshotPolicy {
    pub(crate) const WORDS: &str = "IfPresent, Never, Required";
}

impl FromStr for SnapshotPolicy {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "IfPresent" => Ok(Self::IfPresent),
            "Never" => Ok(Self::Never),
            "Required" => Ok(Self::Required),
            _ => Err(UnknownWord),
        }
    }
}

impl fmt::Display for SnapshotPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IfPresent => "IfPresent",
            Self::Never => "Never",
            Self::Required => "Required",
        })
    }
}

impl TcpMode {
    pub(crate) const WORDS: &str = "auto, established, close";
}

impl FromStr for TcpMode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "established" => Ok(Self::Established),
            "close" => Ok(Self::Close),
            _ => Err(UnknownWord),
        }
    }
}

impl fmt::Display for TcpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Established => "established",
            Self::Close => "close",
        })
    }
}

impl PersistentMounts {
    pub(crate) const WORDS: &str = "refuse, allow";
}

impl FromStr for PersistentMounts {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "allow" => Ok(Self::Allow),
            _ => Err(UnknownWord),
        }
    }
}

impl fmt::Display for PersistentMounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Allow => "allow",
        })
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
