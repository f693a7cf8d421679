//! Taking a snapshot of a container that has booted.
//!
//! ```text
//! find -> identify -> [ dump -> rootfs diff ] -> (the application goes on) -> check -> pack -> publish -> prime
//! ```
//!
//! The application stands still within the brackets only. Nothing is visible in the store before the key document is
//! written, last of all; whatever fails before leaves no trace there and a running application here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thaw_config::NodeConfig;
use thaw_criu::{CheckError, ReadError};
use thaw_runc::{Runc, RuncError};
use thaw_snapshot::Manifest;
use thaw_store::{OpenError, PackError, PublishError, PutMode, Store};

use crate::host::HostError;
use crate::identify::{Containerd, Identify as _, IdentifyError};
use crate::key::KeyError;
use crate::record::RecordError;
use crate::rootfs::DiffError;

mod find;
mod prepare;
mod refuse;
mod room;
mod freeze;
mod dump;
mod noting;
mod read;
mod secrets;
mod prove;
mod publish;
mod lease;
mod standing;
mod when_ready;

#[cfg(feature = "parsers")]
pub(crate) use lease::that_holds as lease_that_holds;

pub use freeze::{ROOTFS_VERB, write_rootfs_diff};
pub use prove::{ProofError, remove_left_proofs, remove_left_proofs_now};
pub use refuse::Refusal;
pub use standing::{Standing, State};
pub use when_ready::{WhenReadyError, capture_when_ready, log_seen};

/// What to capture.
#[derive(Debug, Clone)]
pub struct Request {
    /// containerd namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// Publish it for everybody: also for containers of other scopes, on nodes that allow it.
    pub shared: bool,
    /// End the container with the dump, instead of letting it run on.
    pub stop: bool,
    /// The program that writes the rootfs diff when it is called with [`ROOTFS_VERB`]: the tool itself.
    pub helper: PathBuf,
    /// Restore it once before it is published.
    pub proof: bool,
    /// Publish nothing in which secrets are found. Not together with `stop`.
    pub refuse_secrets: bool,
    /// What to do about a snapshot that stands under the same key.
    pub mode: PutMode,
}

/// Why the changes of a root filesystem can't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// A file or directory can't be used.
    #[error("use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: std::io::Error,
    },
    /// The changes can't be taken.
    #[error("read the changes")]
    Diff(#[source] DiffError),
}

/// Where a capture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Finding the container and its image.
    Identify,
    /// The application is asked if it is ready, and warmed up.
    Warm,
    /// The application stands still: memory and files are being copied.
    Freeze,
    /// The application runs again: the copy is being compressed.
    Pack,
    /// The snapshot is restored once, in a scratch container.
    Prove,
    /// The blobs go to the store, then the manifest.
    Publish,
    /// This node's cache is filled, so that the next start here needs no fetch.
    Prime,
}

/// Told how far a capture is.
pub trait Progress: Send + Sync {
    /// A step begins.
    fn step(&self, step: Step);
    /// Within [`Step::Pack`]: `done` of `total` bytes.
    fn bytes(&self, done: u64, total: u64);
}

/// Asks a capture to stop at the next step. During the freeze it has no effect: the application comes first.
#[derive(Debug, Default)]
pub struct Cancel(AtomicBool);

