//! Nothing that names the donor comes back in a clone.

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use thaw_integration::{Bridge, Container, Lab, Netns, Run, ok, run, until};

const PEER4: &str = "10.77.0.1";
const PEER6: &str = "fd77::1";
const LIMIT: Duration = Duration::from_secs(20);

/// Binds one socket of each kind to the host's own address, and tells on port 7001 what they are bound to. Its
/// connected sockets send what they are asked to, and tell the answer.
const BOUND: &str = r#"
import json, socket, sys
def own(family, peer):
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return probe.getsockname()[0]
four, six = own(socket.AF_INET, "10.77.0.1"), own(socket.AF_INET6, "fd77::1")
def listener(family, address):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(address); s.listen(); return s
def datagram(family, address=None, peer=None):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(5)
    if address: s.bind(address)
    if peer: s.connect(peer)
    return s
sockets = {
    "tcp4": listener(socket.AF_INET, (four, 7001)),
    "tcp6": listener(socket.AF_INET6, (six, 7002)),
    "mapped": listener(socket.AF_INET6, ("::ffff:" + four, 7003)),
    "udp4": datagram(socket.AF_INET, (four, 7004)),
    "udp6": datagram(socket.AF_INET6, (six, 7005)),
    "connected4": datagram(socket.AF_INET, None, ("10.77.0.1", 7100)),
    "connected6": datagram(socket.AF_INET6, None, ("fd77::1", 7100)),
    "bound_connected4": datagram(socket.AF_INET, (four, 7006), ("10.77.0.1", 7100)),
    "self4": datagram(socket.AF_INET, None, (four, 7004)),
    "loop4": listener(socket.AF_INET, ("127.0.0.1", 7001)),
    "multicast": datagram(socket.AF_INET, ("224.0.0.251", 7007)),
    "looped": datagram(socket.AF_INET, None, ("127.0.0.1", 7008)),
}
def name(call):
    try: return call()[0]
    except OSError: return None
def report():
    out = {key: [name(s.getsockname), name(s.getpeername)] for key, s in sockets.items()}
    for key in ("connected4", "connected6", "bound_connected4"):
        try:
            sockets[key].send(key.encode()); out[key].append(sockets[key].recv(100).decode())
        except OSError as error: out[key].append(repr(error))
    try:
        sockets["self4"].send(b"myself"); out["self4"].append(sockets["udp4"].recv(100).decode())
    except OSError as error: out["self4"].append(repr(error))
    return json.dumps(out).encode() + b"\n"
import threading
def serve(s):
    while True:
        client, _ = s.accept()
        client.sendall(report()); client.close()
