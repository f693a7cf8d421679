//! Another CRIU, or another runc, in the place of the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

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

    /// CRIU, which gets `signal` so long after it has begun to restore a container of `ctr`: a time after its start would
    /// fall into another step on each machine.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn signalled(signal: &str, after: Duration) -> Result<Self> {
        Self::new(&format!(
            "shopt -s nullglob\n$criu \"$@\" &\n\
             until logs=(/run/thaw/default/*/restore/*/restore.log); [ -s \"${{logs[0]}}\" ] || ! kill -0 $!; do :; done\n\
             sleep {}\nkill -{signal} $!\nwait $!",
            after.as_secs_f64()
        ))
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
