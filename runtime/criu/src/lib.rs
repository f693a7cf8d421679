//! Codec and edits for CRIU image files: pure, no I/O.
//!
//! A checkpoint is a folder of small files, each a row of protobuf messages behind a magic number, and a few large
//! ones with memory pages. This crate reads the small ones, answers questions about them, and changes the few fields
//! that a clone must not share with its donor: its hostname, its namespaces' ids, the network lock.
//!
//! It is not a protobuf library. CRIU adds fields with every version, and a field that was dropped on the way
//! through would be missing after the restore. So nothing here decodes a message into a struct and encodes it
//! again: [`wire`] finds the one field that an edit is about and copies every other byte as it was.
//!
//! The bytes are hostile until [`check()`] has passed them, and no function here panics or allocates more than a small
//! multiple of its input on any bytes.
//!
//! Field numbers are those of CRIU's `images/*.proto`; each accessor names its file and field. They were checked
//! against CRIU 4.2.1.

use std::collections::BTreeMap;

pub mod wire;
pub mod image;
pub mod inventory;
pub mod ids;
pub mod uts;
pub mod netns;
pub mod pstree;
pub mod core;
pub mod creds;
pub mod sockets;
pub mod ipc;
pub mod files;
pub mod fdinfo;
pub mod timerfd;
pub mod mounts;
pub mod tmpfs;
pub mod cgroup;
pub mod pagemap;
pub mod memory;
pub mod seccomp;
pub mod stats;
pub mod irmap;
pub mod check;

pub use check::{CheckError, check};
pub use image::{EditError, ReadError};

/// The image files of one checkpoint, by file name; the page files (`pages-N.img`) are left out.
pub type Images = BTreeMap<String, Vec<u8>>;
