//! One capture per key in the whole cluster: who has the lease captures, the others leave it alone.
//!
//! A lease is a small document beside the keys. It says who has it and until when, and its holder renews it; so that of
//! one who was killed runs out by itself. Every write of it is on a condition: that there is none, or that it still is
//! the one that was read. So of all who find it run out one gets it, and a holder that was too slow to renew can neither
//! renew nor give back what is somebody else's by then. It is given back by writing that nobody has it: a removal knows
//! no conditions, and could take away what others hold. Times are of the nodes' wall clocks. A clock that is wrong by
//! more than the lease can cost a second capture, and so can a server that knows no conditions; nothing else: the
//! snapshot too is written only where there is none.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_snapshot::Key;
use thaw_store::{KeyPath, KeyVersion, Published, PutMode, Store, StoreError};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::uuid;

/// The most that is read of a lease in bytes.
const LIMIT: u64 = 4096;

/// The longest name of an owner in characters.
const OWNER_LIMIT: usize = 256;

/// How often a lease is read and written again when somebody else was quicker.
const TRIES: usize = 4;

/// No lease holds longer from now on, whatever it says: somebody's clock is wrong.
const LONGEST: i64 = 24 * 3600;

/// What stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    format: u32,
    /// Who holds it: host name, namespace and container id, process id.
    owner: String,
    /// Another one in every try to take a lease. A client asks again when an answer is lost, and then hears that the
    /// document is there, or is another one: by this it knows its own.
    #[serde(default)]
    token: String,
    /// Seconds since 1970.
    expires: i64,
    /// The code of the failure after which nobody is to try again before `expires`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

/// A document as it was read.
#[derive(Debug)]
struct Found {
    document: Document,
    /// `None` when it was too large to be read.
    version: Option<KeyVersion>,
}

/// Who has the lease.
#[derive(Debug)]
pub(super) enum Taken {
    /// We.
    Ours(Lease),
    /// Somebody else, until then; with the code of a failure nobody does, and the key is to be left alone.
    Theirs { owner: String, failed: Option<String> },
}

/// A lease that we hold; renewed until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    held: Held,
    /// Ends the renewal when it is dropped, but not in the middle of a write, which would go on in the background.
    ended: oneshot::Sender<()>,
    renewal: JoinHandle<()>,
}

/// Takes the lease, if nobody has it.
pub(super) async fn take(
    store: &Arc<dyn Store>,
    key: &Key,
    owner: &str,
    length: Duration,
) -> Result<Taken, StoreError> {
    let held = Held {
        store: Arc::clone(store),
        path: KeyPath::of_lease(key),
        owner: owner.chars().take(OWNER_LIMIT).collect(),
        token: uuid::new().unwrap_or_else(|_no_proc| owner.to_owned()),
    };
    for _ in 0..TRIES {
        let mode = match held.read().await? {
            None => PutMode::IfAbsent,
            Some(Found { document, .. }) if document.token == held.token => {
                return Ok(Taken::Ours(Lease::hold(held, length)));
            }
            Some(Found { document, .. }) if left(&document, now()).is_some() => {
                let Document { owner, failed, .. } = document;
                return Ok(Taken::Theirs { owner, failed });
            }
            Some(Found { version, .. }) => version.map_or(PutMode::Replace, PutMode::IfStill),
        };
        let mine = held.document(length, None);
        if store.put_key(&held.path, mine, mode).await? == Published::Published {
            return Ok(Taken::Ours(Lease::hold(held, length)));
        }
    }
    Ok(Taken::Theirs {
        owner: "others, who were always quicker".to_owned(),
        failed: None,
    })
}

impl Lease {
    fn hold(held: Held, length: Duration) -> Self {
        let (ended, end) = oneshot::channel();
        let renewal = tokio::spawn(held.clone().renew(length, end));
        Self { held, ended, renewal }
    }

    /// Gives it back.
    pub(super) async fn release(self) {
        let held = self.end().await;
        let document = held.document(Duration::ZERO, None);
        match held.write(document).await {
            Ok(true) => {}
            Ok(false) => log::warn!("the lease on the capture had run out, and was somebody else's by now"),
            Err(error) => log::warn!("give back the lease: {}", crate::words::chain(&error)),
        }
    }

    /// Leaves it as a mark that nobody is to try again for a while.
    pub(super) async fn fail(self, code: &str, rest: Duration) {
        let held = self.end().await;
        let mark = held.document(rest, Some(code));
        match held.write(mark).await {
            Ok(true) => {}
            // Who has it now will see for itself.
            Ok(false) => log::warn!("the lease on the capture had run out, and was somebody else's by now"),
            Err(error) => log::warn!("mark the failure: {}", crate::words::chain(&error)),
        }
    }

    /// Ends the renewal.
    async fn end(self) -> Held {
        drop(self.ended);
        if self.renewal.await.is_err() {
            log::warn!("the task that renews the lease has died");
        }
        self.held
    }
}

/// A lease that we have, or had.
#[derive(Debug, Clone)]
struct Held {
    store: Arc<dyn Store>,
    path: KeyPath,
    owner: String,
    token: String,
}

