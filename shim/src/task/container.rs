//! One container: what never changes, and its state behind a lock.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thaw_runc::Runc;
use thaw_runtime::boot::Held;
use thaw_runtime::record::Record;

use super::process::{End, Process};
use super::refusal::Refusal;
use super::watch::Watch;
use crate::cgroup::Cgroup;
use crate::cgroup::oom::OomWatch;
use crate::mount::Rootfs;
use crate::options::Options;

/// One container.
#[derive(Debug)]
pub struct Container {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) runc: Runc,
    pub(super) options: Options,
    pub(super) rootfs: Rootfs,
    /// Nobody but us ends the other processes when init has ended.
    pub(super) outlives_init: bool,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) record: Record,
    /// Held while runc changes the container.
    pub(super) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// What changes in a container.
#[derive(Debug)]
pub(super) struct State {
    pub(super) init: Process,
    pub(super) execs: HashMap<String, Process>,
    /// Execs that were started and whose exit event is not out yet; init's exit event waits for them.
    pub(super) live_execs: usize,
    /// Signals to init that are on their way; its exit event waits for them too.
    pub(super) kills: usize,
    /// Init has been collected, so nothing more can be started.
    pub(super) reaped: bool,
    /// Init's end, while it waits for execs and signals.
    pub(super) stashed: Option<End>,
    pub(super) oom: Option<OomWatch>,
    /// Restored, and waiting for Start.
    pub(super) held: Option<Held>,
    /// Restored, and not known to be well yet.
    pub(super) watch: Option<Watch>,
    /// Started cold, and is to be captured when it is ready.
    pub(super) capture: bool,
}

impl State {
    pub(super) fn new(init: Process, oom: Option<OomWatch>) -> Self {
        Self {
            init,
            execs: HashMap::new(),
            live_execs: 0,
            kills: 0,
            reaped: false,
            stashed: None,
            oom,
            held: None,
            watch: None,
            capture: false,
        }
    }

    /// Init for an empty `exec_id`, else that exec.
    pub(super) fn process(&mut self, exec_id: &str) -> Result<&mut Process, Refusal> {
        if exec_id.is_empty() {
            return Ok(&mut self.init);
        }
        self.execs
            .get_mut(exec_id)
            .ok_or_else(|| Refusal::not_found(format!("process does not exist {exec_id}")))
    }
}

/// The part of a container that never changes.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) runc: Runc,
    pub(super) options: Options,
    pub(super) rootfs: Rootfs,
    pub(super) outlives_init: bool,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) record: Record,
}

impl Container {
    pub(super) fn new(fixed: Fixed, state: State) -> Self {
        let Fixed {
            id,
            bundle,
            runc,
            options,
            rootfs,
            outlives_init,
            cgroup,
            record,
        } = fixed;
        Self {
            id,
            bundle,
            runc,
            options,
            rootfs,
            outlives_init,
            cgroup,
            record,
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
