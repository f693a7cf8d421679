//! The runtime options of a container, in both forms that clients send.
//!
//! A client that knows the runtime as `io.containerd.runc.v2` sends runc's own message. For any other name the CRI
//! plugin and Docker send `runtimeoptions.v1.Options`, whose body is the TOML table of their configuration. Parsing
//! one as the other gives nonsense without an error, so the type name decides.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::rt::WireType;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream, Message};
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};

/// The file in the bundle that keeps them for `delete`, in the stock shim's format.
const FILE: &str = "options.json";
/// The file in the bundle that names the runc binary for `delete`.
const RUNTIME_FILE: &str = "runtime";
/// No options file of a client is near this size.
const CONFIG_LIMIT: u64 = 1 << 20;
/// Where runc keeps its state when the client does not say; one folder below it per namespace.
const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// What a client may ask of runc and of the shim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `--no-pivot`.
    #[serde(alias = "NoPivotRoot", skip_serializing_if = "is_default")]
    pub no_pivot_root: bool,
    /// `--no-new-keyring`.
    #[serde(alias = "NoNewKeyring", skip_serializing_if = "is_default")]
    pub no_new_keyring: bool,
    /// The cgroup that the shim joins.
    #[serde(alias = "ShimCgroup", skip_serializing_if = "is_default")]
    pub shim_cgroup: String,
    /// Owner of the container's pipes.
    #[serde(alias = "IoUid", skip_serializing_if = "is_default")]
    pub io_uid: u32,
    /// Group of the container's pipes.
    #[serde(alias = "IoGid", skip_serializing_if = "is_default")]
    pub io_gid: u32,
    /// The runc binary; empty for `runc`.
    #[serde(alias = "BinaryName", skip_serializing_if = "is_default")]
    pub binary_name: String,
    /// runc's state directory; empty for the default.
    #[serde(alias = "Root", skip_serializing_if = "is_default")]
    pub root: String,
    /// `--systemd-cgroup`.
    #[serde(alias = "SystemdCgroup", skip_serializing_if = "is_default")]
    pub systemd_cgroup: bool,
    /// Where checkpoints go when a checkpoint request does not say.
    #[serde(alias = "CriuImagePath", skip_serializing_if = "is_default")]
    pub criu_image_path: String,
    /// CRIU's work directory when a checkpoint request does not say.
    #[serde(alias = "CriuWorkPath", skip_serializing_if = "is_default")]
    pub criu_work_path: String,
}

/// Options that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// The protobuf message is broken.
    #[error("decode the runtime options")]
    Decode(#[source] protobuf::Error),
    /// The TOML table is broken.
    #[error("read the runtime options table")]
    Toml(#[source] Box<toml::de::Error>),
    /// The file that the options point at cannot be read.
    #[error("read the runtime options file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Options {
    /// Understands the options of a request; `None` when there are none, or of a type that is not for runc.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn from_any(any: &Any) -> Result<Option<Self>, OptionsError> {
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.runc.v1.Options" => {
                let message = oci::Options::parse_from_bytes(&any.value).map_err(OptionsError::Decode)?;
                Ok(Some(message.into()))
            }
            "runtimeoptions.v1.Options" => {
                let (path, body) = runtime_options(&any.value).map_err(OptionsError::Decode)?;
                let text = if body.is_empty() && !path.is_empty() {
                    read_config(&path)?
                } else {
                    body
                };
                toml::from_str(&text)
                    .map(Some)
                    .map_err(|error| OptionsError::Toml(Box::new(error)))
            }
            _ => Ok(None),
        }
    }

    /// The runc binary.
    #[must_use]
    pub fn binary(&self) -> &Path {
        Path::new(if self.binary_name.is_empty() {
            "runc"
        } else {
            &self.binary_name
        })
    }

    /// runc's `--root` for a namespace.
    #[must_use]
    pub fn root(&self, namespace: &str) -> PathBuf {
        Path::new(if self.root.is_empty() {
            DEFAULT_ROOT
        } else {
            &self.root
        })
        .join(namespace)
    }

    /// Keeps them in the bundle for `delete`.
    ///
    /// # Errors
    /// What the file system answered.
    pub fn save(&self, bundle: &Path) -> io::Result<()> {
        fs::write(bundle.join(FILE), serde_json::to_vec(self)?)?;
        fs::write(bundle.join(RUNTIME_FILE), &self.binary_name)
    }

    /// What [`Options::save`] or the stock shim kept in the bundle; defaults where there is nothing to read, because
    /// `delete` must also clean up what never got that far.
    #[must_use]
    pub fn load(bundle: &Path) -> Self {
        let text = fs::read(bundle.join(FILE)).unwrap_or_default();
        let mut options: Self = serde_json::from_slice(&text).unwrap_or_default();
        if options.binary_name.is_empty() {
            options.binary_name = fs::read_to_string(bundle.join(RUNTIME_FILE)).unwrap_or_default();
        }
        options
    }
}

