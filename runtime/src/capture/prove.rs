//! The proof: a snapshot is restored once on this node before anybody else may restore it.
//!
//! The scratch container has the donor's spec and runs the ordinary way up, from a store of its own that holds the
//! packed blobs. What would reach outside is left out: it has an empty network, a copy-on-write view of the donor's
//! root filesystem and of every mount that it may write to, no hooks, and a cgroup of its own. It must pass the donor's
//! probe and stay alive for a moment; then it is killed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use thaw_config::{NodeConfig, PersistentMounts, Probe, SnapshotPolicy, StoreUrl, StoreUrlError, TcpMode};
use thaw_runc::Runc;
use thaw_snapshot::{ImageFacts, Manifest};
use thaw_store::{OpenError, Packed, PublishError, PutMode};

use super::find::Donor;
use super::publish::About;
use super::{CaptureError, Request};
use crate::boot::{self, Boot, CreateError, Created, Reason, ResumeError};
use crate::identify::{Identified, Identify, IdentifyError};
use crate::key::{Start, read_bundle};
use crate::ready::{self, NotReady, Place};
use crate::record::Record;
use crate::task::started;

mod bundle;
mod left;
mod namespaces;
mod rootfs;
mod streams;

pub use left::{remove_left_proofs, remove_left_proofs_now};

use left::Scratch;
use namespaces::Namespaces;

/// How long the restored application may take to pass its probe: it was ready when it was dumped, so this only allows
/// for a busy machine.
const READY: Duration = Duration::from_secs(30);

