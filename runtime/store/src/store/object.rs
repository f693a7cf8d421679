//! The store over the object_store crate: one implementation for every kind of URL.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutOptions,
    WriteMultipart,
};
use thaw_snapshot::Digest;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::local::{self, SmallFile};
use super::update::{self, KeyVersion, Turn};
use super::{BlobRead, KEY_PREFIX, KeyPath, Published, PutMode, Store, StoreError, StoreOptions, Uploaded};

/// Size of one part of an upload in bytes. S3 takes at most 10 000 parts of at least 5 MiB; this allows blobs of
/// 156 GiB.
const PART: usize = 16 << 20;

/// Parts in flight at once.
const PARTS_IN_FLIGHT: usize = 3;

/// A store behind an object_store client.
#[derive(Debug)]
pub(crate) struct ObjectBackend {
    client: Arc<dyn ObjectStore>,
    /// Set for `file://`: reads go straight to the directory.
    directory: Option<Arc<LocalFileSystem>>,
    url: String,
    limit: Duration,
}

impl ObjectBackend {
    pub(crate) fn new(client: Arc<dyn ObjectStore>, url: &str, options: &StoreOptions) -> Self {
        Self {
            client,
            directory: None,
            url: url.to_owned(),
            limit: options.request_timeout,
        }
    }

    pub(crate) fn directory(local: LocalFileSystem, url: &str, options: &StoreOptions) -> Self {
        let local = Arc::new(local);
        Self {
            directory: Some(local.clone()),
            ..Self::new(local, url, options)
        }
    }

    /// Runs one request with the limit on its time. Absence becomes `None`.
    async fn request<T>(
        &self,
        attempt: &'static str,
        path: &Path,
        work: impl Future<Output = object_store::Result<T>> + Send,
    ) -> Result<Option<T>, StoreError> {
        match timeout(self.limit, work).await {
            Err(_) => Err(StoreError::Timeout {
                attempt,
                path: path.to_string(),
                limit: self.limit,
            }),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(None),
            Ok(Err(error)) => Err(StoreError::from_client(attempt, path.as_ref(), self.limit, error)),
            Ok(Ok(value)) => Ok(Some(value)),
        }
    }

