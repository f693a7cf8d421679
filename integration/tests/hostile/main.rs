//! Broken and hostile snapshots: every container starts, in bounded time and memory, and nothing is left behind.
//!
//! `fallback.rs` breaks each step; here the snapshot itself is bent in every way that a bad disk or a hostile writer of the
//! store could. Where a digest would give it away, the forger makes it right.

mod tally;
mod blobs;
mod bombs;
mod manifest;
mod archives;
mod images;
