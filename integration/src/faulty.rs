//! A way to the lab's S3 server that can be broken: a proxy on TCP, with requests and bytes passed on unchanged, since
//! they are signed.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What becomes of the connections that are made from now on.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing: all is passed on.
    None,
    /// They are accepted, and there is no answer.
    Silent,
    /// Everything gets this answer, and the end of the connection.
    Answer(Vec<u8>),
    /// After this many bytes of answers the connections break.
    CutAfter(u64),
    /// After this many bytes of answers they come one a second.
    SlowAfter(u64),
}

/// The proxy; it ends when dropped.
#[derive(Debug)]
pub struct FaultyStore {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    fault: Mutex<Fault>,
    connections: AtomicU64,
    /// Bytes of answers since the fault was set.
    answered: AtomicU64,
    ended: AtomicBool,
}

impl FaultyStore {
    /// Begins to listen, in front of the server that `$AWS_ENDPOINT` names.
    ///
    /// # Errors
    /// When there is no server, or no port.
    pub fn new() -> Result<Self> {
        let endpoint = std::env::var("AWS_ENDPOINT").context("the lab has no S3 server")?;
        let server = endpoint.trim_start_matches("http://").trim_end_matches('/');
        let state = Arc::new(State {
            server: server
                .parse()
                .with_context(|| format!("{endpoint} is no address"))?,
            fault: Mutex::new(Fault::None),
            connections: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let state = Arc::clone(&shared);
                // A connection that breaks is what this is for.
                thread::spawn(move || state.serve(client).ok());
            }
        });
        Ok(Self { address, state })
    }

    /// The keys of the configuration that lead here.
    #[must_use]
    pub fn keys(&self) -> String {
        format!(
            "store.endpoint = 'http://{}'\nstore.allow_http = true",
            self.address
        )
    }

    /// Sets the fault, and begins to count bytes anew.
    pub fn set(&self, fault: Fault) {
        self.state.answered.store(0, Ordering::SeqCst);
        *self.state.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Bytes of answers since the fault was set.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::SeqCst)
    }
}

impl Drop for FaultyStore {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the listener.
        TcpStream::connect(self.address).ok();
    }
}

impl State {
    fn fault(&self) -> Fault {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn serve(&self, mut client: TcpStream) -> Result<()> {
        match self.fault() {
            Fault::Silent => {
                std::io::copy(&mut client, &mut std::io::sink())?;
                Ok(())
            }
            Fault::Answer(text) => {
                // The request first: closing with something unread would be a reset.
                let asked = client.read(&mut [0; 64 << 10])?;
                if asked > 0 {
                    client.write_all(&text)?;
                }
                Ok(client.shutdown(Shutdown::Both)?)
            }
            _ => self.forward(client),
        }
    }

    fn forward(&self, client: TcpStream) -> Result<()> {
        let server = TcpStream::connect(self.server)?;
        let (mut asking, mut asked) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            std::io::copy(&mut asking, &mut asked).ok();
            asked.shutdown(Shutdown::Both).ok();
        });
        let passed = self.answer(&client, &server);
        client.shutdown(Shutdown::Both).ok();
        server.shutdown(Shutdown::Both).ok();
        passed
    }

    fn answer(&self, mut client: &TcpStream, mut server: &TcpStream) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let mut length = server.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            let before = self.answered.fetch_add(length as u64, Ordering::SeqCst);
            let over = |limit: u64| (before + length as u64).saturating_sub(limit).min(length as u64);
            match self.fault() {
                Fault::CutAfter(limit) if over(limit) > 0 => return Ok(()),
                Fault::SlowAfter(limit) if over(limit) > 0 => {
                    let quick = length - usize::try_from(over(limit))?;
                    client.write_all(&buffer[..quick])?;
                    for byte in &buffer[quick..length] {
                        thread::sleep(Duration::from_secs(1));
                        client.write_all(&[*byte])?;
                    }
                    length = 0;
                }
                _ => {}
            }
            client.write_all(&buffer[..length])?;
        }
    }
}
