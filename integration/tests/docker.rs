//! Docker Engine, with each of its image stores: what a user sees is the same under the stock runtime, under thaw
//! cold, and under thaw restored.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use thaw_integration::{
    Console, Docked, Docker, FakeCriu, ImageStore, Lab, STOCK, THAW, Way, cell, http, ok, until,
};

const LIMIT: Duration = Duration::from_secs(60);
/// The server, with an end of its own: the first process of a container has to handle SIGTERM to die of it.
const SERVER: [&str; 3] = [
    "python3",
    "-c",
    "import runpy, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(42)); \
     runpy.run_path('/srv/server.py', run_name='__main__')",
];
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

/// Puts a snapshot into the store of the test.
fn capture(lab: &Lab, docker: &Docker) -> Result<()> {
    // A snapshot from Docker with the other image store would do as well.
    ok(&["rm", "-rf", &lab.store().display().to_string()])?;
    lab.empty_cache()?;
    let donor = docker.python("donor", THAW, 8081, &[], &SERVER)?;
    donor.assert_cold("no_snapshot")?;
    donor.get("/write?marker")?;
    donor.capture()?;
    donor.get("/healthz")?;
    Ok(())
}

fn as_stock(lab: &Lab, store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    let of = |name: &str, runtime: &str, port: u16| -> Result<Seen> {
        life(&docker, docker.python(name, runtime, port, &HEALTH, &SERVER)?)
    };
    let stock = of("stock", STOCK, 8082)?;
    let cold = of("cold", "thaw", 8083)?;
    assert_eq!(cold, stock);
    capture(lab, &docker)?;
    let clone = docker.python("clone", "thaw", 8084, &HEALTH, &SERVER)?;
    clone.assert_restored()?;
    assert_eq!(clone.sh("cat /srv/marker")?, "line\n", "files of the donor");
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

/// Ends and starts containers again, as a user and as Docker itself do.
fn starts_again(lab: &Lab, store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    capture(lab, &docker)?;
    let policy = ["--restart", "on-failure:3"];
    for (name, runtime) in [("stock", STOCK), ("clone", THAW)] {
        let container = docker.python(name, runtime, 8084, &policy, &SERVER)?;
        let thawed = runtime == THAW;
        if thawed {
            container.assert_restored()?;
        }
        container.get("/write?kept")?;
        container.crash()?;
        container.until("/RestartCount", &json!(1))?;
        container.get("/healthz")?;
        docker.ok(&["stop", "--time", "60", name])?;
        assert_eq!(container.inspect("/State/ExitCode")?, json!(42));
        docker.ok(&["start", name])?;
        container.get("/healthz")?;
        docker.ok(&["restart", "--time", "60", name])?;
        assert_eq!(container.get("/write?kept")?, "2\n", "its own files");
        if thawed {
            container.assert_cold("rootfs_changed")?;
        }
        docker.ok(&["rm", "--force", name])?;
    }
    for feature in ["restart policy", "start and restart of a stopped container"] {
        cell(store.client(), feature, Way::Cold);
        cell(store.client(), feature, Way::Restored);
    }
    Ok(())
}

#[test]
fn docker_starts_a_thawed_container_again() {
    let Some(lab) = Docker::enter("docker_starts_a_thawed_container_again") else {
        return;
    };
    ImageStore::ALL
        .into_iter()
        .try_for_each(|store| starts_again(&lab, store))
        .unwrap();
    lab.done().unwrap();
}

/// The overlay at the container's root filesystem: its line in the mount table without the number of the mount, and
/// what is in its upper directory.
fn rootfs(container: &Docked<'_>) -> Result<(String, String)> {
    let pid = container.inspect("/State/Pid")?;
    let path = format!("/proc/{pid}/root");
    let inside = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let line = inside.lines().find(|line| line.contains(" / / ")).context(path)?;
    let upper = line
        .split("upperdir=")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let upper = upper.context("it is no overlay")?;
    let listed = ok(&["find", upper, "-printf", "%P %M %U %G %s\n"])?;
    let outside = std::fs::read_to_string("/proc/self/mountinfo")?;
    let at = outside
        .lines()
        .filter(|line| line.contains(&format!("upperdir={upper},")))
        .collect::<Vec<_>>();
    ensure!(at.len() == 1, "{at:?}");
    // Without numbers and names that differ between any two containers.
    let fields = at[0]
        .split(' ')
        .skip(5)
        .map(|field| field.split(':').next().unwrap_or_default());
    let shape = fields.take(4).collect::<Vec<_>>().join(" ");
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    Ok((shape, listed.join("\n")))
}

/// A restore that fails half-way leaves what dockerd had prepared.
fn falls_back(lab: &Lab, store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    let stock = docker.python("stock", STOCK, 8082, &[], &SERVER)?;
    capture(lab, &docker)?;
    let broken = FakeCriu::new("$criu \"$@\"; exit 1")?;
    let clone = docker.python("clone", THAW, 8084, &[], &SERVER)?;
    drop(broken);
    clone.assert_cold("restore_failed")?;
    assert_eq!(rootfs(&clone)?, rootfs(&stock)?);
    ensure!(
        clone.exec(&["test", "-e", "/srv/marker"])?.code == 1,
        "files of the donor"
    );
    clone.sh("test $(hostname) = clone && echo written >/srv/own")?;
    docker.ok(&["restart", "--time", "60", "clone"])?;
    clone.get("/healthz")?;
    assert_eq!(clone.sh("cat /srv/own")?, "written\n");
    cell(store.client(), "failed restore, started cold", Way::Cold);
    Ok(())
}

#[test]
fn docker_gets_its_root_filesystem_back_when_a_restore_fails() {
    let Some(lab) = Docker::enter("docker_gets_its_root_filesystem_back_when_a_restore_fails") else {
        return;
    };
    ImageStore::ALL
        .into_iter()
        .try_for_each(|store| falls_back(&lab, store))
        .unwrap();
    lab.done().unwrap();
}

/// What stands for the image in the key of a container.
fn image_key(namespace: &str, container: &str) -> Result<String> {
    let text = ok(&[
        "thaw",
        "--namespace",
        namespace,
        "explain",
        "-o",
        "json",
        container,
    ])?;
    let outcome: Value = serde_json::from_str(&text)?;
    let key = outcome["key"]
        .as_str()
        .with_context(|| format!("no key: {outcome}"))?;
    Ok(key.split('/').nth(4).unwrap_or_default().to_owned())
}

fn image(lab: &Lab, store: ImageStore, of_ctr: &str) -> Result<()> {
    let docker = Docker::start(store)?;
    capture(lab, &docker)?;
    docker.ok(&["tag", "localhost/thaw/python", "localhost/app:1"])?;
    let run = |name: &str| -> Result<Docked<'_>> {
        let words = [
            "run",
            "--detach",
            "--runtime",
            THAW,
            "--name",
            name,
            "--env",
            "HEAP_MB=8",
            "localhost/app:1",
        ];
        let container = Docked::named(&docker, name, 0);
        docker.ok(&[&words[..], &SERVER].concat())?;
        Ok(container)
    };
    let tagged = run("tagged")?;
    assert_eq!(image_key("moby", "tagged")?, of_ctr);
    tagged.assert_restored()?;
    // Another image under the same name.
    docker.ok(&[
        "commit",
        "--change",
        "LABEL pushed=again",
        "tagged",
        "localhost/app:1",
    ])?;
    let again = run("again")?;
    assert_ne!(image_key("moby", "again")?, of_ctr);
    again.assert_cold("no_snapshot")?;
    drop((tagged, again));
    docker.ok(&["rmi", "localhost/app:1"])?;
    cell(store.client(), "image key as with ctr", Way::Cold);
    cell(store.client(), "image key as with ctr", Way::Restored);
    Ok(())
}

