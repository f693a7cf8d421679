//! A node on which nothing is real but files: runc and CRIU are scripts, the image's name is made up, mounts are
//! counted. One temporary directory holds all of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use thaw_config::{ConfigError, NodeConfig};
use thaw_runc::{Exit, PlainSpawner, Runc, Spawner};
use thaw_runtime::boot::{Boot, CreateError, Created, Request, Rootfs, Streams};
use thaw_runtime::identify::{Identified, Identify, IdentifyError, Kubernetes};

use super::donor;

/// The container's id.
pub(crate) const ID: &str = "clone";

/// What a story may change before the container is created.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) root: TempDir,
    pub(crate) config: NodeConfig,
    pub(crate) mistake: Option<Arc<ConfigError>>,
    pub(crate) runc: Runc,
    pub(crate) images: Arc<Images>,
    pub(crate) rootfs: FakeRootfs,
    /// Written to the bundle, unless it is null.
    pub(crate) spec: Value,
    /// A file that stays open, for its lock.
    pub(crate) open: Option<fs::File>,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = TempDir::new().unwrap();
        let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/story/fakes");
        for name in ["bin", "bundle", "bundle/rootfs", "upper"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        // Links, not copies: a file that was just written can't be run while another thread forks (ETXTBSY).
        for name in ["runc", "criu"] {
            symlink(fakes.join(name), root.path().join("bin").join(name)).unwrap();
        }
        let store = format!("file://{}/store", root.path().display());
        let mut config = NodeConfig {
            cache: root.path().join("cache"),
            state: root.path().join("state"),
            criu: root.path().join("bin/criu"),
            ..NodeConfig::default()
        };
        config.store.url = store.parse().unwrap();
        config.store.request_timeout = Duration::from_secs(2);
        // A machine that is busy with a build must not tell another story.
        config.deadlines.identify = Duration::from_secs(20);
        config.deadlines.lookup = Duration::from_secs(20);
        config.deadlines.restore = Duration::from_secs(30);
        let runc = Runc::new(
            root.path().join("bin/runc"),
            root.path().join("runc-state"),
            Arc::new(Unprivileged),
        );
        let world = Self {
            config,
            mistake: None,
            runc,
            images: Arc::new(Images::Known),
            rootfs: FakeRootfs::new(root.path().join("upper")),
            spec: donor::spec(),
            open: None,
            root,
        };
        let upper = world.upper();
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o751)).unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::open(&upper).unwrap().set_modified(long_ago).unwrap();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.path("upper")
    }

    /// The container's record.
    pub(crate) fn record(&self) -> PathBuf {
        self.path("state/default").join(ID)
    }

    pub(crate) fn annotate(&mut self, name: &str, value: &str) {
        self.spec["annotations"][name] = value.into();
    }

    /// What the fake runc does at `verb`; see there.
    pub(crate) fn runc_does(&self, verb: &str, mode: &str) {
        fs::write(self.path("bin").join(format!("{verb}.mode")), mode).unwrap();
    }

    /// The calls of runc, each a line of verb and arguments.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("bin/calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The verbs alone, in order.
    pub(crate) fn verbs(&self) -> Vec<String> {
        let first = |call: &String| call.split(' ').next().unwrap_or_default().to_owned();
        self.calls().iter().map(first).collect()
    }

    /// What the fake saw of the restore: `bundle/config.json`, `images/*`, `criu.conf`.
    pub(crate) fn seen(&self, name: &str) -> Vec<u8> {
        fs::read(self.path("bin/seen").join(name)).unwrap()
    }

    /// The processes that the fake started for `verb`.
    pub(crate) fn pids(&self, verb: &str) -> Vec<i32> {
        let pids = fs::read_to_string(self.path("bin").join(format!("{verb}.pids"))).unwrap_or_default();
        pids.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    pub(crate) async fn create(&self) -> Result<Created, CreateError> {
        let (boot, request) = self.boot();
        boot.create(&request, &self.rootfs, &Null).await
    }

    /// As [`World::create`], with a checkpoint that the client has chosen.
    pub(crate) async fn create_from(&self, checkpoint: &Path) -> Result<Created, CreateError> {
        let (boot, request) = self.boot();
        boot.create_from_checkpoint(&request, checkpoint, &self.rootfs, &Null)
            .await
    }

    fn boot(&self) -> (Boot, Request) {
        if !self.spec.is_null() {
            fs::write(self.path("bundle/config.json"), self.spec.to_string()).unwrap();
        }
        let boot = Boot {
            config: self.config.clone(),
            mistake: self.mistake.clone(),
            runc: self.runc.clone(),
            helper: "/usr/bin/helper".into(),
            images: self.images.clone(),
        };
        let request = Request {
            namespace: "default".to_owned(),
            id: ID.to_owned(),
            bundle: self.path("bundle"),
            terminal: false,
            stdin: false,
            containerd: "/nowhere/containerd.sock".into(),
            no_pivot: false,
            no_new_keyring: false,
        };
        (boot, request)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for verb in ["create", "restore"] {
            for pid in self.pids(verb) {
                // Most have ended, and a number may have found another owner.
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                if name.trim() != "sleep" {
                    continue;
                }
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
}

/// Mode, owner and modification time of a directory, and what is in it.
pub(crate) fn state_of(directory: &Path) -> (u32, u32, i64, BTreeMap<String, Vec<u8>>) {
    let meta = fs::metadata(directory).unwrap();
    (meta.mode(), meta.uid(), meta.mtime(), donor::read_all(directory))
}

/// The names in a directory, sorted; none when there is no directory.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// The letter of a process's state (`man 5 proc_pid_stat`); `None` when it has ended, whether or not it was waited for.
pub(crate) fn process_state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    (state != 'Z').then_some(state)
}

/// Waits up to five seconds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}

/// Starts commands without what only root may do in between, which is to leave the mount namespace.
#[derive(Debug)]
pub(crate) struct Unprivileged;

impl Spawner for Unprivileged {
    fn spawn(&self, command: &mut Command) -> io::Result<(Child, Exit)> {
        let mut plain = Command::new(command.get_program());
        plain.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => plain.env(name, value),
                None => plain.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            plain.current_dir(directory);
        }
        plain
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        PlainSpawner.spawn(&mut plain)
    }
}

/// What is known of the container's image.
#[derive(Debug)]
pub(crate) enum Images {
    /// It is the donor's.
    Known,
    /// It is the donor's, and the kubelet has said this.
    OfKubelet(Kubernetes),
    /// The container has none.
    None,
    /// Its name is gone.
    Gone,
    /// containerd refuses.
    Refused,
    /// containerd does not answer.
    Silent,
}

#[async_trait]
impl Identify for Images {
    async fn identify(&self, namespace: &str, _id: &str) -> Result<Identified, IdentifyError> {
        match self {
            Self::Known => Ok(Identified {
                image: donor::image(),
                kubernetes: None,
            }),
            Self::OfKubelet(kubernetes) => Ok(Identified {
                image: donor::image(),
                kubernetes: Some(kubernetes.clone()),
            }),
            Self::None => Err(IdentifyError::NoImage),
            Self::Gone => Err(IdentifyError::ImageGone {
                name: "example.com/app:1".to_owned(),
            }),
            Self::Refused => Err(IdentifyError::Namespace {
                namespace: namespace.to_owned(),
            }),
            Self::Silent => std::future::pending().await,
        }
    }
}

/// A root filesystem that is never mounted. Its upper directory is real.
#[derive(Debug)]
pub(crate) struct FakeRootfs {
    upper: PathBuf,
    /// Not an overlay.
    pub(crate) plain: bool,
    /// The client has mounted it.
    pub(crate) client_mounts: bool,
    /// The next mount fails.
    pub(crate) refuse_mount: AtomicBool,
    /// Somebody uses it: it can't be taken off.
    pub(crate) busy: AtomicBool,
    /// How often it is mounted now.
    pub(crate) mounted: AtomicI32,
    /// How often it was taken off.
    pub(crate) taken_off: AtomicI32,
    /// What lay in the upper directory at each mount.
    pub(crate) at_mount: Mutex<Vec<Vec<String>>>,
}

impl FakeRootfs {
    fn new(upper: PathBuf) -> Self {
        Self {
            upper,
            plain: false,
            client_mounts: false,
            refuse_mount: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            mounted: AtomicI32::new(0),
            taken_off: AtomicI32::new(0),
            at_mount: Mutex::default(),
        }
    }
}

impl Rootfs for FakeRootfs {
    fn mount(&self) -> io::Result<()> {
        if self.refuse_mount.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("told to refuse"));
        }
        let names = names_in(&self.upper);
        self.at_mount.lock().unwrap().push(names);
        if self.client_mounts {
            return self.put_back();
        }
        assert_eq!(self.mounted.fetch_add(1, Ordering::SeqCst), 0, "mounted twice");
        Ok(())
    }

    fn unmount(&self) -> io::Result<()> {
        if !self.client_mounts {
            self.mounted.store(0, Ordering::SeqCst);
        }
        Ok(())
    }

    fn take_off(&self) -> io::Result<()> {
        if self.busy.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.taken_off.fetch_add(1, Ordering::SeqCst);
        self.mounted.store(0, Ordering::SeqCst);
        Ok(())
    }

    fn put_back(&self) -> io::Result<()> {
        if self.client_mounts {
            self.mounted.store(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn seen_by(&self, _pid: i32) -> PathBuf {
        self.upper.with_file_name("bundle").join("rootfs")
    }

    fn upper(&self) -> Option<&Path> {
        (!self.plain).then_some(self.upper.as_path())
    }
}

#[derive(Debug)]
struct Null;

impl Streams for Null {
    fn stdio(&self) -> io::Result<[Stdio; 3]> {
        Ok([Stdio::null(), Stdio::null(), Stdio::null()])
    }

    fn console_socket(&self) -> Option<&Path> {
        None
    }
}
