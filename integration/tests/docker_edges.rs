//! Docker Engine at the edges: containers that start again, failed restores, checkpoints, images under other names.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use thaw_integration::{
    Docked, Docker, FakeCriu, ImageStore, Inventory, Lab, STOCK, THAW, Way, cell, cell_moot, cell_refused,
    kill_shim_of, ok, quick_start, until,
};

/// Ends and starts a container again, as a user and as Docker itself do.
fn ends_and_starts(docker: &Docker, container: &Docked<'_>) -> Result<()> {
    container.get("/write?kept")?;
    container.crash()?;
    container.until("/RestartCount", &json!(1))?;
    container.get("/healthz")?;
    docker.ok(&["stop", "--time", "60", container.name()])?;
    assert_eq!(container.inspect("/State/ExitCode")?, json!(42));
    docker.ok(&["start", container.name()])?;
    container.get("/healthz")?;
    docker.ok(&["restart", "--time", "60", container.name()])?;
    assert_eq!(container.get("/write?kept")?, "2\n", "its own files");
    Ok(())
}

/// A container of which the user has asked for no hostname, and that Docker keeps up whatever happens.
fn stays_up(docker: &Docker, way: Way) -> Result<()> {
    let container = docker.unnamed("always", THAW, 8085, &["--restart", "always"])?;
    container.assert_way(way)?;
    let id = container.id()?;
    let hostname = || -> Result<Value> {
        let seen: Value = serde_json::from_str(&container.get("/")?)?;
        Ok(seen["hostname"].clone())
    };
    assert_eq!(hostname()?, id[..12]);
    assert_eq!(
        container.sh("hostname; cat /etc/hostname")?,
        format!("{0}\n{0}\n", &id[..12])
    );
    cell(
        docker.store.client(),
        "hostname when none is asked for: the short id",
        way,
    );
    container.crash()?;
    container.until("/RestartCount", &json!(1))?;
    assert_eq!(hostname()?, id[..12], "the container that was started again");
    cell(docker.store.client(), "--restart always", way);
    Ok(())
}

fn starts_again(lab: &Lab, store: ImageStore) -> Result<()> {
    lab.forget()?;
    let docker = Docker::start(store)?;
    let policy = ["--restart", "on-failure:3"];
    ends_and_starts(&docker, &docker.python("stock", STOCK, 8084, &policy)?)?;
    for (way, name) in [(Way::Cold, "cold"), (Way::Restored, "clone")] {
        if way == Way::Restored {
            docker.snapshot(lab)?;
        }
        let container = docker.python(name, THAW, 8084, &policy)?;
        container.assert_way(way)?;
        ends_and_starts(&docker, &container)?;
        container.assert_cold("rootfs_changed")?;
        for feature in ["restart policy", "start and restart of a stopped container"] {
            cell(store.client(), feature, way);
        }
        drop(container);
        // Its end so soon after the restore speaks against the snapshot, which is to be used again.
        lab.forgive()?;
        stays_up(&docker, way)?;
    }
    Ok(())
}

#[test]
fn docker_starts_a_thawed_container_again() -> Result<()> {
    Docker::in_each_store("docker_starts_a_thawed_container_again", starts_again)
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
    cell_moot(store.client(), "failed restore, started cold", Way::Restored);
    Ok(())
}

#[test]
fn docker_gets_its_root_filesystem_back_when_a_restore_fails() -> Result<()> {
    Docker::in_each_store(
        "docker_gets_its_root_filesystem_back_when_a_restore_fails",
        falls_back,
    )
}

fn image(lab: &Lab, store: ImageStore, of_ctr: &str) -> Result<()> {
    lab.forget()?;
    let docker = Docker::start(store)?;
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
    for way in [Way::Cold, Way::Restored] {
        if way == Way::Restored {
            docker.snapshot(lab)?;
        }
        let tagged = run("tagged")?;
        tagged.assert_way(way)?;
        assert_eq!(tagged.outcome()?.image_key()?, of_ctr);
        cell(store.client(), "image key as with ctr", way);
    }
    let tagged = run("tagged")?;
    // Another image under the same name.
    docker.ok(&[
        "commit",
        "--change",
        "LABEL pushed=again",
        "tagged",
        "localhost/app:1",
    ])?;
    let again = run("again")?;
    assert_ne!(again.outcome()?.image_key()?, of_ctr);
    again.assert_cold("no_snapshot")?;
    drop((tagged, again));
    docker.ok(&["rmi", "localhost/app:1"])?;
    Ok(())
}

#[test]
fn docker_names_the_image_as_others_do() -> Result<()> {
    Docker::in_each_store("docker_names_the_image_as_others_do", |lab, store| {
        let of_ctr = lab.python("by-ctr")?.container.outcome()?.image_key()?;
        image(lab, store, &of_ctr)
    })
}

