//! What holds for one container: the node's rules, narrowed by annotations.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::node::NodeConfig;
use crate::store_url::{StoreUrl, StoreUrlError};

/// Annotation: `IfPresent`, `Never` or `Required`.
pub const ANNOTATION_POLICY: &str = "thaw.dev/snapshot-policy";
/// Annotation: the URL of the store to look in, under one of the node's `allowed_paths`.
pub const ANNOTATION_PATH: &str = "thaw.dev/snapshot-path";
/// Annotation: `auto`, `established` or `close`.
pub const ANNOTATION_TCP: &str = "thaw.dev/tcp";

/// Annotation: names of environment variables, separated by commas, that may differ from the donor's.
pub const ANNOTATION_IGNORE_ENV: &str = "thaw.dev/ignore-env";
/// Annotation: `refuse` or `allow`.
pub const ANNOTATION_MOUNTS: &str = "thaw.dev/persistent-mounts";

/// Most names that [`ANNOTATION_IGNORE_ENV`] may list: it is for a few values that the application reads again.
pub const MAX_IGNORED: usize = 64;
/// Most bytes of one of these names.
const MAX_VARIABLE: usize = 256;

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
    /// Not under a prefix that the node's `allowed_paths` lists.
    #[error("the node's allowed_paths does not cover it")]
    NotAllowed,
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
                return Ok(Self {
                    snapshot: Never,
                    store: None,
                    tcp: node.tcp,
                    // A snapshot may still be taken of it.
                    ignore_env: names(annotations).unwrap_or_default(),
                    persistent_mounts: node.persistent_mounts,
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
        Ok(Self {
            snapshot,
            store,
            tcp: tcp.unwrap_or(node.tcp),
            ignore_env,
            persistent_mounts: mounts.unwrap_or(node.persistent_mounts),
        })
    }
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