impl Held {
    /// `None` where there is none. What can't be understood is a lease that has run out.
    async fn read(&self) -> Result<Option<Found>, StoreError> {
        match self.store.get_key_version(&self.path, LIMIT).await {
            Ok(found) => Ok(found.map(|(bytes, version)| Found {
                document: parse(&bytes),
                version: Some(version),
            })),
            Err(StoreError::TooLarge { .. }) => Ok(Some(Found {
                document: parse(b""),
                version: None,
            })),
            Err(error) => Err(error),
        }
    }

    /// Writes the document in the place of our own; says no when that is not there any more.
    async fn write(&self, document: bytes::Bytes) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            let ours = self
                .read()
                .await?
                .filter(|found| found.document.token == self.token);
            let Some(version) = ours.and_then(|found| found.version) else {
                return Ok(false);
            };
            let put = self
                .store
                .put_key(&self.path, document.clone(), PutMode::IfStill(version));
            if put.await? == Published::Published {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn renew(self, length: Duration, mut end: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(length / 3) => {}
                _ = &mut end => return,
            }
            match self.write(self.document(length, None)).await {
                Ok(true) => {}
                Ok(false) => {
                    log::warn!("the lease on the capture has run out, and somebody else has it");
                    return;
                }
                Err(error) => log::warn!("renew the lease: {}", crate::words::chain(&error)),
            }
        }
    }

    /// The lease for so long from now on; for no time at all it is nobody's.
    fn document(&self, length: Duration, failed: Option<&str>) -> bytes::Bytes {
        let seconds = i64::try_from(length.as_secs()).unwrap_or(LONGEST);
        let expires = if length.is_zero() {
            0
        } else {
            // A second more: times are whole seconds, and a lease of less than one would never hold.
            now().saturating_add(seconds).saturating_add(1)
        };
        let document = Document {
            format: 1,
            owner: self.owner.clone(),
            token: self.token.clone(),
            expires,
            failed: failed.map(str::to_owned),
        };
        // Strings and numbers always become JSON.
        serde_json::to_vec(&document).unwrap_or_default().into()
    }
}

