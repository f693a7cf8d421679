//! `thaw`.
fn main() {}
