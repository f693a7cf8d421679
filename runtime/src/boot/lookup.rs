//! Steps 2 and 3: which image, and is there a snapshot for it?

use std::path::PathBuf;
use std::time::Duration;

use thaw_config::Policy;
use thaw_snapshot::matching::choose;
use thaw_snapshot::{HostFacts, Key, KeyDocument, Manifest};
use thaw_store::StoreOptions;

use super::ask::Asked;
use super::eligible::Eligible;
use super::{Boot, Reason, Request};
use crate::key::{Bundle, key_of};
use crate::quarantine::Quarantine;
use crate::timeline::Timeline;

/// A snapshot that should fit.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) store: Asked,
    pub(super) manifest: Manifest,
    pub(super) bundle: Bundle,
    pub(super) policy: Policy,
    pub(super) upper: PathBuf,
}

pub(super) async fn find(
    boot: &Boot,
    request: &Request,
    eligible: Eligible,
    timeline: &mut Timeline,
) -> Result<Candidate, Reason> {
    let Eligible {
        bundle,
        policy,
        upper,
    } = eligible;
    let deadlines = &boot.config.deadlines;
    let asked = boot.images.image_of(&request.namespace, &request.id);
    timeline.stage("identify");
    let asked = within("identify", deadlines.identify, asked).await?;
    let image = asked.map_err(Reason::Identify)?;
    let key = key_of(&request.namespace, &image, &bundle.spec, request.stdin);
    timeline.key = Some(key.path());

    timeline.stage("lookup");
    let store = Asked::open(boot, &policy)?;
    let document = store.document(boot, &key).await?;
    timeline.stage("host");
    let host = host_facts(boot).await?;
    let manifest = best(&document, &key, &host)?;
    let id = manifest.id();
    timeline.snapshot = Some(id.to_string());
    if let Some(inmate) = Quarantine::new(&boot.config).check(&id) {
        return Err(Reason::Quarantined(Box::new(inmate)));
    }
    Ok(Candidate {
        store,
        manifest,
        bundle,
        policy,
        upper,
    })
}

async fn within<T>(step: &'static str, limit: Duration, work: impl Future<Output = T>) -> Result<T, Reason> {
    let done = tokio::time::timeout(limit, work).await;
    done.map_err(|_elapsed| Reason::Deadline {
        step,
        ms: limit.as_millis(),
    })
}

/// The configured way to reach a store.
pub(crate) fn store_options(node: &thaw_config::Store) -> StoreOptions {
    StoreOptions {
        request_timeout: node.request_timeout,
        allow_http: node.allow_http,
        endpoint: node.endpoint.clone(),
        ..StoreOptions::default()
    }
}

async fn host_facts(boot: &Boot) -> Result<HostFacts, Reason> {
    let config = &boot.config;
    let runc = &boot.runc;
    let learned = crate::host::facts(&config.state, &config.criu, &runc.binary, &*runc.spawner).await;
    learned.map_err(Reason::Host)
}

fn best(document: &KeyDocument, key: &Key, host: &HostFacts) -> Result<Manifest, Reason> {
    match choose(document, key, host) {
        Ok(manifest) => Ok(manifest.clone()),
        // The first is that of the best candidate; a document without variants has none.
        Err(mut mismatches) if !mismatches.is_empty() => Err(Reason::Mismatch(mismatches.swap_remove(0))),
        Err(_) => Err(Reason::Miss),
    }
}
