//! The command line, in the style of Go's `flag` package: one dash or two, `-name value` or `-name=value`, and
//! everything after the first word that is no flag is left alone.

use std::path::PathBuf;

/// What the shim was called to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a shim process for a container, or find the one that serves its group, and print its address.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Be that process.
    Serve,
    /// Print what this runtime can do.
    Info,
    /// Print the version.
    Version,
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// Verbose log.
    pub debug: bool,
    /// containerd namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// containerd's gRPC socket, as it was written.
    pub address: String,
    /// Bundle directory; only given with `delete`.
    pub bundle: Option<PathBuf>,
}

/// A command line that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlagError {
    /// There is no such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// The value is missing.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// A switch has a value that is neither true nor false.
    #[error("invalid boolean value {value:?} for -{name}")]
    NoBool {
        /// The flag.
        name: String,
        /// Its value.
        value: String,
    },
    /// The first word is no action.
    #[error("unknown action {0:?}")]
    Action(String),
    /// A flag that the action cannot do without.
    #[error("flag -{0} is required")]
    Required(&'static str),
}

impl Flags {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// See [`FlagError`].
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, FlagError> {
        let mut args = args.into_iter();
        let mut flags = Self {
            action: Action::Serve,
            debug: false,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
        };
        let (mut version, mut info, mut word) = (false, false, None);
        while let Some(arg) = args.next() {
            let Some((name, inline)) = split(&arg) else {
                word = (arg != "--").then_some(arg).or_else(|| args.next());
                break;
            };
            match name {
                "debug" => flags.debug = switch(name, inline)?,
                "v" | "version" => version = switch(name, inline)?,
                "info" => info = switch(name, inline)?,
                "namespace" => flags.namespace = value(name, inline, &mut args)?,
                "id" => flags.id = value(name, inline, &mut args)?,
                "address" => flags.address = value(name, inline, &mut args)?,
                "bundle" => flags.bundle = Some(value(name, inline, &mut args)?.into()),
                // The publish binary is how containerd before 1.3 took events; the sockets come as a descriptor.
                "publish-binary" | "socket" | "debug-socket" => drop(value(name, inline, &mut args)?),
                other => return Err(FlagError::Unknown(other.to_owned())),
            }
        }
        flags.action = match word.as_deref() {
            _ if version => Action::Version,
            _ if info => Action::Info,
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            None | Some("") => Action::Serve,
            Some(other) => return Err(FlagError::Action(other.to_owned())),
        };
        flags.check()
    }

    fn check(self) -> Result<Self, FlagError> {
        let for_container = !matches!(self.action, Action::Version | Action::Info);
        if for_container && self.namespace.is_empty() {
            return Err(FlagError::Required("namespace"));
        }
        if for_container && self.id.is_empty() {
            return Err(FlagError::Required("id"));
        }
        Ok(self)
    }
}

/// The name and the value after `=`, or `None` for a word that is no flag.
fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    if name.is_empty() {
        return None;
    }
    Some(
        name.split_once('=')
            .map_or((name, None), |(name, value)| (name, Some(value))),
    )
}

fn switch(name: &str, inline: Option<&str>) -> Result<bool, FlagError> {
    match inline {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(FlagError::NoBool {
            name: name.to_owned(),
            value: value.to_owned(),
        }),
    }
}

fn value(
    name: &str,
    inline: Option<&str>,
    rest: &mut impl Iterator<Item = String>,
) -> Result<String, FlagError> {
    inline
        .map(str::to_owned)
        .or_else(|| rest.next())
        .ok_or_else(|| FlagError::NoValue(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerd_calls_start_like_this() {
        let flags = parse(
            "-namespace default -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd \
             -id c1 -debug start",
        )
        .unwrap();
        assert_eq!(flags.action, Action::Start);
        assert!(flags.debug);
        assert_eq!((flags.namespace.as_str(), flags.id.as_str()), ("default", "c1"));
        assert_eq!(flags.address, "/run/containerd/containerd.sock");
    }

    #[test]
    fn two_dashes_and_equal_signs_work_too() {
        let flags = parse("--namespace=a --id=b -debug=false -bundle=/x delete").unwrap();
        assert_eq!((flags.action, flags.debug), (Action::Delete, false));
        assert_eq!(flags.bundle, Some("/x".into()));
    }

    #[test]
    fn without_a_word_it_serves() {
        assert_eq!(parse("-namespace a -id b").unwrap().action, Action::Serve);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("-nope"), Err(FlagError::Unknown("nope".into())));
        assert_eq!(parse("-namespace a -id"), Err(FlagError::NoValue("id".into())));
        assert_eq!(
            parse("-namespace a -id b fly"),
            Err(FlagError::Action("fly".into()))
        );
        assert_eq!(parse("start"), Err(FlagError::Required("namespace")));
        assert_eq!(parse("-namespace a start"), Err(FlagError::Required("id")));
        assert!(matches!(parse("-debug=maybe"), Err(FlagError::NoBool { .. })));
    }
}
