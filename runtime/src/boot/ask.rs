//! The question to the store, at a price that a cold start can pay: see [`crate::outage`] and [`crate::misses`].

use std::sync::Arc;
use std::time::Duration;

use thaw_config::{Policy, Scheme, StoreUrl};
use thaw_snapshot::{Key, KeyDocument};
use thaw_store::{LookupError, Store, StoreError};
use tokio::time::timeout;

use super::lookup::store_options;
use super::{Boot, Reason};
use crate::misses::Misses;
use crate::notes;
use crate::outage::{self, Breaker, Permit};
use crate::words::chain;

/// A store, and what this node knows of it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    store: Arc<dyn Store>,
    /// `None` for a directory, which answers as fast as a note can be read.
    known: Option<Known>,
}

#[derive(Debug, Clone)]
struct Known {
    permit: Permit,
    breaker: Breaker,
    misses: Misses,
}

impl Asked {
    /// The store of this container, if it may be asked at all; nothing is sent yet.
    pub(super) fn open(boot: &Boot, policy: &Policy) -> Result<Self, Reason> {
        let node = &boot.config.store;
        let url = policy.store.as_ref().unwrap_or(&node.url);
        let known = match url.scheme() {
            Scheme::File => None,
            _ => Some(Known::permitted(boot, url)?),
        };
        // After the permit: a client loads certificates.
        let store = thaw_store::open(url.as_url(), &store_options(node)).map_err(Reason::Store)?;
        Ok(Self { store, known })
    }

    /// The store itself.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What stands under `key`.
    pub(super) async fn document(&self, boot: &Boot, key: &Key) -> Result<KeyDocument, Reason> {
        let limit = boot.config.deadlines.lookup;
        let Some(known) = &self.known else {
            let asked = within(limit, thaw_store::lookup(&*self.store, key)).await?;
            return asked.map_err(Reason::Lookup)?.ok_or(Reason::Miss);
        };
        if let Some(age) = known.misses.known(key) {
            return Err(Reason::MissKnown { ms: age.as_millis() });
        }
        if known.permit == Permit::Probe {
            self.probe(boot, known, key).await
        } else {
            known.ask(&self.store, key, limit).await
        }
    }

    /// Asks a store that was out. The answer counts whenever it comes, and this container waits a moment for it.
    async fn probe(&self, boot: &Boot, known: &Known, key: &Key) -> Result<KeyDocument, Reason> {
        let (task_known, store, task_key) = (known.clone(), self.store.clone(), key.clone());
        let limit = boot.config.store.request_timeout;
        let asking = tokio::spawn(async move { task_known.ask(&store, &task_key, limit).await });
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
    fn permitted(boot: &Boot, url: &StoreUrl) -> Result<Self, Reason> {
        let directory = outage::directory(&boot.config, url);
        let breaker = Breaker::new(&boot.config, &directory);
        match breaker.permit() {
            Permit::Resting { failures, left, why } => Err(Reason::StoreResting {
                failures,
                ms: left.as_millis(),
                why,
            }),
            permit => Ok(Self {
                permit,
                breaker,
                misses: Misses::new(&directory, boot.config.store.remember_misses),
            }),
        }
    }

    async fn ask(&self, store: &Arc<dyn Store>, key: &Key, limit: Duration) -> Result<KeyDocument, Reason> {
        let permit = &self.permit;
        let asked = notes::now();
        let answer = within(limit, thaw_store::lookup(&**store, key)).await;
        match &answer {
            Ok(Err(LookupError::Store(error))) if outage::is_out(error) => {
                self.breaker.failed(permit, &chain(error));
            }
            Err(reason) => self.breaker.failed(permit, &reason.words()),
            Ok(found) => {
                self.breaker.answered(permit);
                if matches!(found, Ok(None)) {
                    self.misses.missed(key, asked);
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
