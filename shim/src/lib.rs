//! The edges: the shim that containerd starts, and the command line tool.
//!
//! The shim, in the order of a container's life: [`entry`] reads the [`flags`] and picks the action; `start` binds
//! the socket and leaves the daemon behind; `serve` is that daemon, which answers the Task protocol through `task`;
//! `remove` cleans up when the daemon is gone. What the daemon needs on the way: the [`reaper`] that learns of exits,
//! [`events`] to containerd, [`io`] between containerd's FIFOs and the container, [`mount`] for the root file system,
//! and [`cgroup`] for its figures.

pub mod entry;
pub mod flags;
pub mod bootstrap;
pub mod options;
pub mod address;
mod start;
mod info;
mod remove;
mod logger;
mod serve;
mod self_capture;
pub mod reaper;
pub mod events;
pub mod io;
pub mod mount;
pub mod cgroup;
pub mod spec;
pub mod task;
pub mod sys;
pub mod cli;
