//! Bringing a container up: from a snapshot when one fits, the ordinary way otherwise.
//!
//! [`Boot::create`] is the whole of containerd's Create. It tries the steps below in order; each takes what the one
//! before has made, and nothing else can make it, so none can be left out. Whatever fails, the container is created
//! by plain runc, with the root filesystem as the snapshotter had prepared it.
//!
//! ```text
//! eligible -> identify -> lookup -> fetch -> verify -> rewrite -> restore -> hooks -> (held) -> resume
//!     \___________\__________\________\________\_________\_________\____ any failure: undo, runc create
//! ```
//!
//! A restored container is held: its processes exist, in their final namespaces and cgroup, and are stopped.
//! containerd's Start lets them run ([`Held::resume`]). After that there is no way back, since what they do is seen
//! outside; so nothing here falls back after it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use thaw_config::{ConfigError, NodeConfig, SelfCapture, SnapshotPolicy};
use thaw_runc::{CreateOptions, Runc, RuncError};
use thaw_store::EntryError;

use crate::identify::Identify;
use crate::key::read_bundle;
use crate::network;
use crate::outcome::{Outcome, Result as Way};
use crate::record::Record;
use crate::timeline::Timeline;

mod eligible;
mod lookup;
mod ask;
mod fetch;
mod verify;
mod rights;
mod mounts;
mod rewrite;
mod identity;
mod sockets;
mod reconnect;
mod bundle;
mod labels;
mod memory;
mod restore;
mod begun;
mod hooks;
mod restored;
mod resume;
mod announce;
mod checkpoint;
mod blame;
mod reason;
#[cfg(test)]
mod fixture;

pub use crate::misses::Said;
pub use announce::Announce;
pub use begun::{Begun, LeftError, undo_begun, undo_begun_now};
pub use blame::put_aside;
pub use hooks::{HooksError, POSTSTOP_VERB, run_poststop};
pub use mounts::MountsError;
pub use reason::{Ineligible, Reason};
pub use resume::{Held, ResumeError};
pub use rights::RightsError;
pub use sockets::UnmovableSocket;
#[cfg(feature = "parsers")]
pub(crate) use {mounts::check as check_mounts, rights::check as check_rights};

pub(crate) use eligible::{Network, check_kubernetes, check_spec, namespace as namespace_of, network_of};
pub(crate) use lookup::{memory_limit, place, store_options};
pub(crate) use verify::check_images;

/// The file of the bundle in which runc writes the pid of init; the stock shim's name for it.
const PID_FILE: &str = "init.pid";

/// What containerd asked for, in plain words.
#[derive(Debug, Clone)]
pub struct Request {
    /// containerd namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// Bundle directory; holds `config.json`, and the rootfs is mounted at `rootfs` in it.
    pub bundle: PathBuf,
    /// The process gets a pty.
    pub terminal: bool,
    /// The client feeds standard input.
    pub stdin: bool,
    /// containerd's gRPC socket; kept in the record, for a later capture.
    pub containerd: PathBuf,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
}

/// The root filesystem of the container: mounted by boot, unless the client has done that already, and put back as new
/// when a restore fails.
pub trait Rootfs: fmt::Debug + Send + Sync {
    /// Mounts it where the spec says; nothing to do where it is mounted already.
    ///
    /// # Errors
    /// What `mount` answered; what was mounted before the failure is unmounted again.
    fn mount(&self) -> io::Result<()>;

    /// Unmounts what [`Rootfs::mount`] has mounted; no error when nothing is mounted. What the client has mounted is
    /// left to the client.
    ///
    /// # Errors
    /// What `umount` answered.
    fn unmount(&self) -> io::Result<()>;

    /// Unmounts it whoever has mounted it, because the upper directory is to be changed: an overlay must not see that
    /// happen (Linux, `filesystems/overlayfs.rst`, "Changes to underlying filesystems").
    ///
    /// # Errors
    /// What `umount` answered: somebody else may use it.
    fn take_off(&self) -> io::Result<()>;

    /// After [`Rootfs::take_off`], when there is no container: leaves it mounted or not, as the client did.
    ///
    /// # Errors
    /// What `mount` answered.
    fn put_back(&self) -> io::Result<()>;

    /// The root directory as the container's process `pid` has it.
    fn seen_by(&self, pid: i32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/root"))
    }

    /// The overlay's upper directory, when the root filesystem is an overlay that can be taken off and mounted again.
    fn upper(&self) -> Option<&Path>;
}

/// The standard streams that runc gets; asked for once per runc call, since a failed restore is followed by a create.
pub trait Streams: fmt::Debug + Send + Sync {
    /// stdin, stdout, stderr for runc: pipe ends or `/dev/null`; all null for a terminal.
    ///
    /// # Errors
    /// What duplicating a descriptor answered.
    fn stdio(&self) -> io::Result<[Stdio; 3]>;

