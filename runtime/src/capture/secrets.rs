//! What a snapshot should not hold: well-known secrets in the environment, private keys in memory.
//!
//! The environment is looked at before the dump, so that a refusal costs the application nothing. Memory can be searched
//! only when it has been dumped, and a dump that was to end the application has done so by then: such a capture is
//! refused before it begins.
//!
//! This finds what has a name that everybody knows. It can't find a password in a heap, so finding nothing says little.
//! Values are never kept, let alone said.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use thaw_config::NodeConfig;

use super::find::Donor;
use super::read::Checked;
use super::{CaptureError, Refusal, Request};
use crate::task::tree;

/// Ends of names of variables that hold secrets, in capitals.
const ENDS: [&str; 14] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "SECRETS",
    "SECRET_KEY",
    "SECRET_KEY_BASE",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "API_KEY",
    "APIKEY",
    "TOKEN",
    "CREDENTIALS",
    "_PWD",
];

/// Names that are known as a whole; the URLs hold a password as a rule.
const NAMES: [&str; 4] = ["DATABASE_URL", "REDIS_URL", "AMQP_URL", "MONGODB_URI"];

/// The largest environment that is read in bytes.
const ENVIRONMENT_LIMIT: u64 = 1 << 20;

/// Before the kind of a key in PEM (RFC 7468).
const BEGIN: &[u8] = b"-----BEGIN ";
/// After it.
const KEY: &[u8] = b"PRIVATE KEY-----";
/// Longest kind, as in `ENCRYPTED `, in bytes.
const KIND: usize = 16;
/// So many characters of a key must follow. Libraries hold the header as a constant, with something else behind it.
const BODY: usize = 40;
/// What is looked at behind the first byte of a header.
const WINDOW: usize = BEGIN.len() + KIND + KEY.len() + 2 + BODY;
/// What is read at once in bytes.
const CHUNK: usize = 1 << 20;

/// What becomes of secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// They are said.
    Warn,
    /// Nothing is published.
    Refuse,
}

impl Rule {
    /// The rule for this capture.
    ///
    /// # Errors
    /// [`Refusal::StopUnsearched`] when it can't be kept without a loss.
    pub(super) fn of(config: &NodeConfig, request: &Request) -> Result<Self, CaptureError> {
        if !request.refuse_secrets && !config.capture.refuse_secrets {
            return Ok(Self::Warn);
        }
        if request.stop {
            return Err(CaptureError::Refused(Refusal::StopUnsearched));
        }
        Ok(Self::Refuse)
    }

    fn apply(self, found: Vec<String>) -> Result<Vec<String>, CaptureError> {
        match self {
            Self::Refuse if !found.is_empty() => Err(CaptureError::Refused(Refusal::Secrets { found })),
            _ => Ok(found),
        }
    }
}

/// What was found in the environment, before the dump; an error if that is to be refused.
pub(super) async fn in_environment(rule: Rule, donor: &Donor) -> Result<Vec<String>, CaptureError> {
    let pid = donor.pid;
    let asked = donor.bundle.spec.process().as_ref();
    let asked = asked
        .and_then(|process| process.env().clone())
        .unwrap_or_default();
    let work = tokio::task::spawn_blocking(move || environment(pid, &asked));
    let found = work.await.map_err(|_error| CaptureError::Thread {
        step: "look for secrets",
    })?;
    rule.apply(found)
}

/// What was found in the memory of the dump; an error if that is to be refused.
pub(super) async fn in_memory(rule: Rule, checked: &Checked) -> Result<Vec<String>, CaptureError> {
    let path = checked.directory.path().to_owned();
    let images = path.join("images");
    let work = tokio::task::spawn_blocking(move || keys(&images));
    let found = work
        .await
        .map_err(|_error| CaptureError::Thread {
            step: "look for secrets",
        })?
        .map_err(|source| CaptureError::Read { path, source })?;
    rule.apply(found)
}

/// Names of variables, of the spec and of each process.
fn environment(init: i32, asked: &[String]) -> Vec<String> {
    let mut names = BTreeSet::new();
    names.extend(asked.iter().filter_map(|variable| secret(variable.as_bytes())));
    for pid in tree(init) {
        let mut text = Vec::new();
        let read = File::open(format!("/proc/{pid}/environ"))
            .and_then(|file| file.take(ENVIRONMENT_LIMIT).read_to_end(&mut text));
        if read.is_ok() {
            names.extend(text.split(|byte| *byte == 0).filter_map(secret));
        }
    }
    names
        .into_iter()
        .map(|name| format!("the environment variable {name}"))
        .collect()
}

/// The name of a variable that holds a secret.
fn secret(variable: &[u8]) -> Option<String> {
    let at = variable.iter().position(|byte| *byte == b'=')?;
    let (name, value) = variable.split_at(at);
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= 128)?;
    let capitals = name.to_uppercase();
    let known = ENDS.iter().any(|end| capitals.ends_with(end)) || NAMES.contains(&capitals.as_str());
    // `=` alone: it is there and empty.
    (known && value.len() > 1).then(|| name.to_owned())
}

