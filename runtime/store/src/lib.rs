//! The object store, and the node's cache of it.
//!
//! A [`Store`] holds two kinds of objects: key documents (small, mutable, one per start that is alike) and blobs
//! (large, named by the digest of their bytes, never changed). [`pack`] turns a CRIU image directory into blobs,
//! [`publish`] brings them to a store, [`lookup`] asks for a key, and [`Cache::fetch`] brings a snapshot to this
//! node, verified. Nothing here decides whether a snapshot fits, and nothing here runs CRIU.
//!
//! ```text
//! pack -> publish -> STORE -> lookup -> Cache::get or Cache::fetch -> Entry
//! ```
//!
//! What comes from a store is hostile until its digest was compared: sizes are bounded before anything is read,
//! digests are checked before anything is decompressed, and no name from a store becomes a path unchecked.

mod store;
mod pack;
mod publish;
mod cache;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(feature = "parsers")]
#[doc(hidden)]
pub mod parsers;
#[cfg(test)]
mod tests;

pub use cache::{Cache, CacheError, CachedSnapshot, Entry, EntryError, FetchError, Fetched};
pub use pack::{PackError, Packed, Progress, pack};
pub use publish::{
    ListError, Listing, LookupError, PublishError, RemoveError, Removed, list, list_some, lookup, publish,
    remove,
};
pub use store::{
    BlobRead, KeyPath, KeyPathError, KeyVersion, OpenError, Published, PutMode, Store, StoreError,
    StoreOptions, Uploaded, open,
};
