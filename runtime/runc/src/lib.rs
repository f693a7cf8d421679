//! Driver for the runc command line: one method per verb, one error enum, no knowledge of containerd or of snapshots.

mod spawn;

pub use spawn::{Exit, PlainSpawner, Spawner};
