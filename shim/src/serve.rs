//! The daemon: serves the Task protocol on the socket that `start` has bound, until its last container is gone.
//!
//! It has one thread. Everything it does itself is short; what takes long is done by runc or on a thread of the
//! runtime's pool.

use std::env;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::shim_async::create_task;
use futures::stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::events::Publisher;
use crate::flags::Flags;
use crate::logger;
use crate::reaper::Reaper;
use crate::task::{Service, Shim};

/// How long the last events may take, and the last answer.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// The answer to Shutdown is on its way when the shim hears of it; this is how long it gets.
const LAST_ANSWER: Duration = Duration::from_millis(5);

/// What can keep the shim from serving.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("take over the listening socket")]
    Listener(#[source] io::Error),
    #[error("become the reaper of the containers")]
    Subreaper(#[source] nix::Error),
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("listen for signals")]
    Signals(#[source] io::Error),
    #[error("serve")]
    Serve(#[source] ttrpc::Error),
}

/// Serves until the end.
pub(crate) fn run(flags: &Flags) -> Result<(), ServeError> {
    let (listener, path) = take_listener().map_err(ServeError::Listener)?;
    if let Err(error) = logger::install(&flags.id, &flags.namespace, flags.debug) {
        // Without a log it still serves. Standard error is all there is to tell it.
        log::error!("open the log: {error}");
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(ServeError::Subreaper)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let served = runtime.block_on(serve(flags, listener));
    fs::remove_file(path).ok();
    // Not waiting for its threads: they may hang on something that nobody needs any more.
    runtime.shutdown_background();
    served
}

/// `start` gives the bound socket as standard input.
fn take_listener() -> io::Result<(StdListener, PathBuf)> {
    let listener = StdListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let address = listener.local_addr()?;
    let path = address.as_pathname().map(Path::to_owned).unwrap_or_default();
    nix::unistd::dup2_stdin(fs::File::open("/dev/null")?)?;
    listener.set_nonblocking(true)?;
    Ok((listener, path))
}

async fn serve(flags: &Flags, listener: StdListener) -> Result<(), ServeError> {
    let (reaper, exits) = Reaper::new();
    let reaper = Arc::new(reaper);
    let signals = Signals::new().map_err(ServeError::Signals)?;
    let events = Publisher::start(&flags.namespace, env::var("TTRPC_ADDRESS").ok());
    let containerd = PathBuf::from(flags.address.trim_start_matches("unix://"));
    let shim = Arc::new(Shim::new(
        flags.namespace.clone(),
        containerd,
        events.clone(),
        Arc::clone(&reaper),
    ));
    tokio::spawn(Arc::clone(&shim).follow(exits));
    tokio::spawn(signals.follow(reaper, Arc::clone(&shim)));
    let listener = UnixListener::from_std(listener).map_err(ServeError::Listener)?;
    let mut server = server(listener, &shim);
    server.start().await.map_err(ServeError::Serve)?;
    shim.done.notified().await;
    tokio::time::sleep(LAST_ANSWER).await;
    events.drain(LAST_EVENTS).await;
    Ok(())
}

/// The service under the names of both versions of the protocol, whose messages are the same.
fn server(listener: UnixListener, shim: &Arc<Shim>) -> Server {
    let mut services = create_task(Arc::new(Service(Arc::clone(shim))));
    let second = create_task(Arc::new(Service(Arc::clone(shim))));
    services.extend(
        second
            .into_values()
            .map(|service| ("containerd.task.v2.Task".to_owned(), service)),
    );
    let uid = nix::unistd::geteuid().as_raw();
    let connections = stream::unfold(listener, move |listener| async move {
        let accepted = accept(&listener, uid).await;
        Some((accepted, listener))
    });
    Server::new()
        .add_listener(Listener::new(connections))
        .register_service(services)
}

/// The next connection of the same user; others are closed.
async fn accept(listener: &UnixListener, uid: u32) -> io::Result<UnixStream> {
    loop {
        let (connection, _) = listener.accept().await?;
        if connection.peer_cred()?.uid() == uid {
            return Ok(connection);
        }
        log::warn!("refused a connection of another user");
    }
}

/// The signals that a shim acts on.
struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    user: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    async fn follow(mut self, reaper: Arc<Reaper>, shim: Arc<Shim>) {
        loop {
            tokio::select! {
                _ = self.child.recv() => reaper.collect(),
                // The stock shim ends too, and leaves its containers to containerd's `delete`.
                _ = self.terminate.recv() => shim.done.notify_one(),
                _ = self.interrupt.recv() => shim.done.notify_one(),
                // The stock shim prints its stacks; the default action would kill us.
                _ = self.user.recv() => log::info!("got SIGUSR1, which does nothing"),
            }
        }
    }
}