/// What can't be understood is a lease that has run out.
fn parse(bytes: &[u8]) -> Document {
    serde_json::from_slice(bytes).unwrap_or(Document {
        format: 1,
        owner: String::new(),
        token: String::new(),
        expires: i64::MIN,
        failed: None,
    })
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// For how many seconds from `now` on it holds; `None` when it doesn't.
fn left(found: &Document, now: i64) -> Option<i64> {
    let left = found.expires.saturating_sub(now);
    (1..=LONGEST).contains(&left).then_some(left)
}

/// Owner, failure and seconds that are left of a lease that holds.
#[cfg(feature = "parsers")]
pub(crate) fn that_holds(bytes: &[u8], now: i64) -> Option<(String, Option<String>, i64)> {
    let document = parse(bytes);
    let left = left(&document, now)?;
    Some((document.owner, document.failed, left))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::Path;

    use bytes::Bytes;
    use tempfile::TempDir;
    use thaw_snapshot::Digest;
    use thaw_store::{BlobRead, Uploaded};

    use super::*;

    fn key() -> Key {
        Key {
            scope: "default".to_owned(),
            platform: "linux-amd64".to_owned(),
            config: Digest::of(b"image"),
            fingerprint: Digest::of(b"spec"),
        }
    }

    async fn store(directory: &TempDir) -> Arc<dyn Store> {
        let url = format!("file://{}", directory.path().display()).parse().unwrap();
        let store = thaw_store::open(&url, &thaw_store::StoreOptions::default()).await;
        store.unwrap()
    }

    async fn ours(store: &Arc<dyn Store>, owner: &str) -> Option<Lease> {
        match take(store, &key(), owner, Duration::from_secs(60)).await.unwrap() {
            Taken::Ours(lease) => Some(lease),
            Taken::Theirs { .. } => None,
        }
    }

    /// As if its holder had been killed, or had slept, long ago.
    async fn let_run_out(lease: &Lease) {
        let gone = lease.held.document(Duration::ZERO, None);
        let put = lease.held.store.put_key(&lease.held.path, gone, PutMode::Replace);
        put.await.unwrap();
    }

    async fn put(store: &Arc<dyn Store>, text: String) {
        let path = KeyPath::of_lease(&key());
        store.put_key(&path, text.into(), PutMode::Replace).await.unwrap();
    }

    async fn holder(store: &Arc<dyn Store>) -> String {
        match take(store, &key(), "who asks", Duration::from_secs(60))
            .await
            .unwrap()
        {
            Taken::Ours(_) => panic!("nobody holds it"),
            Taken::Theirs { owner, .. } => owner,
        }
    }

    #[tokio::test]
    async fn one_holds_it_until_it_is_given_back() {
        let directory = TempDir::new().unwrap();
        let store = store(&directory).await;
        let first = ours(&store, "a").await.unwrap();
        assert!(ours(&store, "b").await.is_none());
        first.release().await;
        let second = ours(&store, "b").await.unwrap();
        second.fail("proof_failed", Duration::from_secs(60)).await;
        let Taken::Theirs { failed, .. } = take(&store, &key(), "c", Duration::from_secs(60)).await.unwrap()
        else {
            panic!("a failure is left alone");
        };
        assert_eq!(failed.as_deref(), Some("proof_failed"));
    }

    #[tokio::test]
    async fn of_many_one_follows_a_lease_that_has_run_out() {
        let directory = TempDir::new().unwrap();
        let store = store(&directory).await;
        let dead = ours(&store, "a").await.unwrap();
        let_run_out(&dead).await;
        drop(dead);
        let mut tasks = tokio::task::JoinSet::new();
        for owner in ["b", "c", "d", "e"] {
            let store = Arc::clone(&store);
            tasks.spawn(async move { ours(&store, owner).await });
        }
        let winners = tasks.join_all().await;
        let mut winners: Vec<Lease> = winners.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        winners.remove(0).release().await;
        assert!(ours(&store, "f").await.is_some());
    }

    #[tokio::test]
    async fn a_holder_that_was_too_slow_leaves_alone_what_is_another_s() {
        let directory = TempDir::new().unwrap();
        let store = store(&directory).await;
        for slow in ["gives back", "has failed", "renews"] {
            let first = ours(&store, slow).await.unwrap();
            let_run_out(&first).await;
            let second = ours(&store, "b").await.unwrap();
            match slow {
                "gives back" => first.release().await,
                "has failed" => first.fail("proof_failed", Duration::from_secs(60)).await,
                _ => {
                    let renewed = first.held.document(Duration::from_secs(60), None);
                    assert!(!first.held.write(renewed).await.unwrap());
                }
            }
            assert_eq!(holder(&store).await, "b", "{slow}");
            second.release().await;
        }
    }

    #[tokio::test]
    async fn it_is_renewed_until_it_is_given_back() {
        let directory = TempDir::new().unwrap();
        let store = store(&directory).await;
        let short = Duration::from_millis(300);
        let Taken::Ours(lease) = take(&store, &key(), "a", short).await.unwrap() else {
            panic!("it is free");
        };
        let_run_out(&lease).await;
        let path = KeyPath::of_lease(&key());
        for _ in 0..500 {
            let bytes = store.get_key(&path, LIMIT).await.unwrap().unwrap();
            if left(&parse(&bytes), now()).is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(holder(&store).await, "a");
        lease.release().await;
        assert!(ours(&store, "b").await.is_some());
    }

    /// A store whose first answer to a write is lost; the client asks again, and hears what it then must.
    #[derive(Debug)]
    struct Lossy(Arc<dyn Store>);

    #[async_trait::async_trait]
    impl Store for Lossy {
        fn url(&self) -> &str {
            self.0.url()
        }

        async fn get_key(&self, key: &KeyPath, limit: u64) -> Result<Option<Bytes>, StoreError> {
            self.0.get_key(key, limit).await
        }

        async fn get_key_version(
            &self,
            key: &KeyPath,
            limit: u64,
        ) -> Result<Option<(Bytes, KeyVersion)>, StoreError> {
            self.0.get_key_version(key, limit).await
        }

        async fn put_key(
            &self,
            key: &KeyPath,
            document: Bytes,
            mode: PutMode,
        ) -> Result<Published, StoreError> {
            self.0.put_key(key, document.clone(), mode.clone()).await?;
            self.0.put_key(key, document, mode).await
        }

        async fn list_keys(&self) -> Result<Vec<KeyPath>, StoreError> {
            self.0.list_keys().await
        }

        async fn delete_key(&self, key: &KeyPath) -> Result<(), StoreError> {
            self.0.delete_key(key).await
        }

        async fn head_blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
            self.0.head_blob(digest).await
        }

        async fn read_blob(
            &self,
            digest: &Digest,
            size: u64,
            range: Range<u64>,
        ) -> Result<BlobRead, StoreError> {
            self.0.read_blob(digest, size, range).await
        }

        async fn put_blob(&self, digest: &Digest, file: &Path) -> Result<Uploaded, StoreError> {
            self.0.put_blob(digest, file).await
        }

        async fn delete_blob(&self, digest: &Digest) -> Result<(), StoreError> {
            self.0.delete_blob(digest).await
        }
    }

    #[tokio::test]
    async fn a_lost_answer_costs_nobody_the_lease() {
        let directory = TempDir::new().unwrap();
        let lossy: Arc<dyn Store> = Arc::new(Lossy(store(&directory).await));
        let _lease = ours(&lossy, "a").await.unwrap();
        assert!(ours(&lossy, "b").await.is_none());
    }

    #[tokio::test]
    async fn a_lease_that_says_nonsense_has_run_out() {
        let directory = TempDir::new().unwrap();
        let store = store(&directory).await;
        let far = format!(r#"{{"format":1,"owner":"x","expires":{}}}"#, i64::MAX);
        let large = " ".repeat(5000);
        for text in ["", "[]", far.as_str(), large.as_str()] {
            put(&store, text.to_owned()).await;
            let lease = ours(&store, "a").await.unwrap();
            assert_eq!(holder(&store).await, "a");
            lease.release().await;
        }
    }
}
