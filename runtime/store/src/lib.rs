//! The object store and the node's cache of it.
