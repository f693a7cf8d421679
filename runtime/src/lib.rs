//! The library behind the shim and the tool: the two ways, [`boot`] and [`capture`], and the [`outcome`] of each boot.
//!
//! It knows OCI specs, runc, snapshots and stores. It knows no containerd protocol beyond the four read-only calls
//! that identify an image.

pub mod boot;
pub mod capture;
pub mod explain;
pub mod check;
pub mod identify;
pub mod outcome;
pub mod record;
pub mod docker;
pub mod quarantine;
pub mod ready;
pub mod rootfs;
pub mod network;
pub mod host;
mod notes;
mod outage;
mod misses;
mod key;
mod task;
mod timeline;
mod uuid;
pub mod words;
#[cfg(feature = "parsers")]
#[doc(hidden)]
pub mod parsers;
