//! Namespaces of the scratch container where the donor's are shared: the pod's are not touched.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::network;

/// An empty network with a loopback interface, host names and IPC objects. They are held by descriptors, so they go
/// with this process, however it ends.
#[derive(Debug)]
pub(super) struct Namespaces {
    network: OwnedFd,
    uts: OwnedFd,
    ipc: OwnedFd,
}

impl Namespaces {
    pub(super) fn make(hostname: &str) -> io::Result<Self> {
        let made = thread::scope(|scope| {
            let maker = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)?;
                std::fs::write("/proc/sys/kernel/hostname", hostname)?;
                // The donor's addresses are not there, and what is bound to them is to come back.
                for family in ["ipv4", "ipv6"] {
                    std::fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), "1").ok();
                }
                let open =
                    |kind| Ok::<_, io::Error>(File::open(format!("/proc/thread-self/ns/{kind}"))?.into());
                Ok(Self {
                    network: open("net")?,
                    uts: open("uts")?,
                    ipc: open("ipc")?,
                })
            });
            maker
                .join()
                .unwrap_or_else(|_panic| Err(io::Error::other("the making thread panicked")))
        })?;
        network::loopback_up(&made.path(&made.network))?;
        Ok(made)
    }

    /// What stands in for a joined namespace of this kind, as the spec names kinds.
    pub(super) fn instead_of(&self, kind: &str) -> Option<PathBuf> {
        match kind {
            "network" => Some(self.path(&self.network)),
            "uts" => Some(self.path(&self.uts)),
            "ipc" => Some(self.path(&self.ipc)),
            _ => None,
        }
    }

    /// For other processes too.
    fn path(&self, namespace: &OwnedFd) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            namespace.as_raw_fd()
        ))
    }
}
