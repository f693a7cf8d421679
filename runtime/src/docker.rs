//! What Docker knows of a container and containerd does not.
//!
//! dockerd mounts the root filesystem by itself, and gives containerd neither the container's name nor, with its own
//! image store, the image. All of it stands in files below Docker's data root, which this module reads. dockerd
//! itself is never asked: it holds the container's lock while it starts one, and would wait for the answer to its own
//! call.
//!
//! ```text
//! DATA-ROOT/containers/ID/config.v2.json             name, image
//! DATA-ROOT/overlay2/LAYER/merged                    root filesystem with Docker's own image store
//! DATA-ROOT/image/overlay2/layerdb/mounts/ID/        which layer, and on which image's layers it stands
//! DATA-ROOT/image/overlay2/imagedb/content/sha256/   config objects of images
//! DATA-ROOT/rootfs/SNAPSHOTTER/ID                    root filesystem with containerd's image store
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::geteuid;
use serde::Deserialize;

/// The label that dockerd puts on its containers, since Docker 18.09.
pub const LABEL: &str = "com.docker/engine.bundle.path";

/// The most that is read of a container's record; real ones have some kilobytes.
const RECORD_LIMIT: u64 = 1 << 20;

/// Where Docker keeps a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Docker's data root.
    pub data_root: PathBuf,
    /// Who keeps its layers.
    pub layers: Layers,
}

/// Who keeps the layers of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// Docker itself, in its own image store.
    Docker {
        /// Its storage driver.
        driver: String,
        /// The container's writable layer.
        layer: String,
    },
    /// containerd.
    Containerd {
        /// Its snapshotter.
        snapshotter: String,
    },
}

/// What stands in Docker's record of a container; the rest is skipped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name, with a slash in front.
    #[serde(rename = "Name")]
    pub name: String,
    /// Its image: with Docker's own image store the digest of its config object.
    #[serde(rename = "Image")]
    pub image: String,
    /// What the user asked for.
    #[serde(rename = "Config")]
    pub config: Asked,
}

/// What the user of Docker asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Asked {
    /// Name of the image.
    #[serde(rename = "Image", default)]
    pub image: String,
}

impl Place {
    /// Where Docker keeps the container `id`, by the path of its root filesystem. `None` when that is not a path of
    /// Docker's.
    #[must_use]
    pub fn of(root: &Path, id: &str) -> Option<Self> {
        let mut names = root.iter().rev().map(|name| name.to_str());
        let [last, middle, first] = [names.next()??, names.next()??, names.next()??];
        let layers = if last == "merged" {
            Layers::Docker {
                driver: first.to_owned(),
                layer: middle.to_owned(),
            }
        } else if last == id && first == "rootfs" {
            Layers::Containerd {
                snapshotter: middle.to_owned(),
            }
        } else {
            return None;
        };
        let data_root = root.ancestors().nth(3)?.to_owned();
        Some(Self { data_root, layers })
    }

    /// Docker's record of the container `id`.
    ///
    /// # Errors
    /// What [`read`] or the parser answered.
    pub fn container(&self, id: &str) -> io::Result<Container> {
        let path = self.data_root.join("containers").join(id).join("config.v2.json");
        Ok(serde_json::from_slice(&read(&path, RECORD_LIMIT)?)?)
    }
}

/// Reads a file of Docker's: a plain one, of our own user, of `limit` bytes at most.
///
/// # Errors
/// What the kernel answered; `PermissionDenied` and `FileTooLarge` for a file that is not as it has to be.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    // Not to wait for the writer of a named pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file: File = options.read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_root_filesystem_tells_the_place() {
        let of = |root: &str| Place::of(Path::new(root), "c1");
        let found = of("/var/lib/docker/overlay2/l1/merged").unwrap();
        assert_eq!(found.data_root, Path::new("/var/lib/docker"));
        let (driver, layer) = ("overlay2".to_owned(), "l1".to_owned());
        assert_eq!(found.layers, Layers::Docker { driver, layer });
        let found = of("/d/rootfs/overlayfs/c1").unwrap();
        assert_eq!(found.data_root, Path::new("/d"));
        let snapshotter = "overlayfs".to_owned();
        assert_eq!(found.layers, Layers::Containerd { snapshotter });
        for other in [
            "rootfs",
            "/run/bundle/rootfs",
            "/d/rootfs/overlayfs/c2",
            "/merged",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_record_is_read_from_a_plain_file_of_a_sane_size() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(&dir.path().join("overlay2/l1/merged"), "c1").unwrap();
        let folder = dir.path().join("containers/c1");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("config.v2.json");
        let text = r#"{"ID":"c1","Name":"/web","Image":"sha256:ab","Config":{"Image":"app:1","Tty":false},"Driver":"overlay2"}"#;
        fs::write(&path, text).unwrap();
        let found = place.container("c1").unwrap();
        assert_eq!(
            (found.name.as_str(), found.config.image.as_str()),
            ("/web", "app:1")
        );

        assert_eq!(read(&path, 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        symlink(&path, folder.join("link")).unwrap();
        assert!(read(&folder.join("link"), 1000).is_err());
        assert!(read(&folder, 1000).is_err());
    }
}
