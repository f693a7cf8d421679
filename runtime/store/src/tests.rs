//! Whole-crate tests: every store, every way a snapshot can be broken.

mod fixture;
mod stores;
mod round_trip;
mod broken;
mod hostile;
