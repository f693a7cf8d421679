//! Step 1: the container, its spec, its runc, and what its processes see of the world.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;
use thaw_config::{NodeConfig, Policy};
use thaw_runc::{Runc, Status};
use thaw_snapshot::HostFacts;

use super::{CaptureError, Request, runc_of};
use crate::boot::{Ineligible, Network, check_spec, namespace_of, network_of};
use crate::host;
use crate::key::{Bundle, read_bundle};
use crate::network;
use crate::record::{Container, Record};
use crate::rootfs::Overlay;
use crate::task::started;

/// States of TCP connections that have a peer, as `/proc/net/tcp` writes them (include/net/tcp_states.h): all but
/// TIME_WAIT, CLOSE and LISTEN.
const CONNECTED: [&str; 9] = ["01", "02", "03", "04", "05", "08", "09", "0B", "0C"];

/// The container to capture.
#[derive(Debug)]
pub(super) struct Donor {
    pub(super) container: Container,
    pub(super) bundle: Bundle,
    pub(super) runc: Runc,
    /// What its annotations and the node come to.
    pub(super) policy: Policy,
    /// Host pid of its init.
    pub(super) pid: i32,
    /// When that was started, see [`started`].
    pub(super) started: u64,
    /// Upper directory of its root filesystem.
    pub(super) upper: PathBuf,
    /// Where that is mounted.
    pub(super) rootfs: PathBuf,
    pub(super) hostname: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Some TCP connection has a peer.
    pub(super) connected: bool,
    /// Somebody has paused it; it stays so.
    pub(super) paused: bool,
}

pub(super) async fn donor(config: &NodeConfig, request: &Request) -> Result<Donor, CaptureError> {
    let record = Record::new(&config.state, &request.namespace, &request.id);
    let container = record.container().map_err(CaptureError::Record)?;
    let container = container.ok_or_else(|| CaptureError::NotFound {
        namespace: request.namespace.clone(),
        id: request.id.clone(),
    })?;
    let runc = runc_of(config, &container);
    let state = runc.state(&request.id).await.map_err(CaptureError::State)?;
    if !matches!(state.status, Status::Running | Status::Paused) {
        return Err(CaptureError::NotRunning {
            status: format!("{:?}", state.status).to_lowercase(),
        });
    }
    let bundle = read_bundle(&container.bundle).map_err(CaptureError::Spec)?;
    let annotations = bundle.spec.annotations().clone().unwrap_or_default();
    let policy = Policy::resolve(config, &annotations).map_err(CaptureError::Annotation)?;
    check_spec(&bundle.spec, &policy).map_err(CaptureError::Useless)?;
    let rootfs = rootfs_of(&container.bundle, &bundle);
    let upper = Overlay::at(&rootfs).ok().flatten().map(|overlay| overlay.upper);
    let upper = upper.ok_or(CaptureError::Useless(Ineligible::RootfsKind))?;
    let pid = state.pid;
    let namespace = |kind: &str| PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
    let shared_ipc = namespace_of(&bundle.spec, LinuxNamespaceType::Ipc) != Some(None);
    if shared_ipc && network::has_sysv_ipc(&namespace("ipc")).map_err(CaptureError::Donor)? {
        return Err(CaptureError::SharedIpc);
    }
    let addresses = network::addresses(&namespace("net")).map_err(CaptureError::Donor)?;
    let gone = || CaptureError::NotRunning {
        status: "gone".to_owned(),
    };
    Ok(Donor {
        started: started(pid).ok_or_else(gone)?,
        pid,
        hostname: network::names_in(&namespace("uts"))
            .map_err(CaptureError::Donor)?
            .hostname,
        addresses: addresses
            .into_iter()
            .filter(|address| !address.is_loopback())
            .collect(),
        connected: ["tcp", "tcp6"]
            .iter()
            .any(|table| is_connected(&format!("/proc/{pid}/net/{table}"))),
        paused: state.status == Status::Paused,
        container,
        bundle,
        runc,
        policy,
        upper,
        rootfs,
    })
}

pub(super) async fn host(config: &NodeConfig, runc: &Runc) -> Result<HostFacts, CaptureError> {
    let learned = host::facts(&config.state, &config.criu, &runc.binary, &*runc.spawner).await;
    learned.map_err(CaptureError::Host)
}

impl Donor {
    /// A proof has pipes for it to print to, and no pty.
    pub(super) fn can_be_proven(&self) -> bool {
        !self.container.terminal && !self.paused
    }

    /// The dump that ended the container has left its network locked, for the sake of its connections.
    pub(super) fn note_lock(&self, state: &Path) {
        if let Network::Joined(path) = network_of(&self.bundle.spec)
            && let Err(error) = network::note(state, &path)
        {
            log::warn!("note that {} is locked: {error}", path.display());
        }
    }
}

fn is_connected(table: &str) -> bool {
    let Ok(text) = fs::read_to_string(table) else {
        return false;
    };
    text.lines().skip(1).any(|line| {
        line.split_whitespace()
            .nth(3)
            .is_some_and(|state| CONNECTED.contains(&state))
    })
}

/// Where the root filesystem is, which is an overlay as long as the container runs.
fn rootfs_of(bundle: &Path, read: &Bundle) -> PathBuf {
    let root = read.spec.root().as_ref();
    root.map_or_else(|| bundle.join("rootfs"), |root| bundle.join(root.path()))
}
