//! Docker Engine, with each of its image stores: what a user sees is the same under the stock runtime, under thaw
//! cold, and under thaw restored.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use thaw_integration::{Console, Docked, Docker, ImageStore, Lab, STOCK, THAW, Way, cell, http, until};

const LIMIT: Duration = Duration::from_secs(60);
/// What Docker itself looks after.
const HEALTH: [&str; 6] = [
    "--health-cmd",
    "python3 -c 'import urllib.request as r; r.urlopen(\"http://127.0.0.1:8000/healthz\")'",
    "--health-interval",
    "1s",
    "--health-timeout",
    "20s",
];

/// What a user sees of a container, by feature.
type Seen = BTreeMap<&'static str, Value>;

/// Uses a container of the server in every way, ends it and removes it.
fn life(docker: &Docker, container: Docked<'_>) -> Result<Seen> {
    let mut seen = Seen::new();
    network(docker, &container, &mut seen)?;
    let ran = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 7"])?;
    seen.insert("exec", json!([ran.stdout, ran.stderr, ran.code]));
    streams(docker, &container, &mut seen)?;
    container.until("/State/Health/Status", &json!("healthy"))?;
    seen.insert("health check", json!("healthy"));
    watch(docker, &container, &mut seen)?;
    let limit = "--memory=200m";
    docker.ok(&["update", limit, "--memory-swap=200m", container.name()])?;
    let ran = container.exec(&["python3", "-c", "x = b'x' * (400 << 20)"])?;
    seen.insert(
        "OOM kill reported",
        json!([ran.code, container.inspect("/State/OOMKilled")?]),
    );
    docker.ok(&["stop", "--time", "60", container.name()])?;
    let state = |name: &str| container.inspect(&format!("/State/{name}"));
    seen.insert(
        "stop, exit code",
        json!([state("Status")?, state("ExitCode")?, state("Error")?]),
    );
    docker.ok(&["rm", container.name()])?;
    seen.insert("rm", json!(docker.ok(&["ps", "--all", "--quiet"])?));
    Ok(seen)
}

fn network(docker: &Docker, container: &Docked<'_>, seen: &mut Seen) -> Result<()> {
    seen.insert(
        "published port, by docker-proxy",
        json!(container.get("/healthz")?),
    );
    let gateway: Ipv4Addr = "172.17.0.1".parse()?;
    let published = SocketAddr::from((gateway, container.port()));
    seen.insert(
        "published port, by the firewall",
        json!(container.get_from(published, "/healthz", LIMIT)?),
    );
    let own = SocketAddr::from((container.address()?, 8000));
    seen.insert(
        "bridge network, own address",
        json!(container.get_from(own, "/healthz", LIMIT)?),
    );
    let state: Value = serde_json::from_str(&container.get("/")?)?;
    seen.insert("own hostname", json!(state["hostname"] == container.name()));
    let hosts = container.sh("cat /etc/hosts /etc/hostname")?;
    ensure!(
        hosts.contains(&format!("{}\t{}", container.address()?, container.name())),
        "{hosts}"
    );
    let outside = "import urllib.request as r; r.urlopen('http://172.17.0.1:%d/healthz')";
    let outside = outside.replace("%d", &container.port().to_string());
    container
        .exec(&["python3", "-c", &outside])?
        .ok()
        .context("from inside to the host")?;
    docker.ok(&["port", container.name()])?;
    Ok(())
}

fn streams(docker: &Docker, container: &Docked<'_>, seen: &mut Seen) -> Result<()> {
    let since = container.log()?.len();
    let mut client =
        Console::spawn(&docker.words(&["attach", "--no-stdin", "--sig-proxy=false", container.name()]))?;
    // The client does not say when it is there, so the container talks until it is heard.
    let mut heard = false;
    for _ in 0..5 {
        container.sh("echo heard >/proc/1/fd/1; echo loud >/proc/1/fd/2")?;
        heard = heard || (client.expect("heard").is_ok() && client.expect("loud").is_ok());
    }
    seen.insert("attach", json!(heard));
    let logged = until("the log", LIMIT, || {
        let log = container.log()?.split_off(since);
        Ok((log.contains("heard") && log.contains("loud")).then_some(()))
    });
    seen.insert("logs", json!(logged.is_ok()));
    Ok(())
}

fn watch(docker: &Docker, container: &Docked<'_>, seen: &mut Seen) -> Result<()> {
    let stats = docker.ok(&["stats", "--no-stream", "--format", "json", container.name()])?;
    let stats: Value = serde_json::from_str(&stats)?;
    let said = |name: &str| stats[name].as_str().unwrap_or_default().to_owned();
    ensure!(
        said("MemUsage").contains("MiB") && said("NetIO") != "0B / 0B",
        "{stats}"
    );
    seen.insert("stats", json!(said("PIDs") != "0"));
    let top = docker.ok(&["top", container.name(), "-o", "pid,args"])?;
    seen.insert("top", json!(top.contains("server.py")));
    docker.ok(&["pause", container.name()])?;
    let own = SocketAddr::from((container.address()?, 8000));
    let paused = http::inside(&docker.host(), move || Ok(http::once(own, "/healthz").is_err()))?;
    docker.ok(&["unpause", container.name()])?;
    seen.insert("pause", json!([paused, container.get("/healthz")?]));
    Ok(())
}

