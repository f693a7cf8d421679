//! Open connections live on when their address comes along, and end otherwise.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use thaw_integration::{Bridge, Container, FakeCriu, Lab, Netns, Run, ok, until};

const MAC: &str = "02:77:00:00:00:02";
/// Echoes lines, each with the number of bytes seen so far on this connection, and counts its connections.
const ECHO: &str = r#"
import socket, threading
server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("0.0.0.0", 7000)); server.listen()
def serve(client):
    seen = 0
    try:
        for line in client.makefile("rb"):
            seen += len(line)
            client.sendall(b"%d " % seen + line)
    except OSError as error:
        print("broken", error, flush=True)
    print("closed", flush=True)
while True:
    client, _ = server.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()
"#;

fn server(id: &str, netns: &Netns, annotations: &[&str]) -> Result<Container> {
    let network = format!("network:{}", netns.path().display());
    let run = Run::new(id, "python").flags(&["--with-ns", &network, "--hostname", id]);
    run.flags(annotations).command(&["python3", "-c", ECHO]).start()
}

fn connect(address: &str) -> Result<TcpStream> {
    let address = format!("{address}:7000").parse()?;
    let stream = until("the echo server", Duration::from_secs(10), || {
        Ok(TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok())
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Sends a line and reads its echo; `seen` counts the bytes of both sides' conversation.
fn talk(stream: &mut TcpStream, seen: &mut usize) -> Result<()> {
    let line = format!("line at {seen}\n");
    stream.write_all(line.as_bytes())?;
    *seen += line.len();
    let wanted = format!("{seen} {line}");
    let mut answer = vec![0; wanted.len()];
    stream.read_exact(&mut answer)?;
    ensure!(
        answer == wanted.as_bytes(),
        "{:?}, not {wanted:?}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// CRIU drops packets while it works, by rules that a failed call would leave behind.
fn no_lock_left(netns: &Netns) -> Result<()> {
    let rules = netns.ok(&["nft", "list", "ruleset"])?;
    ensure!(!rules.contains("CRIU"), "{rules}");
    let tables = netns.ok(&["iptables-save"])?;
    ensure!(!tables.contains("CRIU"), "{tables}");
    Ok(())
}

#[test]
fn a_connection_survives_the_move() -> Result<()> {
    let Some(lab) = Lab::enter("a_connection_survives_the_move") else {
        return Ok(());
    };
    {
        let bridge = Bridge::new()?;
        let first = Netns::new("tcp-a")?;
        bridge.join(&first, "10.77.0.2", MAC)?;
        let donor = server("donor", &first, &[])?;
        let (mut stream, mut seen) = (connect("10.77.0.2")?, 0);
        for _ in 0..10 {
            talk(&mut stream, &mut seen)?;
        }
        lab.capture(&donor, &["--stop"])?;
        donor.end()?;
        drop((donor, first));

        let second = Netns::new("tcp-b")?;
        bridge.join(&second, "10.77.0.2", MAC)?;
        // The client speaks while nobody listens: the bytes must arrive. A host that has the address and not yet the
        // connection would answer with a reset, so the cable is plugged in when the clone is there.
        ok(&["ip", "link", "set", "v-tcp-b", "nomaster"])?;
        let line = format!("line at {seen}\n");
        stream.write_all(line.as_bytes())?;
        let clone = server("clone", &second, &[])?;
        clone.assert_restored()?;
        ok(&["ip", "link", "set", "v-tcp-b", "master", "thaw0"])?;
        seen += line.len();
        let wanted = format!("{seen} {line}");
        let mut answer = vec![0; wanted.len()];
        stream.read_exact(&mut answer)?;
        assert_eq!(String::from_utf8_lossy(&answer), wanted);
        for _ in 0..10 {
            talk(&mut stream, &mut seen)?;
        }
        let (mut other, mut other_seen) = (connect("10.77.0.2")?, 0);
        talk(&mut other, &mut other_seen)?;
        no_lock_left(&second)?;
    }
    lab.done()
}

/// The donor goes on with its client; a clone elsewhere sees the connection end.
#[test]
fn another_address_closes_the_connection() -> Result<()> {
    let Some(lab) = Lab::enter("another_address_closes_the_connection") else {
        return Ok(());
    };
    {
        let bridge = Bridge::new()?;
        let (first, second) = (Netns::new("tcp-a")?, Netns::new("tcp-b")?);
        bridge.join(&first, "10.77.0.2", MAC)?;
        bridge.join(&second, "10.77.0.3", "02:77:00:00:00:03")?;
        let donor = server("donor", &first, &[])?;
        let (mut stream, mut seen) = (connect("10.77.0.2")?, 0);
        talk(&mut stream, &mut seen)?;
        lab.capture(&donor, &[])?;
        talk(&mut stream, &mut seen)?;
        no_lock_left(&first)?;

        let clone = server("clone", &second, &[])?;
        clone.assert_restored()?;
        let (mut other, mut other_seen) = (connect("10.77.0.3")?, 0);
        talk(&mut other, &mut other_seen)?;
        until(
            "the end of the donor's connection in the clone",
            Duration::from_secs(5),
            || Ok(clone.log()?.contains("closed").then_some(())),
        )?;
        no_lock_left(&second)?;
        talk(&mut stream, &mut seen)?;
    }
    lab.done()
}

/// As in a pod, which keeps its namespace when its container is replaced.
#[test]
fn a_connection_survives_in_the_same_namespace() -> Result<()> {
    let Some(lab) = Lab::enter("a_connection_survives_in_the_same_namespace") else {
        return Ok(());
    };
    {
        let bridge = Bridge::new()?;
        let netns = Netns::new("tcp-a")?;
        bridge.join(&netns, "10.77.0.2", MAC)?;
        let donor = server("donor", &netns, &[])?;
        let (mut stream, mut seen) = (connect("10.77.0.2")?, 0);
        talk(&mut stream, &mut seen)?;
        lab.capture(&donor, &["--stop"])?;
        drop(donor);
        let clone = server("clone", &netns, &[])?;
        clone.assert_restored()?;
        talk(&mut stream, &mut seen)?;
        no_lock_left(&netns)?;
        lab.capture(&clone, &["--stop"])?;
        drop(clone);
        // A cold start must not find the door locked.
        let _criu = FakeCriu::new("exit 1")?;
        let cold = server("cold", &netns, &[])?;
        cold.assert_cold("restore_failed")?;
        no_lock_left(&netns)?;
        talk(&mut connect("10.77.0.2")?, &mut 0)?;
    }
    lab.done()
}

/// `established` insists; where the address is not there the container starts cold, and no lock stays.
#[test]
fn the_annotation_decides() -> Result<()> {
    let Some(lab) = Lab::enter("the_annotation_decides") else {
        return Ok(());
    };
    {
        let bridge = Bridge::new()?;
        let (first, second) = (Netns::new("tcp-a")?, Netns::new("tcp-b")?);
        bridge.join(&first, "10.77.0.2", MAC)?;
        bridge.join(&second, "10.77.0.3", "02:77:00:00:00:03")?;
        let donor = server("donor", &first, &[])?;
        let (mut stream, mut seen) = (connect("10.77.0.2")?, 0);
        talk(&mut stream, &mut seen)?;
        lab.capture(&donor, &["--stop"])?;
        drop(donor);
        {
            let clone = server("clone", &second, &["--annotation", "thaw.dev/tcp=established"])?;
            clone.assert_cold("restore_failed")?;
            no_lock_left(&second)?;
            talk(&mut connect("10.77.0.3")?, &mut 0)?;
        }
        // It is left alone on this node now.
        lab.forgive()?;
        // The address is there, and is to be closed all the same.
        let third = Netns::new("tcp-c")?;
        drop(first);
        bridge.join(&third, "10.77.0.2", MAC)?;
        let clone = server("clone", &third, &["--annotation", "thaw.dev/tcp=close"])?;
        clone.assert_restored()?;
        stream.write_all(b"anybody?\n")?;
        let end = stream.read(&mut [0; 16]);
        assert!(
            matches!(&end, Ok(0))
                || end
                    .as_ref()
                    .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            "{end:?}"
        );
        ok(&["ctr", "task", "list"])?;
    }
    lab.done()
}
