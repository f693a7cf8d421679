//! A container that has itself captured: `thaw.dev/capture = ready`.
//!
//! ```text
//! wait for the probe -> is there a snapshot by now? -> take the lease -> capture -> give the lease back
//! ```
//!
//! This runs in a process of its own beside the shim, which stays small, and which may be killed: the container goes
//! on, and the lease runs out. It ends with its container.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thaw_config::NodeConfig;
use thaw_snapshot::{HostFacts, Key};
use thaw_store::{LookupError, PutMode, Store, StoreError};

use super::find::{self, Donor};
use super::lease::{self, Lease, Taken};
use super::standing::{Standing, State};
use super::{Cancel, CaptureError, Captured, Progress, Request, Step};
use crate::boot::{check_kubernetes, memory_limit, place};
use crate::identify::{Containerd, Identify as _};
use crate::key::Start;
use crate::ready::{self, NotReady, PAUSE, Place};
use crate::record::Record;
use crate::task::started;

/// How often the container is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Why a container that was to capture itself did not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WhenReadyError {
    /// They don't ask for it, or the node forbids it.
    #[error("the container does not ask to be captured, or the node does not allow it")]
    NotAsked,
    /// It did not become ready.
    #[error("wait {} s for the application to become ready", limit.as_secs())]
    NotReady {
        /// The limit.
        limit: Duration,
        /// The last answer of the probe.
        #[source]
        source: NotReady,
    },
    /// The store did not say whether there is a snapshot.
    #[error("look if there is a snapshot already")]
    Lookup(#[source] LookupError),
    /// The store did not take the lease.
    #[error("take the lease on the key")]
    Lease(#[source] StoreError),
    /// The container has ended first.
    #[error("the container has ended")]
    Ended,
    /// The capture failed.
    #[error("capture it")]
    Capture(#[source] CaptureError),
}

impl WhenReadyError {
    /// Stable code, listed in `docs/capture.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::NotReady { .. } => "not_ready",
            Self::Lookup(_) => "lookup_failed",
            Self::Lease(_) => "lease_failed",
            Self::Ended => "ended",
            Self::Capture(error) => error.code(),
        }
    }
}

/// What came of it, when nothing failed.
enum Done {
    Published(Box<Captured>),
    Skipped { code: &'static str, why: String },
}

/// Waits until the container is ready, captures and publishes it, and keeps its record up to date. `helper` is the
/// program that understands [`super::ROOTFS_VERB`] and [`crate::network::LOOPBACK_VERB`].
///
/// # Errors
/// See [`WhenReadyError`]; also in the record. The container runs on.
pub async fn capture_when_ready(
    config: &NodeConfig,
    namespace: &str,
    id: &str,
    helper: &Path,
) -> Result<(), WhenReadyError> {
    let request = Request {
        namespace: namespace.to_owned(),
        id: id.to_owned(),
        shared: false,
        stop: false,
        helper: helper.to_owned(),
        proof: true,
        refuse_secrets: config.capture.refuse_secrets,
        mode: PutMode::IfAbsent,
    };
    let record = Record::new(&config.state, namespace, id);
    let watched = Watched {
        config,
        request,
        record: &record,
    };
    let result = watched.run().await;
    let standing = match &result {
        Ok(Done::Published(captured)) => Standing {
            snapshot: Some(captured.manifest.id().to_string()),
            frozen_ms: u64::try_from(captured.frozen.as_millis()).ok(),
            ..Standing::new("", State::Published, "published", said(captured))
        },
        Ok(Done::Skipped { code, why }) => Standing::new("", State::Skipped, code, why),
        Err(error) => Standing::new("", State::Failed, error.code(), crate::words::chain(error)),
    };
    log::info!("self-capture of {id}: {} ({})", standing.code, standing.detail);
    watched.note(standing);
    result.map(drop)
}

/// What the snapshot is to be.
struct Wanted {
    key: Key,
    /// Where it is to be restored.
    host: HostFacts,
    /// With as much memory, in bytes.
    memory: Option<u64>,
}

struct Watched<'a> {
    config: &'a NodeConfig,
    request: Request,
    record: &'a Record,
}