fn as_stock(lab: &Lab, store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    let of = |name: &str, runtime: &str, port: u16| -> Result<Seen> {
        life(&docker, docker.python(name, runtime, port, &HEALTH)?)
    };
    let stock = of("stock", STOCK, 8082)?;
    let cold = of("cold", "thaw", 8083)?;
    assert_eq!(cold, stock);
    docker.snapshot(lab)?;
    let clone = docker.python("clone", "thaw", 8084, &HEALTH)?;
    clone.assert_restored()?;
    assert_eq!(clone.sh("cat /srv/marker")?, "line\n", "files of the donor");
    clone.capture()?;
    cell(store.client(), "capture by name", Way::Restored);
    let restored = life(&docker, clone)?;
    assert_eq!(restored, stock);
    for feature in stock.keys() {
        cell(store.client(), feature, Way::Cold);
        cell(store.client(), feature, Way::Restored);
    }
    cell(store.client(), "capture by name", Way::Cold);
    Ok(())
}

#[test]
fn docker_with_its_own_image_store_works_as_under_the_stock_runtime() {
    let Some(lab) = Docker::enter("docker_with_its_own_image_store_works_as_under_the_stock_runtime") else {
        return;
    };
    as_stock(&lab, ImageStore::Docker).unwrap();
    lab.done().unwrap();
}

#[test]
fn docker_with_containerd_s_image_store_works_as_under_the_stock_runtime() {
    let Some(lab) = Docker::enter("docker_with_containerd_s_image_store_works_as_under_the_stock_runtime")
    else {
        return;
    };
    as_stock(&lab, ImageStore::Containerd).unwrap();
    lab.done().unwrap();
}

/// `docker run -it`: cold, and restored from a snapshot of that.
fn runs_on_terminals(docker: &Docker, lab: &Lab) -> Result<()> {
    lab.forget()?;
    let script = "while read x; do [ $x = end ] && exit 9; echo got $x on $(tty); done";
    let words = ["run", "-it", "--runtime", THAW, "--name", "screen"];
    let words = [&words[..], &["localhost/thaw/python", "sh", "-c", script]].concat();
    for way in [Way::Cold, Way::Restored] {
        let container = Docked::named(docker, "screen", 0);
        let mut console = Console::spawn(&docker.words(&words))?;
        until("the container", Docker::LIMIT, || Ok(container.outcome().ok()))?;
        console.write("words\n")?;
        console.expect("got words on /dev/pts/0")?;
        container.assert_way(way)?;
        if way == Way::Cold {
            container.capture()?;
        }
        console.write("end\n")?;
        assert_eq!(console.wait()?, 9);
        cell(docker.store.client(), "run -it", way);
    }
    Ok(())
}

fn terminal(lab: &Lab, store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    runs_on_terminals(&docker, lab)?;
    let python = "localhost/thaw/python";
    for runtime in [STOCK, THAW] {
        let words = [
            "run",
            "--rm",
            "-it",
            "--runtime",
            runtime,
            "--name",
            "shell",
            python,
            "sh",
        ];
        let mut console = Console::spawn(&docker.words(&words))?;
        let container = Docked::named(&docker, "shell", 0);
        console.write("echo $((6*7)) $(tty)\n")?;
        console.expect("42 /dev/pts/0")?;
        console.write("exit 9\n")?;
        assert_eq!(console.wait()?, 9);
        drop(container);
        let ran = docker.run(&[
            "run",
            "--rm",
            "--runtime",
            runtime,
            python,
            "sh",
            "-c",
            "echo hello; exit 3",
        ])?;
        assert_eq!((ran.stdout.as_str(), ran.code), ("hello\n", 3));
    }
    attaches_to_terminals(&docker, lab)
}

/// `docker attach` to a server on a terminal: cold, and restored from a snapshot of that.
fn attaches_to_terminals(docker: &Docker, lab: &Lab) -> Result<()> {
    lab.forget()?;
    for (way, name) in [(Way::Cold, "donor"), (Way::Restored, "clone")] {
        let container = docker.python(name, THAW, 8084, &["--tty"])?;
        container.assert_way(way)?;
        let mut console = Console::spawn(&docker.words(&["attach", "--sig-proxy=false", name]))?;
        for _ in 0..5 {
            container.sh("echo heard >/dev/pts/0")?;
            if console.expect("heard").is_ok() {
                break;
            }
        }
        console.expect("heard")?;
        cell(docker.store.client(), "terminal, attach", way);
        drop(console);
        if way == Way::Cold {
            container.capture()?;
        }
    }
    Ok(())
}

#[test]
fn docker_containers_have_terminals() -> Result<()> {
    Docker::in_each_store("docker_containers_have_terminals", terminal)
}
