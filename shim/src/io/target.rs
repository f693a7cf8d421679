//! What containerd names as standard streams.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use url::Url;

/// The streams of one process, as the request has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    /// FIFO to read; empty for none.
    pub stdin: String,
    /// FIFO, file or URI to write; empty for none.
    pub stdout: String,
    /// FIFO or file to write; empty for none.
    pub stderr: String,
    /// The process gets a pty.
    pub terminal: bool,
}

/// Where output goes. Standard output decides for both.
#[derive(Debug, PartialEq, Eq)]
pub enum Scheme {
    /// FIFOs or existing files, each stream to its own.
    Fifo,
    /// One file for both streams, made if need be.
    File(PathBuf),
    /// A program that reads both streams.
    Binary(Program),
}

/// A logging program.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments: names and values of the URI's query.
    pub args: Vec<String>,
    /// It says when it is ready; without this it may also just close the pipe.
    pub must_answer: bool,
}

impl Spec {
    /// Where output goes.
    ///
    /// # Errors
    /// `Unsupported` for a scheme that is not known, `InvalidInput` for a URI that is none.
    pub fn scheme(&self) -> io::Result<Scheme> {
        let Some((scheme, _)) = self.stdout.split_once("://") else {
            return Ok(Scheme::Fifo);
        };
        if scheme == "fifo" {
            return Ok(Scheme::Fifo);
        }
        let url =
            Url::parse(&self.stdout).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let path = PathBuf::from(decode(url.path()));
        match scheme {
            "file" => Ok(Scheme::File(path)),
            "binary" | "binary-v2" => {
                let args = url
                    .query_pairs()
                    .flat_map(|(key, value)| [key, value])
                    .map(Cow::into_owned)
                    .filter(|arg| !arg.is_empty())
                    .collect();
                Ok(Scheme::Binary(Program {
                    path,
                    args,
                    must_answer: scheme == "binary-v2",
                }))
            }
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("unknown STDIO scheme {other}"),
            )),
        }
    }

    /// The path of standard output, without `fifo://`.
    #[must_use]
    pub fn stdout_path(&self) -> String {
        self.stdout
            .strip_prefix("fifo://")
            .unwrap_or(&self.stdout)
            .to_owned()
    }
}

/// Undoes percent encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match tail {
            [a, b, ..] if *first == b'%' => hex(*a).zip(hex(*b)),
            _ => None,
        };
        if let Some((high, low)) = code {
            bytes.push(high << 4 | low);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(stdout: &str) -> io::Result<Scheme> {
        Spec {
            stdout: stdout.into(),
            ..Spec::default()
        }
        .scheme()
    }

    #[test]
    fn plain_paths_and_nothing_are_fifos() {
        assert_eq!(scheme("").unwrap(), Scheme::Fifo);
        assert_eq!(scheme("/run/x-stdout").unwrap(), Scheme::Fifo);
        assert_eq!(scheme("fifo:///run/x").unwrap(), Scheme::Fifo);
    }

    #[test]
    fn files() {
        assert_eq!(
            scheme("file:///var/log/a%20b.log").unwrap(),
            Scheme::File("/var/log/a b.log".into())
        );
    }

    #[test]
    fn a_program_gets_the_query_as_arguments() {
        let Scheme::Binary(program) =
            scheme("binary:///bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib").unwrap()
        else {
            panic!("it is a program")
        };
        assert_eq!(program.path, PathBuf::from("/bin/nerdctl"));
        assert_eq!(program.args, ["_NERDCTL_INTERNAL_LOGGING", "/var/lib"]);
        assert!(!program.must_answer);
    }

    #[test]
    fn other_schemes_are_refused() {
        assert_eq!(
            scheme("npipe:////./x").unwrap_err().kind(),
            io::ErrorKind::Unsupported
        );
    }
}