/// Page files with private keys in them.
fn keys(images: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(images)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("pages-") {
            let count = count_keys(File::open(entry.path())?)?;
            if count > 0 {
                found.push(format!("{count} private keys in memory ({name})"));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Bounded in memory: a chunk, and what a header at its end may go on with.
fn count_keys(mut file: impl Read) -> io::Result<usize> {
    let mut buffer = Vec::with_capacity(CHUNK + WINDOW);
    let mut count = 0;
    loop {
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
        let last = read == 0;
        let end = if last {
            buffer.len()
        } else {
            buffer.len().saturating_sub(WINDOW)
        };
        count += starts(&buffer[..], end)
            .filter(|at| is_key(&buffer[*at..]))
            .count();
        if last {
            return Ok(count);
        }
        buffer.drain(..end);
    }
}

/// Where a header may begin, before `end`.
fn starts(buffer: &[u8], end: usize) -> impl Iterator<Item = usize> + '_ {
    // Dashes are rare, so most of the memory is passed over by the search for one byte.
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < end {
            let next = at + buffer[at..end].iter().position(|byte| *byte == b'-')?;
            at = next + 1;
            if buffer[next..].starts_with(BEGIN) {
                return Some(next);
            }
        }
        None
    })
}

fn is_key(text: &[u8]) -> bool {
    let rest = &text[BEGIN.len()..];
    let kind = rest.len().min(KIND + KEY.len());
    let Some(at) = rest[..kind].windows(KEY.len()).position(|window| window == KEY) else {
        return false;
    };
    let body = &rest[at + KEY.len()..];
    let body = body.strip_prefix(b"\r").unwrap_or(body);
    let Some(body) = body.strip_prefix(b"\n").and_then(|body| body.get(..BODY)) else {
        return false;
    };
    body.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(kind: &str) -> Vec<u8> {
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ";
        format!("-----BEGIN {kind}PRIVATE KEY-----\n{body}\n").into_bytes()
    }

    #[test]
    fn well_known_names_are_found_and_values_are_not_said() {
        for variable in [
            "DB_PASSWORD=x",
            "SECRET_KEY_BASE=x",
            "github_token=x",
            "DATABASE_URL=postgres://x",
        ] {
            let name = variable.split('=').next().map(str::to_owned);
            assert_eq!(secret(variable.as_bytes()), name, "{variable}");
        }
        for variable in [
            "PATH=/bin",
            "DB_PASSWORD=",
            "DB_PASSWORD_FILE=/run/x",
            "PWD=/",
            "OLDPWD=/",
            "TOKEN",
        ] {
            assert_eq!(secret(variable.as_bytes()), None, "{variable}");
        }
    }

    #[test]
    fn environments_are_those_of_the_spec_and_of_the_processes() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env("DATABASE_URL", "postgres://x")
            .spawn()
            .unwrap();
        let asked = ["API_TOKEN=x".to_owned()];
        let wanted = ["API_TOKEN", "DATABASE_URL"].map(|name| format!("the environment variable {name}"));
        let mut found = Vec::new();
        // The kernel lets the parent go on before the child's environment can be read.
        for _ in 0..500 {
            found = environment(child.id().cast_signed(), &asked);
            if wanted.iter().all(|name| found.contains(name)) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(wanted.iter().all(|name| found.contains(name)), "{found:?}");
        assert!(!format!("{found:?}").contains("postgres"));
    }

    #[test]
    fn what_ends_the_application_is_not_refused_afterwards() {
        let request = |stop, refuse_secrets| Request {
            namespace: "default".to_owned(),
            id: "donor".to_owned(),
            shared: false,
            stop,
            helper: "/nowhere".into(),
            proof: false,
            refuse_secrets,
            mode: thaw_store::PutMode::Replace,
        };
        let mut node = NodeConfig::default();
        assert_eq!(Rule::of(&node, &request(true, false)).unwrap(), Rule::Warn);
        assert_eq!(Rule::of(&node, &request(false, true)).unwrap(), Rule::Refuse);
        let unsearched = |node: &NodeConfig, refuse| {
            let error = Rule::of(node, &request(true, refuse)).unwrap_err();
            matches!(error, CaptureError::Refused(Refusal::StopUnsearched))
        };
        assert!(unsearched(&node, true));
        node.capture.refuse_secrets = true;
        assert!(unsearched(&node, false));
    }

    #[test]
    fn keys_are_found_wherever_they_lie() {
        for kind in ["", "RSA ", "ENCRYPTED ", "OPENSSH "] {
            let key = pem(kind);
            for before in [0, 1, CHUNK - 200, CHUNK - 60, CHUNK - 5, CHUNK, 2 * CHUNK - 30] {
                let mut memory = vec![b'-'; before];
                memory.extend(&key);
                memory.resize(memory.len() + 300, 0);
                assert_eq!(count_keys(&*memory).unwrap(), 1, "{kind}at {before}");
            }
        }
        let mut constant = b"-----BEGIN RSA PRIVATE KEY-----\0-----END".to_vec();
        constant.resize(4096, b'A');
        assert_eq!(count_keys(&*constant).unwrap(), 0);
        assert_eq!(count_keys(&pem("")[..30]).unwrap(), 0);
    }
}
