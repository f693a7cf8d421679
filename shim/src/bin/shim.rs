//! `containerd-shim-thaw-v1`.

use std::process::ExitCode;

fn main() -> ExitCode {
    thaw_shim::entry::run(std::env::args())
}
