//! Writing a key document only if it is still the one that was read.

use std::fs::File;
use std::io;
use std::path::Path as FsPath;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutOptions, UpdateVersion};
use thaw_snapshot::{Digest, MAX_DOCUMENT};

use super::error::transport_kind;
use super::local::{self, SmallFile};

/// A state of a key document: when it is written again, it has another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersion {
    pub(super) content: Digest,
    pub(super) e_tag: Option<String>,
    pub(super) version: Option<String>,
}

/// How long another writer may hold the directory; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes where the server compares. One that can't compare is told to write all the same: it is the same race that a
/// plain write is.
///
/// # Errors
/// What the client says; `Precondition` when the document is another one by now.
pub(super) async fn at_server(
    client: &dyn ObjectStore,
    path: &Path,
    document: Bytes,
    expected: &KeyVersion,
) -> object_store::Result<()> {
    let options = PutOptions {
        mode: object_store::PutMode::Update(UpdateVersion {
            e_tag: expected.e_tag.clone(),
            version: expected.version.clone(),
        }),
        ..PutOptions::default()
    };
    let known = expected.e_tag.is_some() || expected.version.is_some();
    if known {
        match client.put_opts(path, document.clone().into(), options).await {
            Ok(_) => return Ok(()),
            Err(error @ object_store::Error::Precondition { .. }) => return Err(error),
            // Removed meanwhile.
            Err(object_store::Error::NotFound { path, source }) => {
                return Err(object_store::Error::Precondition { path, source });
            }
            // It may have been written, or the server is out: that says nothing of what the server can do.
            Err(error) if transport_kind(&error).is_some() => return Err(error),
            Err(error) => log::debug!("write {path} on a condition: {error}"),
        }
    }
    client.put(path, document.into()).await.map(|_| ())
}

/// A directory where nobody else changes a document meanwhile, for as long as this lives. Only those who change a
/// document that they have read take it.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "holds the lock")] File);

impl Turn {
    /// Waits for the turn, for a document at `file`. Blocks.
    ///
    /// # Errors
    /// What the kernel answered; `TimedOut` when somebody does not let go.
    fn take(file: &FsPath) -> io::Result<Self> {
        let directory = File::open(file.parent().unwrap_or(file))?;
        let until = Instant::now() + PATIENCE;
        loop {
            match directory.try_lock() {
                Ok(()) => return Ok(Self(directory)),
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(io::Error::from(io::ErrorKind::TimedOut));
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// The turn to replace the document at `file`; `None` when it is not the one that was read any more. Blocks.
    ///
    /// # Errors
    /// What the kernel answered; `TimedOut` when somebody does not let go.
    pub(super) fn to_replace(file: &FsPath, expected: &KeyVersion) -> io::Result<Option<Self>> {
        let turn = match Self::take(file) {
            // The last document of its directory was removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            turn => turn?,
        };
        Ok(is_still(file, expected)?.then_some(turn))
    }
}

/// Whether the document at `file` is still the one that was read.
fn is_still(file: &FsPath, expected: &KeyVersion) -> io::Result<bool> {
    Ok(match local::read_small(file, MAX_DOCUMENT as u64)? {
        SmallFile::Bytes(bytes) => Digest::of(&bytes) == expected.content,
        SmallFile::Missing | SmallFile::TooLarge => false,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;

    use url::Url;

    use super::*;
    use crate::StoreOptions;
    use crate::store::s3;

    /// It would write over what somebody else has put there meanwhile.
    #[tokio::test]
    async fn a_condition_is_kept_when_the_connection_breaks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = StoreOptions {
            endpoint: Some(Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()),
            max_retries: 0,
            ..StoreOptions::default()
        };
        let (asked, asks) = mpsc::channel();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                asked.send(()).ok();
                drop(connection);
            }
        });
        let client = s3(&Url::parse("s3://bucket").unwrap(), &options)
            .with_access_key_id("id")
            .with_secret_access_key("hush");
        let read = KeyVersion {
            content: Digest::of(b""),
            e_tag: Some("\"x\"".to_owned()),
            version: None,
        };
        let path = Path::from("v1/keys/a");
        let written = at_server(&client.build().unwrap(), &path, Bytes::new(), &read).await;
        written.unwrap_err();
        assert_eq!(asks.try_iter().count(), 1);
    }
}
