//! `containerd-shim-thaw-v1`.
fn main() {}
