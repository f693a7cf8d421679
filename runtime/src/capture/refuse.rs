//! What CRIU can't dump, told before it is asked: the application then does not even stand still, and the answer names
//! the process and what it holds in place of a line of CRIU's log.
//!
//! Each fact is read from /proc. A process that ends meanwhile has nothing that could be in the way.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::CaptureError;
use super::find::Donor;
use crate::ready::NotReady;
use crate::task::tree;

mod files;
mod sockets;
mod watches;

pub(super) use watches::Watched;

/// Namespaces that CRIU restores for all processes of a container together.
const SHARED: [&str; 4] = ["user", "uts", "ipc", "net"];

/// How long a CRIU that traces may take to end. One that nobody waits for any more ends within a second.
const LET_GO: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a container is not captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Its probe says that it is not ready.
    #[error("the application is not ready; a snapshot of it would be of no use")]
    NotReady(#[source] NotReady),
    /// It was not there any more after the warm-up.
    #[error("a request of the warm-up got no answer")]
    Warmup(#[source] NotReady),
    /// CRIU can't dump io_uring (criu#2131).
    #[error("process {pid} uses io_uring, which CRIU can't dump")]
    IoUring {
        /// Host pid.
        pid: i32,
    },
    /// A kernel object that no restore can make again.
    #[error("process {pid} holds {what} (descriptor {fd}), which CRIU can't dump")]
    Descriptor {
        /// Host pid.
        pid: i32,
        /// Its descriptor.
        fd: u32,
        /// What it is, as /proc names it.
        what: String,
    },
    /// A kind of socket that CRIU does not know.
    #[error("process {pid} has a socket of the kind {protocol} (descriptor {fd}), which CRIU can't dump")]
    Socket {
        /// Host pid.
        pid: i32,
        /// Its descriptor.
        fd: u32,
        /// The protocol, as the kernel names it.
        protocol: String,
    },
    /// The other end of a stream is not in the container.
    #[error(
        "process {pid} is connected to a unix socket outside the container (descriptor {fd}); CRIU can't dump one half \
         of a stream"
    )]
    UnixOutside {
        /// Host pid.
        pid: i32,
        /// Its descriptor.
        fd: u32,
    },
    /// A file or FIFO that is not in any mount of the container.
    #[error(
        "process {pid} has {} open (descriptor {fd}), which is outside the container's mounts; CRIU can't find it",
        path.display()
    )]
    FileOutside {
        /// Host pid.
        pid: i32,
        /// Its descriptor.
        fd: u32,
        /// What /proc calls it.
        path: PathBuf,
    },
    /// Nobody could find again what is watched.
    #[error(
        "process {pid} watches a file that has no name in the container, such as a deleted one (inotify or fanotify, \
         descriptor {fd}); a restore could not watch it again"
    )]
    Notify {
        /// Host pid.
        pid: i32,
        /// Its descriptor.
        fd: u32,
    },
    /// A debugger is attached; CRIU needs its place.
    #[error("process {pid} is traced by process {tracer}")]
    Traced {
        /// Host pid.
        pid: i32,
        /// Who traces it.
        tracer: i32,
    },
    /// A process has made itself a namespace.
    #[error("process {pid} has a {kind} namespace of its own inside the container, which CRIU can't dump")]
    Namespace {
        /// Host pid.
        pid: i32,
        /// The kind.
        kind: &'static str,
    },
    /// Too much memory.
    #[error(
        "its processes hold {} MiB of memory, more than the {} MiB of capture.max_memory",
        size >> 20,
        limit >> 20
    )]
    Memory {
        /// What they hold, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// It could not be proven.
    #[error("the container has a terminal or is paused; only `thaw capture` takes such a one, without proof")]
    Unproven,
    /// It would be lost if secrets were found.
    #[error(
        "its memory can be searched for secrets only after the dump, which would have ended it by then: leave out --stop, \
         or --refuse-secrets and the node's capture.refuse_secrets"
    )]
    StopUnsearched,
    /// Secrets were found, and were to be refused.
    #[error("secrets were found in it: {}", found.join(", "))]
    Secrets {
        /// What and where, never the values.
        found: Vec<String>,
    },
}

