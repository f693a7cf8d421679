//! What to run, and how: the command line of `ctr run`.

use std::path::PathBuf;

use anyhow::Result;

use crate::command::{Background, Ran, run, spawn};
use crate::container::Container;

/// containerd's own runtime.
pub const STOCK: &str = "io.containerd.runc.v2";
/// Ours.
pub const THAW: &str = "io.containerd.thaw.v1";

/// The name of an image of the lab, which goes by a short one here. A name with a slash in it is whole.
pub(crate) fn full_name(image: &str) -> String {
    if image.contains('/') {
        return image.to_owned();
    }
    format!("localhost/thaw/{image}:latest")
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Run {
    id: String,
    image: String,
    runtime: String,
    flags: Vec<String>,
    command: Vec<String>,
    log: Option<PathBuf>,
}

impl Run {
    /// A container of one of the lab's images, under thaw, with a log of its own as output.
    #[must_use]
    pub fn new(id: &str, image: &str) -> Self {
        Self {
            id: id.to_owned(),
            image: full_name(image),
            runtime: THAW.to_owned(),
            flags: Vec::new(),
            command: Vec::new(),
            log: Some(PathBuf::from(format!("/tmp/{id}.log"))),
        }
    }

    /// Another runtime.
    #[must_use]
    pub fn runtime(mut self, name: &str) -> Self {
        name.clone_into(&mut self.runtime);
        self
    }

    /// Flags of `ctr run`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Another command than the image's.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = ["ctr", "run", "--runtime", &self.runtime]
            .map(String::from)
            .to_vec();
        words.extend(self.flags.iter().cloned());
        words.extend([self.image.clone(), self.id.clone()]);
        words.extend(self.command.iter().cloned());
        words
    }

    /// `ctr run` in front, with the client's own standard input and output.
    #[must_use]
    pub fn foreground(&self) -> Vec<String> {
        self.words()
    }

    /// Starts it detached.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(self) -> Result<Container> {
        let (container, ran) = self.try_start()?;
        ran.ok()?;
        Ok(container)
    }

    /// Tries to start it detached; the container record that a failed start leaves is removed with the answer.
    ///
    /// # Errors
    /// When `ctr` can't be run.
    pub fn try_start(self) -> Result<(Container, Ran)> {
        let mut words = self.words();
        words.insert(2, "--detach".to_owned());
        if let Some(log) = &self.log {
            words.insert(3, format!("--log-uri=file://{}", log.display()));
        }
        let container = Container::named(&self.id, self.log.clone());
        let ran = run(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok((container, ran))
    }

    /// Starts it in front of a client with pipes.
    ///
    /// # Errors
    /// When `ctr` can't be run.
    pub fn attached(&self) -> Result<(Container, Background)> {
        let container = Container::named(&self.id, None);
        let client = spawn(&self.words().iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok((container, client))
    }
}
