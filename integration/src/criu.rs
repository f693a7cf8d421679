//! Another CRIU, or another runc, in the place of the real one.

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

/// The same folder.
const RUNC: &str = "/usr/local/sbin/runc";

/// A script that the shim finds before runc; removed when dropped.
#[derive(Debug)]
pub struct FakeRunc(());

impl FakeRunc {
    /// Puts it there. It does as runc does, except that `verb` fails.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn failing(verb: &str) -> Result<Self> {
        let text = format!(
            "#!/bin/bash\nfor word; do if [ \"$word\" = {verb} ]; then echo told to fail >&2; exit 1; fi; done\n\
             exec /usr/sbin/runc \"$@\"\n"
        );
        fs::write(RUNC, text)?;
        fs::set_permissions(RUNC, fs::Permissions::from_mode(0o755))?;
        Ok(Self(()))
    }
}

impl Drop for FakeRunc {
    fn drop(&mut self) {
        fs::remove_file(RUNC).ok();
    }
}
