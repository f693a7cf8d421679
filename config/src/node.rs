//! What holds on this node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use url::Url;

use crate::capture::Capture;
use crate::mistake::{ConfigError, Mistake, Origin, Problem};
use crate::policy::{PersistentMounts, SnapshotPolicy, TcpMode};
use crate::quarantine::Quarantine;
use crate::read::{self, Reader};
use crate::store_url::StoreUrl;
use crate::written::Written;

/// The directory of `config.toml` and `conf.d`.
pub const DEFAULT_DIR: &str = "/etc/thaw";

/// The node's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Where snapshots are kept, and how to get there.
    pub store: Store,
    /// What this node holds of the store; may be deleted at any time. Default `/var/lib/thaw/cache`: it has to
    /// outlive a reboot to be worth anything, so it is on disk, and it grows, so it is not in `/run`.
    pub cache: PathBuf,
    /// Records of the containers that run now. Default `/run/thaw`: they mean nothing after a reboot.
    pub state: PathBuf,
    /// What to do when a container says nothing. Default `IfPresent`: installing thaw should be all it takes.
    pub policy: SnapshotPolicy,
    /// The places that a container may name with `thaw.dev/snapshot-path`. Default none: whoever writes an
    /// annotation would otherwise choose the memory that runs on this node.
    pub allowed_paths: Vec<StoreUrl>,
    /// How long each step of a boot may take.
    pub deadlines: Deadlines,
    /// How long a snapshot that failed here is left alone.
    pub quarantine: Quarantine,
    /// Rules for captures.
    pub capture: Capture,
    /// What becomes of established TCP connections. Default `auto`: keep what can go on, close what can't.
    pub tcp: TcpMode,
    /// Whether a container may be restored from a snapshot that was published for everybody (`thaw capture --scope
    /// shared`), when there is none of its own scope. Default no: such a snapshot holds the memory of a stranger.
    pub shared_scope: bool,
    /// What becomes of containers with writable storage that outlives them, when they say nothing themselves.
    /// Default `refuse`: a database process older than its files is worse than a slow start.
    pub persistent_mounts: PersistentMounts,
    /// Whether the memory of a restored process is filled in by thaw's page server, where that is possible, in place of
    /// CRIU. Default yes: it takes about a third of the time.
    pub page_server: bool,
    /// CRIU: an absolute path, or a name that is looked for in PATH. Default `criu`, as runc does.
    pub criu: PathBuf,
    /// runc, likewise. Default `runc`, as the stock shim does.
    pub runc: PathBuf,
    /// What goes to the log. Default `info`: one line per boot.
    pub log_level: LevelFilter,
}

/// The store and how to reach it. Credentials are never written here: they come from where each cloud's tools look
/// for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Default `file:///var/lib/thaw/store`: works on one machine without any service.
    pub url: StoreUrl,
    /// For S3 servers that are not Amazon's. Default: the one of the cloud.
    pub endpoint: Option<Url>,
    /// Allow `http://` endpoints. Default no: a snapshot holds the memory of a process.
    pub allow_http: bool,
    /// For one request to the store with its retries, and for an upload without progress. Default 5 s: a blob comes
    /// in ranges, none of which takes longer on a link that is worth restoring over.
    pub request_timeout: Duration,
    /// The longest time for which a store that gave no answer is not asked again; it begins with a second and doubles
    /// with each failure. Default 30 s: that is how long after its return the last container starts cold for it.
    pub rest: Duration,
    /// How long a boot waits for the first answer after such a rest. Default 30 ms: a store that is near has answered
    /// by then, and a cold start may not lose more than 50 ms to a store that is known to be dead.
    pub probe: Duration,
    /// How long "there is no snapshot" and other answers that are of no use are remembered, for stores that are not
    /// directories. Default 2 s: long enough
    /// for the replicas of a deployment that start together, short enough that a snapshot which another node has
    /// just published is soon found.
    pub remember_misses: Duration,
}

/// How long each step of a boot may take before the container starts cold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Ask containerd for the image. Default 1 s: four local calls, some ms each, but a containerd that has just
    /// been started answers late.
    pub identify: Duration,
    /// Ask the store for the key. Default 300 ms: every container without a snapshot pays this when the store
    /// hangs, so it is what a cold start may lose at most.
    pub lookup: Duration,
    /// Bring the blobs to the node. Default 60 s: there is a snapshot, and 1 GB over a slow link is still sooner
    /// than booting the applications that are worth a snapshot of that size.
    pub fetch: Duration,
    /// `runc restore`. Default 10 s: it takes well below 1 s for hundreds of MB, so by then it hangs.
    pub restore: Duration,
    /// The command of `thaw.dev/on-restore`. Default 10 s: nobody waits for it, the container runs meanwhile; one that
    /// takes longer hangs, and should not stay for ever.
    pub on_restore: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            store: Store::default(),
            cache: PathBuf::from("/var/lib/thaw/cache"),
            state: PathBuf::from("/run/thaw"),
            policy: SnapshotPolicy::IfPresent,
            allowed_paths: Vec::new(),
            deadlines: Deadlines::default(),
            quarantine: Quarantine::default(),
            capture: Capture::default(),
            tcp: TcpMode::Auto,
            shared_scope: false,
            persistent_mounts: PersistentMounts::Refuse,
            page_server: true,
            criu: PathBuf::from("criu"),
            runc: PathBuf::from("runc"),
            log_level: LevelFilter::Info,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: StoreUrl::node_default(),
            endpoint: None,
            allow_http: false,
            request_timeout: Duration::from_secs(5),
            rest: Duration::from_secs(30),
            probe: Duration::from_millis(30),
            remember_misses: Duration::from_secs(2),
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            identify: Duration::from_secs(1),
            lookup: Duration::from_millis(300),
            fetch: Duration::from_secs(60),
            restore: Duration::from_secs(10),
            on_restore: Duration::from_secs(10),
        }
    }
}

