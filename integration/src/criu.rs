//! Another CRIU in the place of the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;

/// The first folder of containerd's PATH in the lab.
const PLACE: &str = "/usr/local/sbin/criu";

/// A script that runc finds before CRIU; removed when dropped.
#[derive(Debug)]
pub struct FakeCriu(());

impl FakeCriu {
    /// Puts it there. It does as CRIU does (`$criu`), except for the calls of runc: those run `script`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn new(script: &str) -> Result<Self> {
        let text = format!(
            "#!/bin/bash\ncriu=/usr/sbin/criu\nif [ \"$1\" != swrk ]; then exec $criu \"$@\"; fi\n{script}\n"
        );
        fs::write(PLACE, text)?;
        fs::set_permissions(PLACE, fs::Permissions::from_mode(0o755))?;
        Ok(Self(()))
    }
}

impl Drop for FakeCriu {
    fn drop(&mut self) {
        fs::remove_file(PLACE).ok();
    }
}
