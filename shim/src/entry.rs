//! From the command line to the action, and from its failure to the text that containerd shows.
//!
//! containerd reads standard output and standard error of `start` as one, so nothing but the address may be written
//! on success.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use thaw_runtime::boot::{POSTSTOP_VERB, run_poststop};
use thaw_runtime::capture::{ROOTFS_VERB, write_rootfs_diff};
use thaw_runtime::network::{LOOPBACK_VERB, run_hook};
use thaw_runtime::words::chain;

use crate::flags::{Action, Flags};
use crate::mount::{USER_NAMESPACE_VERB, hold_user_namespace};
use crate::self_capture::CAPTURE_VERB;
use crate::{info, remove, self_capture, serve, start};

/// Runs the shim with the arguments, the program's name first.
#[must_use]
pub fn run(args: impl IntoIterator<Item = String>) -> ExitCode {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    match act(name, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody left to tell when this fails.
            writeln!(io::stderr(), "{name}: {}", chain(error.as_ref())).ok();
            ExitCode::FAILURE
        }
    }
}

fn act(name: &str, args: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let mut args = args.peekable();
    // Not containerd: runc, which calls this program as hooks of a restored container.
    if args.next_if(|arg| arg == LOOPBACK_VERB).is_some() {
        return Ok(run_hook(io::stdin())?);
    }
    if args.next_if(|arg| arg == POSTSTOP_VERB).is_some() {
        return Ok(run_poststop(
            Path::new(&args.next().unwrap_or_default()),
            io::stdin(),
        )?);
    }
    // Not containerd either: this program beside itself, and CRIU during a capture.
    if args.next_if(|arg| arg == CAPTURE_VERB).is_some() {
        return Ok(self_capture::run(args)?);
    }
    if args.next_if(|arg| arg == ROOTFS_VERB).is_some() {
        let (upper, tar) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
        return Ok(write_rootfs_diff(Path::new(&upper), Path::new(&tar))?);
    }
    // The shim itself, for the id mapping of a root file system.
    if args.next_if(|arg| arg == USER_NAMESPACE_VERB).is_some() {
        return Ok(hold_user_namespace(io::stdin(), io::stdout())?);
    }
    let flags = Flags::parse(args)?;
    match flags.action {
        Action::Start => reply(start::run(&flags)?.as_bytes())?,
        Action::Delete => reply(&remove::run(&flags)?)?,
        Action::Info => reply(&info::run()?)?,
        Action::Version => reply(version(name).as_bytes())?,
        Action::Serve => serve::run(&flags)?,
    }
    Ok(())
}

fn reply(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn version(name: &str) -> String {
    format!("{name}:\n  Version:  {}\n", env!("CARGO_PKG_VERSION"))
}
