//! What the flags and the configuration come to.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::Context as _;
use thaw_config::NodeConfig;
use thaw_runtime::record::{FindError, find};
use thaw_store::{Store, StoreOptions};

use super::Global;
use super::failure::Failure;
use super::output::Output;

/// What every verb works with.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: NodeConfig,
    pub(super) namespace: String,
    pub(super) output: Output,
}

impl Context {
    pub(super) fn new(global: Global) -> Result<Self, Failure> {
        let config = NodeConfig::load(global.config.as_deref())
            .and_then(thaw_config::Loaded::strict)
            .context("can't use the configuration")?;
        Ok(Self::of(config, global))
    }

    /// As the shim understands the configuration: keys that mean nothing are left out, and one with a mistake counts
    /// as none. Both are warned of.
    pub(super) fn whatever_is_written(global: Global) -> Self {
        match NodeConfig::load(global.config.as_deref()) {
            Ok(loaded) => {
                let context = Self::of(loaded.config, global);
                for unknown in loaded.unknown {
                    log::warn!("{unknown}");
                }
                context
            }
            Err(error) => {
                let context = Self::of(NodeConfig::default(), global);
                log::warn!("can't use the configuration: {:#}", anyhow::Error::from(error));
                context
            }
        }
    }

    fn of(mut config: NodeConfig, global: Global) -> Self {
        if let Some(url) = global.store {
            config.store.url = url;
        }
        config.log_level = global.log_level.unwrap_or(config.log_level);
        // A second logger can only be there in tests, where the first one will do.
        log::set_logger(&StderrLog).ok();
        log::set_max_level(config.log_level);
        Self {
            config,
            namespace: global.namespace,
            output: Output::new(global.output),
        }
    }

    /// The id of the container that the user means: by id, by the client's name for it, or by the start of the id.
    pub(super) fn container(&self, wanted: &str) -> Result<String, Failure> {
        let namespace = &self.namespace;
        match find(&self.config.state, namespace, wanted) {
            Ok(Some(id)) => Ok(id),
            Ok(None) => Err(Failure::not_found(format!(
                "there is no record of {wanted:?} in the namespace {namespace:?}: thaw did not start it, or it is gone \
                 (other namespaces: -n)"
            ))),
            Err(error @ FindError::Several { .. }) => Err(Failure::usage(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the store; nothing is sent yet.
    pub(super) async fn store(&self) -> Result<Arc<dyn Store>, Failure> {
        let wanted = &self.config.store;
        let store = thaw_store::open(wanted.url.as_url(), &options(wanted)).await;
        Ok(store.with_context(|| format!("can't open the store {}", wanted.url))?)
    }
}

fn options(wanted: &thaw_config::Store) -> StoreOptions {
    StoreOptions {
        endpoint: wanted.endpoint.clone(),
        allow_http: wanted.allow_http,
        request_timeout: wanted.request_timeout,
        ..StoreOptions::default()
    }
}

/// Our own lines, and the warnings of others: libraries say much that is not for the person at the terminal.
#[derive(Debug)]
struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("thaw") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_lowercase();
            writeln!(std::io::stderr(), "{level}: {}", record.args()).ok();
        }
    }

    fn flush(&self) {}
}