    /// As [`Self::request`], for requests where absence makes no sense.
    async fn demand<T>(
        &self,
        attempt: &'static str,
        path: &Path,
        work: impl Future<Output = object_store::Result<T>> + Send,
    ) -> Result<T, StoreError> {
        match timeout(self.limit, work).await {
            Err(_) => Err(StoreError::Timeout {
                attempt,
                path: path.to_string(),
                limit: self.limit,
            }),
            Ok(Err(error)) => Err(StoreError::from_client(attempt, path.as_ref(), self.limit, error)),
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// Does something with the file of an object in the store's directory, on a thread that may block and with the limit
    /// on its time.
    async fn on_disk<T: Send + 'static>(
        &self,
        directory: &LocalFileSystem,
        attempt: &'static str,
        path: &Path,
        work: impl FnOnce(&FsPath) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = file_of(directory, attempt, path)?;
        match local::on_thread(self.limit, move || work(&file)).await {
            Err(_elapsed) => Err(StoreError::Timeout {
                attempt,
                path: path.to_string(),
                limit: self.limit,
            }),
            Ok(Err(source)) => Err(StoreError::Directory {
                attempt,
                path: path.to_string(),
                source,
            }),
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// A small object of a server.
    async fn get_small(&self, path: &Path, limit: u64) -> Result<Option<(Bytes, ObjectMeta)>, StoreError> {
        let work = async {
            let answer = self.client.get(path).await?;
            let meta = answer.meta.clone();
            if meta.size > limit {
                return Ok(None);
            }
            Ok(collect(answer, limit).await?.map(|bytes| (bytes, meta)))
        };
        match self.request("read", path, work).await? {
            None => Ok(None),
            Some(None) => Err(too_large(path, limit)),
            Some(found) => Ok(found),
        }
    }

    async fn update_key(
        &self,
        path: &Path,
        document: Bytes,
        expected: &KeyVersion,
    ) -> Result<Published, StoreError> {
        let Some(directory) = &self.directory else {
            let work = async { published(update::at_server(&*self.client, path, document, expected).await) };
            return self.demand("write", path, work).await;
        };
        let (attempt, expected) = ("write", expected.clone());
        let turn = self.on_disk(directory, attempt, path, move |file| {
            Turn::to_replace(file, &expected)
        });
        let Some(turn) = turn.await? else {
            return Ok(Published::AlreadyThere);
        };
        let put = self.client.put(path, document.into());
        self.demand(attempt, path, put).await?;
        drop(turn);
        Ok(Published::Published)
    }

    async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        self.request("delete", path, self.client.delete(path))
            .await
            .map(|_| ())
    }

    /// Sends a large file in parts. On failure the parts are dropped, so that no half blob is ever seen.
    async fn send_parts(&self, path: &Path, file: tokio::fs::File, size: u64) -> Result<(), StoreError> {
        let upload = self.demand("start", path, self.start_parts(path)).await?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
        match self.send_body(path, file, size, &mut writer).await {
            Ok(()) => self.demand("finish", path, writer.finish()).await.map(|_| ()),
            Err(error) => {
                // The upload failed already; a lifecycle rule of the bucket sweeps what can't be aborted.
                let _ = timeout(self.limit, writer.abort()).await;
                Err(error)
            }
        }
    }

    async fn start_parts(&self, path: &Path) -> object_store::Result<Box<dyn MultipartUpload>> {
        if self.directory.is_none() {
            return self.client.put_multipart(path).await;
        }
        // For a directory the client makes the file where it is asked (object_store 0.14, `local.rs`).
        let (client, path) = (Arc::clone(&self.client), path.clone());
        let handle = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || handle.block_on(client.put_multipart(&path))).await?
    }

    async fn send_body(
        &self,
        path: &Path,
        mut file: tokio::fs::File,
        size: u64,
        writer: &mut WriteMultipart,
    ) -> Result<(), StoreError> {
        let mut left = size;
        while left > 0 {
            self.demand("write", path, writer.wait_for_capacity(PARTS_IN_FLIGHT))
                .await?;
            let part = read_part(&mut file, left)
                .await
                .map_err(|e| source_error(path, e))?;
            left -= part.len() as u64;
            writer.put(part);
        }
        self.demand("write", path, writer.wait_for_capacity(0)).await
    }
}

/// The next part of a file that has `left` bytes left.
async fn read_part(file: &mut tokio::fs::File, left: u64) -> io::Result<Bytes> {
    let length = usize::try_from(left).unwrap_or(PART).min(PART);
    let mut part = BytesMut::zeroed(length);
    file.read_exact(&mut part).await?;
    Ok(part.freeze())
}

fn source_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Source {
        path: path.to_string(),
        source,
    }
}

fn blob_path(digest: &Digest) -> Path {
    Path::from(digest.blob_path())
}

#[async_trait]
impl Store for ObjectBackend {
    fn url(&self) -> &str {
        &self.url
    }

    async fn get_key(&self, key: &KeyPath, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let path = key.as_object();
        if let Some(directory) = &self.directory {
            let read = self.on_disk(directory, "read", path, move |file| {
                local::read_small(file, limit)
            });
            return match read.await? {
                SmallFile::Bytes(bytes) => Ok(Some(bytes)),
                SmallFile::Missing => Ok(None),
                SmallFile::TooLarge => Err(too_large(path, limit)),
            };
        }
        Ok(self.get_small(path, limit).await?.map(|(bytes, _meta)| bytes))
    }

    async fn get_key_version(
        &self,
        key: &KeyPath,
        limit: u64,
    ) -> Result<Option<(Bytes, KeyVersion)>, StoreError> {
        let found = match &self.directory {
            Some(_) => self.get_key(key, limit).await?.map(|bytes| (bytes, None)),
            None => {
                let found = self.get_small(key.as_object(), limit).await?;
                found.map(|(bytes, meta)| (bytes, Some(meta)))
            }
        };
        Ok(found.map(|(bytes, meta)| {
            let content = Digest::of(&bytes);
            let (e_tag, version) = meta.map_or((None, None), |meta| (meta.e_tag, meta.version));
            let version = KeyVersion {
                content,
                e_tag,
                version,
            };
            (bytes, version)
        }))
    }

    async fn put_key(&self, key: &KeyPath, document: Bytes, mode: PutMode) -> Result<Published, StoreError> {
        let path = key.as_object();
        let mode = match mode {
            PutMode::IfAbsent => object_store::PutMode::Create,
            PutMode::Replace => object_store::PutMode::Overwrite,
            PutMode::IfStill(expected) => return self.update_key(path, document, &expected).await,
        };
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        let work = async {
            let put = self.client.put_opts(path, document.into(), options).await;
            published(put.map(|_| ()))
        };
        self.demand("write", path, work).await
    }