/// A configuration, with what nobody understood.
#[derive(Debug)]
pub struct Loaded {
    /// What holds.
    pub config: NodeConfig,
    /// Keys that mean nothing. The shim logs them and goes on: a container should not fail to start because a
    /// newer file meets an older shim. The command line tool refuses them, see [`Loaded::strict`].
    pub unknown: Vec<Mistake>,
}

impl Loaded {
    /// The configuration, if every key was understood.
    ///
    /// # Errors
    /// The unknown keys.
    pub fn strict(self) -> Result<NodeConfig, ConfigError> {
        if self.unknown.is_empty() {
            Ok(self.config)
        } else {
            Err(ConfigError {
                mistakes: self.unknown,
            })
        }
    }
}

impl NodeConfig {
    /// Reads the configuration of this node: the file `named`, or the one in `$THAW_CONFIG`, or
    /// `/etc/thaw/config.toml` and `/etc/thaw/conf.d/*.toml`; then `THAW_*` in the environment of this process.
    ///
    /// A named file stands alone and has to be there. The ones in `/etc/thaw` need not be.
    ///
    /// # Errors
    /// All mistakes in what was read.
    pub fn load(named: Option<&Path>) -> Result<Loaded, ConfigError> {
        // A variable that is not UTF-8 can't be a value of ours.
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::load_from(named, Path::new(DEFAULT_DIR), variables)
    }

    /// As [`NodeConfig::load`], with another directory in place of `/etc/thaw` and another environment.
    ///
    /// # Errors
    /// All mistakes in what was read.
    pub fn load_from(
        named: Option<&Path>,
        directory: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let mut written = Written::default();
        let mut mistakes = Vec::new();
        written.add_environment(variables);
        let from_environment = written.take("config").and_then(|(_, raw)| read::text(raw).ok());
        match named.map(Path::to_owned).or(from_environment.map(PathBuf::from)) {
            Some(path) => written.add_file(&path, true, &mut mistakes),
            None => {
                written.add_file(&directory.join("config.toml"), false, &mut mistakes);
                for path in drop_ins(&directory.join("conf.d"), &mut mistakes) {
                    written.add_file(&path, true, &mut mistakes);
                }
            }
        }
        let mut reader = Reader { written, mistakes };
        let config = Self::read(&mut reader);
        match reader.mistakes {
            none if none.is_empty() => Ok(Loaded {
                config,
                unknown: reader.written.rest(),
            }),
            mut mistakes => {
                mistakes.extend(reader.written.rest());
                Err(ConfigError { mistakes })
            }
        }
    }

    fn read(reader: &mut Reader) -> Self {
        let mut config = Self::default();
        config.store.read(reader);
        reader.read("cache", &mut config.cache, read::absolute_path);
        reader.read("state", &mut config.state, read::absolute_path);
        reader.read("policy", &mut config.policy, |raw| {
            read::word(raw, SnapshotPolicy::WORDS)
        });
        reader.read("allowed_paths", &mut config.allowed_paths, read::store_urls);
        reader.read(
            "deadlines.identify",
            &mut config.deadlines.identify,
            read::duration,
        );
        reader.read("deadlines.lookup", &mut config.deadlines.lookup, read::duration);
        reader.read("deadlines.fetch", &mut config.deadlines.fetch, read::duration);
        reader.read("deadlines.restore", &mut config.deadlines.restore, read::duration);
        config.quarantine.read(reader);
        config.capture.read(reader);
        reader.read(
            "deadlines.on_restore",
            &mut config.deadlines.on_restore,
            read::duration,
        );
        reader.read("tcp", &mut config.tcp, |raw| read::word(raw, TcpMode::WORDS));
        reader.read("shared_scope", &mut config.shared_scope, read::boolean);
        reader.read("persistent_mounts", &mut config.persistent_mounts, |raw| {
            read::word(raw, PersistentMounts::WORDS)
        });
        reader.read("page_server", &mut config.page_server, read::boolean);
        reader.read("criu", &mut config.criu, read::program);
        reader.read("runc", &mut config.runc, read::program);
        reader.read("log_level", &mut config.log_level, read::log_level);
        config
    }
}

impl Store {
    fn read(&mut self, reader: &mut Reader) {
        reader.read("store.url", &mut self.url, read::store_url);
        reader.read("store.request_timeout", &mut self.request_timeout, read::duration);
        reader.read("store.rest", &mut self.rest, read::duration);
        reader.read("store.probe", &mut self.probe, read::duration);
        reader.read("store.remember_misses", &mut self.remember_misses, read::duration);
        reader.read("store.allow_http", &mut self.allow_http, read::boolean);
        let allow_http = self.allow_http;
        reader.read(
            "store.endpoint",
            &mut self.endpoint,
            |raw| match read::endpoint(raw)? {
                Some(url) if url.scheme() == "http" && !allow_http => Err(Problem::PlainHttp),
                endpoint => Ok(endpoint),
            },
        );
    }
}

/// `*.toml` in `directory`, in the order of their names.
fn drop_ins(directory: &Path, mistakes: &mut Vec<Mistake>) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let origin = Origin::File(directory.to_owned());
            mistakes.push(Mistake {
                origin,
                key: String::new(),
                problem: Problem::Read(error),
            });
            return Vec::new();
        }
    };
    let mut paths: Vec<_> = entries
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
