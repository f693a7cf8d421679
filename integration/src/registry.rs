//! A registry of images for clients to pull from: Debian's docker-registry.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{ok, run};
use crate::http;
use crate::lab::Lab;
use crate::run::full_name;

/// Every client takes plain HTTP from a loopback address.
const ADDRESS: &str = "127.0.0.1:5000";

/// A running registry; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    daemon: Child,
    netns: PathBuf,
}

impl Registry {
    /// Where the tests push to, over and over.
    pub const IMAGE: &str = "127.0.0.1:5000/app:1";
    /// The network namespace of the lab.
    pub const LAB: &str = "/proc/self/ns/net";

    /// Starts it on the loopback interface of the network namespace where the client pulls.
    ///
    /// # Errors
    /// When it does not come up, with its log.
    pub fn start(lab: &Lab, netns: &Path) -> Result<Self> {
        let (config, log) = (lab.path("registry.yml"), lab.path("registry.log"));
        let settings = serde_json::json!({
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": lab.path("registry")}},
            "http": {"addr": ADDRESS},
        });
        // JSON is YAML.
        fs::write(&config, settings.to_string())?;
        let file = File::create(&log)?;
        let daemon = Command::new("nsenter")
            .arg(format!("--net={}", netns.display()))
            .args(["docker-registry", "serve"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let registry = Self {
            daemon,
            netns: netns.to_owned(),
        };
        let address: SocketAddr = ADDRESS.parse()?;
        http::get(netns, address, "/v2/", Duration::from_secs(30))
            .with_context(|| format!("log: {}", fs::read_to_string(log).unwrap_or_default()))?;
        Ok(registry)
    }

    /// Pushes an image of the lab as [`Registry::IMAGE`], in place of what stands there.
    ///
    /// # Errors
    /// When `ctr` fails.
    pub fn push(&self, image: &str) -> Result<()> {
        ok(&["ctr", "image", "tag", "--force", &full_name(image), Self::IMAGE])?;
        // The client itself has to do it: containerd is in another network namespace, perhaps.
        let enter = format!("--net={}", self.netns.display());
        let push = ["ctr", "image", "push", "--local", "--plain-http", Self::IMAGE];
        let pushed = ok(&[&["nsenter", &enter], &push[..]].concat());
        run(&["ctr", "image", "remove", Self::IMAGE])?;
        pushed.map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM).ok();
        self.daemon.wait().ok();
    }
}
