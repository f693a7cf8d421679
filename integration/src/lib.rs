//! Proof on real containerd, runc, CRIU and object stores.
