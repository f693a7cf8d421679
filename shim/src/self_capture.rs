//! The process that captures a container when it is ready; started by the container's shim, which it outlives if need
//! be.

use std::io;

use thaw_config::{ConfigError, NodeConfig};
use thaw_runc::leave_mounts;
use thaw_runtime::capture::{WhenReadyError, capture_when_ready};

use crate::flags::{FlagError, Flags};
use crate::logger;

/// The first argument with which the shim calls itself; then the flags `-namespace` and `-id`.
pub(crate) const CAPTURE_VERB: &str = "capture-when-ready";

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelfCaptureError {
    #[error("understand the command line")]
    Flags(#[from] FlagError),
    #[error("read the configuration")]
    Config(#[source] ConfigError),
    #[error("get mounts of its own")]
    Mounts(#[source] nix::Error),
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("capture the container when it is ready")]
    Capture(#[source] Box<WhenReadyError>),
}

/// Does it.
pub(crate) fn run(args: impl IntoIterator<Item = String>) -> Result<(), SelfCaptureError> {
    let flags = Flags::parse(args)?;
    // Without a log it still works, and its record says what became of it.
    logger::install(&flags.id, &flags.namespace, flags.debug).ok();
    let config = NodeConfig::load(None).map_err(SelfCaptureError::Config)?.config;
    // What is mounted for the proof goes with this process, however it ends.
    leave_mounts().map_err(SelfCaptureError::Mounts)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(SelfCaptureError::Runtime)?;
    let program = std::env::current_exe().unwrap_or_default();
    let captured = runtime.block_on(capture_when_ready(&config, &flags.namespace, &flags.id, &program));
    // Not waiting for its threads: one may hang on a store.
    runtime.shutdown_background();
    captured.map_err(|error| SelfCaptureError::Capture(Box::new(error)))
}
