//! An HTTP client that works inside a network namespace.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::wait::patience;

/// A SYN that meets a locked namespace is dropped, and the kernel tries again a second later: we do sooner.
const CONNECT: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(3);

/// Runs `work` on a thread in the network namespace at `netns`. Namespaces belong to threads, so it ends there.
///
/// # Errors
/// When the namespace can't be entered, and what `work` fails with.
pub fn inside<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let file = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    let thread = thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        work()
    });
    thread.join().map_err(|_panic| anyhow!("a thread panicked"))?
}

/// Asks for `path` until there is a 200, `limit` at most, and answers its body.
///
/// # Errors
/// When there is none in time.
pub fn get(netns: &Path, address: SocketAddr, path: &str, limit: Duration) -> Result<String> {
    let path = path.to_owned();
    inside(netns, move || {
        let end = Instant::now() + patience(limit);
        loop {
            let failed = match once(address, &path) {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            if Instant::now() > end {
                return Err(failed.context(format!("no 200 from {address}{path} in {limit:?}")));
            }
            thread::sleep(PAUSE);
        }
    })
}

/// One try, in the namespace of the calling thread.
///
/// # Errors
/// Anything but a 200.
pub fn once(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience(CONNECT))?;
    stream.set_read_timeout(Some(patience(Duration::from_secs(5))))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: thaw\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("answered {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
