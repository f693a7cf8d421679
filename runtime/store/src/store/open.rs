//! From a URL to a store.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use thiserror::Error;
use url::Url;

use super::object::ObjectBackend;
use super::{Store, local};

/// How to talk to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time for one operation on a key document or for one range of a blob, retries included; for an
    /// upload, longest time without progress.
    pub request_timeout: Duration,
    /// How often a request is sent again, at most.
    pub max_retries: usize,
    /// Allow `http://` endpoints that do not come from the endpoint variable itself. Credentials are signed, not
    /// sent, but content is readable on the way.
    pub allow_http: bool,
    /// S3 endpoint to use in place of `AWS_ENDPOINT_URL`. `http://` here is allowed: it was written on purpose.
    pub endpoint: Option<Url>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(30),
            max_retries: 3,
            allow_http: false,
            endpoint: None,
        }
    }
}

/// Why a URL can't be used as a store.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// thaw does not speak this kind of URL.
    #[error("store URLs start with file://, s3://, gs:// or az://, not {scheme}://")]
    Scheme {
        /// What was there.
        scheme: String,
    },
    /// The URL holds a user name, a password or a query. Credentials come from the environment, so that URLs may be shown.
    #[error("a store URL must not hold credentials")]
    Credentials,
    /// `file://` with a host, or with a path that can't be one.
    #[error("a file:// store URL needs an absolute path and no host")]
    Path,
    /// The directory of a `file://` store can't be made or found.
    #[error("could not make the store's directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The directory of a `file://` store is on a file system that does not answer.
    #[error("the store's directory {path} did not answer within {limit:?}")]
    Timeout {
        /// The directory.
        path: PathBuf,
        /// The limit that passed.
        limit: Duration,
    },
    /// The client library does not take the URL or the environment's settings.
    #[error("could not set up a client for {url}")]
    Client {
        /// The URL.
        url: String,
        /// What the client library says.
        #[source]
        source: object_store::Error,
    },
}

/// Opens the store at `url`. Credentials and endpoints come from the variables and files that each provider's own
/// tools use. Nothing is sent yet. The directory of a `file://` store is made, on a thread that may block.
///
/// # Errors
/// When the URL or the environment can't describe a store. A server that is down is found later, a directory that does
/// not answer within `request_timeout` here.
pub async fn open(url: &Url, options: &StoreOptions) -> Result<Arc<dyn Store>, OpenError> {
    // A query is where some providers' shared links carry their signature.
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(OpenError::Credentials);
    }
    let provider = match url.scheme() {
        "file" => return open_directory(url, options).await,
        "s3" => Provider::S3,
        "gs" => Provider::Gs,
        "az" => Provider::Az,
        other => {
            return Err(OpenError::Scheme {
                scheme: other.to_owned(),
            });
        }
    };
    let (place, with) = (url.clone(), options.clone());
    // It reads the certificates of the machine, a hundred files or so.
    let client = tokio::task::spawn_blocking(move || client(provider, &place, &with)).await;
    let client = client.map_err(object_store::Error::from).flatten();
    let client = client.map_err(|source| OpenError::Client {
        url: url.to_string(),
        source,
    })?;
    let prefix = object_store::path::Path::from_url_path(url.path()).map_err(|source| OpenError::Client {
        url: url.to_string(),
        source: source.into(),
    })?;
    let client: Arc<dyn ObjectStore> = match prefix.as_ref() {
        "" => Arc::from(client),
        _ => Arc::new(PrefixStore::new(client, prefix)),
    };
    Ok(Arc::new(ObjectBackend::new(client, url.as_str(), options)))
}

/// Whose server.
#[derive(Debug, Clone, Copy)]
enum Provider {
    S3,
    Gs,
    Az,
}

fn client(
    provider: Provider,
    url: &Url,
    options: &StoreOptions,
) -> object_store::Result<Box<dyn ObjectStore>> {
    Ok(match provider {
        Provider::S3 => Box::new(s3(url, options).build()?),
        Provider::Gs => Box::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(url.as_str())
                .with_client_options(client_options(options, options.allow_http))
                .with_retry(retry(options))
                .build()?,
        ),
        Provider::Az => Box::new(
            MicrosoftAzureBuilder::from_env()
                .with_url(url.as_str())
                .with_client_options(client_options(options, options.allow_http))
                .with_retry(retry(options))
                .build()?,
        ),
    })
}

async fn open_directory(url: &Url, options: &StoreOptions) -> Result<Arc<dyn Store>, OpenError> {
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return Err(OpenError::Path);
    }
    let Ok(path) = url.to_file_path() else {
        return Err(OpenError::Path);
    };
    let (root, limit) = (path.clone(), options.request_timeout);
    let local = local::on_thread(limit, move || {
        // Not asked for what is there: it would take the lock of the directory above, and on a file system that hangs
        // whoever else wants that waits where no signal reaches it.
        if !root.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        }
        // It resolves symbolic links, which is a look at every directory on the way.
        Ok(LocalFileSystem::new_with_prefix(&root))
    });
    let local = match local.await {
        Err(_elapsed) => return Err(OpenError::Timeout { path, limit }),
        Ok(made) => made.map_err(|source| OpenError::Directory { path, source })?,
    };
    let local = local.map_err(|source| OpenError::Client {
        url: url.to_string(),
        source,
    });
    let local = local?.with_fsync(true);
    Ok(Arc::new(ObjectBackend::directory(local, url.as_str(), options)))
}

/// The client for an S3 bucket, with what the environment says.
pub(crate) fn s3(url: &Url, options: &StoreOptions) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env().with_url(url.as_str());
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    // An http endpoint is an explicit choice of whoever wrote it, as with the provider's own tools.
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    builder
        .with_client_options(client_options(options, options.allow_http || plain))
        .with_retry(retry(options))
}

fn client_options(options: &StoreOptions, allow_http: bool) -> ClientOptions {
    // No limit on a whole request: a large body on a slow link is progress. A stalled one is caught by the read
    // timeout, and every operation has a limit of its own around it.
    ClientOptions::new()
        .with_connect_timeout(options.connect_timeout)
        .with_read_timeout(options.request_timeout)
        .with_timeout_disabled()
        .with_allow_http(allow_http)
}

fn retry(options: &StoreOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: options.max_retries,
        retry_timeout: options.request_timeout,
    }
}
