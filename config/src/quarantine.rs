//! How long a snapshot that failed here is left alone.

use std::time::Duration;

use crate::read::{self, Reader};

/// When a snapshot is put aside on this node, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantine {
    /// A restored container that ends within this time after its start, with an error and unasked, has failed
    /// because of its snapshot. Default 10 s: what breaks in a restored process (another processor, a lost file, a
    /// dead connection) breaks with its first requests; later ends are the application's own.
    pub watch: Duration,
    /// How long after the first failure; each further one doubles it. Default 1 min: longer than the first restarts
    /// of a kubelet (10 s, 20 s), so that these start cold.
    pub first: Duration,
    /// The longest. Default 1 h: what failed a dozen times will again, but a node may have been mended meanwhile.
    pub longest: Duration,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(10),
            first: Duration::from_secs(60),
            longest: Duration::from_secs(3600),
        }
    }
}

impl Quarantine {
    pub(crate) fn read(&mut self, reader: &mut Reader) {
        reader.read("quarantine.watch", &mut self.watch, read::duration);
        reader.read("quarantine.first", &mut self.first, read::duration);
        reader.read("quarantine.longest", &mut self.longest, read::duration);
    }
}
