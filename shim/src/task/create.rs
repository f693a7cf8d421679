//! Create: the container exists afterwards, and its init waits for Start.

use std::path::Path;
use std::sync::Arc;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics::{TASK_CREATE_EVENT_TOPIC, TASK_OOM_EVENT_TOPIC};
use thaw_config::{ConfigError, NodeConfig};
use thaw_runc::Runc;
use thaw_runtime::boot::{Boot, CreateError, Request};
use thaw_runtime::record::Record;
use ttrpc::Code;

use super::Shim;
use super::container::{Container, Fixed, State};
use super::process::{End, Process};
use super::refusal::Refusal;
use super::registry::Target;
use super::self_capture;
use super::watch::Watch;
use crate::cgroup::Cgroup;
use crate::cgroup::oom::OomWatch;
use crate::io::{Attached, Owner, Prepared, Spec};
use crate::mount::{Mount, Rootfs};
use crate::options::Options;
use crate::spec;

/// The id is taken while the container is being created.
struct Reservation<'a> {
    shim: &'a Shim,
    id: &'a str,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut containers = self.shim.containers();
        if let Some(None) = containers.get(self.id) {
            containers.remove(self.id);
        }
    }
}

/// An id becomes part of file names, so nothing that leads elsewhere is one.
pub(super) fn check_id(id: &str) -> Result<(), Refusal> {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
    if id.is_empty() || id.starts_with('.') || !id.chars().all(plain) {
        return Err(Refusal::invalid(format!("invalid id {id:?}")));
    }
    Ok(())
}

impl Shim {
    fn reserve<'a>(&'a self, id: &'a str) -> Result<Reservation<'a>, Refusal> {
        check_id(id)?;
        let mut containers = self.containers();
        if containers.contains_key(id) {
            return Err(Refusal::new(
                Code::ALREADY_EXISTS,
                format!("container {id} already exists"),
            ));
        }
        containers.insert(id.to_owned(), None);
        Ok(Reservation { shim: self, id })
    }

    pub(super) async fn create(self: &Arc<Self>, request: CreateTaskRequest) -> Result<u32, Refusal> {
        let _reservation = self.reserve(&request.id)?;
        let bundle = Path::new(&request.bundle);
        let spec = spec::Spec::read(bundle).map_err(|error| Refusal::failure(&error))?;
        let (options, runc) = self.tools(&request, &spec)?;
        let rootfs = self.rootfs(&request, &spec).await?;
        let streams = streams(&request);
        let owner = self.owner(&request.id, &options);
        let mut prepared = Prepared::open(&streams, owner, &self.reaper)
            .await
            .map_err(|error| Refusal::failure(&error))?;
        let boot_request = self.boot_request(&request, &options);
        let _starting = self.registry.starting();
        let (config, mistake) = node_config();
        let record = Record::new(&config.state, &self.namespace, &request.id);
        if let Some(watch) = self_capture::watch(&config, &spec, &record) {
            prepared.watch(watch);
        }
        let boot = self.boot(config, mistake, &runc);
        let created = if request.checkpoint.is_empty() {
            boot.create(&boot_request, &rootfs, &prepared).await
        } else {
            let checkpoint = Path::new(&request.checkpoint);
            boot.create_from_checkpoint(&boot_request, checkpoint, &rootfs, &prepared)
                .await
        };
        let created = created.map_err(refusal)?;
        if created.capture.is_none() {
            prepared.forget_watch();
        }
        let mut init = Process::new(streams);
        init.pid = created.pid;
        init.streams = Some(attach(prepared, &runc, &request.id, &rootfs).await?);
        let cgroup = Cgroup::of(created.pid)
            .inspect(Cgroup::enable_controllers)
            .inspect_err(|error| log::error!("find the cgroup of {}: {error}", created.pid))
            .ok();
        let oom = cgroup
            .as_ref()
            .and_then(|cgroup| self.watch_oom(&request.id, cgroup));
        let fixed = Fixed {
            id: request.id.clone(),
            bundle: bundle.to_owned(),
            runc,
            options,
            rootfs,
            outlives_init: spec.outlives_init(),
            cgroup,
            record,
        };
        let mut state = State::new(init, oom);
        state.watch = Watch::of(&boot.config, &created.outcome);
        state.held = created.held;
        state.capture = created.capture.is_some();
        let container = Arc::new(Container::new(fixed, state));
        self.introduce(&request, container, created.pid);
        Ok(created.pid.cast_unsigned())
    }

    /// What is to be mounted, and what that needs.
    async fn rootfs(&self, request: &CreateTaskRequest, spec: &spec::Spec) -> Result<Rootfs, Refusal> {
        let mut rootfs = Rootfs::new(mounts(request), Path::new(&request.bundle), &spec.root.path);
        let program = std::env::current_exe().unwrap_or_default();
        let prepared = rootfs.prepare(&program, &*self.reaper).await;
        prepared.map_err(|error| Refusal::failure(&error))?;
        Ok(rootfs)
    }