impl Refusal {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NotReady(_) => "not_ready",
            Self::Warmup(_) => "warmup_failed",
            Self::IoUring { .. } => "io_uring",
            Self::Descriptor { .. } => "unsupported_descriptor",
            Self::Socket { .. } => "unsupported_socket",
            Self::UnixOutside { .. } => "unix_outside",
            Self::FileOutside { .. } => "file_outside",
            Self::Notify { .. } => "inotify_overlay",
            Self::Traced { .. } => "traced",
            Self::Namespace { .. } => "nested_namespace",
            Self::Memory { .. } => "memory_limit",
            Self::Unproven => "not_provable",
            Self::StopUnsearched => "stop_unsearched",
            Self::Secrets { .. } => "secrets",
        }
    }
}

/// Looks at every process of the container; answers what they watch, by name.
pub(super) async fn check(donor: &Donor, limit: u64) -> Result<Watched, CaptureError> {
    let init = donor.pid;
    let work = tokio::task::spawn_blocking(move || look(init, limit));
    work.await
        .map_err(|_error| CaptureError::Thread { step: "look" })?
        .map_err(CaptureError::Refused)
}

fn look(init: i32, limit: u64) -> Result<Watched, Refusal> {
    let pids = tree(init);
    memory(&pids, limit)?;
    let mut unix = sockets::Unix::default();
    let mut watches = watches::Watches::default();
    for &pid in &pids {
        traced(pid)?;
        namespaces(init, pid)?;
        files::check(pid, &mut unix, &mut watches)?;
    }
    unix.check(init)?;
    watches.find(init)
}

/// An estimate from above: pages that forked processes still share are counted for each, as CRIU writes them.
fn memory(pids: &[i32], limit: u64) -> Result<(), Refusal> {
    let kib: u64 = pids
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .map(|status| {
            ["RssAnon:", "RssShmem:", "VmSwap:"]
                .iter()
                .filter_map(|name| {
                    field(&status, name)?
                        .split_whitespace()
                        .next()?
                        .parse::<u64>()
                        .ok()
                })
                .sum::<u64>()
        })
        .sum();
    let size = kib.saturating_mul(1024);
    if size > limit {
        return Err(Refusal::Memory { size, limit });
    }
    Ok(())
}

fn traced(pid: i32) -> Result<(), Refusal> {
    let deadline = Instant::now() + LET_GO;
    loop {
        let Some(tracer) = tracer(pid) else {
            return Ok(());
        };
        // A capture that was killed leaves its CRIU behind for a moment, which lets the processes go when it ends.
        let name = fs::read_to_string(format!("/proc/{tracer}/comm"));
        // No name: it has ended since.
        let going = name.map_or(true, |name| name.trim_end() == "criu");
        if !going || Instant::now() > deadline {
            return Err(Refusal::Traced { pid, tracer });
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn tracer(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = field(&status, "TracerPid:")?.trim().parse().ok()?;
    (tracer != 0).then_some(tracer)
}

fn namespaces(init: i32, pid: i32) -> Result<(), Refusal> {
    for kind in SHARED {
        let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        if let (Some(mine), Some(all)) = (of(pid), of(init))
            && mine != all
        {
            return Err(Refusal::Namespace { pid, kind });
        }
    }
    Ok(())
}

/// The rest of the line of `text` that begins with `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// Ids of the mounts that the process sees (`man 5 proc_pid_mountinfo`).
fn mounts(pid: i32) -> BTreeSet<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_could_be_dumped() {
        let own = std::process::id().cast_signed();
        assert!(memory(&[own], 1 << 40).is_ok());
        assert!(matches!(memory(&[own], 1), Err(Refusal::Memory { limit: 1, .. })));
        assert!(traced(own).is_ok());
        assert!(namespaces(own, own).is_ok());
        assert!(!mounts(own).is_empty());
        // Ended, as far as we know.
        assert!(traced(-1).is_ok() && namespaces(own, -1).is_ok());
    }
}