for key in ("tcp4", "tcp6", "mapped", "loop4"):
    threading.Thread(target=serve, args=(sockets[key],), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"#;

/// A bridge, and who listens on it until this is dropped.
struct Peers {
    bridge: Bridge,
    end: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// A bridge with both families, and a server on it that sends datagrams back.
fn bridge() -> Result<Peers> {
    let bridge = Bridge::new()?;
    let (end, mut threads) = (Arc::new(AtomicBool::new(false)), Vec::new());
    ok(&["ip", "address", "add", "fd77::1/64", "dev", "thaw0", "nodad"])?;
    for peer in [PEER4, PEER6] {
        let ip: IpAddr = peer.parse()?;
        let socket = until("the peer's address", LIMIT, || {
            Ok(UdpSocket::bind((ip, 7100)).ok())
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let end = Arc::clone(&end);
        threads.push(thread::spawn(move || {
            let mut packet = [0; 100];
            while !end.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut packet) {
                    socket.send_to(&packet[..length], from).ok();
                }
            }
        }));
    }
    Ok(Peers { bridge, end, threads })
}

fn netns(bridge: &Bridge, name: &str, number: u8) -> Result<Netns> {
    let netns = Netns::new(name)?;
    bridge.join(
        &netns,
        &format!("10.77.0.{number}"),
        &format!("02:77:00:00:00:{number:02x}"),
    )?;
    let six = format!("fd77::{number}/64");
    netns.ok(&["ip", "address", "add", &six, "dev", "eth0", "nodad"])?;
    Ok(netns)
}

fn start(id: &str, netns: &Netns) -> Result<Container> {
    let network = format!("network:{}", netns.path().display());
    let run = Run::new(id, "python").flags(&["--with-ns", &network, "--hostname", id]);
    run.command(&["python3", "-c", BOUND]).start()
}

/// What the server answers on this address.
fn ask(address: &str) -> Result<Value> {
    let address: SocketAddr = address.parse()?;
    let mut stream = until(&format!("a listener on {address}"), LIMIT, || {
        Ok(TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
    })?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    serde_json::from_str(&text).with_context(|| format!("{text:?}"))
}

fn expect(report: &Value, name: &str, wanted: &Value) -> Result<()> {
    ensure!(
        report[name] == *wanted,
        "{name} is {}, not {wanted}: {report}",
        report[name]
    );
    Ok(())
}

fn is_at(report: &Value, number: u8) -> Result<()> {
    let (four, six) = (format!("10.77.0.{number}"), format!("fd77::{number}"));
    expect(report, "tcp4", &serde_json::json!([four, null]))?;
    expect(report, "tcp6", &serde_json::json!([six, null]))?;
    expect(
        report,
        "mapped",
        &serde_json::json!([format!("::ffff:{four}"), null]),
    )?;
    expect(report, "udp4", &serde_json::json!([four, null]))?;
    expect(report, "udp6", &serde_json::json!([six, null]))?;
    expect(
        report,
        "connected4",
        &serde_json::json!([four, PEER4, "connected4"]),
    )?;
    expect(
        report,
        "connected6",
        &serde_json::json!([six, PEER6, "connected6"]),
    )?;
    expect(
        report,
        "bound_connected4",
        &serde_json::json!([four, PEER4, "bound_connected4"]),
    )?;
    expect(report, "self4", &serde_json::json!([four, four, "myself"]))?;
    expect(report, "loop4", &serde_json::json!(["127.0.0.1", null]))?;
    expect(report, "multicast", &serde_json::json!(["224.0.0.251", null]))?;
    expect(report, "looped", &serde_json::json!(["127.0.0.1", "127.0.0.1"]))
}

#[test]
fn sockets_move_to_the_address_of_the_clone() -> Result<()> {
    let Some(lab) = Lab::enter("sockets_move_to_the_address_of_the_clone") else {
        return Ok(());
    };
    {
        let bridge = bridge()?;
        let (first, second) = (
            netns(&bridge.bridge, "ids-a", 2)?,
            netns(&bridge.bridge, "ids-b", 3)?,
        );
        let donor = start("donor", &first)?;
        is_at(&ask("10.77.0.2:7001")?, 2)?;
        lab.capture(&donor, &[])?;
        let clone = start("clone", &second)?;
        clone.assert_restored()?;
        is_at(&ask("10.77.0.3:7001")?, 3)?;
        is_at(&ask("[fd77::3]:7002")?, 3)?;
        is_at(&ask("10.77.0.3:7003")?, 3)?;
        is_at(&ask("10.77.0.2:7001")?, 2)?;
    }
    lab.done()
}

/// A network of ctr's `--cni` on the bridge; gone when dropped.
struct Cni;

impl Cni {
    const CONFIG: &str = "/etc/cni/net.d/10-thaw.conflist";

    fn new() -> Result<Self> {
        let made = Self;
        fs::create_dir_all("/etc/cni/net.d")?;
        if !Path::new("/opt/cni/bin").exists() {
            fs::create_dir_all("/opt/cni")?;
            symlink("/usr/lib/cni", "/opt/cni/bin")?;
        }
        let ranges = serde_json::json!([
            [{"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.50"}],
            [{"subnet": "fd77::/64", "rangeStart": "fd77::50"}],
        ]);
        let config = serde_json::json!({"cniVersion": "1.0.0", "name": "thaw", "plugins": [
            {"type": "bridge", "bridge": "thaw0", "ipam": {"type": "host-local", "ranges": ranges}},
        ]});
        fs::write(Self::CONFIG, config.to_string())?;
        Ok(made)
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        fs::remove_file(Self::CONFIG).ok();
        fs::remove_dir_all("/var/lib/cni").ok();
    }
}

/// The client gives the network between Create and Start, so nobody knows the address when CRIU binds.
#[test]
fn sockets_wait_for_a_network_that_comes_later() -> Result<()> {
    let Some(lab) = Lab::enter("sockets_wait_for_a_network_that_comes_later") else {
        return Ok(());
    };
    {
        let bridge = bridge()?;
        let first = netns(&bridge.bridge, "ids-a", 2)?;
        let donor = start("donor", &first)?;
        is_at(&ask("10.77.0.2:7001")?, 2)?;
        lab.capture(&donor, &[])?;
        let _cni = Cni::new()?;
        let run = Run::new("clone", "python").flags(&["--cni", "--hostname", "clone"]);
        let clone = run.command(&["python3", "-c", BOUND]).start()?;
        clone.assert_restored()?;
        let addresses = network_of(&clone)?;
        let find = |begin: &str| {
            addresses
                .iter()
                .find(|ip| ip.starts_with(begin))
                .context("no address")
        };
        let (four, six) = (find("10.77.0.")?, find("fd77::")?);
        assert_ne!(four, "10.77.0.2");
        let report = ask(&format!("{four}:7001"))?;
        for (name, everywhere) in [
            ("tcp4", "0.0.0.0"),
            ("tcp6", "::"),
            ("mapped", "::ffff:0.0.0.0"),
            ("udp4", "0.0.0.0"),
            ("udp6", "::"),
            ("loop4", "127.0.0.1"),
            ("multicast", "224.0.0.251"),
        ] {
            expect(&report, name, &serde_json::json!([everywhere, null]))?;
        }
        expect(
            &report,
            "connected4",
            &serde_json::json!([four, PEER4, "connected4"]),
        )?;
        expect(
            &report,
            "connected6",
            &serde_json::json!([six, PEER6, "connected6"]),
        )?;
        expect(
            &report,
            "bound_connected4",
            &serde_json::json!([four, PEER4, "bound_connected4"]),
        )?;
        expect(&report, "self4", &serde_json::json!([four, four, "myself"]))?;
        ask(&format!("[{six}]:7002"))?;
        ask(&format!("{four}:7003"))?;
    }
    lab.done()
}

/// The addresses in its network namespace.
fn network_of(container: &Container) -> Result<Vec<String>> {
    let pid = container.pid()?.to_string();
    let listed: Value = serde_json::from_str(&ok(&["nsenter", "-n", "-t", &pid, "ip", "-j", "address"])?)?;
    let interfaces = listed.as_array().context("no list")?;
    let all = interfaces
        .iter()
        .filter_map(|interface| interface["addr_info"].as_array());
    Ok(all
        .flatten()
        .filter_map(|address| address["local"].as_str().map(str::to_owned))
        .collect())
}

const DEVICE: &str = r#"
import socket, time
s = socket.socket(socket.AF_INET6); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
with open("/proc/net/if_inet6") as table:
    local = next(l.split()[0] for l in table if l.split()[5] == "eth0" and l.startswith("fe80"))
local = ":".join(local[i:i+4] for i in range(0, 32, 4))
s.bind((local, 7001, 0, socket.if_nametoindex("eth0"))); s.listen()
while True:
    client, _ = s.accept()
    client.sendall(b'"%s"' % s.getsockname()[0].encode()); client.close()
"#;

/// A link-local address means nothing without its interface, which is only there in a network made before.
#[test]
fn a_socket_bound_to_an_interface() -> Result<()> {
    let Some(lab) = Lab::enter("a_socket_bound_to_an_interface") else {
        return Ok(());
    };
    {
        let bridge = bridge()?;
        let (first, second) = (
            netns(&bridge.bridge, "ids-a", 2)?,
            netns(&bridge.bridge, "ids-b", 3)?,
        );
        let begin = |id: &str, flags: &[&str]| {
            let run = Run::new(id, "python").flags(flags).flags(&["--hostname", id]);
            run.command(&["python3", "-c", DEVICE]).start()
        };
        let within = |netns: &Netns| format!("network:{}", netns.path().display());
        until("a link-local address", LIMIT, || {
            let listed = first.ok(&["ip", "-6", "address", "show", "dev", "eth0", "scope", "link"])?;
            Ok((listed.contains("fe80") && !listed.contains("tentative")).then_some(()))
        })?;
        let donor = begin("donor", &["--with-ns", &within(&first)])?;
        let local = |number: u8| format!("fe80::77:ff:fe00:{number:x}%thaw0");
        assert_eq!(ask_link_local(&local(2))?, "fe80::77:ff:fe00:2");
        // The scratch container of a proof has no interface either.
        lab.capture(&donor, &["--no-proof"])?;
        {
            let clone = begin("clone", &["--with-ns", &within(&second)])?;
            clone.assert_restored()?;
            assert_eq!(ask_link_local(&local(3))?, "fe80::77:ff:fe00:3");
        }
        // Its program fails without the interface, and it is the program that has to say so.
        let cold = begin("cold", &[])?;
        cold.assert_cold("socket_unmovable")?;
    }
    lab.done()
}

/// As [`ask`], of an address with the interface behind it.
fn ask_link_local(address: &str) -> Result<String> {
    let script = "import socket, sys, json\n\
                  a = socket.getaddrinfo(sys.argv[1], 7001, type=socket.SOCK_STREAM)[0][4]\n\
                  s = socket.socket(socket.AF_INET6); s.settimeout(5)\n\
                  s.connect(a); print(json.loads(s.makefile().read()))";
    let answer = until(&format!("a listener on {address}"), LIMIT, || {
        let ran = run(&["python3", "-c", script, address])?;
        Ok(ran.ok().ok())
    })?;
    Ok(answer.trim().to_owned())
}
