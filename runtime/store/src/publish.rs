//! Snapshots in the store: bring, look up, list, remove.
//!
//! The order of writes is the protocol. Blobs come first and the key document last, so that whoever sees a document
//! finds its blobs; removal goes the other way. A crash in between leaves blobs that nobody names, which cost room
//! and nothing else.

use std::collections::HashSet;

use thaw_snapshot::{Blobs, Digest, DocumentError, Key, KeyDocument, MAX_DOCUMENT, Manifest, ManifestError};
use thiserror::Error;

mod variants;

use variants::Standing;

use crate::pack::Packed;
use crate::store::{KeyPath, Published, PutMode, Store, StoreError};

/// How often a document is read and written again when somebody else was quicker.
const ATTEMPTS: usize = 10;

/// Why a look-up gave no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The store gave no answer.
    #[error("could not read the key document")]
    Store(#[source] StoreError),
    /// The document is not one that this build reads.
    #[error("could not understand the key document {path}")]
    Document {
        /// Its place.
        path: KeyPath,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
    /// The document holds a snapshot of another key: somebody moved it.
    #[error("the key document {path} holds a snapshot of another key")]
    WrongKey {
        /// Its place.
        path: KeyPath,
    },
}

/// Why a snapshot was not published.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The manifest names other blobs than those that were packed.
    #[error("the manifest does not name the packed blobs")]
    Mismatch,
    /// The manifest breaks a rule of the format.
    #[error("the manifest breaks a rule of the format")]
    Manifest(#[source] ManifestError),
    /// The document is larger than any reader takes.
    #[error("the key document has {size} bytes, more than {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A blob did not get to the store. No document names it yet.
    #[error("could not send blob {digest}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The document can't be read, or did not get to the store.
    #[error("could not write the key document")]
    Document(#[source] StoreError),
    /// Others write the document all the time.
    #[error("could not write {path}, which others wrote {ATTEMPTS} times meanwhile")]
    Contended {
        /// Its place.
        path: KeyPath,
    },
}

/// Why snapshots could not be listed.
#[derive(Debug, Error)]
#[error("could not list the store's key documents")]
pub struct ListError(#[source] StoreError);

/// Why a snapshot was not removed, or not all of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The documents can't be listed.
    #[error("could not find the snapshot")]
    List(#[source] ListError),
    /// The document can't be written or deleted: the snapshot stands as before.
    #[error("could not take the snapshot out of {path}")]
    Document {
        /// Its place.
        path: KeyPath,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The snapshot is gone, but a blob of it is still there.
    #[error("could not delete blob {digest}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// What the store said.
        #[source]
        source: StoreError,
    },
}

/// All snapshots of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// Each snapshot with the document that holds it.
    pub snapshots: Vec<(KeyPath, Manifest)>,
    /// Documents that can't be used: unreadable, of a newer format, or broken.
    pub unreadable: Vec<(KeyPath, LookupError)>,
}

/// What became of a snapshot that should be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The store has no such snapshot.
    NotFound,
    /// It is gone, with this many of its blobs; the others are named by other snapshots.
    Removed {
        /// Blobs deleted.
        blobs: usize,
    },
    /// It is gone. Its blobs were left, because some document could not be read and may name them.
    BlobsLeft,
}

/// Asks for a key: one request, hit or miss. The manifests are well formed, but are the word of whoever wrote them.
///
/// # Errors
/// When the store gave no answer or a broken one. A miss is `None`.
pub async fn lookup(store: &dyn Store, key: &Key) -> Result<Option<KeyDocument>, LookupError> {
    let path = KeyPath::of(key);
    let Some(document) = read(store, &path).await? else {
        return Ok(None);
    };
    if document.variants.iter().any(|manifest| manifest.key != *key) {
        return Err(LookupError::WrongKey { path });
    }
    Ok(Some(document))
}

async fn read(store: &dyn Store, path: &KeyPath) -> Result<Option<KeyDocument>, LookupError> {
    let Some(bytes) = store
        .get_key(path, MAX_DOCUMENT as u64)
        .await
        .map_err(LookupError::Store)?
    else {
        return Ok(None);
    };
    KeyDocument::parse(&bytes)
        .map(Some)
        .map_err(|source| LookupError::Document {
            path: path.clone(),
            source,
        })
}

/// Brings a packed snapshot to the store. Under its key it stands beside those of other classes of machines
/// ([`thaw_snapshot::matching::same_class`]), and takes the place of the one of its own. With [`PutMode::IfAbsent`]
/// nothing is sent when there is one that a machine like its donor's would restore; any other mode replaces.
///
/// # Errors
/// When something did not get there. The snapshot then is not in the store; blobs of it may be.
pub async fn publish(
    store: &dyn Store,
    packed: &Packed,
    manifest: &Manifest,
    mode: PutMode,
) -> Result<Published, PublishError> {
    if manifest.blobs != packed.blobs {
        return Err(PublishError::Mismatch);
    }
    let path = KeyPath::of(&manifest.key);
    manifest.validate().map_err(PublishError::Manifest)?;
    let mut sent = false;
    for _ in 0..ATTEMPTS {
        let standing = Standing::find(store, &path).await?;
        if mode == PutMode::IfAbsent && standing.is_taken(manifest) {
            return Ok(Published::AlreadyThere);
        }
        let bytes = standing.with(manifest).map_err(|size| PublishError::TooLarge {
            size: size as u64,
            limit: MAX_DOCUMENT as u64,
        })?;
        if !sent {
            send(store, packed).await?;
            sent = true;
            // That took a while: somebody else may have been here.
            continue;
        }
        let put = store.put_key(&path, bytes.into(), standing.mode).await;
        if put.map_err(PublishError::Document)? == Published::Published {
            return Ok(Published::Published);
        }
    }
    Err(PublishError::Contended { path })
}

async fn send(store: &dyn Store, packed: &Packed) -> Result<(), PublishError> {
    for (digest, file) in &packed.files {
        let digest = *digest;
        let sent = store.put_blob(&digest, file).await;
        sent.map_err(|source| PublishError::Blob { digest, source })?;
    }
    Ok(())
}

/// All snapshots of the store, in the order of their documents' paths.
///
/// # Errors
/// When the store can't be listed. Documents that can't be used are part of the answer.
pub async fn list(store: &dyn Store) -> Result<Listing, ListError> {
    list_some(store, |_| true).await
}

/// As [`list`], of the documents at `wanted` paths only: the others are not read.
///
/// # Errors
/// As [`list`].
pub async fn list_some(store: &dyn Store, wanted: impl Fn(&KeyPath) -> bool) -> Result<Listing, ListError> {
    let mut listing = Listing::default();
    let paths = store.list_keys().await.map_err(ListError)?;
    for path in paths.into_iter().filter(wanted) {
        match read(store, &path).await {
            // Removed while we look.
            Ok(None) => (),
            Ok(Some(document)) => {
                listing
                    .snapshots
                    .extend(document.variants.into_iter().map(|found| (path.clone(), found)));
            }
            Err(error) => listing.unreadable.push((path, error)),
        }
    }
    Ok(listing)
}

/// Removes the snapshot with this manifest id from every document that holds it, then the blobs that no other
/// snapshot names. Must not run beside a capture that may share blobs with it: the capture would skip a blob that
/// is about to go. A start that then misses a blob is a cold one.
///
/// # Errors
/// When the snapshot, or part of it, is still there.
pub async fn remove(store: &dyn Store, id: &Digest) -> Result<Removed, RemoveError> {
    let listing = list(store).await.map_err(RemoveError::List)?;
    let (gone, kept): (Vec<_>, Vec<_>) = listing
        .snapshots
        .into_iter()
        .partition(|(_, manifest)| manifest.id() == *id);
    if gone.is_empty() {
        return Ok(Removed::NotFound);
    }
    let mut paths: Vec<&KeyPath> = gone.iter().map(|(path, _)| path).collect();
    paths.dedup();
    for path in paths {
        let left = kept
            .iter()
            .filter(|(other, _)| other == path)
            .map(|(_, manifest)| manifest.clone());
        rewrite(store, path, left.collect()).await?;
    }
    if !listing.unreadable.is_empty() {
        return Ok(Removed::BlobsLeft);
    }
    let named: HashSet<Digest> = kept
        .iter()
        .flat_map(|(_, manifest)| digests(&manifest.blobs))
        .collect();
    let mut unnamed: HashSet<Digest> = gone
        .iter()
        .flat_map(|(_, manifest)| digests(&manifest.blobs))
        .collect();
    unnamed.retain(|digest| !named.contains(digest));
    for digest in &unnamed {
        let digest = *digest;
        store
            .delete_blob(&digest)
            .await
            .map_err(|source| RemoveError::Blob { digest, source })?;
    }
    Ok(Removed::Removed { blobs: unnamed.len() })
}

async fn rewrite(store: &dyn Store, path: &KeyPath, variants: Vec<Manifest>) -> Result<(), RemoveError> {
    let fail = |source| RemoveError::Document {
        path: path.clone(),
        source,
    };
    if variants.is_empty() {
        return store.delete_key(path).await.map_err(fail);
    }
    let bytes = KeyDocument::new(variants).to_bytes().into();
    store
        .put_key(path, bytes, PutMode::Replace)
        .await
        .map(|_| ())
        .map_err(fail)
}

fn digests(blobs: &Blobs) -> impl Iterator<Item = Digest> {
    [blobs.meta.digest, blobs.pages.digest]
        .into_iter()
        .chain(blobs.rootfs.iter().map(|blob| blob.digest))
}
