//! Whom to end when a dump hangs.

use std::io;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use thaw_runc::{Exit, Spawner};

/// Starts processes as another spawner does, and remembers the latest.
#[derive(Debug)]
pub(super) struct Noting {
    starts: Arc<dyn Spawner>,
    latest: AtomicI32,
}

impl Noting {
    pub(super) fn new(starts: Arc<dyn Spawner>) -> Self {
        Self {
            starts,
            latest: AtomicI32::new(0),
        }
    }

    /// The process that was started last, if any was.
    pub(super) fn latest(&self) -> Option<i32> {
        Some(self.latest.load(Ordering::Relaxed)).filter(|pid| *pid > 0)
    }
}

impl Spawner for Noting {
    fn spawn(&self, command: &mut Command) -> io::Result<(Child, Exit)> {
        let (child, exit) = self.starts.spawn(command)?;
        self.latest.store(child.id().cast_signed(), Ordering::Relaxed);
        Ok((child, exit))
    }
}
