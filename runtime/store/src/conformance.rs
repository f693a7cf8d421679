//! What every store must do, whatever is behind its URL. The same function runs over a directory, over memory and,
//! in the integration tests, over real servers.

use std::io::{self, Write as _};

use bytes::Bytes;
use thaw_snapshot::Digest;
use thiserror::Error;

use crate::store::{BlobRead, KeyPath, Published, PutMode, Store, StoreError, Uploaded};

/// A store that does not do what it must.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConformanceError {
    /// It broke a rule.
    #[error("the store broke the rule: {rule}")]
    Broken {
        /// The rule.
        rule: &'static str,
    },
    /// It failed where it should have answered.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The blob to send can't be made.
    #[error("could not make a file to send")]
    File(#[from] io::Error),
    /// A path of the suite is refused.
    #[error("could not name a key document")]
    Path(#[from] crate::KeyPathError),
}

fn rule(holds: bool, rule: &'static str) -> Result<(), ConformanceError> {
    if holds {
        Ok(())
    } else {
        Err(ConformanceError::Broken { rule })
    }
}

/// Runs the whole suite. `name` (letters and digits) keeps runs in one bucket apart; what it wrote is removed again,
/// unless a rule breaks. `conditional` says whether the server knows conditional writes; some S3 servers do not.
///
/// # Errors
/// The first rule that does not hold.
pub async fn run(store: &dyn Store, name: &str, conditional: bool) -> Result<(), ConformanceError> {
    keys(store, name, conditional).await?;
    blobs(store, name, 1000).await?;
    // Above the size of one part.
    blobs(store, name, 17 << 20).await
}

async fn keys(store: &dyn Store, name: &str, conditional: bool) -> Result<(), ConformanceError> {
    let key = KeyPath::parse(&format!("v1/keys/{name}/linux-amd64/aa_2fa/bb.json"))?;
    rule(
        store.get_key(&key, 10).await?.is_none(),
        "a document that is not there is None",
    )?;
    rule(
        !store.list_keys().await?.contains(&key),
        "a document that is not there is not listed",
    )?;
    store.delete_key(&key).await?;

    let put = |text: &'static str, mode| store.put_key(&key, Bytes::from_static(text.as_bytes()), mode);
    rule(
        put("first", PutMode::IfAbsent).await? == Published::Published,
        "a free key is taken",
    )?;
    if conditional {
        rule(
            put("second", PutMode::IfAbsent).await? == Published::AlreadyThere,
            "a taken key is left",
        )?;
        rule(
            store.get_key(&key, 10).await?.as_deref() == Some(b"first"),
            "the first document stands",
        )?;
    }
    rule(
        put("third", PutMode::Replace).await? == Published::Published,
        "replacing is always possible",
    )?;
    rule(
        store.get_key(&key, 5).await?.as_deref() == Some(b"third"),
        "a document of the limit's size is read",
    )?;
    versions(store, &key, conditional).await?;
    let too_large = matches!(
        store.get_key(&key, 4).await,
        Err(StoreError::TooLarge { limit: 4, .. })
    );
    rule(too_large, "a document above the limit is refused")?;
    rule(
        store.list_keys().await?.contains(&key),
        "a document is listed under its path",
    )?;
    store.delete_key(&key).await?;
    rule(
        store.get_key(&key, 10).await?.is_none(),
        "a deleted document is gone",
    )
}

/// Leaves `third` where it found it.
async fn versions(store: &dyn Store, key: &KeyPath, conditional: bool) -> Result<(), ConformanceError> {
    let put = |text: &'static str, mode| store.put_key(key, Bytes::from_static(text.as_bytes()), mode);
    let Some((bytes, version)) = store.get_key_version(key, 10).await? else {
        return rule(false, "a document has a version");
    };
    rule(bytes == "third"[..], "a document is read with its version")?;
    let still = PutMode::IfStill(version);
    rule(
        put("fourth", still.clone()).await? == Published::Published,
        "a document that nobody has changed is replaced",
    )?;
    if conditional {
        rule(
            put("fifth", still.clone()).await? == Published::AlreadyThere,
            "a document that was changed is left",
        )?;
        rule(
            store.get_key(key, 10).await?.as_deref() == Some(b"fourth"),
            "the changed document stands",
        )?;
        store.delete_key(key).await?;
        rule(
            put("fifth", still).await? == Published::AlreadyThere,
            "a document that was removed is not there to be replaced",
        )?;
    }
    put("third", PutMode::Replace).await.map(drop)?;
    Ok(())
}

async fn blobs(store: &dyn Store, name: &str, size: usize) -> Result<(), ConformanceError> {
    let seed = name.bytes().fold(size as u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    let bytes: Vec<u8> = (0..size as u64)
        .map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let digest = Digest::of(&bytes);
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&bytes)?;
    let size = size as u64;

    rule(
        store.head_blob(&digest).await?.is_none(),
        "a blob that is not there has no size",
    )?;
    let missing = store.read_blob(&digest, size, 0..10).await?;
    rule(
        missing == BlobRead::Missing,
        "a blob that is not there is missing",
    )?;
    rule(
        store.put_blob(&digest, file.path()).await? == Uploaded::Sent,
        "a new blob is sent",
    )?;
    rule(
        store.put_blob(&digest, file.path()).await? == Uploaded::AlreadyThere,
        "a blob is sent once",
    )?;
    rule(
        store.head_blob(&digest).await? == Some(size),
        "a blob has its size",
    )?;

    for range in [0..10, 7..size - 3, size - 1..size, 0..size] {
        let part = bytes
            .get(range.start as usize..range.end as usize)
            .map(Bytes::copy_from_slice);
        let read = store.read_blob(&digest, size, range).await?;
        rule(
            Some(read) == part.map(BlobRead::Bytes),
            "a range is read as it was sent",
        )?;
    }
    let longer = store.read_blob(&digest, size + 1, 0..10).await?;
    rule(
        longer == BlobRead::WrongSize(size),
        "a blob shorter than known is told",
    )?;
    let behind = store.read_blob(&digest, size + 100, size + 10..size + 20).await?;
    rule(
        behind == BlobRead::WrongSize(size),
        "a range behind the end is told",
    )?;

    store.delete_blob(&digest).await?;
    rule(
        store.head_blob(&digest).await?.is_none(),
        "a deleted blob is gone",
    )?;
    store.delete_blob(&digest).await?;
    Ok(())
}