impl Cancel {
    /// Asks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), CaptureError> {
        if self.0.load(Ordering::Relaxed) {
            Err(CaptureError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// A snapshot that was taken and published.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Its manifest.
    pub manifest: Manifest,
    /// The store it is in.
    pub store: String,
    /// How long the application stood still.
    pub frozen: Duration,
    /// It was restored once before it was published.
    pub proven: bool,
    /// Secrets that were found in it: what and where, never the values.
    pub secrets: Vec<String>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// Somebody asked to stop.
    #[error("the capture was cancelled; the container was left as it was")]
    Cancelled,
    /// thaw does not know the container.
    #[error(
        "find container {id:?} in namespace {namespace:?}: it does not run under thaw (start it with the runtime \
         io.containerd.thaw.v1; `-n` names another namespace)"
    )]
    NotFound {
        /// Namespace that was searched.
        namespace: String,
        /// The container.
        id: String,
    },
    /// Its record can't be read.
    #[error("read what thaw knows of the container")]
    Record(#[source] RecordError),
    /// Its spec can't be read.
    #[error("read the container's spec")]
    Spec(#[source] KeyError),
    /// Its annotations can't be followed.
    #[error("follow the container's annotations")]
    Annotation(#[source] thaw_config::PolicyError),
    /// It is not running.
    #[error("the container is {status}, not running")]
    NotRunning {
        /// What runc says of it.
        status: String,
    },
    /// runc does not answer for it.
    #[error("ask runc for the container")]
    State(#[source] RuncError),
    /// It could never be restored.
    #[error("such a container is never restored, so a snapshot would be of no use")]
    Useless(#[source] crate::boot::Ineligible),
    /// It can't be dumped, or should not be.
    #[error("capture the container")]
    Refused(#[source] Refusal),
    /// Its ipc namespace, which is not its own, holds objects: the snapshot would hold those of others, and a clone
    /// could not have them.
    #[error("the container shares an ipc namespace that holds System V objects; give it one of its own")]
    SharedIpc,
    /// Its image can't be told.
    #[error("identify the image")]
    Identify(#[source] IdentifyError),
    /// The facts of this host can't be told.
    #[error("learn the facts of this host")]
    Host(#[source] HostError),
    /// The facts of the container can't be told.
    #[error("look into the container's namespaces")]
    Donor(#[source] std::io::Error),
    /// A directory or file for the dump can't be made.
    #[error("make room for the dump in {}", path.display())]
    Room {
        /// Where.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: std::io::Error,
    },
    /// CRIU or runc refused. The container runs on.
    #[error("dump the processes{}", criu.as_ref().map(|text| format!(" [CRIU: {text}]")).unwrap_or_default())]
    Dump {
        /// CRIU's first error.
        criu: Option<String>,
        /// What runc said.
        #[source]
        source: RuncError,
    },
    /// CRIU was not done in time and was killed. The container runs on.
    #[error("dump the processes within {seconds} s")]
    DumpDeadline {
        /// The limit.
        seconds: u64,
    },
    /// CRIU was not done in time and was killed, and the container can't be let go on.
    #[error("let the container run on after a dump that hung; `runc --root {} resume {id}` may", root.display())]
    Resume {
        /// runc's state directory.
        root: PathBuf,
        /// The container.
        id: String,
        /// What runc said.
        #[source]
        source: RuncError,
    },
    /// The changes of the root filesystem can't be taken. The container runs on.
    #[error("take the changes of the root filesystem: {said}")]
    Rootfs {
        /// What the program that takes them said.
        said: String,
    },
    /// The dump can't be read back.
    #[error("read the dump in {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: std::io::Error,
    },
    /// The dump is not what this version knows how to restore.
    #[error("check the dump")]
    Check(#[source] CheckError),
    /// A fact can't be read from the dump.
    #[error("read the facts of the dump")]
    Facts(#[source] ReadError),
    /// It can't be packed.
    #[error("pack the snapshot")]
    Pack(#[source] PackError),
    /// It does not come back.
    #[error("prove that the snapshot can be restored; it is not published")]
    Proof(#[source] ProofError),
    /// The store can't be opened.
    #[error("open the store")]
    Store(#[source] OpenError),
    /// The store did not take it.
    #[error("publish the snapshot to {store}")]
    Publish {
        /// The store.
        store: String,
        /// What failed.
        #[source]
        source: Box<PublishError>,
    },
    /// Another snapshot came first.
    #[error("publish the snapshot: {store} has one under the same key by now")]
    AlreadyThere {
        /// The store.
        store: String,
    },
    /// A thread failed.
    #[error("run {step} on a thread")]
    Thread {
        /// What it was to do.
        step: &'static str,
    },
}

impl CaptureError {
    /// Stable code, listed in `docs/capture.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::NotFound { .. } | Self::Record(_) => "not_found",
            Self::NotRunning { .. } => "not_running",
            Self::Refused(refusal) => refusal.code(),
            Self::Spec(_) => "spec_unreadable",
            Self::Annotation(_) => "annotation_invalid",
            Self::Useless(_) => "never_restored",
            Self::SharedIpc => "ipc_shared",
            Self::State(_) | Self::Donor(_) => "donor_unreadable",
            Self::Identify(_) => "identify_failed",
            Self::Host(_) => "host_unfit",
            Self::Room { .. } | Self::Pack(_) => "no_room",
            Self::Dump { .. } | Self::Rootfs { .. } => "dump_failed",
            Self::DumpDeadline { .. } | Self::Resume { .. } => "dump_timeout",
            Self::Read { .. } | Self::Check(_) | Self::Facts(_) => "dump_invalid",
            Self::Proof(_) => "proof_failed",
            Self::Store(_) => "store_invalid",
            Self::Publish { .. } => "publish_failed",
            Self::AlreadyThere { .. } => "already_there",
            Self::Thread { .. } => "internal",
        }
    }
}

/// Takes a snapshot and publishes it to the node's store.
///
/// # Errors
/// See [`CaptureError`]. The container runs on, unless the dump that was to end it has succeeded, or
/// [`CaptureError::Resume`] says otherwise.
pub async fn capture(
    config: &NodeConfig,
    request: &Request,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Captured, CaptureError> {
    let rule = secrets::Rule::of(config, request)?;
    progress.step(Step::Identify);
    let donor = find::donor(config, request).await?;
    let containerd = Containerd {
        socket: donor.container.containerd.clone(),
    };
    let known = containerd.identify(&request.namespace, &request.id);
    let known = known.await.map_err(CaptureError::Identify)?;
    let host = find::host(config, &donor.runc).await?;
    let store = open(config).await?;
    let watched = prepare::prepare(config, request, &donor, progress).await?;
    let mut secrets = secrets::in_environment(rule, &donor).await?;
    cancel.check()?;

    progress.step(Step::Freeze);
    let dump = freeze::take(config, request, &donor, &watched).await?;
    if request.stop && donor.connected {
        donor.note_lock(&config.state);
    }
    let checked = read::facts(dump).await?;
    secrets.extend(secrets::in_memory(rule, &checked).await?);
    let about = publish::About {
        namespace: &request.namespace,
        shared: request.shared,
        donor: &donor,
        image: known.image,
        host,
    };

    // The dump may be the last that there is of a container that was to stop: from here on it is kept going.
    if !request.stop {
        cancel.check()?;
    }
    progress.step(Step::Pack);
    let packed = publish::pack(&checked, progress).await?;
    let manifest = publish::manifest(&checked, &packed, &about);
    let proven = request.proof && donor.can_be_proven();
    if proven {
        progress.step(Step::Prove);
        let directory = checked.directory.path();
        prove::prove(config, request, &about, &packed, &manifest, directory).await?;
    }
    if !request.stop {
        cancel.check()?;
    }
    progress.step(Step::Publish);
    publish::publish(&*store, &packed, &manifest, request.mode.clone()).await?;
    progress.step(Step::Prime);
    publish::prime(config, &*store, &manifest).await;
    Ok(Captured {
        manifest,
        store: store.url().to_owned(),
        frozen: checked.frozen,
        proven,
        secrets,
    })
}

async fn open(config: &NodeConfig) -> Result<Arc<dyn Store>, CaptureError> {
    let options = crate::boot::store_options(&config.store);
    let store = thaw_store::open(config.store.url.as_url(), &options).await;
    store.map_err(CaptureError::Store)
}

/// runc, with the settings that the shim uses for the container.
fn runc_of(config: &NodeConfig, container: &crate::record::Container) -> Runc {
    let spawner = std::sync::Arc::new(thaw_runc::PlainSpawner);
    let mut runc = Runc::new(&container.runc, &container.root, spawner);
    runc.systemd_cgroup = container.systemd_cgroup;
    runc.criu_dir = crate::host::directory(&config.criu);
    runc
}
