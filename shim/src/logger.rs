//! The shim's log: the FIFO `log` in the bundle, in the text form that containerd itself writes.
//!
//! containerd copies the lines to its own log. The FIFO is opened for reading too and never blocks: while containerd
//! restarts nobody reads, and a shim must neither die of that nor wait. Lines that do not fit then are lost.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::libc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug)]
struct Logger {
    fifo: File,
    id: String,
    namespace: String,
}

/// Logs to the FIFO in the current directory from now on; standard error goes there too.
pub(crate) fn install(id: &str, namespace: &str, debug: bool) -> io::Result<()> {
    let fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(Path::new("log"))?;
    nix::unistd::dup2_stderr(&fifo)?;
    let logger = Logger {
        fifo,
        id: id.to_owned(),
        namespace: namespace.to_owned(),
    };
    // Only fails when a logger is installed already.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(if debug {
            LevelFilter::Debug
        } else {
            LevelFilter::Info
        });
    }
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The transport logs every closed connection as an error of its own.
        metadata.level() <= log::max_level() && !metadata.target().starts_with("ttrpc")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
            let line = line(
                &now,
                record.level(),
                &record.args().to_string(),
                &self.id,
                &self.namespace,
            );
            // One write, so that lines of several threads do not mix.
            (&self.fifo).write_all(line.as_bytes()).ok();
        }
    }

    fn flush(&self) {}
}

fn line(now: &str, level: Level, message: &str, id: &str, namespace: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut line = format!("time=\"{now}\" level={level} msg=");
    // Writing to a string cannot fail.
    write!(
        line,
        "{message:?} id={id} namespace={namespace} runtime=io.containerd.thaw.v1"
    )
    .ok();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_containerd_would_write() {
        assert_eq!(
            line(
                "2026-01-01T00:00:00Z",
                Level::Warn,
                "it \"broke\"\nbadly",
                "c1",
                "default"
            ),
            "time=\"2026-01-01T00:00:00Z\" level=warning msg=\"it \\\"broke\\\"\\nbadly\" id=c1 \
             namespace=default runtime=io.containerd.thaw.v1\n"
        );
    }
}
