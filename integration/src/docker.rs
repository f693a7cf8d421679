//! Docker Engine on the lab's containerd.
//!
//! dockerd gets a network namespace of its own, which stands for the host: its bridge, its firewall rules and its
//! published ports are gone with it. Its images are loaded once per lab, into each of its two image stores.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::command::{Ran, run_within};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::run::THAW;
use crate::wait::until;

mod container;

pub use container::Docked;

/// The sample that a user would copy.
const SAMPLE: &str = "/src/config/examples/docker-daemon.json";
/// The image that is loaded into both stores.
const IMAGE: &str = "python";

/// Where Docker keeps its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageStore {
    /// In its own store, with the storage driver overlay2.
    Docker,
    /// In containerd's, as new installations do since Docker 29.
    Containerd,
}

impl ImageStore {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Containerd];

    /// Docker's data root with this store.
    #[must_use]
    pub fn data_root(self) -> &'static str {
        match self {
            Self::Docker => "/var/lib/thaw/docker-own",
            Self::Containerd => "/var/lib/thaw/docker-containerd",
        }
    }

    /// As the table of compatibility calls Docker with this store.
    #[must_use]
    pub fn client(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Containerd => "Docker with containerd's image store",
        }
    }
}

/// A running dockerd; ended when dropped.
#[derive(Debug)]
pub struct Docker {
    daemon: Child,
    host: Netns,
    /// Where its images are.
    pub store: ImageStore,
}

impl Docker {
    /// Its socket, as `$DOCKER_HOST` has it.
    pub const HOST: &str = "unix:///run/docker-lab/docker.sock";
    /// Long enough for anything that works, on a slow machine.
    pub const LIMIT: Duration = Duration::from_secs(120);
    /// The Python server, with an end of its own: the first process of a container dies of no signal that it does not
    /// handle.
    pub const SERVER: [&str; 3] = [
        "python3",
        "-c",
        "import runpy, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(42)); \
         runpy.run_path('/srv/server.py', run_name='__main__')",
    ];

    /// As [`Lab::enter_with_image`], where Docker can be had.
    ///
    /// # Panics
    /// When the images can't be loaded.
    #[must_use]
    pub fn enter(name: &str) -> Option<Lab> {
        static LOADED: OnceLock<()> = OnceLock::new();
        // Before the lab looks at the node: images stay.
        if std::env::var_os("THAW_LAB").is_some() {
            LOADED
                .get_or_init(|| load().unwrap_or_else(|error| panic!("load images into Docker: {error:#}")));
        }
        Lab::enter_with_image(name, IMAGE)
    }

    /// Runs a test with each image store, where Docker can be had; it may leave nothing behind.
    ///
    /// # Errors
    /// What the test fails with, and the list of what is left.
    pub fn in_each_store(name: &str, test: impl Fn(&Lab, ImageStore) -> Result<()>) -> Result<()> {
        let Some(lab) = Self::enter(name) else {
            return Ok(());
        };
        ImageStore::ALL
            .into_iter()
            .try_for_each(|store| test(&lab, store).with_context(|| format!("{store:?}")))?;
        lab.done()
    }

