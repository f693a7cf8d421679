//! One capture per key in the whole cluster: who has the lease captures, the others leave it alone.
//!
//! A lease is a small document beside the keys, written only where there is none (`If-None-Match: *`). It says until
//! when it holds, and its holder renews it; so one whose holder was killed runs out by itself. One that has run out is
//! not removed but followed by the next generation, again written only where there is none: of all who find it run
//! out, one gets it. Times are of the nodes' wall clocks, so a clock that is wrong by more than the lease can cost a
//! second capture, and nothing else: the snapshot too is written only where there is none.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_snapshot::Key;
use thaw_store::{KeyPath, Published, PutMode, Store, StoreError};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use crate::uuid;

/// The most that is read of a lease in bytes.
const LIMIT: u64 = 4096;

/// As many leases of one key may run out before the count begins anew.
const GENERATIONS: u32 = 32;

/// No lease holds longer from now on, whatever it says: somebody's clock is wrong.
const LONGEST: i64 = 24 * 3600;

/// What stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    format: u32,
    /// Who holds it: host name, namespace and container id, process id.
    owner: String,
    /// Another one in every try to take a lease. A client asks again when an answer is lost, and then hears that the
    /// document is there: by this it knows its own.
    #[serde(default)]
    token: String,
    /// Seconds since 1970.
    expires: i64,
    /// The code of the failure after which nobody is to try again before `expires`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

/// Who has the lease.
#[derive(Debug)]
pub(super) enum Taken {
    /// We.
    Ours(Lease),
    /// Somebody else, until then; with the code of a failure nobody does, and the key is to be left alone.
    Theirs { owner: String, failed: Option<String> },
}

/// What tells a lease of ours from others.
#[derive(Debug, Clone)]
struct Holder {
    owner: String,
    token: String,
}

/// A lease that we hold; renewed until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    store: Arc<dyn Store>,
    key: Key,
    generation: u32,
    holder: Holder,
    renewal: JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Takes the lease, if nobody has it.
pub(super) async fn take(
    store: &Arc<dyn Store>,
    key: &Key,
    owner: &str,
    length: Duration,
) -> Result<Taken, StoreError> {
    let holder = Holder {
        owner: owner.chars().take(256).collect(),
        // Empty, it is taken for nobody's.
        token: uuid::new().unwrap_or_default(),
    };
    for generation in 0..GENERATIONS {
        let path = KeyPath::of_lease(key, generation);
        // Twice: somebody may write one between our look and our own.
        for _ in 0..2 {
            if let Some(found) = read(&**store, &path).await? {
                if !holder.token.is_empty() && found.token == holder.token {
                    return Ok(Taken::Ours(Lease::hold(store, key, generation, holder, length)));
                }
                if holds(&found) {
                    let Document { owner, failed, .. } = found;
                    return Ok(Taken::Theirs { owner, failed });
                }
                break;
            }
            let mine = document(&holder, length, None);
            if store.put_key(&path, mine, PutMode::IfAbsent).await? == Published::Published {
                return Ok(Taken::Ours(Lease::hold(store, key, generation, holder, length)));
            }
        }
    }
    // Each of them was killed at work: begin anew, at the next try.
    remove(&**store, key, GENERATIONS - 1).await?;
    Ok(Taken::Theirs {
        owner: "nobody: all leases had run out".to_owned(),
        failed: None,
    })
}

impl Lease {
    fn hold(store: &Arc<dyn Store>, key: &Key, generation: u32, holder: Holder, length: Duration) -> Self {
        let renewal = tokio::spawn(renew(
            Arc::clone(store),
            key.clone(),
            generation,
            holder.clone(),
            length,
        ));
        Self {
            store: Arc::clone(store),
            key: key.clone(),
            generation,
            holder,
            renewal,
        }
    }

    /// Gives it back.
    pub(super) async fn release(self) {
        self.renewal.abort();
        let given = async {
            if self.is_followed().await? {
                return Ok(());
            }
            remove(&*self.store, &self.key, self.generation).await
        };
        if let Err(error) = given.await {
            log::warn!("give back the lease: {}", crate::words::chain(&error));
        }
    }

    /// Leaves it as a mark that nobody is to try again for a while.
    pub(super) async fn fail(self, code: &str, rest: Duration) {
        self.renewal.abort();
        let path = KeyPath::of_lease(&self.key, self.generation);
        let mark = document(&self.holder, rest, Some(code));
        let marked = async {
            if self.is_followed().await? {
                return Ok(());
            }
            self.store.put_key(&path, mark, PutMode::Replace).await.map(drop)
        };
        if let Err(error) = marked.await {
            log::warn!("mark the failure: {}", crate::words::chain(&error));
        }
    }

