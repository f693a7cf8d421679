//! The node's rules for captures, and for containers that have themselves captured.

use std::time::Duration;

use crate::read::{self, Reader};

/// `[capture]` of the node's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Containers may have themselves captured by annotation. Default yes: nothing happens unless somebody asks.
    pub by_annotation: bool,
    /// How long a container may take to become ready. Default 10 min: slower boots are broken ones.
    pub ready_deadline: Duration,
    /// The most memory that is dumped, in bytes. Default 16 GiB: CRIU writes hundreds of MB per second while the
    /// application stands still, and more could not be done within the two minutes that it may.
    pub max_memory: u64,
    /// How long the lease on a key holds after its holder was last heard of. Default 1 min: it is renewed all the
    /// time, so only a capture that was killed lets it run out.
    pub lease: Duration,
    /// How long the cluster leaves a key alone after a capture of it has failed. Default 10 min: every further replica
    /// would stand still for the same failure.
    pub retry_after: Duration,
    /// Refuse to publish memory in which secrets are found. Default no: nearly every application holds some.
    pub refuse_secrets: bool,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            by_annotation: true,
            ready_deadline: Duration::from_secs(600),
            max_memory: 16 << 30,
            lease: Duration::from_secs(60),
            retry_after: Duration::from_secs(600),
            refuse_secrets: false,
        }
    }
}

impl Capture {
    pub(crate) fn read(&mut self, reader: &mut Reader) {
        reader.read("capture.by_annotation", &mut self.by_annotation, read::boolean);
        reader.read("capture.ready_deadline", &mut self.ready_deadline, read::duration);
        reader.read("capture.max_memory", &mut self.max_memory, read::size);
        reader.read("capture.lease", &mut self.lease, read::duration);
        reader.read("capture.retry_after", &mut self.retry_after, read::duration);
        reader.read("capture.refuse_secrets", &mut self.refuse_secrets, read::boolean);
    }
}
