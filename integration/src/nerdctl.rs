//! A container that nerdctl runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command::{Ran, ok, run};
use crate::container::Container;
use crate::run::{THAW, full_name};
use crate::wait::until;

/// A container of nerdctl's, under thaw; removed by its name when dropped.
#[derive(Debug)]
pub struct Nerdctl {
    name: String,
    id: String,
}

impl Nerdctl {
    /// `nerdctl run -d`: an image of the lab (or any, by its whole name), with these flags and this command.
    ///
    /// # Errors
    /// When it does not start.
    pub fn run(name: &str, flags: &[&str], image: &str, command: &[&str]) -> Result<Self> {
        let image = full_name(image);
        let mut words = vec!["nerdctl", "run", "--detach", "--runtime", THAW, "--name", name];
        words.extend(flags);
        words.push(&image);
        words.extend(command);
        // Also of one whose start fails there is a record.
        let mut made = Self {
            name: name.to_owned(),
            id: String::new(),
        };
        ok(&words)?.trim().clone_into(&mut made.id);
        Ok(made)
    }

    /// A guard for a container that another call of nerdctl starts under this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: String::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What containerd and thaw know of it. The guard of the same container removes it by force, so forget it.
    #[must_use]
    pub fn below(&self) -> std::mem::ManuallyDrop<Container> {
        std::mem::ManuallyDrop::new(Container::named(&self.id, None))
    }

    /// `nerdctl VERB [FLAGS] NAME`, which has to succeed.
    ///
    /// # Errors
    /// When it fails.
    pub fn verb(&self, words: &[&str]) -> Result<String> {
        ok(&[&["nerdctl"], words, &[self.name.as_str()]].concat())
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// When nerdctl can't be run; a bad exit code is no error.
    pub fn exec(&self, words: &[&str]) -> Result<Ran> {
        run(&[&["nerdctl", "exec", self.name.as_str()], words].concat())
    }

    /// A field of `nerdctl inspect`, as a Go template names it.
    ///
    /// # Errors
    /// When nerdctl does not know it.
    pub fn field(&self, template: &str) -> Result<String> {
        let text = self.verb(&["inspect", "--format", &format!("{{{{{template}}}}}")])?;
        Ok(text.trim().to_owned())
    }

    /// Waits until a field is as wanted.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn wait_for(&self, template: &str, wanted: &str) -> Result<()> {
        let what = format!("{template} of {} to be {wanted}", self.name);
        until(&what, Duration::from_secs(40), || {
            Ok((self.field(template)? == wanted).then_some(()))
        })
    }

    /// What it has printed.
    ///
    /// # Errors
    /// When nerdctl can't tell.
    pub fn logs(&self) -> Result<String> {
        self.verb(&["logs"])
    }
}

impl Drop for Nerdctl {
    fn drop(&mut self) {
        run(&["nerdctl", "rm", "--force", "--volumes", &self.name]).ok();
    }
}

/// The addresses that the CNI plugin `host-local` has given out in a network.
///
/// # Errors
/// When its folder can't be read.
pub fn addresses_of(network: &str) -> Result<Vec<String>> {
    let folder = PathBuf::from("/var/lib/cni/networks").join(network);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    // Beside them lie a lock and a note of the last one.
    names.retain(|name| name.starts_with(|first: char| first.is_ascii_digit()));
    names.sort_unstable();
    Ok(names)
}
