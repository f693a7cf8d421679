//! nerdctl: what it can do with a container that started cold, and with one that was restored.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use thaw_integration::{
    Console, FakeCriu, GRACEFUL, HUNGRY, Lab, Nerdctl, THAW, Way, addresses_of, cell, cell_moot, http, ok,
    quick_start, run_within, until,
};

const CLIENT: &str = "nerdctl";
const PYTHON: &str = "localhost/thaw/python:latest";
const LIMIT: Duration = Duration::from_secs(40);
const BOTH: [Way; 2] = [Way::Cold, Way::Restored];
/// The name that CNI has of nerdctl's first network.
const NETWORK: &str = "bridge";

fn enter(name: &str) -> Option<Lab> {
    Lab::enter_with_tool(name, "nerdctl")
}

fn proved(feature: &str, way: Way) {
    cell(CLIENT, feature, way);
}

fn assert_way(container: &Nerdctl, way: Way) -> Result<()> {
    match way {
        Way::Cold => container.below().assert_cold("no_snapshot").map(drop),
        Way::Restored => container.below().assert_restored().map(drop),
    }
}

/// Takes a snapshot by the name that nerdctl gave.
fn capture(container: &Nerdctl) -> Result<()> {
    ok(&["thaw", "capture", container.name()]).map(drop)
}

fn server(name: &str, port: u16) -> Result<Nerdctl> {
    let publish = format!("{port}:8000");
    Nerdctl::run(
        name,
        &["--env", "HEAP_MB=8", "--publish", &publish],
        "python",
        &[],
    )
}

/// What the server behind an address of the lab's own network knows of itself.
fn state(address: SocketAddr) -> Result<Value> {
    let text = http::get(Path::new("/proc/self/ns/net"), address, "/", LIMIT)?;
    Ok(serde_json::from_str(&text)?)
}

fn published(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Everything about a running server that its client can see.
fn check_server(container: &Nerdctl, port: u16, way: Way) -> Result<()> {
    assert_way(container, way)?;
    proved("run -d", way);
    let seen = state(published(port))?;
    proved("published ports", way);
    let own = &container.id()[..12];
    ensure!(seen["hostname"] == own, "{seen}");
    proved("hostname of its own", way);
    let address = container.field(".NetworkSettings.IPAddress")?;
    ensure!(state(SocketAddr::new(address.parse()?, 8000))?["hostname"] == own);
    let inside = container.exec(&["python3", "-c", ADDRESS])?.ok()?;
    ensure!(inside.trim() == address, "{inside:?} inside, {address:?} outside");
    proved("bridge network, address of its own", way);
    ensure!(container.exec(&["hostname"])?.ok()?.trim() == own);
    // nerdctl itself ends with 1 then, whatever the code was.
    let failed = container.exec(&["sh", "-c", "exit 7"])?;
    ensure!(failed.stderr.contains("exit code 7"), "{failed:?}");
    proved("exec", way);
    container.exec(&["sh", "-c", "echo said >/proc/1/fd/1"])?.ok()?;
    until_logged(container, "said")?;
    proved("logs", way);
    let used = container.verb(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}"])?;
    ensure!(used.contains("MiB /") && used.trim().ends_with('1'), "{used:?}");
    proved("stats", way);
    Ok(())
}

/// The address from which packets leave.
const ADDRESS: &str = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('10.255.255.255', 1))
print(s.getsockname()[0])";

#[test]
fn nerdctl_runs_a_server() -> Result<()> {
    let Some(lab) = enter("nerdctl_runs_a_server") else {
        return Ok(());
    };
    {
        let donor = server("donor", 8081)?;
        check_server(&donor, 8081, Way::Cold)?;
        capture(&donor)?;
        proved("capture by name", Way::Cold);
        let clone = server("clone", 8082)?;
        check_server(&clone, 8082, Way::Restored)?;
        let (one, other) = (state(published(8081))?, state(published(8082))?);
        ensure!(one["heap_checksum"] == other["heap_checksum"]);
        ensure!(addresses_of(NETWORK)?.len() == 2, "{:?}", addresses_of(NETWORK)?);
        capture(&clone)?;
        proved("capture by name", Way::Restored);
    }
    ensure!(addresses_of(NETWORK)?.is_empty(), "{:?}", addresses_of(NETWORK)?);
    lab.done()?;
    for way in BOTH {
        proved("rm leaves nothing", way);
    }
    Ok(())
}

