//! Names that nobody has had before.

use std::{fs, io};

/// A random UUID, from the kernel (Linux, `sysctl/kernel.rst`, "random").
///
/// # Errors
/// There is no `/proc`.
pub(crate) fn new() -> io::Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.trim().to_owned())
}
