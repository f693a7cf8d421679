//! Docker Engine at the edges: containers that start again, failed restores, checkpoints, images under other names.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use thaw_integration::{
    Docked, Docker, FakeCriu, ImageStore, Lab, STOCK, THAW, Way, cell, cell_refused, ok, run_within,
};

/// Ends and starts containers again, as a user and as Docker itself do.
fn starts_again(lab: &Lab, store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    docker.snapshot(lab)?;
    let policy = ["--restart", "on-failure:3"];
    for (name, runtime) in [("stock", STOCK), ("clone", THAW)] {
        let container = docker.python(name, runtime, 8084, &policy)?;
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
    let stock = docker.python("stock", STOCK, 8082, &[])?;
    docker.snapshot(lab)?;
    let broken = FakeCriu::new("$criu \"$@\"; exit 1")?;
    let clone = docker.python("clone", THAW, 8084, &[])?;
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
    docker.snapshot(lab)?;
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
        docker.ok(&[&words[..], &Docker::SERVER].concat())?;
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

/// A checkpoint of Docker's own is restored into the container that it was taken of.
fn checkpoint(store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    let container = docker.python("kept", THAW, 8084, &[])?;
    let before: Value = serde_json::from_str(&container.get("/")?)?;
    docker.ok(&["checkpoint", "create", "kept", "first"])?;
    container.get("/healthz").context("it goes on")?;
    docker.ok(&["stop", "--time", "60", "kept"])?;
    docker.ok(&["start", "--checkpoint", "first", "kept"])?;
    let after: Value = serde_json::from_str(&container.get("/")?)?;
    assert_eq!(after["heap_checksum"], before["heap_checksum"], "its memory");
    let outcome = container.outcome()?;
    ensure!(outcome.detail.contains("as the client asked"), "{outcome:?}");
    assert_eq!(container.sh("hostname")?, "kept\n");
    cell(store.client(), "checkpoint create, start --checkpoint", Way::Cold);
    cell_refused(
        store.client(),
        "checkpoint create ends the container",
        Way::Cold,
        "stop it yourself: Docker tells only its own runtimes",
    );
    Ok(())
}

#[test]
fn docker_restores_checkpoints_of_its_own() {
    let Some(lab) = Docker::enter("docker_restores_checkpoints_of_its_own") else {
        return;
    };
    ImageStore::ALL.into_iter().try_for_each(checkpoint).unwrap();
    lab.done().unwrap();
}

/// The lines of the first block of the README that calls Docker.
fn quick_start() -> Result<Vec<String>> {
    let text = std::fs::read_to_string("/src/README.md")?;
    let blocks = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let block = blocks
        .into_iter()
        .find(|block| block.contains("docker run"))
        .context("no block")?;
    Ok(block.lines().map(str::to_owned).collect())
}

fn as_the_readme_says(store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    docker.ok(&["tag", "localhost/thaw/python", "redmine:6"])?;
    let web = Docked::named(&docker, "web", 0);
    let web2 = Docked::named(&docker, "web2", 0);
    let mut ran = 0;
    for line in quick_start()? {
        let script = format!("export DOCKER_HOST={}; {line}", Docker::HOST);
        run_within(Docker::LIMIT, &["sh", "-ec", &script])?.ok()?;
        ran += 1;
        if ran == 1 {
            let own = std::net::SocketAddr::from((web.address()?, 8000));
            web.get_from(own, "/healthz", Docker::LIMIT)?;
        }
    }
    web2.assert_restored()?;
    drop((web, web2));
    docker.ok(&["rmi", "redmine:6"])?;
    Ok(())
}

#[test]
fn docker_does_as_the_readme_says() {
    let Some(lab) = Docker::enter("docker_does_as_the_readme_says") else {
        return;
    };
    ImageStore::ALL
        .into_iter()
        .try_for_each(|store| {
            lab.forget()?;
            as_the_readme_says(store)
        })
        .unwrap();
    lab.done().unwrap();
}