/// The lines of the sample, as they stand there.
#[test]
fn nerdctl_takes_the_sample() -> Result<()> {
    let Some(lab) = enter("nerdctl_takes_the_sample") else {
        return Ok(());
    };
    {
        let _guards = ["web", "web2", "web3"].map(Nerdctl::named);
        let sample = std::fs::read_to_string("/src/config/examples/nerdctl.md")?;
        let blocks = sample.split("```sh\n").skip(1);
        let lines: String = blocks.filter_map(|rest| rest.split("```").next()).collect();
        let script = format!("set -e\nIMAGE={PYTHON}\n{lines}");
        let told = run_within(LIMIT * 3, &["sh", "-c", &script])?.ok()?;
        ensure!(told.contains("was restored from a snapshot"), "{told}");
        ensure!(told.contains("heap_checksum"), "{told}");
        ensure!(told.contains("policy_never"), "{told}");
        ensure!(ok(&["thaw", "explain", "web"])?.contains("started cold"));
    }
    lab.done()?;
    for way in BOTH {
        proved("the lines of the sample", way);
    }
    Ok(())
}

/// The lines of the README, as they stand there.
#[test]
fn nerdctl_does_as_the_readme_says() -> Result<()> {
    let Some(lab) = enter("nerdctl_does_as_the_readme_says") else {
        return Ok(());
    };
    {
        let [web, _web2] = ["web", "web2"].map(Nerdctl::named);
        ok(&["nerdctl", "tag", PYTHON, "redmine:6"])?;
        let tried = quick_start("nerdctl run", "CLIENT=nerdctl", || {
            let address = web.field(".NetworkSettings.IPAddress")?;
            state(SocketAddr::new(address.parse()?, 8000)).map(drop)
        });
        ok(&["ctr", "image", "remove", "docker.io/library/redmine:6"])?;
        let told = tried?;
        ensure!(told.contains("was restored from a snapshot"), "{told}");
    }
    lab.done()?;
    for way in BOTH {
        proved("the lines of the README", way);
    }
    Ok(())
}

/// CRIU fails half-way, so the container starts cold; its network was attached once, and goes with it.
#[test]
fn nerdctl_attaches_the_network_once() -> Result<()> {
    let Some(lab) = enter("nerdctl_attaches_the_network_once") else {
        return Ok(());
    };
    {
        let donor = server("donor", 8081)?;
        state(published(8081))?;
        capture(&donor)?;
    }
    {
        let _criu = FakeCriu::new("exit 1")?;
        let fallback = server("fallback", 8082)?;
        fallback.below().assert_cold("restore_failed")?;
        ensure!(state(published(8082))?["hostname"] == fallback.id()[..12]);
        ensure!(addresses_of(NETWORK)?.len() == 1, "{:?}", addresses_of(NETWORK)?);
    }
    ensure!(addresses_of(NETWORK)?.is_empty(), "{:?}", addresses_of(NETWORK)?);
    lab.done()?;
    let feature = "network attached once when a restore fails";
    proved(feature, Way::Cold);
    cell_moot(CLIENT, feature, Way::Restored);
    Ok(())
}

fn shell(name: &str, flags: &[&str]) -> Result<Nerdctl> {
    let container = Nerdctl::run(name, flags, "static", &["sh", "-c", GRACEFUL])?;
    Ok(container)
}

fn until_logged(container: &Nerdctl, text: &str) -> Result<()> {
    until(&format!("{text:?} in the log"), LIMIT, || {
        Ok(container.logs()?.contains(text).then_some(()))
    })
}

/// The shell with these flags: cold and captured, then restored.
fn in_both_ways(flags: &[&str], check: impl Fn(&Nerdctl, Way) -> Result<()>) -> Result<()> {
    for way in BOTH {
        let container = shell("shell", flags)?;
        assert_way(&container, way)?;
        if way == Way::Cold {
            until_logged(&container, "up")?;
            capture(&container)?;
        }
        check(&container, way)?;
    }
    Ok(())
}

