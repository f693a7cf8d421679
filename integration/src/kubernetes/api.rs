//! The API server without a `kubectl` for each question: one of those takes a tenth of a second of a core to start,
//! which would be part of what is measured.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::wait::{patience, until};

/// `kubectl proxy`, which signs in for us; ended when dropped.
#[derive(Debug)]
pub(super) struct Api {
    proxy: Child,
    socket: PathBuf,
}

impl Api {
    pub(super) fn start(socket: PathBuf) -> Result<Self> {
        let mut command = Command::new("kubectl");
        command.arg("proxy").arg("--unix-socket").arg(&socket);
        let proxy = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let api = Self { proxy, socket };
        until("kubectl proxy", Duration::from_secs(30), || {
            Ok(UnixStream::connect(&api.socket).ok())
        })?;
        Ok(api)
    }

    /// Sends a request and answers the lines that come back, behind the head.
    ///
    /// In HTTP/1.0, so that the answer is not cut in pieces.
    fn ask(&self, line: &str, body: &str, limit: Duration) -> Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(patience(limit)))?;
        write!(
            stream,
            "{line} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/merge-patch+json\r\nContent-Length: {}\r\n\r\n\
             {body}",
            body.len()
        )?;
        let mut answer = BufReader::new(stream);
        let mut head = String::new();
        while answer.read_line(&mut head)? > 2 {}
        ensure!(head.starts_with("HTTP/1.0 200"), "{line} answered {head}");
        Ok(answer)
    }

    /// How long it takes from the request to scale a Deployment until all its pods are ready.
    pub(super) fn scale(
        &self,
        namespace: &str,
        deployment: &str,
        replicas: u32,
        limit: Duration,
    ) -> Result<Duration> {
        let all = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
        let watch = format!("GET {all}?watch=true&fieldSelector=metadata.name={deployment}");
        let mut events = self.ask(&watch, "", limit)?.lines();
        // The first one tells how it is.
        events.next().context("no answer to a watch")??;
        let body = json!({"spec": {"replicas": replicas}}).to_string();
        let begin = Instant::now();
        self.ask(&format!("PATCH {all}/{deployment}/scale"), &body, limit)?;
        for event in events {
            let event: Value = serde_json::from_str(&event?)?;
            if event["object"]["status"]["readyReplicas"] == replicas {
                return Ok(begin.elapsed());
            }
        }
        Err(anyhow::anyhow!("the watch of {deployment} ended"))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.proxy.kill().ok();
        self.proxy.wait().ok();
    }
}