    /// The same for a restore, where nothing may reach the client unless it succeeds: runc writes its own errors to the
    /// container's standard error, and the client would take them for the words of a container that has ended.
    ///
    /// # Errors
    /// As [`Streams::stdio`].
    fn stdio_of_restore(&self) -> io::Result<[Stdio; 3]> {
        self.stdio()
    }

    /// The socket on which runc hands over the pty, when the process gets one.
    fn console_socket(&self) -> Option<&Path>;
}

/// Creates containers.
#[derive(Debug)]
pub struct Boot {
    /// The node's configuration; the default one where what is written has a mistake.
    pub config: NodeConfig,
    /// That mistake: no container is restored until it is mended.
    pub mistake: Option<Arc<ConfigError>>,
    /// runc, as the caller's options have it.
    pub runc: Runc,
    /// The program that brings up the loopback interface when it is called as
    /// [`LOOPBACK_VERB`](crate::network::LOOPBACK_VERB): this very shim.
    pub helper: PathBuf,
    /// Who knows the images of containers.
    pub images: Arc<dyn Identify>,
}

/// A container that exists and does not run yet.
#[derive(Debug)]
pub struct Created {
    /// Host pid of its init.
    pub pid: i32,
    /// How it came up.
    pub outcome: Outcome,
    /// The hold to let go at Start; `None` for a cold start, where `runc start` does that.
    pub held: Option<Held>,
    /// It started cold and is to be captured when it is ready.
    pub capture: Option<SelfCapture>,
}

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Its policy is `Required`, and it could not be restored.
    #[error("restore from a snapshot, which thaw.dev/snapshot-policy=Required asks for [{}]", .0.code())]
    Required(#[source] Reason),
    /// The checkpoint that the client asked for can't be restored.
    #[error("restore the checkpoint [{}]", .0.code())]
    Checkpoint(#[source] Reason),
    /// The root filesystem can't be mounted.
    #[error("mount the root filesystem at {}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// What a failed restore left in the root filesystem can't be taken away, so a cold start would see it.
    #[error("undo the failed restore in {}", path.display())]
    Undo {
        /// Where.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A shim was killed while it restored this container, and what it has left can't be taken away.
    #[error("undo the restore that an earlier shim has begun")]
    Left(#[source] LeftError),
    /// The standard streams can't be handed to runc.
    #[error("hand over the standard streams")]
    Streams(#[source] io::Error),
    /// A hook of the spec has refused the container, as it would have refused a cold start.
    #[error("run the hooks of the container")]
    Hooks(#[source] HooksError),
    /// runc refused.
    #[error("create the container")]
    Runc(#[source] RuncError),
}

/// What a failed try leaves to the cold start.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nothing was touched, or all of it was undone.
    Clean(Reason),
    /// Something could not be undone.
    Stuck(Reason, CreateError),
    /// The container is refused, however it is started.
    Refused(CreateError),
}

impl From<Reason> for Failed {
    fn from(reason: Reason) -> Self {
        Self::Clean(reason)
    }
}

impl Boot {
    /// Creates the container: held, from a snapshot, or cold. The outcome is recorded and logged.
    ///
    /// # Errors
    /// See [`CreateError`]. Nothing stays behind.
    pub async fn create(
        &self,
        request: &Request,
        rootfs: &dyn Rootfs,
        streams: &dyn Streams,
    ) -> Result<Created, CreateError> {
        let mut timeline = Timeline::start();
        let record = Record::new(&self.config.state, &request.namespace, &request.id);
        self.undo_left(request, &record, rootfs).await?;
        let brought = self.bring_up(request, rootfs, streams, &mut timeline).await;
        let (pid, held) = brought.inspect_err(|_error| forget(&record))?;
        let capture = timeline.capture.take().filter(|_| held.is_none());
        let way = if held.is_some() { Way::Restored } else { Way::Cold };
        let outcome = timeline.finish(request, way);
        record.write(request, &self.runc, &outcome);
        log::log!(outcome.level(), "{}", outcome.summary());
        Ok(Created {
            pid,
            outcome,
            held,
            capture,
        })
    }

    /// Usually the shim's `delete` has done that; it may have been killed too.
    async fn undo_left(
        &self,
        request: &Request,
        record: &Record,
        rootfs: &dyn Rootfs,
    ) -> Result<(), CreateError> {
        if matches!(record.begun(), Ok(None)) {
            return Ok(());
        }
        let left = undo_begun(record, &request.bundle, rootfs).await;
        left.map_err(CreateError::Left)?;
        self.runc
            .delete(&request.id, true)
            .await
            .map_err(CreateError::Runc)?;
        log::warn!(
            "undid the restore of {} that an earlier shim has begun",
            request.id
        );
        Ok(())
    }

    async fn bring_up(
        &self,
        request: &Request,
        rootfs: &dyn Rootfs,
        streams: &dyn Streams,
        timeline: &mut Timeline,
    ) -> Result<(i32, Option<Held>), CreateError> {
        let (required, tried) = match eligible::check(self, request, rootfs, timeline) {
            Ok(eligible) => {
                timeline.capture = eligible.policy.capture.clone();
                (
                    eligible.policy.snapshot == SnapshotPolicy::Required,
                    self.try_restore(request, rootfs, streams, eligible, timeline)
                        .await,
                )
            }
            Err(refused) => (refused.required, Err(Failed::Clean(*refused.reason))),
        };
        if let Err(Failed::Clean(reason) | Failed::Stuck(reason, _)) = &tried {
            self.note_failure(reason, timeline);
        }
        match tried {
            Ok(restored) => Ok((restored.pid, Some(restored.held))),
            Err(Failed::Stuck(reason, error)) => {
                log::error!("restore of {} failed: {}", request.id, reason.words());
                Err(error)
            }
            Err(Failed::Refused(error)) => Err(error),
            Err(Failed::Clean(reason)) if required => Err(CreateError::Required(reason)),
            Err(Failed::Clean(reason)) => {
                timeline.reason(&reason);
                let pid = self.cold(request, rootfs, streams, timeline).await?;
                Ok((pid, None))
            }
        }
    }

    /// Opens the network namespace that a captured container has left locked, if this one joins such a namespace.
    async fn unlock(&self, request: &Request) {
        if !network::any_noted(&self.config.state) {
            return;
        }
        if let Ok(bundle) = read_bundle(&request.bundle)
            && let Network::Joined(path) = network_of(&bundle.spec)
        {
            network::release_noted(&self.config.state, &path, &*self.runc.spawner).await;
        }
    }

    /// runc, with the node's CRIU.
    fn restorer(&self) -> Runc {
        Runc {
            criu_dir: crate::host::directory(&self.config.criu),
            ..self.runc.clone()
        }
    }

    async fn try_restore(
        &self,
        request: &Request,
        rootfs: &dyn Rootfs,
        streams: &dyn Streams,
        eligible: eligible::Eligible,
        timeline: &mut Timeline,
    ) -> Result<restore::Restored, Failed> {
        let candidate = lookup::find(self, request, eligible, timeline).await?;
        let verified = self.fetch_verified(candidate, timeline).await?;
        let prepared = rewrite::apply(self, request, verified, timeline).await?;
        restore::run(self, request, rootfs, streams, prepared, timeline).await
    }

    /// Fetched and verified; once more from the store when the cache holds something else than what came from there.
    async fn fetch_verified(
        &self,
        candidate: lookup::Candidate,
        timeline: &mut Timeline,
    ) -> Result<verify::Verified, Reason> {
        let fetched = fetch::local(self, candidate.clone(), timeline).await?;
        match verify::check(fetched, timeline).await {
            Err(Reason::Entry(EntryError::Read { .. } | EntryError::Changed { .. })) => {
                fetch::forget(self, &candidate).await;
                let fetched = fetch::local(self, candidate, timeline).await?;
                verify::check(fetched, timeline).await
            }
            checked => checked,
        }
    }

    /// Remembers on this node that the snapshot did not come up.
    fn note_failure(&self, reason: &Reason, timeline: &Timeline) {
        let snapshot = timeline.snapshot.as_ref().and_then(|id| id.parse().ok());
        if let (Some(snapshot), Some(blame)) = (snapshot, reason.blame()) {
            put_aside(&self.config, &snapshot, blame, reason.code(), &reason.words());
        }
    }

    async fn cold(
        &self,
        request: &Request,
        rootfs: &dyn Rootfs,
        streams: &dyn Streams,
        timeline: &mut Timeline,
    ) -> Result<i32, CreateError> {
        timeline.stage("create");
        self.unlock(request).await;
        rootfs.mount().map_err(|source| CreateError::Mount {
            path: request.bundle.join("rootfs"),
            source,
        })?;
        restored::forget(&request.bundle, rootfs.upper());
        let created = self.runc_create(request, streams).await;
        if created.is_err()
            && let Err(error) = rootfs.unmount()
        {
            log::warn!(
                "unmount the rootfs of {}, which could not be created: {error}",
                request.id
            );
        }
        created
    }

    async fn runc_create(&self, request: &Request, streams: &dyn Streams) -> Result<i32, CreateError> {
        let options = CreateOptions {
            bundle: request.bundle.clone(),
            pid_file: request.bundle.join(PID_FILE),
            console_socket: streams.console_socket().map(Path::to_owned),
            no_pivot: request.no_pivot,
            no_new_keyring: request.no_new_keyring,
        };
        let stdio = streams.stdio().map_err(CreateError::Streams)?;
        self.runc
            .create(&request.id, &options, stdio)
            .await
            .map_err(CreateError::Runc)
    }
}

/// Nothing of the container is left, so nothing is to be remembered; but what could not be undone is for the next.
fn forget(record: &Record) {
    if !matches!(record.begun(), Ok(None)) {
        return;
    }
    if let Err(error) = record.remove() {
        log::warn!("remove {}: {error}", record.directory().display());
    }
}