#[test]
fn docker_names_the_image_as_others_do() {
    let Some(lab) = Docker::enter("docker_names_the_image_as_others_do") else {
        return;
    };
    let run = |lab: &Lab| -> Result<()> {
        let donor = lab.python("by-ctr")?;
        let of_ctr = image_key("default", donor.container.id())?;
        drop(donor);
        ImageStore::ALL
            .into_iter()
            .try_for_each(|store| image(lab, store, &of_ctr))
    };
    run(&lab).unwrap();
    lab.done().unwrap();
}

fn terminal(store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
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
    cell(store.client(), "run -it", Way::Cold);
    let donor = docker.python("donor", THAW, 8081, &["--tty"], &SERVER)?;
    donor.capture()?;
    let clone = docker.python("clone", THAW, 8084, &["--tty"], &SERVER)?;
    clone.assert_restored()?;
    let mut console = Console::spawn(&docker.words(&["attach", "--sig-proxy=false", "clone"]))?;
    for _ in 0..5 {
        clone.sh("echo heard >/dev/pts/0")?;
        if console.expect("heard").is_ok() {
            break;
        }
    }
    console.expect("heard")?;
    cell(store.client(), "terminal, attach", Way::Restored);
    cell(store.client(), "terminal, attach", Way::Cold);
    Ok(())
}

#[test]
fn docker_containers_have_terminals() {
    let Some(lab) = Docker::enter("docker_containers_have_terminals") else {
        return;
    };
    ImageStore::ALL.into_iter().try_for_each(terminal).unwrap();
    lab.done().unwrap();
}