impl Watched<'_> {
    /// A record that is gone belongs to a container that is gone.
    fn note(&self, mut standing: Standing) {
        if standing.ready.is_empty()
            && let Ok(Some(before)) = self.record.capture()
        {
            standing.ready = before.ready;
        }
        if let Err(error) = self.record.put_capture(&standing) {
            log::debug!("note how far the capture is: {error}");
        }
    }

    async fn run(&self) -> Result<Done, WhenReadyError> {
        let donor = find::donor(self.config, &self.request).await;
        let donor = donor.map_err(WhenReadyError::Capture)?;
        let policy = &donor.policy;
        let wanted = policy.capture.as_ref().ok_or(WhenReadyError::NotAsked)?;
        let ready = wanted.ready.to_string();
        self.note(Standing::new(
            &ready,
            State::Waiting,
            "waiting",
            "it is not ready yet",
        ));
        let place = donor.place(&self.request.id, self.record);
        let limit = self.config.capture.ready_deadline;
        tokio::select! {
            waited = ready::wait(&wanted.ready, &place, limit, PAUSE) => {
                waited.map_err(|source| WhenReadyError::NotReady { limit, source })?;
            }
            () = donor.end() => return Err(WhenReadyError::Ended),
        }
        self.note(Standing::new(
            &ready,
            State::Capturing,
            "capturing",
            "it is being captured",
        ));
        self.captured(&donor).await
    }

    async fn captured(&self, donor: &Donor) -> Result<Done, WhenReadyError> {
        let mut config = self.config.clone();
        if let Some(url) = &donor.policy.store {
            // Where it was looked for, the next one will look.
            config.store.url = url.clone();
        }
        let wanted = self.wanted(donor).await.map_err(WhenReadyError::Capture)?;
        let store = super::open(&config).await.map_err(WhenReadyError::Capture)?;
        if let Some(why) = self.there(&*store, &wanted).await? {
            return Ok(Done::Skipped {
                code: "already_there",
                why,
            });
        }
        let request = &self.request;
        let node = crate::network::own_names().map(|names| names.hostname);
        let node = node.unwrap_or_default();
        let owner = format!(
            "{node} {}/{} {}",
            request.namespace,
            request.id,
            std::process::id()
        );
        let taken = lease::take(&store, &wanted.key, &owner, config.capture.lease).await;
        let lease = match taken.map_err(WhenReadyError::Lease)? {
            Taken::Ours(lease) => lease,
            Taken::Theirs { owner, failed } => return Ok(skipped(&owner, failed)),
        };
        // It may have come while we asked for the lease.
        match self.there(&*store, &wanted).await {
            Ok(None) => self.with_lease(&config, donor, lease).await,
            Ok(Some(why)) => {
                lease.release().await;
                Ok(Done::Skipped {
                    code: "already_there",
                    why,
                })
            }
            Err(error) => {
                lease.release().await;
                Err(error)
            }
        }
    }

    async fn with_lease(
        &self,
        config: &NodeConfig,
        donor: &Donor,
        lease: Lease,
    ) -> Result<Done, WhenReadyError> {
        let cancel = Cancel::default();
        let captured = tokio::select! {
            captured = super::capture(config, &self.request, &Silent, &cancel) => {
                captured.map_err(WhenReadyError::Capture)
            }
            () = donor.end() => Err(WhenReadyError::Ended),
        };
        match captured {
            Ok(captured) => {
                lease.release().await;
                Ok(Done::Published(Box::new(captured)))
            }
            // Nothing was wrong with the application.
            Err(error @ WhenReadyError::Ended) => {
                lease.release().await;
                Err(error)
            }
            Err(_) if !donor.lives() => {
                lease.release().await;
                Err(WhenReadyError::Ended)
            }
            Err(error) => {
                lease.fail(error.code(), config.capture.retry_after).await;
                Err(error)
            }
        }
    }

    async fn wanted(&self, donor: &Donor) -> Result<Wanted, CaptureError> {
        let request = &self.request;
        let containerd = Containerd {
            socket: donor.container.containerd.clone(),
        };
        let known = containerd.identify(&request.namespace, &request.id);
        let known = known.await.map_err(CaptureError::Identify)?;
        if let Some(kubernetes) = &known.kubernetes {
            check_kubernetes(kubernetes).map_err(CaptureError::Useless)?;
        }
        let host = find::host(self.config, &donor.runc).await?;
        let spec = &donor.bundle.spec;
        let start = Start::new(
            &request.namespace,
            spec,
            donor.container.stdin,
            &donor.policy.ignore_env,
        );
        Ok(Wanted {
            key: start.key(start.scope(), known.image.config),
            host,
            memory: memory_limit(spec),
        })
    }

    /// Is there a snapshot that would do on this node?
    async fn there(&self, store: &dyn Store, wanted: &Wanted) -> Result<Option<String>, WhenReadyError> {
        let found = thaw_store::lookup(store, &wanted.key).await;
        let document = found.map_err(WhenReadyError::Lookup)?;
        Ok(document.and_then(|document| {
            let fits =
                thaw_snapshot::matching::choose(&document, &wanted.key, place(&wanted.host, wanted.memory))
                    .ok()?;
            Some(format!("the store has the snapshot {}", fits.id()))
        }))
    }
}

fn said(captured: &Captured) -> String {
    if captured.secrets.is_empty() {
        return "it is in the store".to_owned();
    }
    format!(
        "it is in the store; it holds secrets: {}",
        captured.secrets.join(", ")
    )
}

fn skipped(owner: &str, failed: Option<String>) -> Done {
    match failed {
        Some(code) => Done::Skipped {
            code: "failed_recently",
            why: format!("a capture of the same key has failed ({code}); it is left alone for a while"),
        },
        None => Done::Skipped {
            code: "lease_held",
            why: format!("it is being captured by {owner:?}"),
        },
    }
}

impl Donor {
    /// Not until another process has its pid.
    fn lives(&self) -> bool {
        started(self.pid).is_some_and(|started| started == self.started)
    }

    async fn end(&self) {
        while self.lives() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Where a probe acts.
    pub(super) fn place(&self, id: &str, record: &Record) -> Place {
        Place {
            pid: self.pid,
            id: id.to_owned(),
            runc: self.runc.clone(),
            log_seen: log_seen(record),
        }
    }
}

/// The file that the shim makes when a line of output matches the pattern of a `log:` probe.
#[must_use]
pub fn log_seen(record: &Record) -> PathBuf {
    record.directory().join("log-ready")
}

/// Nobody watches.
struct Silent;

impl Progress for Silent {
    fn step(&self, step: Step) {
        log::debug!("self-capture: {step:?}");
    }

    fn bytes(&self, _done: u64, _total: u64) {}
}