    /// Starts dockerd.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub fn start(store: ImageStore) -> Result<Self> {
        let host = Netns::new("docker-lab")?;
        fs::create_dir_all("/run/docker-lab")?;
        let config = format!("{}.json", store.data_root());
        fs::write(&config, settings(store)?.to_string())?;
        let log = fs::File::create("/run/docker-lab/log")?;
        // Only the network: a mount namespace of its own would hide its mounts from containerd.
        let daemon = Command::new("nsenter")
            .arg(format!("--net={}", host.path().display()))
            .args(["dockerd", "--config-file", &config])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let docker = Self { daemon, host, store };
        until("dockerd", Docker::LIMIT, || {
            Ok((docker.run(&["version"])?.code == 0).then_some(()))
        })
        .with_context(|| {
            format!(
                "log: {}",
                fs::read_to_string("/run/docker-lab/log").unwrap_or_default()
            )
        })?;
        Ok(docker)
    }

    /// The network namespace that stands for the host.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.host.path()
    }

    /// The firewall's rules on that host, without their counters.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn rules(&self) -> Result<String> {
        self.host.ok(&["iptables-save"]).map(|rules| {
            let rules = rules.lines().filter(|line| line.starts_with("-A"));
            rules.collect::<Vec<_>>().join("\n")
        })
    }

    /// The words with the client in front.
    #[must_use]
    pub fn words<'a>(&self, words: &[&'a str]) -> Vec<&'a str> {
        [&["docker", "--host", Self::HOST], words].concat()
    }

    /// Runs the client.
    ///
    /// # Errors
    /// When it can't be run; a bad exit code is no error.
    pub fn run(&self, words: &[&str]) -> Result<Ran> {
        run_within(Docker::LIMIT, &self.words(words))
    }

    /// Runs the client, which has to succeed, and answers its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok(&self, words: &[&str]) -> Result<String> {
        self.run(words)?.ok()
    }

    /// A container of [`Docker::SERVER`] under the given runtime, with its name as hostname and port 8000 published as
    /// `port`; it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn python(&self, name: &str, runtime: &str, port: u16, flags: &[&str]) -> Result<Docked<'_>> {
        self.unnamed(name, runtime, port, &[&["--hostname", name], flags].concat())
    }

    /// As [`Docker::python`], with the hostname that Docker gives.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn unnamed(&self, name: &str, runtime: &str, port: u16, flags: &[&str]) -> Result<Docked<'_>> {
        let publish = format!("{port}:8000");
        let image = format!("localhost/thaw/{IMAGE}");
        let words = [
            &["run", "--detach", "--runtime", runtime, "--name", name],
            &["--env", "HEAP_MB=8", "--publish", &publish][..],
            flags,
            &[&image],
            &Self::SERVER,
        ];
        let container = Docked::named(self, name, port);
        self.ok(&words.concat())?;
        container
            .get("/healthz")
            .with_context(|| format!("log: {:?}", container.log()))?;
        Ok(container)
    }

    /// Makes the store of the test hold a snapshot of [`Docker::python`] without flags, and no other. Its donor has
    /// made `/srv/marker`.
    ///
    /// # Errors
    /// When it can't be captured.
    pub fn snapshot(&self, lab: &Lab) -> Result<()> {
        // One from Docker with the other image store would do as well.
        lab.forget()?;
        let donor = self.python("donor", THAW, 8081, &[])?;
        donor.assert_cold("no_snapshot")?;
        donor.get("/write?marker")?;
        donor.capture()?;
        donor.get("/healthz")?;
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.daemon.id().cast_signed());
        kill(pid, Signal::SIGTERM).ok();
        let ended = until("the end of dockerd", Docker::LIMIT, || {
            Ok(self.daemon.try_wait()?)
        });
        if ended.is_err() {
            self.daemon.kill().ok();
            self.daemon.wait().ok();
        }
        fs::remove_dir_all("/run/docker-lab").ok();
    }
}

/// The sample file, and what keeps this dockerd to itself.
fn settings(store: ImageStore) -> Result<Value> {
    let mut settings: Value = serde_json::from_str(&fs::read_to_string(SAMPLE)?)?;
    let own = json!({
        "data-root": store.data_root(),
        "exec-root": "/run/docker-lab/exec",
        "pidfile": "/run/docker-lab/pid",
        "hosts": [Docker::HOST],
        "containerd": "/run/containerd/containerd.sock",
        // Checkpoints are experimental in Docker.
        "experimental": true,
        "features": {"containerd-snapshotter": store == ImageStore::Containerd},
    });
    let (Some(all), Value::Object(own)) = (settings.as_object_mut(), own) else {
        bail!("{SAMPLE} is no object");
    };
    all.extend(own);
    Ok(settings)
}

fn load() -> Result<()> {
    for store in ImageStore::ALL {
        let docker = Docker::start(store)?;
        let there = docker.run(&["image", "inspect", &format!("localhost/thaw/{IMAGE}")])?;
        if there.code == 0 {
            continue;
        }
        let archive = format!("{}.tar", store.data_root());
        let convert = format!("python3 /src/hack/lib/docker-archive.py /images/{IMAGE}.tar >{archive}");
        run_within(Docker::LIMIT, &["sh", "-c", &convert])?.ok()?;
        docker.ok(&["load", "--input", &archive])?;
        fs::remove_file(archive)?;
    }
    Ok(())
}
