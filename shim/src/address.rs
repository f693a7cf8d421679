//! The shim's socket: its name, binding it, finding who already listens on it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where the stock shim puts its sockets; containerd's clean-up knows the place.
const SOCKET_DIR: &str = "/run/containerd/s";
/// The longest path that fits into a socket address with its final zero.
const PATH_LIMIT: usize = 106;

/// What came of binding the socket.
#[derive(Debug)]
pub enum Bound {
    /// It is ours; serve on it.
    New(UnixListener),
    /// A living shim already serves this group on it.
    Served,
}

/// The socket of a group of containers. containerd, after an upgrade from the stock shim or back, must find the
/// other's socket under the same name, so it is computed like there.
#[must_use]
pub fn socket_path(socket_dir: Option<&str>, containerd: &str, namespace: &str, group: &str) -> PathBuf {
    let name = format!("{}/{namespace}/{group}", containerd.trim_end_matches('/'));
    let hash = Sha256::digest(name.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Path::new(socket_dir.unwrap_or(SOCKET_DIR)).join(hex)
}

/// Binds the socket, unless a shim answers on it. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// What the system answered; `InvalidInput` for a path that is too long.
pub fn bind(path: &Path) -> io::Result<Bound> {
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(Bound::Served);
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(Bound::New(listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_stock_shim() {
        // printf /run/containerd/containerd.sock/default/c1 | sha256sum
        let path = socket_path(None, "/run/containerd/containerd.sock", "default", "c1");
        assert_eq!(path.parent(), Some(Path::new("/run/containerd/s")));
        assert_eq!(path.file_name().unwrap().len(), 64);
        assert_eq!(
            path,
            socket_path(None, "/run/containerd/containerd.sock/", "default", "c1")
        );
        assert_eq!(
            socket_path(Some("/s"), "/a", "b", "c").parent(),
            Some(Path::new("/s"))
        );
    }

    #[test]
    fn a_living_listener_is_found_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s").join("sock");
        let Bound::New(listener) = bind(&path).unwrap() else {
            panic!("nobody listens yet")
        };
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path).unwrap(), Bound::Served));
        drop(listener);
        assert!(matches!(bind(&path).unwrap(), Bound::New(_)));
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let path = PathBuf::from(format!("/{}", "x".repeat(120)));
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
