//! The question to the store, at a price that a cold start can pay: see [`crate::outage`] and [`crate::misses`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thaw_config::{Policy, Scheme, StoreUrl};
use thaw_snapshot::{Key, KeyDocument};
use thaw_store::{LookupError, Store, StoreError, StoreOptions};
use tokio::time::timeout;

use super::lookup::store_options;
use super::{Boot, Reason};
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
    store: OnceLock<Arc<dyn Store>>,
    /// `None` for a directory, which answers as fast as a note can be read.
    known: Option<Known>,
}

#[derive(Debug, Clone)]
struct Known {
    breaker: Breaker,
    misses: Misses,
}

impl Asked {
    /// The store of this container.
    pub(super) fn new(boot: &Boot, policy: &Policy) -> Self {
        let node = &boot.config.store;
        let url = policy.store.as_ref().unwrap_or(&node.url);
        let known = (url.scheme() != Scheme::File).then(|| {
            let directory = outage::directory(&boot.config, url);
            Known {
                breaker: Breaker::new(&boot.config, &directory),
                misses: Misses::new(&directory, node.remember_misses),
            }
        });
        Self {
            url: url.clone(),
            options: store_options(node),
            store: OnceLock::new(),
            known,
        }
    }

    /// The store itself; nothing is sent yet.
    pub(super) fn store(&self) -> Result<&Arc<dyn Store>, Reason> {
        if let Some(open) = self.store.get() {
            return Ok(open);
        }
        let open = thaw_store::open(self.url.as_url(), &self.options).map_err(Reason::Store)?;
        Ok(self.store.get_or_init(|| open))
    }

    /// What stands under `key`.
    pub(super) async fn document(&self, boot: &Boot, key: &Key) -> Result<KeyDocument, Reason> {
        let limit = boot.config.deadlines.lookup;
        let Some(known) = &self.known else {
            let asked = within(limit, thaw_store::lookup(&**self.store()?, key)).await?;
            return asked.map_err(Reason::Lookup)?.ok_or(Reason::Miss);
        };
        if let Some((said, age)) = known.misses.known(key) {
            return Err(Reason::Known {
                said,
                ms: age.as_millis(),
            });
        }
        match known.breaker.permit() {
            Permit::Resting { failures, left, why } => Err(Reason::StoreResting {
                failures,
                ms: left.as_millis(),
                why,
            }),
            Permit::Probe => self.probe(boot, known, key).await,
            Permit::Free => known.ask(self.store()?, key, limit, &Permit::Free).await,
        }
    }

    /// Asks a store that was out. The answer counts whenever it comes, and this container waits a moment for it.
    async fn probe(&self, boot: &Boot, known: &Known, key: &Key) -> Result<KeyDocument, Reason> {
        let (known, store, key) = (known.clone(), self.store()?.clone(), key.clone());
        let limit = boot.config.store.request_timeout;
        let asking = tokio::spawn(async move { known.ask(&store, &key, limit, &Permit::Probe).await });
        let patience = boot.config.store.probe;
        match timeout(patience, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_died)) => Err(Reason::Thread { step: "lookup" }),
            Err(_elapsed) => Err(Reason::StoreWakes {
                ms: patience.as_millis(),
            }),
        }
    }

    /// A step after the lookup found the store out.
    pub(super) fn failed(&self, error: &StoreError) {
        if let Some(known) = &self.known
            && outage::is_out(error)
        {
            known.breaker.failed(&Permit::Free, &chain(error));
        }
    }
}

impl Known {
    async fn ask(
        &self,
        store: &Arc<dyn Store>,
        key: &Key,
        limit: Duration,
        permit: &Permit,
    ) -> Result<KeyDocument, Reason> {
        let asked = notes::now();
        let answer = within(limit, thaw_store::lookup(&**store, key)).await;
        match &answer {
            Ok(Err(LookupError::Store(error))) if outage::is_out(error) => {
                self.breaker.failed(permit, &chain(error));
            }
            Err(reason) => self.breaker.failed(permit, &reason.words()),
            Ok(found) => {
                self.breaker.answered(permit);
                if let Some(said) = Said::of(found) {
                    self.misses.missed(key, asked, said);
                }
            }
        }
        answer?.map_err(Reason::Lookup)?.ok_or(Reason::Miss)
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Reason> {
    let done = timeout(limit, work).await;
    done.map_err(|_elapsed| Reason::Deadline {
        step: "lookup",
        ms: limit.as_millis(),
    })
}
