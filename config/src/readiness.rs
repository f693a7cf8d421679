//! When a container is ready, and what it is sent before its snapshot is taken: the words of `thaw.dev/ready` and
//! `thaw.dev/warmup`.

use std::fmt;
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

/// Longest value of an annotation of ours in bytes.
const LONGEST: usize = 4096;

/// Longest path of a request in bytes.
const LONGEST_PATH: usize = 1024;

/// Most words of a command.
const MOST_WORDS: usize = 64;

/// Most memory that a compiled pattern and its tables take, in bytes: it is matched in the shim, which is small.
const PATTERN_MEMORY: usize = 256 << 10;

/// Most requests that a container is warmed up with.
const MOST_REQUESTS: u32 = 1000;

/// How to tell that an application is ready to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `http:PORT/PATH`: a GET is answered with a status of 200 to 399. Redirects are not followed.
    Http(Target),
    /// `tcp:PORT`: a connection is accepted.
    Tcp(u16),
    /// `exec:CMD ARG…`: the program, run in the container, ends with 0. Words are parted by spaces; there is no shell.
    Exec(Vec<String>),
    /// `log:REGEX`: a line of its output matches.
    Log(Pattern),
    /// `file`: the application has written `/run/thaw/ready`.
    File,
}

/// A request to the container itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// TCP port, not 0.
    pub port: u16,
    /// Path and query, beginning with `/`; printable ASCII without spaces.
    pub path: String,
}

/// Requests that are sent before the snapshot is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmup {
    /// Where to.
    pub target: Target,
    /// How many, one after the other.
    pub count: u32,
}

/// A pattern for a line of output, known to compile within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// What is wrong with the description of a probe or a warm-up. Repeats nothing of it.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadinessError {
    /// Not one of the kinds.
    #[error("not one of http:PORT/PATH, tcp:PORT, exec:CMD, log:REGEX, file")]
    Kind,
    /// Too long.
    #[error("longer than {LONGEST} bytes")]
    TooLong,
    /// Not a port.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// Not a path.
    #[error(
        "the path does not begin with /, has more than {LONGEST_PATH} bytes, or holds a space or a control character"
    )]
    Path,
    /// Not a command.
    #[error("not a command of 1 to {MOST_WORDS} words")]
    Command,
    /// Not a pattern.
    #[error("not a regular expression, or one that takes more than {PATTERN_MEMORY} bytes of memory")]
    Pattern,
    /// Not a warm-up.
    #[error("not http:PORT/PATH,N with N from 1 to {MOST_REQUESTS}")]
    Warmup,
}

impl FromStr for Probe {
    type Err = ReadinessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LONGEST {
            return Err(ReadinessError::TooLong);
        }
        if text == "file" {
            return Ok(Self::File);
        }
        match text.split_once(':') {
            Some(("http", target)) => target.parse().map(Self::Http),
            Some(("tcp", port)) => parse_port(port).map(Self::Tcp),
            Some(("exec", command)) => words(command).map(Self::Exec),
            Some(("log", pattern)) => Pattern::new(pattern).map(Self::Log),
            _ => Err(ReadinessError::Kind),
        }
    }
}

/// As it is written in the annotation.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(target) => write!(f, "http:{}{}", target.port, target.path),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Exec(words) => write!(f, "exec:{}", words.join(" ")),
            Self::Log(pattern) => write!(f, "log:{}", pattern.0),
            Self::File => f.write_str("file"),
        }
    }
}

/// `PORT/PATH`.
impl FromStr for Target {
    type Err = ReadinessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (port, path) = text.split_at(text.find('/').ok_or(ReadinessError::Path)?);
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || path.len() > LONGEST_PATH {
            return Err(ReadinessError::Path);
        }
        Ok(Self {
            port: parse_port(port)?,
            path: path.to_owned(),
        })
    }
}

/// `http:PORT/PATH,N`.
impl FromStr for Warmup {
    type Err = ReadinessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LONGEST {
            return Err(ReadinessError::TooLong);
        }
        let wrong = ReadinessError::Warmup;
        let (target, count) = text.rsplit_once(',').ok_or(wrong)?;
        let target = target.strip_prefix("http:").ok_or(wrong)?.parse()?;
        match digits(count) {
            Some(count @ 1..=MOST_REQUESTS) => Ok(Self { target, count }),
            _ => Err(wrong),
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, ReadinessError> {
        compile(text).map_err(|_source| ReadinessError::Pattern)?;
        Ok(Self(text.to_owned()))
    }

    /// Compiled for lines of bytes; classes such as `\w` are those of ASCII.
    ///
    /// # Errors
    /// None in practice: it has been compiled before.
    pub fn compile(&self) -> Result<Regex, regex::Error> {
        compile(&self.0)
    }
}

fn compile(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(PATTERN_MEMORY)
        .dfa_size_limit(PATTERN_MEMORY)
        .nest_limit(32)
        .build()
}

/// Digits only: `parse` takes a sign too.
fn digits(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn parse_port(text: &str) -> Result<u16, ReadinessError> {
    match digits(text).map(u16::try_from) {
        Some(Ok(port @ 1..)) => Ok(port),
        _ => Err(ReadinessError::Port),
    }
}

fn words(command: &str) -> Result<Vec<String>, ReadinessError> {
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() || words.len() > MOST_WORDS || command.contains('\0') {
        return Err(ReadinessError::Command);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_read_as_they_are_written() {
        for text in [
            "http:8000/healthz?x=1",
            "tcp:5432",
            "exec:/bin/check --ready now",
            "log:listening on \\d+",
            "file",
        ] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        let Ok(Probe::Log(pattern)) = "log:^ready: \\w+$".parse() else {
            panic!("a log probe");
        };
        assert!(pattern.compile().unwrap().is_match(b"ready: yes"));
    }

    #[test]
    fn nonsense_is_refused() {
        use ReadinessError::{Command, Kind, Path, Pattern, Port, TooLong};
        let long = format!("exec:{}", "x".repeat(LONGEST));
        for (text, error) in [
            ("", Kind),
            ("https:443/", Kind),
            ("file:/x", Kind),
            ("http:8000", Path),
            ("http:80/a b", Path),
            ("http:80/a\r\nX: y", Path),
            ("http:0/", Port),
            ("http:+80/", Port),
            ("http:127.0.0.1:80/", Port),
            ("tcp:65536", Port),
            ("tcp:", Port),
            ("exec: ", Command),
            ("exec:a\0b", Command),
            ("log:(", Pattern),
            ("log:(a{1000}){1000}", Pattern),
            (&long, TooLong),
        ] {
            assert_eq!(text.parse::<Probe>(), Err(error), "{text:.40}");
        }
    }

    #[test]
    fn a_warm_up_has_a_number() {
        let warmup: Warmup = "http:3000/a,b?c=1,20".parse().unwrap();
        assert_eq!((warmup.target.path.as_str(), warmup.count), ("/a,b?c=1", 20));
        for text in [
            "http:3000/",
            "http:3000/,0",
            "http:3000/,1001",
            "tcp:1,2",
            "http:3000/,+1",
        ] {
            assert!(text.parse::<Warmup>().is_err(), "{text}");
        }
    }
}
