//! Reading the kernel's mount table.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thaw_runtime::rootfs::unescape;

/// The mount points at and below `path`, in the order they were mounted.
///
/// # Errors
/// What reading `/proc/self/mountinfo` answered.
pub fn mounted_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(unescape)
        .filter(|mounted| mounted.starts_with(path))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_mounted() {
        assert!(
            mounted_below(Path::new("/proc"))
                .unwrap()
                .contains(&PathBuf::from("/proc"))
        );
    }
}