    async fn list_keys(&self) -> Result<Vec<KeyPath>, StoreError> {
        let prefix = Path::from(KEY_PREFIX);
        let work = async {
            let keep = |meta: object_store::ObjectMeta| KeyPath::parse(meta.location.as_ref()).ok();
            let mut keys: Vec<KeyPath> = Vec::new();
            let mut listing = self.client.list(Some(&prefix));
            while let Some(meta) = listing.try_next().await? {
                keys.extend(keep(meta));
            }
            keys.sort();
            Ok(keys)
        };
        Ok(self.request("list", &prefix, work).await?.unwrap_or_default())
    }

    async fn delete_key(&self, key: &KeyPath) -> Result<(), StoreError> {
        self.delete(key.as_object()).await
    }

    async fn head_blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = blob_path(digest);
        let attempt = "look at";
        if let Some(directory) = &self.directory {
            return self.on_disk(directory, attempt, &path, local::size).await;
        }
        Ok(self
            .request(attempt, &path, self.client.head(&path))
            .await?
            .map(|meta| meta.size))
    }

    async fn read_blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobRead, StoreError> {
        let path = blob_path(digest);
        if let Some(directory) = &self.directory {
            let read = move |file: &FsPath| local::read_range(file, size, range);
            return self.on_disk(directory, "read", &path, read).await;
        }
        let wanted = range.end.saturating_sub(range.start);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let work = async {
            let answer = self.client.get_opts(&path, options).await?;
            if answer.meta.size != size {
                return Ok(Err(answer.meta.size));
            }
            collect(answer, wanted).await.map(Ok)
        };
        let answer = match self.request("read", &path, work).await {
            Ok(answer) => answer,
            // A range that starts behind the end is an error of its own kind in each store; the size tells.
            Err(error @ StoreError::Failed { .. }) => {
                return match self.head_blob(digest).await? {
                    None => Ok(BlobRead::Missing),
                    Some(found) if found != size => Ok(BlobRead::WrongSize(found)),
                    Some(_) => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        match answer {
            None => Ok(BlobRead::Missing),
            Some(Err(found)) => Ok(BlobRead::WrongSize(found)),
            Some(Ok(Some(bytes))) if bytes.len() as u64 == wanted => Ok(BlobRead::Bytes(bytes)),
            Some(Ok(bytes)) => {
                let got = bytes.map_or(wanted + 1, |bytes| bytes.len() as u64);
                Err(StoreError::Corrupt {
                    path: path.to_string(),
                    got,
                    wanted,
                })
            }
        }
    }

    async fn put_blob(&self, digest: &Digest, file: &FsPath) -> Result<Uploaded, StoreError> {
        let path = blob_path(digest);
        let mut source = tokio::fs::File::open(file)
            .await
            .map_err(|e| source_error(&path, e))?;
        let size = source.metadata().await.map_err(|e| source_error(&path, e))?.len();
        if self.head_blob(digest).await? == Some(size) {
            return Ok(Uploaded::AlreadyThere);
        }
        if size > PART as u64 {
            self.send_parts(&path, source, size).await?;
        } else {
            let bytes = read_part(&mut source, size)
                .await
                .map_err(|e| source_error(&path, e))?;
            self.demand("write", &path, self.client.put(&path, bytes.into()))
                .await?;
        }
        Ok(Uploaded::Sent)
    }

    async fn delete_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.delete(&blob_path(digest)).await
    }
}

/// The body of an answer, or `None` when it has more than `limit` bytes.
async fn collect(answer: object_store::GetResult, limit: u64) -> object_store::Result<Option<Bytes>> {
    let mut body = answer.into_stream();
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.try_next().await? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes.freeze()))
}

fn too_large(path: &Path, limit: u64) -> StoreError {
    StoreError::TooLarge {
        path: path.to_string(),
        limit,
    }
}

/// Whether a conditional write took place. Stores differ in how they say that the condition did not hold.
fn published(put: object_store::Result<()>) -> object_store::Result<Published> {
    match put {
        Ok(()) => Ok(Published::Published),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            Ok(Published::AlreadyThere)
        }
        Err(error) => Err(error),
    }
}

/// The file of an object in a directory.
fn file_of(
    directory: &LocalFileSystem,
    attempt: &'static str,
    path: &Path,
) -> Result<std::path::PathBuf, StoreError> {
    directory
        .path_to_filesystem(path)
        .map_err(|source| StoreError::Failed {
            attempt,
            path: path.to_string(),
            source,
        })
}
