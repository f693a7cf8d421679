//! The Task protocol: what containerd may ask of a container, and what it hears in return.
//!
//! [`service`] translates requests; each verb is a file. A container has one lock for everything that changes it
//! (`turn`, held while runc runs) and one for its data (`state`, never held across an `await`), so that State, Wait,
//! Kill and the like are answered while a slow call runs. The table of containers is locked only to look one up.

pub mod time;
mod refusal;
mod phase;
mod process;
mod container;
mod registry;
mod service;
mod create;
mod start;
mod self_capture;
mod exec;
mod watch;
mod exits;
mod signal;
mod freeze;
mod observe;
mod update;
mod checkpoint;
mod delete;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::events::Publisher;
use crate::reaper::Reaper;
pub use container::Container;
pub use phase::Phase;
pub use refusal::Refusal;
use registry::Registry;
pub use service::Service;

/// One shim process: the containers of one group.
#[derive(Debug)]
pub struct Shim {
    namespace: String,
    /// containerd's gRPC socket.
    containerd: PathBuf,
    events: Publisher,
    reaper: Arc<Reaper>,
    registry: Registry,
    /// `None` while the container is being created.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    /// Told when the shim may end.
    pub done: Notify,
}

impl Shim {
    /// A shim without containers.
    #[must_use]
    pub fn new(namespace: String, containerd: PathBuf, events: Publisher, reaper: Arc<Reaper>) -> Self {
        Self {
            namespace,
            containerd,
            events,
            reaper,
            registry: Registry::default(),
            containers: Mutex::default(),
            done: Notify::new(),
        }
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        // The map is whole between any two statements that hold the lock.
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, Refusal> {
        self.containers()
            .get(id)
            .cloned()
            .flatten()
            .ok_or_else(|| Refusal::not_found("container not created"))
    }

    /// Ends the shim, unless it still has containers.
    pub fn shutdown(&self) {
        if self.containers().is_empty() {
            self.done.notify_one();
        }
    }
}
