//! Checks of what came from a store, without a boot: for the fuzz targets, and for nobody else.

use oci_spec::runtime::Spec;
use serde_json::Value;
use thaw_criu::Images;

use crate::boot::{MountsError, RightsError, check_mounts, check_rights};
use crate::capture::lease_that_holds;

/// Whether the images carry no more rights than `spec` gives.
///
/// # Errors
/// Which right is too much, or what can't be read.
pub fn rights(images: &Images, spec: &Value) -> Result<(), RightsError> {
    check_rights(images, spec)
}

/// Whether the mounts in the images are those of `spec`, on a machine where every path is there.
///
/// # Errors
/// Which mount differs, or what can't be read.
pub fn mounts(images: &Images, spec: &Spec) -> Result<(), MountsError> {
    check_mounts(images, spec, &|_path| true)
}

/// Who holds the lease that this document is, after which failure, and for how many seconds from `now` on, which is in
/// seconds since 1970; `None` when nobody does.
#[must_use]
pub fn lease(document: &[u8], now: i64) -> Option<(String, Option<String>, i64)> {
    lease_that_holds(document, now)
}
