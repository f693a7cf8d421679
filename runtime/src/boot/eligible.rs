//! Step 1: may this container be restored at all? No I/O beyond the bundle and one directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{Capability, LinuxNamespaceType, Spec};
use thaw_config::{PersistentMounts, Policy, SnapshotPolicy};
use thaw_snapshot::fingerprint::{annotation, cri};

use super::{Boot, Ineligible, Reason, Request, Rootfs, hooks};
use crate::identify::{self, Kubernetes};
use crate::key::{Bundle, read_bundle};
use crate::rootfs;
use crate::timeline::Timeline;

mod devices;
mod mounts;

/// A container that may be restored.
#[derive(Debug)]
pub(crate) struct Eligible {
    /// Its spec.
    pub(crate) bundle: Bundle,
    /// What holds for it.
    pub(crate) policy: Policy,
    /// The empty upper directory of its root filesystem.
    pub(crate) upper: PathBuf,
}

/// A container that may not.
#[derive(Debug)]
pub(super) struct Refused {
    /// Why.
    pub(super) reason: Box<Reason>,
    /// It must not start cold in spite of that.
    pub(super) required: bool,
}

/// The network that a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// A new namespace of its own.
    New,
    /// The namespace at this path.
    Joined(PathBuf),
    /// The host's.
    Host,
}

pub(super) fn check(
    boot: &Boot,
    request: &Request,
    rootfs: &dyn Rootfs,
    timeline: &mut Timeline,
) -> Result<Eligible, Refused> {
    timeline.stage("eligible");
    let refuse = |required, reason| Refused {
        reason: Box::new(reason),
        required,
    };
    let bundle = read_bundle(&request.bundle).map_err(|error| {
        refuse(
            boot.config.policy == SnapshotPolicy::Required,
            Reason::Spec(error),
        )
    })?;
    let none = HashMap::new();
    let annotations = bundle.spec.annotations().as_ref().unwrap_or(&none);
    if annotations
        .get(cri::CONTAINER_TYPE)
        .is_some_and(|kind| kind == "sandbox")
    {
        // Also where the node requires snapshots: there is none of a pause container, and no pod without one.
        return Err(refuse(false, Reason::Ineligible(Ineligible::Sandbox)));
    }
    let policy = Policy::resolve(&boot.config, annotations)
        .map_err(|error| refuse(error.required, Reason::Annotation(error)))?;
    if policy.snapshot == SnapshotPolicy::Never {
        return Err(refuse(false, Reason::Never));
    }
    let required = policy.snapshot == SnapshotPolicy::Required;
    if let Some(mistake) = &boot.mistake {
        return Err(refuse(required, Reason::Config(Arc::clone(mistake))));
    }
    let upper = check_spec(&bundle.spec, &policy)
        .and_then(|()| check_hooks(&bundle))
        .and_then(|()| fresh_upper(rootfs))
        .map_err(|kind| refuse(required, Reason::Ineligible(kind)))?;
    Ok(Eligible {
        bundle,
        policy,
        upper,
    })
}

/// May a container with this spec be restored?
pub(crate) fn check_spec(spec: &Spec, policy: &Policy) -> Result<(), Ineligible> {
    check_namespaces(spec)?;
    check_pod(spec)?;
    devices::check(spec)?;
    if is_privileged(spec) {
        return Err(Ineligible::Privileged);
    }
    if policy.persistent_mounts == PersistentMounts::Refuse {
        mounts::check(spec)?;
    }
    Ok(())
}

/// Privileged without the devices of the host (containerd, `privileged_without_host_devices`): nothing of the kernel is
/// hidden from it, and it may change all of it.
fn is_privileged(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else { return false };
    let none = |paths: &Option<Vec<String>>| paths.as_ref().is_none_or(Vec::is_empty);
    let process = spec.process().as_ref();
    let capabilities = process.and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|sets| sets.bounding().as_ref());
    none(linux.masked_paths())
        && none(linux.readonly_paths())
        && bounding.is_some_and(|set| set.contains(&Capability::SysAdmin))
}

/// What the annotations say of a container of a pod. Whether the kubelet's own are among them depends on the
/// configuration of containerd; see [`check_kubernetes`].
fn check_pod(spec: &Spec) -> Result<(), Ineligible> {
    check_kind(annotation(spec, identify::CONTAINER_TYPE))?;
    if annotation(spec, cri::CONTAINER_TYPE).is_some() && annotation(spec, cri::SANDBOX_NAMESPACE).is_none() {
        let annotation = cri::SANDBOX_NAMESPACE;
        return Err(Ineligible::ScopeUnknown { annotation });
    }
    Ok(())
}

/// What the kubelet has told CRI.
pub(crate) fn check_kubernetes(known: &Kubernetes) -> Result<(), Ineligible> {
    check_kind(known.kind.as_deref())?;
    match known.attempt {
        0 => Ok(()),
        attempt => Err(Ineligible::RestartAttempt { attempt }),
    }
}

fn check_kind(kind: Option<&str>) -> Result<(), Ineligible> {
    match kind.map(str::to_ascii_lowercase).as_deref() {
        Some("init" | "init_container") => Err(Ineligible::InitContainer),
        Some("ephemeral" | "ephemeral_container") => Err(Ineligible::EphemeralContainer),
        _ => Ok(()),
    }
}

/// Are its namespaces of the kinds that a restore can make or join?
fn check_namespaces(spec: &Spec) -> Result<(), Ineligible> {
    match namespace(spec, LinuxNamespaceType::Pid) {
        Some(None) => {}
        _ => return Err(Ineligible::PidNamespace),
    }
    if namespace(spec, LinuxNamespaceType::User).is_some() {
        return Err(Ineligible::UserNamespace);
    }
    if network_of(spec) == Network::Host {
        return Err(Ineligible::HostNetwork);
    }
    Ok(())
}

fn check_hooks(bundle: &Bundle) -> Result<(), Ineligible> {
    if hooks::only_cold(&bundle.json) {
        return Err(Ineligible::Hooks);
    }
    Ok(())
}

fn fresh_upper(rootfs: &dyn Rootfs) -> Result<PathBuf, Ineligible> {
    let upper = rootfs.upper().ok_or(Ineligible::RootfsKind)?;
    if !rootfs::is_empty(upper).map_err(Ineligible::RootfsUnreadable)? {
        return Err(Ineligible::RootfsChanged);
    }
    Ok(upper.to_owned())
}

/// `None`: the host's; `Some(None)`: new; `Some(path)`: joined.
pub(crate) fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<Option<&Path>> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    let found = namespaces.iter().find(|namespace| namespace.typ() == kind)?;
    Some(
        found
            .path()
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty()),
    )
}

pub(crate) fn network_of(spec: &Spec) -> Network {
    match namespace(spec, LinuxNamespaceType::Network) {
        None => Network::Host,
        Some(None) => Network::New,
        Some(Some(path)) => Network::Joined(path.to_owned()),
    }
}
