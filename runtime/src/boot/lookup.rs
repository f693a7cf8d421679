//! Steps 2 and 3: which image, and is there a snapshot for it?

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::Spec;
use thaw_config::{NodeConfig, Policy};
use thaw_snapshot::matching::{Place, fitting};
use thaw_snapshot::{Digest, HostFacts, Key, KeyDocument, Manifest};
use thaw_store::StoreOptions;

use super::ask::Asked;
use super::eligible::{Eligible, check_kubernetes};
use super::{Boot, Reason, Request};
use crate::key::{Bundle, SHARED, Start};
use crate::misses::Said;
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
    let asked = boot.images.identify(&request.namespace, &request.id);
    timeline.stage("identify");
    let asked = within("identify", deadlines.identify, asked).await?;
    let known = asked.map_err(Reason::Identify)?;
    if let Some(known) = &known.kubernetes {
        check_kubernetes(known).map_err(Reason::Ineligible)?;
    }
    let start = Start::new(
        &request.namespace,
        &bundle.spec,
        request.stdin,
        &policy.ignore_env,
    );
    let keys = keys(&start, known.image.config, &boot.config);

    timeline.key = keys.first().map(Key::path);
    timeline.stage("lookup");
    let store = Asked::new(&boot.config, &policy);
    let limit = memory_limit(&bundle.spec);
    let manifest = first(boot, &store, keys, limit, timeline).await?;
    timeline.snapshot = Some(manifest.id().to_string());
    Ok(Candidate {
        store,
        manifest,
        bundle,
        policy,
        upper,
    })
}

/// Where to look, in this order: the start's own scope, and what was published for everybody where the node allows it.
pub(crate) fn keys(start: &Start<'_>, config: Digest, node: &NodeConfig) -> Vec<Key> {
    let mut keys = vec![start.key(start.scope(), config)];
    if node.shared_scope {
        keys.push(start.key(SHARED.to_owned(), config));
    }
    keys
}

/// The snapshot under the first key that has a fitting one which is not left alone. When none has, the reason is the
/// best one that is left alone, or else that of the first key that has any.
async fn first(
    boot: &Boot,
    store: &Asked,
    keys: Vec<Key>,
    limit: Option<u64>,
    timeline: &mut Timeline,
) -> Result<Manifest, Reason> {
    let mut reason = None;
    let quarantine = Quarantine::new(&boot.config);
    for (number, key) in keys.into_iter().enumerate() {
        if number > 0 {
            timeline.stage("lookup");
        }
        let document = match store.document(&boot.config, &key).await {
            Err(
                miss @ (Reason::Miss
                | Reason::Known {
                    said: Said::Nothing, ..
                }),
            ) => {
                reason.get_or_insert(miss);
                continue;
            }
            document => document?,
        };
        timeline.stage("host");
        let host = host_facts(boot).await?;
        match best(&document, &key, place(&host, limit), &quarantine) {
            Ok(manifest) => {
                timeline.key = Some(key.path());
                return Ok(manifest);
            }
            Err(why) if weight(&why) > reason.as_ref().map_or(0, weight) => reason = Some(why),
            Err(_) => {}
        }
    }
    if let Some(Reason::Quarantined(inmate)) = &reason {
        timeline.snapshot = Some(inmate.snapshot.to_string());
    }
    Err(reason.unwrap_or(Reason::Miss))
}

/// This machine, and a container with this limit.
pub(crate) fn place(host: &HostFacts, memory_limit: Option<u64>) -> Place<'_> {
    Place {
        host,
        memory_limit,
        exists: |path| std::path::Path::new(path).exists(),
    }
}

/// Bytes of memory that the container may have. A limit below zero is none (`man 5 cgroups`, OCI runtime spec,
/// "Memory"); with cgroup v2 it may be given by the name of the kernel's file too.
pub(crate) fn memory_limit(spec: &Spec) -> Option<u64> {
    let resources = spec.linux().as_ref()?.resources().as_ref()?;
    let memory = resources.memory().as_ref().and_then(|memory| memory.limit());
    let memory = memory
        .and_then(|limit| u64::try_from(limit).ok())
        .filter(|limit| *limit > 0);
    let unified = resources
        .unified()
        .as_ref()
        .and_then(|files| files.get("memory.max"));
    let unified = unified.and_then(|limit| limit.trim().parse().ok());
    memory.into_iter().chain(unified).min()
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

/// How much a reason says of why there is nothing to restore.
fn weight(reason: &Reason) -> u8 {
    match reason {
        Reason::Quarantined(_) => 2,
        Reason::Mismatch(_) => 1,
        _ => 0,
    }
}

/// The best that fits and is not left alone on this node; where all that fit are, the reason is that of the best one.
fn best(
    document: &KeyDocument,
    key: &Key,
    place: Place<'_>,
    quarantine: &Quarantine,
) -> Result<Manifest, Reason> {
    match fitting(document, key, place) {
        Ok(manifests) => {
            let mut left_alone = None;
            for manifest in manifests {
                match quarantine.check(&manifest.id()) {
                    None => return Ok(manifest.clone()),
                    Some(inmate) => left_alone = left_alone.or(Some(inmate)),
                }
            }
            Err(left_alone.map_or(Reason::Miss, |inmate| Reason::Quarantined(Box::new(inmate))))
        }
        // The first is that of the best candidate; a document without variants has none.
        Err(mut mismatches) if !mismatches.is_empty() => Err(Reason::Mismatch(mismatches.swap_remove(0))),
        Err(_) => Err(Reason::Miss),
    }
}
