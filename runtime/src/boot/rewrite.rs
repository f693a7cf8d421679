//! Step 6: the identity of the clone. CRIU never sees the donor's images as they are.
//!
//! What changes, and why, is in `docs/identity.md`.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use thaw_config::NodeConfig;
use thaw_criu::{Images, tmpfs};
use thaw_pages::Memory;
use thaw_store::Entry;

use super::eligible::{Network, network_of};
use super::labels::Labels;
use super::reconnect::Reconnect;
use super::restored::RestoredFile;
use super::verify::Verified;
use super::{Announce, Boot, Reason, Request, bundle, identity, memory, sockets};
use crate::key::Bundle;
use crate::network;
use crate::record::Record;
use crate::timeline::Timeline;

/// Everything that `runc restore` reads, in a directory of this container's own.
#[derive(Debug)]
pub(super) struct Prepared {
    /// All of it.
    pub(super) directory: PathBuf,
    /// The bundle with the spec for the restore.
    pub(super) bundle: PathBuf,
    /// The images.
    pub(super) images: PathBuf,
    /// CRIU's log and temporary files.
    pub(super) work: PathBuf,
    /// Options for CRIU that runc can't pass.
    pub(super) criu_config: PathBuf,
    /// Established TCP connections are restored.
    pub(super) tcp_established: bool,
    /// The labels of the live spec: those in the images are the donor's.
    pub(super) labels: Labels,
    /// The network namespace to join, if it is not a new one.
    pub(super) joined: Option<PathBuf>,
    /// Limits to set afterwards, as JSON for `runc update`; the restore itself runs without them.
    pub(super) limits: Option<Vec<u8>>,
    /// Tasks that were stopped when the donor was frozen, by their own pid; they stay so.
    pub(super) stopped: Vec<i32>,
    /// Datagram sockets that are connected again when the container has its network.
    pub(super) reconnect: Reconnect,
    /// What the application may know of itself.
    pub(super) restored: RestoredFile,
    /// How it is told.
    pub(super) announce: Option<Announce>,
    /// Root filesystem changes.
    pub(super) rootfs: Option<PathBuf>,
    /// The memory that CRIU is to leave out.
    pub(super) memory: Option<Arc<Memory>>,
    /// Bytes of memory pages.
    pub(super) page_bytes: u64,
    /// Where the changes go.
    pub(super) upper: PathBuf,
    /// The container's own spec.
    pub(super) spec: Bundle,
}

pub(super) async fn apply(
    boot: &Boot,
    request: &Request,
    verified: Verified,
    timeline: &mut Timeline,
) -> Result<Prepared, Reason> {
    timeline.stage("rewrite");
    let record = Record::new(&boot.config.state, &request.namespace, &request.id);
    let (helper, request, config) = (boot.helper.clone(), request.clone(), boot.config.clone());
    let work = tokio::task::spawn_blocking(move || {
        let directory = record.directory().join("restore");
        prepare(&record, &helper, &request, &config, verified).inspect_err(|_reason| discard(&directory))
    });
    work.await.map_err(|_error| Reason::Thread { step: "rewrite" })?
}

fn prepare(
    record: &Record,
    helper: &Path,
    request: &Request,
    config: &NodeConfig,
    verified: Verified,
) -> Result<Prepared, Reason> {
    let Verified {
        mut images,
        entry,
        manifest,
        bundle: read,
        policy,
        upper,
    } = verified;
    let network = network_of(&read.spec);
    let here = match &network {
        Network::Joined(path) => network::interfaces(path).map_err(Reason::Surroundings)?,
        Network::New | Network::Host => sockets::before_the_client(),
    };
    let stopped = thaw_criu::core::stopped(&images).map_err(Reason::Facts)?;
    let tcp_established = sockets::keep_connections(&images, policy.tcp, &here)?;
    let names = identity::give(&mut images, &read.spec, &network, tcp_established)?;
    tmpfs::leave_empty_ones(&mut images).map_err(Reason::Edit)?;
    let reconnect = sockets::rebind(&mut images, &manifest.donor.addresses, &here)?;

    let directory = record.directory().join("restore");
    record.make().map_err(|source| written(&directory, source))?;
    for name in ["", "images", "work", "bundle"] {
        make_new(&directory.join(name))?;
    }
    let images_directory = directory.join("images");
    write_images(&images, &entry, &images_directory)?;
    let bundle_directory = directory.join("bundle");
    let edited = bundle::for_restore(&read, &request.bundle, &bundle_directory, &network, helper);
    put(&bundle_directory.join("config.json"), &edited.config)?;
    let criu_config = directory.join("criu.conf");
    put(&criu_config, criu_options(tcp_established).as_bytes())?;
    Ok(Prepared {
        bundle: bundle_directory,
        images: images_directory,
        work: directory.join("work"),
        directory,
        criu_config,
        tcp_established,
        joined: match network {
            Network::Joined(path) => Some(path),
            Network::New | Network::Host => None,
        },
        labels: Labels::of(&read.spec),
        limits: edited.limits,
        stopped,
        reconnect,
        restored: RestoredFile::new(request, &read.spec, &manifest, names),
        announce: policy
            .on_restore
            .map(|action| Announce::new(action, &read, config.deadlines.on_restore)),
        rootfs: entry.rootfs(),
        memory: memory::plan(config, &images, &entry, manifest.host.page_size)?,
        page_bytes: manifest.blobs.pages.files.iter().map(|file| file.size).sum(),
        upper,
        spec: read,
    })
}

/// The images as they are now, and links to the page files of the cache.
fn write_images(images: &Images, entry: &Entry, directory: &Path) -> Result<(), Reason> {
    for (name, content) in images {
        put(&directory.join(name), content)?;
    }
    for (name, pages) in entry.pages() {
        link_pages(&pages, directory, &name)?;
    }
    Ok(())
}

fn criu_options(tcp_established: bool) -> String {
    let tcp = if tcp_established { "" } else { "tcp-close\n" };
    format!("leave-stopped\n{tcp}")
}

/// Removes what was prepared in `directory`; no restore reads it.
pub(super) fn discard(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("remove {}: {error}", directory.display());
    }
}

fn written(path: &Path, source: io::Error) -> Reason {
    Reason::Prepare {
        path: path.to_owned(),
        source,
    }
}

/// Makes a directory anew; what an earlier try left there goes.
fn make_new(path: &Path) -> Result<(), Reason> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(written(path, error)),
        _ => {}
    }
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|source| written(path, source))
}

/// Puts a link to a page file of the cache among the images.
///
/// CRIU opens it, below a descriptor of the directory, when its root is the clone's already: an absolute link would
/// lead into the clone. A relative one leads from the directory up and down again in the mounts of the descriptor.
fn link_pages(pages: &Path, images: &Path, name: &str) -> Result<(), Reason> {
    let link = images.join(name);
    let real = |path: &Path| fs::canonicalize(path).map_err(|source| written(path, source));
    let target = relative(&real(images)?, &real(pages)?);
    symlink(target, &link).map_err(|source| written(&link, source))
}

/// The way from the directory `from` to `to`; both without links or relative steps.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from
        .components()
        .zip(to.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

fn put(path: &Path, content: &[u8]) -> Result<(), Reason> {
    File::create_new(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(|source| written(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_and_down_again() {
        let way = relative(Path::new("/run/thaw/c/images"), Path::new("/var/lib/pages-1.img"));
        assert_eq!(way, Path::new("../../../../var/lib/pages-1.img"));
        assert_eq!(
            relative(Path::new("/a/b"), Path::new("/a/c/d")),
            Path::new("../c/d")
        );
    }
}