impl From<oci::Options> for Options {
    fn from(message: oci::Options) -> Self {
        Self {
            no_pivot_root: message.no_pivot_root,
            no_new_keyring: message.no_new_keyring,
            shim_cgroup: message.shim_cgroup,
            io_uid: message.io_uid,
            io_gid: message.io_gid,
            binary_name: message.binary_name,
            root: message.root,
            systemd_cgroup: message.systemd_cgroup,
            criu_image_path: message.criu_image_path,
            criu_work_path: message.criu_work_path,
        }
    }
}

/// `config_path` (field 2) and `config_body` (field 3) of `runtimeoptions.v1.Options`. The protos crate does not have
/// this message.
fn runtime_options(bytes: &[u8]) -> Result<(String, String), protobuf::Error> {
    let mut input = CodedInputStream::from_bytes(bytes);
    let (mut path, mut body) = (String::new(), Vec::new());
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag >> 3 {
            2 => path = input.read_string()?,
            3 => body = input.read_bytes()?,
            _ => input.skip_field(WireType::new(tag & 7).unwrap_or(WireType::EndGroup))?,
        }
    }
    Ok((path, String::from_utf8_lossy(&body).into_owned()))
}

fn read_config(path: &str) -> Result<String, OptionsError> {
    let read = || {
        let mut text = String::new();
        fs::File::open(path)?
            .take(CONFIG_LIMIT)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| OptionsError::File {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any {
            type_url: type_url.into(),
            value,
            ..Any::default()
        }
    }

    #[test]
    fn runc_options() {
        let message = oci::Options {
            io_uid: 7,
            systemd_cgroup: true,
            ..oci::Options::default()
        };
        let options = Options::from_any(&any(
            "containerd.runc.v1.Options",
            message.write_to_bytes().unwrap(),
        ))
        .unwrap()
        .unwrap();
        assert_eq!((options.io_uid, options.systemd_cgroup), (7, true));
        assert_eq!(options.binary(), Path::new("runc"));
        assert_eq!(options.root("k8s.io"), Path::new("/run/containerd/runc/k8s.io"));
    }

    #[test]
    fn a_toml_table() {
        let body = b"SystemdCgroup = true\nBinaryName = \"/usr/bin/crun\"\nRoot = \"/r\"\nUnknown = 1\n";
        let mut value = vec![0x0a, 1, b'x', 0x1a, u8::try_from(body.len()).unwrap()];
        value.extend_from_slice(body);
        let options = Options::from_any(&any("types.example/runtimeoptions.v1.Options", value))
            .unwrap()
            .unwrap();
        assert!(options.systemd_cgroup);
        assert_eq!(options.binary(), Path::new("/usr/bin/crun"));
        assert_eq!(options.root("n"), Path::new("/r/n"));
    }

    #[test]
    fn other_types_are_no_options() {
        assert_eq!(
            Options::from_any(&any("containerd.linux.runc.CreateOptions", vec![1])).unwrap(),
            None
        );
        assert_eq!(Options::from_any(&any("", Vec::new())).unwrap(), None);
        assert!(Options::from_any(&any("containerd.runc.v1.Options", vec![0xff])).is_err());
    }

    #[test]
    fn the_bundle_keeps_them_for_delete() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Options::load(dir.path()), Options::default());
        let options = Options {
            binary_name: "crun".into(),
            root: "/r".into(),
            ..Options::default()
        };
        options.save(dir.path()).unwrap();
        assert_eq!(Options::load(dir.path()), options);
        assert_eq!(fs::read_to_string(dir.path().join("runtime")).unwrap(), "crun");
    }
}
