//! Learning that the kernel has killed a process of a container for lack of memory.
//!
//! The kernel only says that something has happened; how often it has killed is in a counter. So the counter decides,
//! both when the kernel speaks up and once more when init has ended, which makes sure that the report comes before
//! the exit.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::Cgroup;
use super::files::table;
use crate::sys::watch;

/// v1 speaks up when memory runs out, a moment before it kills: how often and how long to look for the kill.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Watches one cgroup until it is dropped.
pub struct OomWatch {
    kills: Arc<Kills>,
    task: JoinHandle<()>,
}

struct Kills {
    dir: PathBuf,
    file: &'static str,
    reported: AtomicU64,
    report: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for OomWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OomWatch")
            .field("dir", &self.kills.dir)
            .finish_non_exhaustive()
    }
}

impl Drop for OomWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OomWatch {
    /// Calls `report` when the kernel has killed a process of the cgroup.
    ///
    /// # Errors
    /// What the kernel answered; `NotFound` without a memory controller.
    pub fn start(cgroup: &Cgroup, report: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let (dir, file) = match cgroup {
            Cgroup::V1(dirs) => (
                dirs.get("memory").ok_or(io::ErrorKind::NotFound)?,
                "memory.oom_control",
            ),
            Cgroup::V2(dir) => (dir, "memory.events"),
        };
        let (dir, report) = (dir.clone(), Box::new(report));
        let kills = Arc::new(Kills {
            dir,
            file,
            reported: AtomicU64::new(0),
            report,
        });
        let task = match cgroup {
            Cgroup::V1(_) => {
                let memory = listen_v1(&kills.dir, file)?;
                tokio::spawn(follow_v1(memory, Arc::clone(&kills)))
            }
            Cgroup::V2(_) => {
                let changes = listen_v2(&kills.dir)?;
                tokio::spawn(follow_v2(changes, Arc::clone(&kills)))
            }
        };
        Ok(Self { kills, task })
    }

    /// Reports kills that are not reported yet.
    pub fn check(&self) {
        self.kills.check();
    }
}

impl Kills {
    /// Whether there was one to report.
    fn check(&self) -> bool {
        let count = table(&self.dir, self.file)
            .get("oom_kill")
            .copied()
            .unwrap_or_default();
        let new = self.reported.fetch_max(count, Ordering::Relaxed) < count;
        if new {
            (self.report)();
        }
        new
    }
}

fn listen_v1(dir: &Path, file: &str) -> io::Result<AsyncFd<OwnedFd>> {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let control = File::open(dir.join(file))?;
    let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    std::fs::write(dir.join("cgroup.event_control"), line)?;
    watch(event.as_fd().try_clone_to_owned()?)
}

async fn follow_v1(memory: AsyncFd<OwnedFd>, kills: Arc<Kills>) {
    while let Ok(mut ready) = memory.readable().await {
        ready.clear_ready();
        // Nothing to read is a false alarm.
        nix::unistd::read(memory.get_ref(), &mut [0; 8]).ok();
        for _ in 0..LOOKS {
            // It also fires when the cgroup is removed.
            if !kills.dir.exists() {
                return;
            }
            if kills.check() {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}

fn listen_v2(dir: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    for file in ["memory.events", "cgroup.events"] {
        inotify.add_watch(&dir.join(file), AddWatchFlags::IN_MODIFY)?;
    }
    watch(inotify.as_fd().try_clone_to_owned()?)
}

async fn follow_v2(changes: AsyncFd<OwnedFd>, kills: Arc<Kills>) {
    while let Ok(mut ready) = changes.readable().await {
        ready.clear_ready();
        // Nothing to read is a false alarm.
        nix::unistd::read(changes.get_ref(), &mut [0; 4096]).ok();
        kills.check();
        if !kills.dir.exists() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kill_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let reports = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&reports);
        let kills = Kills {
            dir: dir.path().to_owned(),
            file: "memory.events",
            reported: AtomicU64::new(0),
            report: Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            }),
        };
        let write =
            |n: u64| std::fs::write(dir.path().join("memory.events"), format!("oom 1\noom_kill {n}\n"));
        assert!(!kills.check());
        write(1).unwrap();
        assert!(kills.check());
        assert!(!kills.check());
        write(3).unwrap();
        assert!(kills.check());
        assert_eq!(reports.load(Ordering::Relaxed), 2);
    }
}