    /// It had run out, and somebody has taken the next one: what stands below is theirs to remove.
    async fn is_followed(&self) -> Result<bool, StoreError> {
        let next = KeyPath::of_lease(&self.key, self.generation + 1);
        Ok(read(&*self.store, &next).await?.is_some())
    }
}

/// The latest goes first: one that looks meanwhile finds an older one, which has run out, and not a gap.
async fn remove(store: &dyn Store, key: &Key, latest: u32) -> Result<(), StoreError> {
    for generation in (0..=latest).rev() {
        store.delete_key(&KeyPath::of_lease(key, generation)).await?;
    }
    Ok(())
}

async fn renew(store: Arc<dyn Store>, key: Key, generation: u32, holder: Holder, length: Duration) {
    loop {
        tokio::time::sleep(length / 3).await;
        let next = read(&*store, &KeyPath::of_lease(&key, generation + 1)).await;
        if matches!(next, Ok(Some(_))) {
            log::warn!("the lease on the capture has run out, and somebody else has it");
            return;
        }
        let path = KeyPath::of_lease(&key, generation);
        let renewed = store.put_key(&path, document(&holder, length, None), PutMode::Replace);
        if let Err(error) = renewed.await {
            log::warn!("renew the lease: {}", crate::words::chain(&error));
        }
    }
}

/// `None` where there is none. What can't be understood is a lease that has run out.
async fn read(store: &dyn Store, path: &KeyPath) -> Result<Option<Document>, StoreError> {
    let run_out = Document {
        format: 1,
        owner: String::new(),
        token: String::new(),
        expires: 0,
        failed: None,
    };
    Ok(match store.get_key(path, LIMIT).await {
        Ok(found) => found.map(|bytes| serde_json::from_slice(&bytes).unwrap_or(run_out)),
        Err(StoreError::TooLarge { .. }) => Some(run_out),
        Err(error) => return Err(error),
    })
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn holds(found: &Document) -> bool {
    let left = found.expires.saturating_sub(now());
    (1..=LONGEST).contains(&left)
}

fn document(holder: &Holder, length: Duration, failed: Option<&str>) -> bytes::Bytes {
    // A second more: times are whole seconds, and a lease of less than one would never hold.
    let seconds = i64::try_from(length.as_secs())
        .unwrap_or(LONGEST)
        .saturating_add(1);
    let document = Document {
        format: 1,
        owner: holder.owner.clone(),
        token: holder.token.clone(),
        expires: now().saturating_add(seconds),
        failed: failed.map(str::to_owned),
    };
    // Strings and numbers always become JSON.
    serde_json::to_vec(&document).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::Path;

    use bytes::Bytes;
    use tempfile::TempDir;
    use thaw_snapshot::Digest;
    use thaw_store::{BlobRead, KeyVersion, Uploaded};

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

    /// As if its holder had been killed long ago.
    async fn let_run_out(store: &Arc<dyn Store>, generation: u32) {
        let path = KeyPath::of_lease(&key(), generation);
        let text = r#"{"format":1,"owner":"dead","expires":1}"#;
        store.put_key(&path, text.into(), PutMode::Replace).await.unwrap();
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
        drop(ours(&store, "a").await);
        let_run_out(&store, 0).await;
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
    async fn one_that_was_followed_leaves_the_next_alone() {
        let directory = TempDir::new().unwrap();
        let store = store(&directory);
        let slow = ours(&store, "slow").await.unwrap();
        let_run_out(&store, 0).await;
        let next = ours(&store, "next").await.unwrap();
        assert_eq!(next.generation, 1);
        slow.release().await;
        assert!(ours(&store, "third").await.is_none());
        next.release().await;
        assert!(ours(&store, "third").await.is_some());
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
        let lossy: Arc<dyn Store> = Arc::new(Lossy(store(&directory)));
        let lease = ours(&lossy, "a").await.unwrap();
        assert_eq!(lease.generation, 0);
        assert!(ours(&lossy, "b").await.is_none());
    }

    #[tokio::test]
    async fn a_lease_that_says_nonsense_has_run_out() {
        let directory = TempDir::new().unwrap();
        let store = store(&directory).await;
        let far = format!(r#"{{"format":1,"owner":"x","expires":{}}}"#, i64::MAX);
        for text in ["", "[]", far.as_str()] {
            let path = KeyPath::of_lease(&key(), 0);
            let put = store.put_key(&path, text.to_owned().into(), PutMode::Replace);
            put.await.unwrap();
            let lease = ours(&store, "a").await.unwrap();
            assert_eq!(lease.generation, 1);
            lease.release().await;
        }
        for generation in 0..GENERATIONS {
            let_run_out(&store, generation).await;
        }
        assert!(ours(&store, "a").await.is_none());
        assert!(ours(&store, "a").await.is_some());
    }
}
