//! A GET, and a connection, from inside a network namespace.
//!
//! A client library would bring redirects, pools and names; this needs one status line, within a time, from an address
//! that it finds itself.

use std::io::{self, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use thaw_config::Target;

use super::ANSWER_LIMIT;
use crate::network;

/// The most addresses that are tried.
const MOST_ADDRESSES: usize = 8;

/// Does anybody accept a connection to `port` in the network of the process `pid`?
pub(super) fn connects(pid: i32, port: u16, limit: Duration) -> io::Result<()> {
    connect(pid, port, Instant::now() + limit).map(drop)
}

/// The status of the answer to a GET. It is read to its end, so that the application can write all of it and is the one
/// to close the connection: nothing of it is left in the dump.
pub(super) fn get(pid: i32, target: &Target, limit: Duration) -> io::Result<u16> {
    let end = Instant::now() + limit;
    let mut stream = connect(pid, target.port, end)?;
    stream.set_write_timeout(Some(left(end)?))?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost:{}\r\nUser-Agent: thaw\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        target.path, target.port
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut chunk = [0; 8192];
    let mut total = 0;
    loop {
        match read(&mut stream, &mut chunk, end) {
            Ok(0) => break,
            Ok(count) => {
                total += count as u64;
                let room = 64_usize.saturating_sub(head.len());
                head.extend(&chunk[..count.min(room)]);
                if total >= ANSWER_LIMIT {
                    break;
                }
            }
            // The status is all that was wanted, and it is there.
            Err(_) if status(&head).is_some() => break,
            Err(error) => return Err(error),
        }
    }
    status(&head).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn read(stream: &mut TcpStream, chunk: &mut [u8], end: Instant) -> io::Result<usize> {
    stream.set_read_timeout(Some(left(end)?))?;
    stream.read(chunk)
}

/// `HTTP/1.1 200 OK` (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?.get(1..)?;
    let code = rest.strip_prefix(b" ")?.get(..3)?;
    let code = std::str::from_utf8(code).ok()?;
    code.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| code.parse().ok())?
}

fn left(end: Instant) -> io::Result<Duration> {
    end.checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
}

/// Loopback first; then the addresses of the interfaces, for servers that bind to one of those only.
fn connect(pid: i32, port: u16, end: Instant) -> io::Result<TcpStream> {
    let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
    // A socket stays in the namespace in which it was made.
    network::visit(&netns, CloneFlags::CLONE_NEWNET, || {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let others = network::own_addresses()?;
        let others = others.into_iter().filter(|address| !address.is_loopback());
        for address in loopback.into_iter().chain(others).take(MOST_ADDRESSES) {
            match TcpStream::connect_timeout(&SocketAddr::new(address, port), left(end)?) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answer(text: &'static [u8]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(text).unwrap();
        });
        port
    }

    fn ask(text: &'static [u8]) -> io::Result<u16> {
        // Entering a namespace needs root, so this test speaks to the server as `get` does, from its own.
        let port = answer(text);
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        let mut head = Vec::new();
        stream.take(64).read_to_end(&mut head)?;
        status(&head).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    #[test]
    fn only_a_status_line_is_a_status() {
        assert_eq!(ask(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), 204);
        assert_eq!(ask(b"HTTP/1.0 503\r\n\r\n").unwrap(), 503);
        for text in [
            b"HTTP/2 200\r\n".as_slice(),
            b"HTTP/1.1 2",
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1 +20 \r\n",
        ] {
            assert!(status(text).is_none());
        }
    }

    #[test]
    fn no_time_left_is_a_timeout() {
        assert_eq!(left(Instant::now()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