    fn boot(&self, config: NodeConfig, mistake: Option<Arc<ConfigError>>, runc: &Runc) -> Boot {
        Boot {
            config,
            mistake,
            runc: runc.clone(),
            helper: std::env::current_exe().unwrap_or_default(),
            images: Arc::new(thaw_runtime::identify::Containerd {
                socket: self.containerd.clone(),
            }),
        }
    }

    /// Makes the container known, to requests and to containerd.
    fn introduce(&self, request: &CreateTaskRequest, container: Arc<Container>, pid: i32) {
        self.containers()
            .insert(request.id.clone(), Some(Arc::clone(&container)));
        self.events.publish(TASK_CREATE_EVENT_TOPIC, &event(request, pid));
        let target = Target {
            container,
            exec_id: String::new(),
        };
        if let Some(exit) = self.registry.add(pid, target.clone()) {
            self.exited(&target, End::new(exit.status, exit.at));
        }
    }

    fn tools(&self, request: &CreateTaskRequest, spec: &spec::Spec) -> Result<(Options, Runc), Refusal> {
        let given = match request.options.as_ref() {
            Some(any) => Options::from_any(any)
                .map_err(|error| Refusal::invalid(thaw_runtime::words::chain(&error)))?,
            None => None,
        };
        let options = given.unwrap_or_default();
        let bundle = Path::new(&request.bundle);
        options.save(bundle).map_err(|error| Refusal::failure(&error))?;
        let mut runc = Runc::new(
            options.binary(),
            options.root(&self.namespace),
            self.reaper.clone(),
        );
        // Options may come without a word on the driver: those of a pod with users of its own hold its ids alone.
        runc.systemd_cgroup = options.systemd_cgroup || spec.systemd_cgroup();
        runc.log = Some(bundle.join("log.json"));
        Ok((options, runc))
    }

    fn boot_request(&self, request: &CreateTaskRequest, options: &Options) -> Request {
        Request {
            namespace: self.namespace.clone(),
            id: request.id.clone(),
            bundle: request.bundle.clone().into(),
            terminal: request.terminal,
            stdin: !request.stdin.is_empty(),
            containerd: self.containerd.clone(),
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
        }
    }

    pub(super) fn owner(&self, id: &str, options: &Options) -> Owner {
        Owner {
            id: id.to_owned(),
            namespace: self.namespace.clone(),
            uid: options.io_uid,
            gid: options.io_gid,
        }
    }

    fn watch_oom(&self, id: &str, cgroup: &Cgroup) -> Option<OomWatch> {
        let (events, container_id) = (self.events.clone(), id.to_owned());
        let report = move || {
            let event = containerd_shim_protos::events::task::TaskOOM {
                container_id: container_id.clone(),
                ..Default::default()
            };
            events.publish(TASK_OOM_EVENT_TOPIC, &event);
        };
        OomWatch::start(cgroup, report)
            .inspect_err(|error| log::warn!("watch {id} for lack of memory: {error}"))
            .ok()
    }
}

/// The node's configuration as it is now. A mistake in it costs the containers their snapshots, not their start.
fn node_config() -> (NodeConfig, Option<Arc<ConfigError>>) {
    match NodeConfig::load(None) {
        Ok(loaded) => {
            for mistake in &loaded.unknown {
                log::warn!("configuration: {mistake}");
            }
            (loaded.config, None)
        }
        Err(error) => {
            log::error!("configuration: {}", thaw_runtime::words::chain(&error));
            (NodeConfig::default(), Some(Arc::new(error)))
        }
    }
}

/// Begins copying the streams. A container whose streams lead nowhere is of no use, so it is undone then.
async fn attach(prepared: Prepared, runc: &Runc, id: &str, rootfs: &Rootfs) -> Result<Attached, Refusal> {
    let error = match prepared.attach().await {
        Ok(attached) => return Ok(attached),
        Err(error) => error,
    };
    if let Err(error) = runc.delete(id, true).await {
        log::error!(
            "undo the creation of {id}: {}",
            thaw_runtime::words::chain(&error)
        );
    }
    if let Err(error) = thaw_runtime::boot::Rootfs::unmount(rootfs) {
        log::error!("unmount the root file system of {id}: {error}");
    }
    Err(Refusal::failure(&error))
}

fn streams(request: &CreateTaskRequest) -> Spec {
    Spec {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

fn mounts(request: &CreateTaskRequest) -> Vec<Mount> {
    let mount = |mount: &containerd_shim_protos::api::Mount| Mount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    };
    request.rootfs.iter().map(mount).collect()
}

fn event(request: &CreateTaskRequest, pid: i32) -> TaskCreate {
    TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: MessageField::some(TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..TaskIO::default()
        }),
        checkpoint: request.checkpoint.clone(),
        pid: pid.cast_unsigned(),
        ..TaskCreate::default()
    }
}

fn refusal(error: CreateError) -> Refusal {
    match error {
        CreateError::Runc(error) => Refusal::runc("OCI runtime create failed", &error),
        other => Refusal::failure(&other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_names() {
        for good in ["c1", "a.b_c-d", "0123abc"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "a\0"] {
            assert_eq!(check_id(bad).unwrap_err().code, Code::INVALID_ARGUMENT, "{bad:?}");
        }
    }
}