#[test]
fn nerdctl_stops_and_starts() -> Result<()> {
    let Some(lab) = enter("nerdctl_stops_and_starts") else {
        return Ok(());
    };
    in_both_ways(&[], |container, way| {
        container.verb(&["stop", "--time", "30"])?;
        container.wait_for(".State.ExitCode", "3")?;
        until_logged(container, "bye")?;
        proved("stop with grace period, exit code", way);
        container.verb(&["start"])?;
        container.wait_for(".State.Status", "running")?;
        ensure!(container.exec(&["echo", "here"])?.ok()? == "here\n");
        proved("start after stop", way);
        let before = container.field(".State.Pid")?;
        container.verb(&["restart", "--time", "30"])?;
        container.wait_for(".State.Status", "running")?;
        ensure!(container.field(".State.Pid")? != before, "the same process");
        ensure!(container.exec(&["echo", "here"])?.ok()? == "here\n");
        proved("restart", way);
        Ok(())
    })?;
    lab.done()
}

#[test]
fn nerdctl_restarts_always() -> Result<()> {
    let Some(lab) = enter("nerdctl_restarts_always") else {
        return Ok(());
    };
    in_both_ways(&["--restart", "always"], |container, way| {
        let before = container.field(".State.Pid")?;
        kill(Pid::from_raw(before.parse()?), Signal::SIGKILL)?;
        until("its return", LIMIT, || {
            let now = container.field(".State.Pid")?;
            Ok((now != before && now != "0" && container.field(".State.Status")? == "running").then_some(()))
        })?;
        ensure!(container.exec(&["echo", "here"])?.ok()? == "here\n");
        proved("--restart=always", way);
        Ok(())
    })?;
    lab.done()
}

#[test]
fn nerdctl_reports_lack_of_memory() -> Result<()> {
    let Some(lab) = enter("nerdctl_reports_lack_of_memory") else {
        return Ok(());
    };
    for way in BOTH {
        let flags = ["--memory", "96m", "--memory-swap", "96m"];
        let container = Nerdctl::run("eater", &flags, "python", &["python3", "-c", HUNGRY])?;
        assert_way(&container, way)?;
        if way == Way::Cold {
            until_logged(&container, "ready")?;
            capture(&container)?;
        }
        let mut events = Console::spawn(&["nerdctl", "events"])?;
        // The client does not say when it is there, so something happens until it tells.
        let mut hears = || -> Result<bool> {
            container.exec(&["true"])?.ok()?;
            Ok(events.expect("/tasks/exec-started").is_ok())
        };
        ensure!(hears()? || hears()? || hears()?, "no events");
        container.exec(&["touch", "/dev/shm/go"])?.ok()?;
        container.wait_for(".State.ExitCode", "137")?;
        events.expect("/tasks/oom")?;
        proved("OOM kill reported", way);
    }
    lab.done()
}

#[test]
fn nerdctl_gives_a_terminal() -> Result<()> {
    let Some(lab) = enter("nerdctl_gives_a_terminal") else {
        return Ok(());
    };
    for way in BOTH {
        let container = Nerdctl::named("screen");
        let mut console = Console::spawn(&[
            "nerdctl",
            "run",
            "-it",
            "--runtime",
            THAW,
            "--name",
            "screen",
            "localhost/thaw/static:latest",
            "sh",
            "-c",
            "while read x; do [ $x = end ] && exit 5; echo got $x on $(tty); done",
        ])?;
        until("the container", LIMIT, || {
            Ok(thaw_integration::run(&["thaw", "explain", "screen"])?.ok().ok())
        })?;
        console.write("words\n")?;
        console.expect("got words on /dev/")?;
        let told = ok(&["thaw", "explain", "screen"])?;
        match way {
            Way::Cold => {
                ensure!(told.contains("started cold"), "{told}");
                capture(&container)?;
            }
            Way::Restored => ensure!(told.contains("was restored"), "{told}"),
        }
        console.write("end\n")?;
        ensure!(console.wait()? == 5);
        proved("run -it", way);
    }
    lab.done()
}
