//! Names and namespaces of the clone, in the place of the donor's.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use thaw_criu::{Images, files, ids, inventory, ipc, netns, timerfd, uts};

use super::eligible::{Network, namespace};
use super::{Reason, bundle};
use crate::network::{self, Names};

/// Edits the images so that CRIU makes or joins the clone's namespaces; answers the names that the clone sees.
pub(super) fn give(
    images: &mut Images,
    spec: &Spec,
    network: &Network,
    tcp_established: bool,
) -> Result<Names, Reason> {
    if !tcp_established {
        // Nothing can be lost that the lock would protect, it costs two program starts, and a restore that fails
        // leaves it behind (criu#2828).
        inventory::set_network_lock(images, inventory::NetworkLock::Skip).map_err(Reason::Edit)?;
    }
    netns::set_external(images, matches!(network, Network::Joined(_))).map_err(Reason::Edit)?;
    join_ipc(images, spec)?;
    let names = name(images, spec)?;
    timerfd::mend(images).map_err(Reason::Edit)?;
    // Files such as /etc/hosts come from outside and are the clone's own; CRIU would refuse another size.
    let outside: Vec<PathBuf> = bundle::bind_destinations(spec);
    files::forget_sizes(images, |path| {
        outside.iter().any(|mount| Path::new(path).starts_with(mount))
    })
    .map_err(Reason::Edit)?;
    Ok(names)
}

/// An ipc namespace that is not the clone's own is the pod's or the host's: CRIU must write neither the donor's
/// settings nor its objects there.
fn join_ipc(images: &mut Images, spec: &Spec) -> Result<(), Reason> {
    if namespace(spec, LinuxNamespaceType::Ipc) == Some(None) {
        return Ok(());
    }
    if ipc::has_sysv_ipc(images) {
        return Err(Reason::SharedIpc);
    }
    ids::share_ipc_with_root(images).map_err(Reason::Edit)
}

fn name(images: &mut Images, spec: &Spec) -> Result<Names, Reason> {
    let outside = match namespace(spec, LinuxNamespaceType::Uts) {
        None => network::own_names(),
        Some(None) => {
            let mut names = network::own_names().map_err(Reason::Surroundings)?;
            // Where the spec has no name, a new namespace keeps what it inherits.
            let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
            names.hostname = given(spec.hostname()).unwrap_or(names.hostname);
            names.domainname = given(spec.domainname()).unwrap_or(names.domainname);
            uts::set_names(images, &names.hostname, Some(&names.domainname)).map_err(Reason::Edit)?;
            return Ok(names);
        }
        Some(Some(path)) => network::names_in(path),
    };
    ids::share_uts_with_root(images).map_err(Reason::Edit)?;
    outside.map_err(Reason::Surroundings)
}
