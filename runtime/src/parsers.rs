//! Checks of what came from a store, without a boot: for the fuzz targets, and for nobody else.

use serde_json::Value;
use thaw_criu::Images;

use crate::boot::{RightsError, check_rights};

/// Whether the images carry no more rights than `spec` gives.
///
/// # Errors
/// Which right is too much, or what can't be read.
pub fn rights(images: &Images, spec: &Value) -> Result<(), RightsError> {
    check_rights(images, spec)
}
