//! Every knob and rule: file, environment, annotations, checked policy.
//!
//! Two steps. `written.rs` keeps what somebody wrote, and where: `/etc/thaw/config.toml`, then
//! `/etc/thaw/conf.d/*.toml` in the order of their names, then `THAW_*` in the environment; the later one wins, key by
//! key. [`NodeConfig`] is what it means: checked values, each default with its reason. All mistakes are reported
//! together, each with its place and key.
//!
//! [`Policy`] is what holds for one container: the node's rules, narrowed by the annotations of the container. The
//! author of an annotation is not trusted: it can turn snapshots off, insist on one, or choose among what the node
//! allows, and nothing else.

mod written;
mod read;
mod quarantine;
mod node;
mod mistake;
mod store_url;
mod capture;
mod readiness;
mod on_restore;
mod policy;

pub use capture::Capture;
pub use mistake::{ConfigError, Mistake, Origin, Problem};
pub use node::{DEFAULT_DIR, Deadlines, Loaded, NodeConfig, Store};
pub use on_restore::{OnRestore, OnRestoreError};
pub use policy::{ANNOTATION_CAPTURE, ANNOTATION_READY, ANNOTATION_WARMUP, SelfCapture};
pub use policy::{
    ANNOTATION_IGNORE_ENV, ANNOTATION_MOUNTS, ANNOTATION_ON_RESTORE, ANNOTATION_PATH, ANNOTATION_POLICY,
    ANNOTATION_TCP,
};
pub use policy::{
    MAX_IGNORED, PersistentMounts, Policy, PolicyError, PolicyProblem, SnapshotPolicy, TcpMode, UnknownWord,
};
pub use quarantine::Quarantine;
pub use readiness::{Pattern, Probe, ReadinessError, Target, Warmup};
pub use store_url::{Scheme, StoreUrl, StoreUrlError};
