//! Id-mapped mounts: the files of an image belong to root there, and in a container with a user namespace they must
//! belong to that namespace's root. containerd asks for it with `uidmap=` and `gidmap=` among the mount options, for
//! pods with `hostUsers: false` among others.
//!
//! The kernel takes such a mapping as a user namespace, so one is made for that ([`namespace`]). An overlay can't be
//! mapped itself: its lower directories are, below a mapped copy of their common directory. containerd puts that copy
//! in a temporary directory, where it stays when containerd is killed. Here it lives in a mount namespace that ends
//! with a thread ([`build`]), so nothing has to be cleaned up, whenever the shim ends.

mod map;
mod namespace;
mod build;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use thaw_runc::Spawner;

pub(super) use build::mount_mapped;
pub use map::{IdMap, MapError};
pub use namespace::{HoldError, NamespaceError, USER_NAMESPACE_VERB, hold_user_namespace};

/// The user namespaces that stand for the id mappings of one root file system.
#[derive(Debug, Default)]
pub(super) struct Namespaces(Vec<(IdMap, OwnedFd)>);

impl Namespaces {
    /// Makes the one for `map`, unless there is one already.
    pub(super) async fn add(
        &mut self,
        map: IdMap,
        program: &Path,
        spawner: &dyn Spawner,
    ) -> Result<(), NamespaceError> {
        if self.0.iter().all(|(known, _)| *known != map) {
            let namespace = namespace::open(&map, program, spawner).await?;
            self.0.push((map, namespace));
        }
        Ok(())
    }

    pub(super) fn of(&self, map: &IdMap) -> io::Result<BorrowedFd<'_>> {
        let found = self.0.iter().find(|(known, _)| known == map);
        found
            .map(|(_, namespace)| namespace.as_fd())
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "id mapping of a mount made elsewhere"))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
