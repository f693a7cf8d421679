//! The command line tool `thaw`.
//!
//! One file per verb. Data goes to standard output, progress and the log to standard error. Every verb ends in one
//! of the exit codes of [`failure`]; the error and its causes are printed once, here.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use thaw_runtime::network::{LOOPBACK_VERB, run_hook};

mod context;
mod failure;
mod output;
mod snapshots;
mod capture;
mod ls;
mod inspect;
mod rm;
mod verify;
mod quarantine;
mod explain;
mod advice;
mod completion;

use context::Context;
use failure::Failure;

const EXAMPLES: &str = "\
Examples:
  thaw capture web                  once the container 'web' is ready to serve
  thaw ls                           what the store holds
  thaw inspect 3fa9                 one snapshot, by the start of its id
  thaw explain web                  how the container 'web' came up, and why
  thaw -n k8s.io explain 5c1d -o json
  thaw verify 3fa9 --here           is it whole, and does it fit this node
  thaw --store s3://bucket/prefix ls
  thaw rm 3fa9 81b0
  thaw quarantine ls                what has failed on this node, and is left alone for a while

Configuration: /etc/thaw/config.toml, /etc/thaw/conf.d/*.toml, THAW_* in the environment, then these flags.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 does not fit this node.";

/// Start containers from a frozen copy of themselves.
///
/// thaw keeps snapshots of containers that have finished booting. The runtime io.containerd.thaw.v1 restores them
/// in place of a boot; this tool looks after the snapshots, and tells why a container was restored or not.
#[derive(Debug, Parser)]
#[command(name = "thaw", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Args)]
struct Global {
    /// containerd namespace: `default` for ctr and nerdctl, `moby` for Docker, `k8s.io` for Kubernetes
    #[arg(
        short,
        long,
        global = true,
        env = "CONTAINERD_NAMESPACE",
        default_value = "default"
    )]
    namespace: String,
    /// containerd's socket
    #[arg(
        short,
        long,
        global = true,
        env = "CONTAINERD_ADDRESS",
        default_value = "/run/containerd/containerd.sock",
        value_name = "PATH"
    )]
    address: PathBuf,
    /// Read this file in place of the ones in /etc/thaw
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Use this store in place of the configured one: file://, s3://, gs:// or az://
    #[arg(long, global = true, value_name = "URL")]
    store: Option<thaw_config::StoreUrl>,
    /// off, error, warn, info, debug or trace [default: what the configuration says]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<log::LevelFilter>,
    /// How to print the answer
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// How to print the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs; fields are added, never renamed
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take a snapshot of a running container, and publish it to the store
    Capture(capture::Capture),
    /// List the snapshots in the store
    #[command(visible_alias = "list")]
    Ls,
    /// Show one snapshot: where it comes from, what it needs, what it weighs
    Inspect(inspect::Inspect),
    /// Remove snapshots from the store
    Rm(rm::Rm),
    /// Check a snapshot in the store, and whether this node can restore it
    Verify(verify::Verify),
    /// Tell how a running container came up: restored or cold, why, and where the time went
    Explain(explain::Explain),
    /// Show or forget the snapshots that have failed on this node, and are left alone for a while
    Quarantine(quarantine::Quarantine),
    /// Print a completion script for a shell
    Completion(completion::Completion),
    /// Called by runc for the scratch container of a capture
    #[command(name = LOOPBACK_VERB, hide = true)]
    LoopbackUp,
    /// Called by CRIU during a capture, while the processes stand still
    #[command(name = thaw_runtime::capture::ROOTFS_VERB, hide = true)]
    RootfsDiff {
        /// Upper directory of the overlay
        upper: PathBuf,
        /// File to write
        tar: PathBuf,
    },
}

/// Runs the tool with these arguments (the first is its name).
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is the reader's wish.
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            let name = if io::stderr().is_terminal() {
                "\u{1b}[1;31merror\u{1b}[0m"
            } else {
                "error"
            };
            writeln!(io::stderr(), "{name}: {failure}").ok();
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    if let Verb::Completion(completion) = &cli.verb {
        return completion.run();
    }
    if let Verb::RootfsDiff { upper, tar } = &cli.verb {
        return Ok(thaw_runtime::capture::write_rootfs_diff(upper, tar)?);
    }
    if let Verb::LoopbackUp = cli.verb {
        return Ok(run_hook(io::stdin())?);
    }
    let context = match &cli.verb {
        // A wrong configuration may be what is to be explained.
        Verb::Explain(_) => Context::whatever_is_written(cli.global),
        _ => Context::new(cli.global)?,
    };
    if let Verb::Capture(_) = cli.verb {
        thaw_runc::leave_mounts().context("can't get mounts of its own for the proof (root?)")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        match cli.verb {
            Verb::Capture(capture) => capture.run(&context).await,
            Verb::Ls => ls::run(&context).await,
            Verb::Inspect(inspect) => inspect.run(&context).await,
            Verb::Rm(rm) => rm.run(&context).await,
            Verb::Verify(verify) => verify.run(&context).await,
            Verb::Explain(explain) => explain.run(&context).await,
            Verb::Quarantine(quarantine) => quarantine.run(&context),
            Verb::Completion(_) | Verb::LoopbackUp | Verb::RootfsDiff { .. } => Ok(()),
        }
    });
    // Not waiting for its threads: one may hang on a store.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests;
