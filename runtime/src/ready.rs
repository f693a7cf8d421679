//! Is the application in a container ready to serve?
//!
//! A probe acts from inside: in the container's network namespace, by `runc exec`, or on a file of the container. Each
//! has a second, a program ten, and what the application answers is thrown away.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use thaw_config::{Probe, Warmup};
use thaw_runc::{Runc, RuncError};

mod http;
mod file;

/// How long one try may take.
const TRY: Duration = Duration::from_secs(1);

/// How often the application is asked: well below the second at which orchestrators ask, so that a snapshot comes
/// before their traffic.
pub const PAUSE: Duration = Duration::from_millis(100);

/// How long one that should be ready may take to say so again: more than one try of any kind.
pub const AGAIN: Duration = Duration::from_secs(15);

/// How long a program may take: it has to be started first, by runc, maybe in an interpreter.
const RUN: Duration = Duration::from_secs(10);

/// How long one request of a warm-up may take: the first ones compile and connect.
const WARM: Duration = Duration::from_secs(30);

/// The most of an answer that is read in bytes, so that the application can write all of an ordinary one.
const ANSWER_LIMIT: u64 = 16 << 20;

/// The container to ask.
#[derive(Debug, Clone)]
pub struct Place {
    /// Host pid of its init.
    pub pid: i32,
    /// Its id, as runc knows it.
    pub id: String,
    /// Its runc.
    pub runc: Runc,
    /// The file that says that a line of its output has matched.
    pub log_seen: PathBuf,
}

/// Why it is not ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// No connection, or no answer.
    #[error("ask port {port}")]
    Ask {
        /// The port.
        port: u16,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// An answer that says no.
    #[error("port {port} answers {status}")]
    Status {
        /// The port.
        port: u16,
        /// Its status.
        status: u16,
    },
    /// The program did not end with 0.
    #[error("run {program:?} in it")]
    Exec {
        /// The program.
        program: String,
        /// What runc said.
        #[source]
        source: RuncError,
    },
    /// No line of output has matched so far.
    #[error("no line of its output matches")]
    Log,
    /// It has not written the file.
    #[error("it has not written {}", file::PATH)]
    File,
    /// It can't be looked for.
    #[error("look for {}", file::PATH)]
    Look(#[source] io::Error),
    /// A thread failed.
    #[error("ask on a thread")]
    Thread,
}

/// One try.
///
/// # Errors
/// See [`NotReady`].
pub async fn ask(probe: &Probe, place: &Place) -> Result<(), NotReady> {
    match probe {
        Probe::Http(target) => {
            let status = request(place, target, TRY).await?;
            if (200..400).contains(&status) {
                Ok(())
            } else {
                Err(NotReady::Status {
                    port: target.port,
                    status,
                })
            }
        }
        Probe::Tcp(port) => {
            let (pid, port) = (place.pid, *port);
            blocking(move || http::connects(pid, port, TRY))
                .await?
                .map_err(|source| NotReady::Ask { port, source })
        }
        Probe::Exec(words) => {
            let run = place.runc.exec_to_end(&place.id, words, RUN);
            run.await.map_err(|source| NotReady::Exec {
                program: words.first().cloned().unwrap_or_default(),
                source,
            })
        }
        Probe::Log(_) => place.log_seen.exists().then_some(()).ok_or(NotReady::Log),
        Probe::File => {
            let pid = place.pid;
            match blocking(move || file::exists(pid)).await? {
                Ok(true) => Ok(()),
                Ok(false) => Err(NotReady::File),
                Err(source) => Err(NotReady::Look(source)),
            }
        }
    }
}

/// Asks again and again until it is ready.
///
/// # Errors
/// The last answer, when `limit` has passed.
pub async fn wait(probe: &Probe, place: &Place, limit: Duration, pause: Duration) -> Result<(), NotReady> {
    let end = Instant::now() + limit;
    loop {
        match ask(probe, place).await {
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => tokio::time::sleep(pause).await,
            Ok(()) => return Ok(()),
        }
    }
}

/// Sends the requests of a warm-up, one after the other. An error answer is an answer.
///
/// # Errors
/// [`NotReady::Ask`] for the first request that gets none.
pub async fn warm_up(warmup: &Warmup, place: &Place) -> Result<(), NotReady> {
    for _ in 0..warmup.count {
        request(place, &warmup.target, WARM).await?;
    }
    Ok(())
}

async fn request(place: &Place, target: &thaw_config::Target, limit: Duration) -> Result<u16, NotReady> {
    let (pid, port, wanted) = (place.pid, target.port, target.clone());
    blocking(move || http::get(pid, &wanted, limit))
        .await?
        .map_err(|source| NotReady::Ask { port, source })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>, NotReady> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_error| NotReady::Thread)
}
