//! The configuration of a containerd for pods: a sample of `config/examples`, and what the lab needs.

use std::fs;

use anyhow::Result;

use super::{FOLDER, ROOT, SOCKET};
use crate::containerd::major_version;

/// Which version of containerd's configuration to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigVersion {
    /// That of containerd 1.x, which later ones translate.
    Two,
    /// That of containerd 2.x.
    Three,
    /// The same, and the sample that names the shim by its path.
    ThreeByPath,
}

impl ConfigVersion {
    /// The newest that the lab's containerd reads.
    ///
    /// # Errors
    /// When containerd does not say its own version.
    pub fn newest() -> Result<Self> {
        Ok(if major_version()? < 2 {
            Self::Two
        } else {
            Self::Three
        })
    }

    /// The sample configuration of this version is used as it says itself: imported, or added to the file. Handlers:
    /// `runc`, `thaw` (from the sample), and `counted`, which is thaw with hooks in each spec.
    pub(super) fn text(self) -> Result<String> {
        let (number, runtime, images) = match self {
            Self::Two => (2, "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"),
            Self::Three | Self::ThreeByPath => {
                (3, "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images")
            }
        };
        let pause = "localhost/thaw/pause:latest";
        let sandbox = match self {
            Self::Two => format!("[plugins.'{images}']\n  sandbox_image = '{pause}'"),
            Self::Three | Self::ThreeByPath => {
                format!("[plugins.'{images}'.pinned_images]\n  sandbox = '{pause}'")
            }
        };
        // Root without CAP_SYS_RESOURCE, as in some virtual machines, can't lower the score, and pods ask for that.
        let score = match self {
            Self::Two => format!("{sandbox}\n  restrict_oom_score_adj = true"),
            Self::Three | Self::ThreeByPath => {
                format!("{sandbox}\n[plugins.'{runtime}']\n  restrict_oom_score_adj = true")
            }
        };
        let programs = match self {
            Self::Two => "bin_dir = '/usr/lib/cni'",
            Self::Three | Self::ThreeByPath => "bin_dirs = ['/usr/lib/cni']",
        };
        let path = if self == Self::ThreeByPath { "-path" } else { "" };
        let sample = format!("/src/config/examples/containerd-v{number}{path}.toml");
        let (imports, added) = match self {
            Self::Two => (
                String::new(),
                fs::read_to_string(&sample)?.replace("version = 2\n", ""),
            ),
            Self::Three | Self::ThreeByPath => (format!("imports = ['{sample}']\n"), String::new()),
        };
        Ok(format!(
            "version = {number}\nroot = '{ROOT}'\nstate = '{FOLDER}/state'\n{imports}\
             [grpc]\n  address = '{SOCKET}'\n{score}\n\
             [plugins.'{runtime}'.cni]\n  {programs}\n  conf_dir = '{FOLDER}/cni'\n\
             [plugins.'{runtime}'.containerd.runtimes.counted]\n  runtime_type = 'io.containerd.thaw.v1'\n  \
             base_runtime_spec = '{FOLDER}/counted.json'\n\
             [plugins.'{runtime}'.containerd.runtimes.runc]\n  runtime_type = 'io.containerd.runc.v2'\n{added}"
        ))
    }
}
