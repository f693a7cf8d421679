//! `start`: find the shim that serves the container's group or leave a new one behind, and answer its address.
//!
//! This is on the way of every container start, so it is plain code: no async runtime, the spec read once, and the
//! daemon is started with its listening socket as standard input, already bound, so that nobody waits for it.

use std::env;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::address::{Bound, bind, socket_path};
use crate::bootstrap::{Input, InputError, decode, read_stdin};
use crate::flags::Flags;
use crate::spec::Spec;
use crate::{cgroup, sys};

/// The highest `oom_score_adj` there is.
const MOST_KILLABLE: i32 = 1000;

/// What can keep a shim from starting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("understand what containerd sent")]
    Input(#[from] InputError),
    #[error("read config.json in {}", bundle.display())]
    Spec {
        bundle: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("listen on {}", path.display())]
    Bind {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the shim process")]
    Spawn(#[source] io::Error),
    #[error("give the shim a core scheduling group")]
    Core(#[source] io::Error),
    #[error("move the shim to cgroup {path}")]
    Cgroup {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("set the shim's OOM score")]
    Oom(#[source] io::Error),
}

/// Does it and returns the address.
pub(crate) fn run(flags: &Flags) -> Result<String, StartError> {
    let input = decode(&read_stdin()?, flags)?;
    // containerd starts the shim in the bundle.
    let bundle = Path::new(".");
    let spec = Spec::read(bundle).map_err(|source| StartError::Spec {
        bundle: env::current_dir().unwrap_or_default(),
        source,
    })?;
    let containerd = if flags.address.is_empty() {
        input.grpc_address.as_deref().unwrap_or_default()
    } else {
        &flags.address
    };
    let path = socket_path(
        input.socket_dir.as_deref(),
        containerd,
        &flags.namespace,
        spec.group(&flags.id),
    );
    let address = format!("unix://{}", path.display());
    match bind(&path) {
        Ok(Bound::Served) => {}
        Ok(Bound::New(listener)) => {
            if let Err(error) = leave_daemon(flags, &input, containerd, listener.into()) {
                // Nobody serves on it, so nobody may find it.
                fs::remove_file(&path).ok();
                return Err(error);
            }
        }
        Err(source) => return Err(StartError::Bind { path, source }),
    }
    // containerd before 2.0 finds the shim again by this file.
    fs::write(bundle.join("address"), &address).ok();
    Ok(address)
}

fn leave_daemon(flags: &Flags, input: &Input, containerd: &str, listener: OwnedFd) -> Result<(), StartError> {
    let mut command = Command::new(env::current_exe().map_err(StartError::Spawn)?);
    if let Some(name) = env::args_os().next() {
        command.arg0(name);
    }
    command.args([
        "-namespace",
        &flags.namespace,
        "-id",
        &flags.id,
        "-address",
        containerd,
    ]);
    if flags.debug || input.debug {
        command.arg("-debug");
    }
    if let Some(address) = &input.ttrpc_address {
        command.env("TTRPC_ADDRESS", address);
    }
    command
        .process_group(0)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().map_err(StartError::Spawn)?;
    let placed = place(child.id(), input);
    if placed.is_err() {
        sys::kill(child.id().cast_signed(), 9).ok();
    }
    placed
}

/// Puts the daemon where it belongs before containerd talks to it.
fn place(pid: u32, input: &Input) -> Result<(), StartError> {
    if env::var_os("SCHED_CORE").is_some() {
        sys::isolate_core(pid).map_err(StartError::Core)?;
    }
    let path = &input.options.shim_cgroup;
    if !path.is_empty() {
        cgroup::join(path, pid).map_err(|source| StartError::Cgroup {
            path: path.clone(),
            source,
        })?;
    }
    adjust_oom_score(pid).map_err(StartError::Oom)
}

/// One above containerd's, so that the kernel takes the shim, whose loss containerd survives, before containerd.
fn adjust_oom_score(pid: u32) -> io::Result<()> {
    let parent = fs::read_to_string(format!("/proc/{}/oom_score_adj", nix::unistd::getppid()))?;
    let score = parent.trim().parse::<i32>().unwrap_or(0);
    fs::write(
        format!("/proc/{pid}/oom_score_adj"),
        (score + 1).min(MOST_KILLABLE).to_string(),
    )
}
