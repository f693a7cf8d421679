//! Driver for the runc command line: one method per verb, one error enum, no knowledge of containerd or of snapshots.
//!
//! Each verb is a file with an `impl Runc` block. A verb builds its command with [`Runc::command`], which puts the
//! global arguments, and gives it to [`Runc::run`], which starts it through the [`Spawner`], keeps the deadline and
//! turns a failure into [`RuncError`] with runc's own last error line as the detail.

mod command;
mod create;
mod start;
mod exec;
mod state;
mod ps;
mod kill;
mod pause;
mod update;
mod delete;
mod checkpoint;
mod restore;
mod watch;
mod abort;
mod criu_log;
mod hook;
mod features;
mod error;
mod spawn;
mod sys;

pub use checkpoint::{CRIU_CONFIG_FILE, CheckpointOptions};
pub use command::{Deadlines, Output, Runc, Streams};
pub use create::CreateOptions;
pub use criu_log::first_error as first_criu_error;
pub use delete::delete_now;
pub use error::{Class, RuncError};
pub use exec::ExecOptions;
pub use features::features_now;
pub use hook::{Hook, HookError};
pub use restore::RestoreOptions;
pub use spawn::{Exit, PlainSpawner, Spawner};
pub use state::{State, Status};
pub use sys::{die_with_parent, leave_mounts, reap};
