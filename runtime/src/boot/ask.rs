//! The question to the store, at a price that a cold start can pay: see [`crate::outage`] and [`crate::misses`].

use std::sync::Arc;
use std::time::Duration;

use thaw_config::{NodeConfig, Policy, Scheme, StoreUrl};
use thaw_snapshot::{Key, KeyDocument};
use thaw_store::{LookupError, OpenError, Store, StoreError, StoreOptions};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::Reason;
use super::lookup::store_options;
use crate::misses::{Misses, Said};
use crate::notes;
use crate::outage::{self, Breaker, Permit};
use crate::words::chain;

/// A store, and what this node knows of it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    url: StoreUrl,
    options: StoreOptions,
    /// Opened when it is first asked: a client loads certificates, which takes longer than looking at all notes.
    store: Arc<OnceCell<Arc<dyn Store>>>,
    /// Of a directory too: a network file system that hangs answers as little as a server that does.
    breaker: Breaker,
    /// `None` for a directory, which as a rule answers as fast as a note can be read.
    misses: Option<Misses>,
}

impl Asked {
    /// The store of this container.
    pub(super) fn new(config: &NodeConfig, policy: &Policy) -> Self {
        let node = &config.store;
        let url = policy.store.as_ref().unwrap_or(&node.url);
        let directory = outage::directory(config, url);
        let remembers = url.scheme() != Scheme::File;
        Self {
            url: url.clone(),
            options: store_options(node),
            store: Arc::default(),
            breaker: Breaker::new(config, &directory),
            misses: remembers.then(|| Misses::new(&directory, node.remember_misses)),
        }
    }

    /// The store itself. A server is not asked anything yet.
    pub(super) async fn store(&self) -> Result<&Arc<dyn Store>, Reason> {
        let open = || thaw_store::open(self.url.as_url(), &self.options);
        self.store.get_or_try_init(open).await.map_err(Reason::Store)
    }

    /// What stands under `key`.
    pub(super) async fn document(&self, config: &NodeConfig, key: &Key) -> Result<KeyDocument, Reason> {
        if let Some(misses) = &self.misses
            && let Some((said, age)) = misses.known(key)
        {
            return Err(Reason::Known {
                said,
                ms: age.as_millis(),
            });
        }
        match self.breaker.permit() {
            Permit::Resting { failures, left, why } => Err(Reason::StoreResting {
                failures,
                ms: left.as_millis(),
                why,
            }),
            Permit::Probe => self.probe(&config.store, key).await,
            Permit::Free => self.ask(key, config.deadlines.lookup, &Permit::Free).await,
        }
    }

    /// Asks a store that was out. The answer counts whenever it comes, and this container waits a moment for it.
    async fn probe(&self, node: &thaw_config::Store, key: &Key) -> Result<KeyDocument, Reason> {
        let (asked, key) = (self.clone(), key.clone());
        let limit = node.request_timeout;
        let asking = tokio::spawn(async move { asked.ask(&key, limit, &Permit::Probe).await });
        match timeout(node.probe, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_died)) => Err(Reason::Thread { step: "lookup" }),
            Err(_elapsed) => Err(Reason::StoreWakes {
                ms: node.probe.as_millis(),
            }),
        }
    }

    async fn ask(&self, key: &Key, limit: Duration, permit: &Permit) -> Result<KeyDocument, Reason> {
        let asked = notes::now();
        let lookup = async {
            let store = self.store().await?;
            Ok(thaw_store::lookup(&**store, key).await)
        };
        let answer = within(limit, lookup).await.flatten();
        match &answer {
            Ok(Err(LookupError::Store(error))) if outage::is_out(error) => {
                self.breaker.failed(permit, &chain(error));
            }
            // There is no such store. The next start finds that out as soon, so nobody has to be kept from it.
            Err(Reason::Store(error)) if *permit == Permit::Free && !is_silent(error) => {}
            Err(reason) => self.breaker.failed(permit, &reason.words()),
            Ok(found) => {
                self.breaker.answered(permit);
                if let (Some(misses), Some(said)) = (&self.misses, Said::of(found)) {
                    misses.missed(key, asked, said);
                }
            }
        }
        answer?.map_err(Reason::Lookup)?.ok_or(Reason::Miss)
    }

    /// A step after the lookup found the store out.
    pub(super) fn failed(&self, error: &StoreError) {
        if outage::is_out(error) {
            self.breaker.failed(&Permit::Free, &chain(error));
        }
    }
}

fn is_silent(error: &OpenError) -> bool {
    matches!(error, OpenError::Timeout { .. })
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Reason> {
    let done = timeout(limit, work).await;
    done.map_err(|_elapsed| Reason::Deadline {
        step: "lookup",
        ms: limit.as_millis(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::mpsc;
    use std::time::Instant;

    use thaw_snapshot::Digest;

    use super::*;

    /// The only thread that may block hangs, as on a network file system whose server is gone.
    #[test]
    fn a_directory_that_hangs_costs_one_start_its_deadline() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let root = tempfile::tempdir().unwrap();
        let mut config = NodeConfig {
            state: root.path().join("state"),
            ..NodeConfig::default()
        };
        config.store.url = format!("file://{}/store", root.path().display()).parse().unwrap();
        let policy = Policy::resolve(&config, &HashMap::new()).unwrap();
        let key = Key {
            scope: "default".to_owned(),
            platform: "linux-amd64".to_owned(),
            config: Digest::of(b"image"),
            fingerprint: Digest::of(b"spec"),
        };
        // Each start is a new process of its own.
        let start = async || {
            let asked = Asked::new(&config, &policy);
            asked.document(&config, &key).await.unwrap_err()
        };
        runtime.block_on(async {
            assert_eq!(start().await.code(), "no_snapshot");
            let (let_go, hung) = mpsc::channel::<()>();
            let hanging = tokio::task::spawn_blocking(move || hung.recv());
            let began = Instant::now();
            assert_eq!(start().await.code(), "lookup_timeout");
            // The next longer limit is that of a request.
            assert!(began.elapsed() < config.store.request_timeout);
            for _ in 0..3 {
                assert!(matches!(start().await, Reason::StoreResting { .. }));
            }
            let_go.send(()).unwrap();
            hanging.await.unwrap().unwrap();
            // The first rest is a second.
            while start().await.code() != "no_snapshot" {
                assert!(began.elapsed() < Duration::from_secs(20), "it is used again");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
}
