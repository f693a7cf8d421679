//! What can be wrong with a configuration.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::StoreUrlError;

/// Everything that is wrong with the configuration, all of it.
#[derive(Debug, Error)]
pub struct ConfigError {
    /// In the order in which they were found; never empty.
    pub mistakes: Vec<Mistake>,
}

/// One mistake.
#[derive(Debug)]
pub struct Mistake {
    /// Where it was written.
    pub origin: Origin,
    /// The key with its tables, as in `deadlines.fetch`; empty when the whole file is meant.
    pub key: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File(PathBuf),
    /// In the environment variable of this name.
    Environment(String),
}

/// What is wrong with one value.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file is there but can't be read, or was asked for and isn't there.
    #[error("can't read the file")]
    Read(#[source] io::Error),
    /// The file is not TOML.
    #[error("not valid TOML")]
    Syntax(#[source] Box<toml::de::Error>),
    /// A key that thaw does not know: probably a typing error.
    #[error("no such key")]
    Unknown,
    /// A value of another type than the key wants.
    #[error("expected {0}")]
    Type(&'static str),
    /// A word that is not among the ones that the key knows.
    #[error("{found:?} is none of {known}")]
    Word {
        /// What was written.
        found: String,
        /// What would have been right.
        known: &'static str,
    },
    /// Not a length of time such as `300ms` or `10s`.
    #[error("not a duration such as \"300ms\" or \"10s\"")]
    Duration(#[source] humantime::DurationError),
    /// A length of time out of bounds.
    #[error("must be between 1ms and {}", humantime::format_duration(*.0))]
    DurationRange(Duration),
    /// Not a size such as `16GiB`.
    #[error("not a size such as \"512MiB\" or \"16GiB\"")]
    Size,
    /// A path that would mean something else in each working directory.
    #[error("must be an absolute path")]
    Relative,
    /// Neither an absolute path nor a bare name that is looked for in PATH.
    #[error("must be an absolute path, or a name to look for in PATH")]
    Program,
    /// Not a URL of a store.
    #[error("not the URL of a store")]
    Store(#[source] StoreUrlError),
    /// Not an http or https URL.
    #[error("not an http:// or https:// URL without user name, query and fragment")]
    Endpoint,
    /// Plain HTTP was not allowed.
    #[error(
        "http:// needs allow_http = true in [store]: memory images and credentials would cross the net in the clear"
    )]
    PlainHttp,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

/// With its causes: several mistakes can't all be the `source` of one error.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.problem)?;
        let mut cause = std::error::Error::source(&self.problem);
        while let Some(error) = cause {
            write!(f, ": {}", error.to_string().trim_end())?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}