/// How long it must live.
const LIVE: Duration = Duration::from_secs(1);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Why a snapshot is not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// A file or directory for the scratch container can't be made.
    #[error("make {}", path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A mount can't be made.
    #[error("mount a copy of {}", path.display())]
    Mount {
        /// Of what.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The donor's root filesystem is not an overlay that could be mounted a second time.
    #[error("mount the donor's root filesystem a second time")]
    Rootfs,
    /// It can't have namespaces of its own.
    #[error("make namespaces for the scratch container")]
    Namespaces(#[source] io::Error),
    /// Its spec can't be read back.
    #[error("read the spec of the scratch container")]
    Spec(#[source] crate::key::KeyError),
    /// The directory can't be a store.
    #[error("name the store of the proof")]
    Url(#[source] StoreUrlError),
    /// The store of the proof can't be opened.
    #[error("open the store of the proof")]
    Open(#[source] OpenError),
    /// It does not take the blobs.
    #[error("put the snapshot into the store of the proof")]
    Publish(#[source] Box<PublishError>),
    /// The snapshot can't be restored here.
    #[error("restore it once on this node")]
    Restore(#[source] Box<CreateError>),
    /// It needs an interface, and the scratch container has only a loopback one.
    #[error(
        "restore it once on this node, in a network without interfaces; `thaw capture --no-proof` leaves the proof out"
    )]
    Interface(#[source] Box<CreateError>),
    /// It came back and does not run.
    #[error("let the restored processes run")]
    Resume(#[source] ResumeError),
    /// It runs and is not ready.
    #[error("the restored application does not pass the probe that the donor has passed")]
    NotReady(#[source] NotReady),
    /// It has ended.
    #[error("the restored application ended within {} ms", after.as_millis())]
    Ended {
        /// After so long.
        after: Duration,
    },
}

/// Restores it once. There is room in `directory`.
pub(super) async fn prove(
    config: &NodeConfig,
    request: &Request,
    about: &About<'_>,
    packed: &Packed,
    manifest: &Manifest,
    directory: &Path,
) -> Result<(), CaptureError> {
    let proof = Proof {
        config,
        request,
        donor: about.donor,
        image: &about.image,
        packed,
        manifest,
        directory,
    };
    proof.tried().await.map_err(CaptureError::Proof)
}

fn refused(error: CreateError) -> ProofError {
    match error {
        CreateError::Required(Reason::Socket(_)) => ProofError::Interface(Box::new(error)),
        _ => ProofError::Restore(Box::new(error)),
    }
}

/// What is to be proved.
#[derive(Debug)]
struct Proof<'a> {
    config: &'a NodeConfig,
    request: &'a Request,
    donor: &'a Donor,
    image: &'a ImageFacts,
    packed: &'a Packed,
    manifest: &'a Manifest,
    directory: &'a Path,
}

impl Proof<'_> {
    async fn tried(&self) -> Result<(), ProofError> {
        let directory = self.directory.join("proof");
        let scratch = self.scratch();
        remove_left_proofs(&self.config.state, &self.donor.runc).await;
        let namespaces = Namespaces::make(&self.donor.hostname).map_err(ProofError::Namespaces)?;
        let rootfs = bundle::write(self.donor, &directory, &scratch, &namespaces)?;
        let boot = self.boot(&directory, &scratch)?;
        self.publish(&boot.config, &directory.join("bundle")).await?;
        let streams = streams::Silent::new(self.donor.container.stdin);
        let asked = boot::Request {
            namespace: self.request.namespace.clone(),
            id: scratch.id.clone(),
            bundle: directory.join("bundle"),
            terminal: false,
            stdin: self.donor.container.stdin,
            containerd: PathBuf::new(),
            no_pivot: false,
            no_new_keyring: false,
        };
        let created = boot.create(&asked, &rootfs, &streams).await;
        let created = created.map_err(refused)?;
        self.watch(created, &scratch).await
    }

    fn scratch(&self) -> Scratch {
        let runc = Runc {
            root: left::root(&self.config.state),
            log: None,
            ..self.donor.runc.clone()
        };
        Scratch::new(runc, &self.request.namespace, &self.request.id)
    }

    /// The ordinary way up, with directories of the proof's own, and never cold.
    fn boot(&self, directory: &Path, scratch: &Scratch) -> Result<Boot, ProofError> {
        let mut config = self.config.clone();
        let url = format!("file://{}", directory.join("store").display());
        config.store.url = url.parse::<StoreUrl>().map_err(ProofError::Url)?;
        config.cache = directory.join("cache");
        config.state = directory.join("state");
        config.policy = SnapshotPolicy::Required;
        // They are views, and nothing that is written to them stays.
        config.persistent_mounts = PersistentMounts::Allow;
        // Their peers are not there.
        config.tcp = TcpMode::Close;
        // What hangs here hangs on this disk.
        config.deadlines.identify = READY;
        config.deadlines.lookup = READY;
        Ok(Boot {
            config,
            mistake: None,
            runc: scratch.runc.clone(),
            helper: self.request.helper.clone(),
            images: Arc::new(Known(self.image.clone())),
        })
    }

    /// The same blobs under the key of the scratch container.
    async fn publish(&self, config: &NodeConfig, bundle: &Path) -> Result<(), ProofError> {
        let spec = read_bundle(bundle).map_err(ProofError::Spec)?.spec;
        let (namespace, stdin) = (&self.request.namespace, self.donor.container.stdin);
        // As boot will: there are no annotations left.
        let start = Start::new(namespace, &spec, stdin, &[]);
        let scope = start.scope();
        let manifest = Manifest {
            fingerprint: start.fingerprint(&scope).document().clone(),
            key: start.key(scope, self.image.config),
            ..self.manifest.clone()
        };
        let options = boot::store_options(&config.store);
        let store = thaw_store::open(config.store.url.as_url(), &options).await;
        let store = store.map_err(ProofError::Open)?;
        thaw_store::publish(&*store, self.packed, &manifest, PutMode::Replace)
            .await
            .map_err(|source| ProofError::Publish(Box::new(source)))?;
        Ok(())
    }

    async fn watch(&self, created: Created, scratch: &Scratch) -> Result<(), ProofError> {
        let born = started(created.pid);
        let since = Instant::now();
        let lives = || match started(created.pid) {
            now if now.is_some() && now == born => Ok(()),
            _ => Err(ProofError::Ended {
                after: since.elapsed(),
            }),
        };
        if let Some(held) = created.held {
            held.resume().map_err(ProofError::Resume)?;
        }
        match &self.donor.policy.ready {
            // What it has printed it does not print again.
            None | Some(Probe::Log(_)) => {}
            Some(probe) => {
                let record = Record::new(&self.config.state, &self.request.namespace, &self.request.id);
                let place = Place {
                    pid: created.pid,
                    id: scratch.id.clone(),
                    runc: scratch.runc.clone(),
                    log_seen: super::log_seen(&record),
                };
                let asked = ready::wait(probe, &place, READY, ready::PAUSE);
                tokio::select! {
                    ready = asked => ready.map_err(ProofError::NotReady)?,
                    () = until(|| lives().is_err()) => return lives(),
                }
            }
        }
        while since.elapsed() < LIVE {
            lives()?;
            tokio::time::sleep(LOOK).await;
        }
        lives()
    }
}

async fn until(over: impl Fn() -> bool) {
    while !over() {
        tokio::time::sleep(LOOK).await;
    }
}

/// The image of the donor.
#[derive(Debug)]
struct Known(ImageFacts);

#[async_trait]
impl Identify for Known {
    async fn identify(&self, _namespace: &str, _id: &str) -> Result<Identified, IdentifyError> {
        Ok(Identified {
            image: self.0.clone(),
            kubernetes: None,
        })
    }
}
