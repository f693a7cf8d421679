//! `thaw completion`.

use std::io::{self, Write as _};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use super::failure::Failure;

/// Print a completion script.
///
/// For bash: thaw completion bash > /usr/share/bash-completion/completions/thaw
#[derive(Debug, Args)]
pub(super) struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "thaw", &mut script);
        Ok(io::stdout().write_all(&script)?)
    }
}
