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

/// What holds for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether it is restored.
    pub snapshot: SnapshotPolicy,
    /// The store to look in, when it is not the node's own.
    pub store: Option<StoreUrl>,
    /// What becomes of its connections.
    pub tcp: TcpMode,
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
                });
            }
            (Required, _) | (_, Some(Required)) => Required,
            (IfPresent, _) => IfPresent,
        };
        let required = snapshot == Required;
        let store = store(node, annotations).map_err(|problem| fail(ANNOTATION_PATH, required, problem))?;
        let tcp = word(annotations, ANNOTATION_TCP, TcpMode::WORDS)
            .map_err(|problem| fail(ANNOTATION_TCP, required, problem))?;
        Ok(Self {
            snapshot,
            store,
            tcp: tcp.unwrap_or(node.tcp),
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

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