/// Nobody can tell the image of a container whose layer is missing in the records of Docker's own image store. It starts
/// all the same, and thaw says what to do.
fn image_is_hidden(lab: &Lab) -> Result<()> {
    let docker = Docker::start(ImageStore::Docker)?;
    docker.snapshot(lab)?;
    let hidden = Docked::named(&docker, "hidden", 0);
    let words = [
        "create",
        "--runtime",
        THAW,
        "--name",
        "hidden",
        "--env",
        "HEAP_MB=8",
    ];
    docker.ok(&[&words[..], &["localhost/thaw/python"], &Docker::SERVER].concat())?;
    let mounts = Path::new(docker.store.data_root()).join("image/overlay2/layerdb/mounts");
    let record = mounts.join(hidden.id()?).join("mount-id");
    let aside = record.with_extension("aside");
    std::fs::rename(&record, &aside)?;
    let started = docker.ok(&["start", "hidden"]);
    // Whatever came of it: dockerd reads the record when it is started again.
    std::fs::rename(&aside, &record)?;
    started?;
    hidden.assert_cold("image_unknown")?;
    let own = std::net::SocketAddr::from((hidden.address()?, 8000));
    hidden.get_from(own, "/healthz", Docker::LIMIT)?;
    let told = ok(&["thaw", "--namespace", "moby", "explain", "hidden"])?;
    for part in [
        "image_unknown",
        &record.display().to_string(),
        "features.containerd-snapshotter",
    ] {
        ensure!(told.contains(part), "no {part} in {told}");
    }
    let feature = "image that can't be told, started cold";
    cell(docker.store.client(), feature, Way::Cold);
    cell_moot(docker.store.client(), feature, Way::Restored);
    Ok(())
}

#[test]
fn docker_starts_a_container_of_which_nobody_knows_the_image() -> Result<()> {
    let Some(lab) = Docker::enter("docker_starts_a_container_of_which_nobody_knows_the_image") else {
        return Ok(());
    };
    image_is_hidden(&lab)?;
    lab.done()
}

/// kill -9 of a container's shim: Docker says that it has ended, starts it again, and removes it after another kill.
/// Answers the exit code, and which folders have a file more when the container is removed.
fn loses_its_shim(docker: &Docker, name: &str, runtime: &str) -> Result<(Value, Vec<String>)> {
    let (before, rules) = (Inventory::take()?, docker.rules()?);
    let container = docker.python(name, runtime, 8084, &[])?;
    if name == "clone" {
        container.assert_restored()?;
    }
    let id = container.id()?;
    kill_shim_of(&id)?;
    container.until("/State/Status", &json!("exited"))?;
    let code = container.inspect("/State/ExitCode")?;
    docker.ok(&["start", name])?;
    container.get("/healthz")?;
    kill_shim_of(&id)?;
    container.until("/State/Status", &json!("exited"))?;
    docker.ok(&["rm", name])?;
    drop(container);
    assert_eq!(docker.rules()?, rules, "{name}");
    // Only a shim that ends by itself removes its socket.
    let mut left = Vec::new();
    until("nothing but sockets", Docker::LIMIT, || {
        left = Inventory::take()?.beyond(&before);
        Ok(left
            .iter()
            .all(|line| line.starts_with("file /run/containerd/s/"))
            .then_some(()))
    })
    .with_context(|| format!("{name} has left {left:?}"))?;
    let paths = left.iter().filter_map(|line| line.strip_prefix("file "));
    let folders = paths.map(|path| {
        let path = Path::new(path);
        std::fs::remove_file(path)?;
        Ok(path.parent().unwrap_or(path).display().to_string())
    });
    Ok((code, folders.collect::<Result<_>>()?))
}

fn shims_are_killed(lab: &Lab, store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    let stock = loses_its_shim(&docker, "stock", STOCK)?;
    assert_eq!(stock.0, json!(137));
    let feature = "the shim is killed";
    assert_eq!(loses_its_shim(&docker, "cold", THAW)?, stock);
    cell(store.client(), feature, Way::Cold);
    docker.snapshot(lab)?;
    assert_eq!(loses_its_shim(&docker, "clone", THAW)?, stock);
    cell(store.client(), feature, Way::Restored);
    Ok(())
}

#[test]
fn docker_survives_killed_shims() -> Result<()> {
    Docker::in_each_store("docker_survives_killed_shims", shims_are_killed)
}

/// A checkpoint of Docker's own is restored into the container that it was taken of.
fn checkpoint(lab: &Lab, store: ImageStore) -> Result<()> {
    let docker = Docker::start(store)?;
    for way in [Way::Cold, Way::Restored] {
        match way {
            Way::Cold => lab.forget()?,
            Way::Restored => docker.snapshot(lab)?,
        }
        let container = docker.python("kept", THAW, 8084, &[])?;
        container.assert_way(way)?;
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
        cell(store.client(), "checkpoint create, start --checkpoint", way);
        cell_refused(
            store.client(),
            "checkpoint create ends the container",
            way,
            "stop it yourself: Docker tells only its own runtimes",
        );
    }
    Ok(())
}

#[test]
fn docker_restores_checkpoints_of_its_own() -> Result<()> {
    Docker::in_each_store("docker_restores_checkpoints_of_its_own", checkpoint)
}

fn as_the_readme_says(lab: &Lab, store: ImageStore) -> Result<()> {
    lab.forget()?;
    let docker = Docker::start(store)?;
    // It declares a volume, as the real one does.
    docker.ok(&["create", "--name", "base", "localhost/thaw/python"])?;
    docker.ok(&["commit", "--change", "VOLUME /files", "base", "redmine:6"])?;
    docker.ok(&["rm", "base"])?;
    let web = Docked::named(&docker, "web", 0);
    let web2 = Docked::named(&docker, "web2", 0);
    quick_start("docker run", &format!("DOCKER_HOST={}", Docker::HOST), || {
        let own = std::net::SocketAddr::from((web.address()?, 8000));
        web.get_from(own, "/healthz", Docker::LIMIT).map(drop)
    })?;
    web2.assert_restored()?;
    drop((web, web2));
    docker.ok(&["rmi", "redmine:6"])?;
    Ok(())
}

#[test]
fn docker_does_as_the_readme_says() -> Result<()> {
    Docker::in_each_store("docker_does_as_the_readme_says", as_the_readme_says)
}
