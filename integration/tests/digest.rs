//! An image has one key, whoever runs it and under whatever name, imported or pulled; another image under that name has
//! another.

use std::path::Path;

use anyhow::{Result, ensure};
use thaw_integration::cri::{ConfigVersion, Containee, Cri};
use thaw_integration::{
    Docked, Docker, ImageStore, Lab, Nerdctl, Outcome, Registry, Run, THAW, Way, cell, ok, run,
};

const PYTHON: &str = "localhost/thaw/python:latest";
const MOVING: &str = "localhost/thaw/moving:latest";
const FEATURE: &str = "image key as with ctr";

/// Not `sleep` alone: a dump ends that of busybox.
const COMMAND: [&str; 3] = ["sh", "-c", "while :; do sleep 1; done"];
const BOTH: [Way; 2] = [Way::Cold, Way::Restored];

/// The key of an image as `ctr` runs it.
fn of_ctr(id: &str, image: &str) -> Result<String> {
    let container = Run::new(id, image).command(&COMMAND).start()?;
    container.outcome()?.image_key()
}

/// The key that a container was looked up by, which came up in this way.
fn key(outcome: &Outcome, way: Way) -> Result<String> {
    let wanted = match way {
        Way::Cold => "cold",
        Way::Restored => "restored",
    };
    ensure!(outcome.result == wanted, "{outcome:?}");
    outcome.image_key()
}

fn names(lab: &Lab) -> Result<()> {
    let container = Run::new("python", "python").command(&COMMAND).start()?;
    let python = key(&container.outcome()?, Way::Cold)?;
    lab.capture(&container, &[])?;
    ok(&["ctr", "image", "tag", "--force", PYTHON, MOVING])?;
    let tagged = Run::new("tagged", "moving").command(&COMMAND).start()?;
    ensure!(
        key(&tagged.outcome()?, Way::Restored)? == python,
        "a tag changes the key"
    );
    ok(&[
        "ctr",
        "image",
        "tag",
        "--force",
        "localhost/thaw/static:latest",
        MOVING,
    ])?;
    ensure!(
        of_ctr("moved", "moving")? != python,
        "another image has the same key"
    );
    Ok(())
}

#[test]
fn a_tag_keeps_the_image_key_and_a_new_image_changes_it() -> Result<()> {
    let Some(lab) = Lab::enter("a_tag_keeps_the_image_key_and_a_new_image_changes_it") else {
        return Ok(());
    };
    let tried = names(&lab);
    run(&["ctr", "image", "remove", MOVING])?;
    tried?;
    lab.done()?;
    for way in BOTH {
        cell("ctr", "image key: kept by a tag, not by a new image", way);
    }
    Ok(())
}

/// A container of the image in a pod; captured when it is to come up cold.
fn by_cri(cri: &Cri, image: &'static str, way: Way) -> Result<Outcome> {
    let pod = cri.pod("pod", "thaw", &[])?;
    let app = pod.run(&Containee {
        name: "app",
        image,
        command: COMMAND.to_vec(),
        ..Containee::default()
    })?;
    if way == Way::Cold {
        cri.capture("pod/app")?;
    }
    app.outcome()
}

/// The same with nerdctl.
fn by_nerdctl(image: &str, way: Way) -> Result<Outcome> {
    let container = Nerdctl::run("key", &["--network", "none"], image, &COMMAND)?;
    if way == Way::Cold {
        ok(&["thaw", "capture", container.name()])?;
    }
    container.below().outcome()
}

/// The same with Docker.
fn by_docker(docker: &Docker, image: &str, way: Way) -> Result<Outcome> {
    let container = Docked::named(docker, "key", 0);
    let words = ["run", "--detach", "--runtime", THAW, "--name", "key", image];
    docker.ok(&[&words[..], &COMMAND].concat())?;
    if way == Way::Cold {
        container.capture()?;
    }
    container.outcome()
}

/// Pushes two images by one name, one after the other. The client pulls each of them, and runs it.
fn pushes_twice(
    registry: &Registry,
    client: &str,
    pull: impl Fn() -> Result<()>,
    start: impl Fn(Way) -> Result<Outcome>,
) -> Result<()> {
    let mut last = String::new();
    for (image, feature) in [
        ("python", "pulled image: key as with ctr"),
        (
            "static",
            "pulled image: another key when the tag was pushed again",
        ),
    ] {
        registry.push(image)?;
        pull()?;
        let wanted = of_ctr("by-ctr", image)?;
        ensure!(wanted != last, "two images with one key");
        for way in BOTH {
            let outcome = start(way)?;
            ensure!(key(&outcome, way)? == wanted, "{outcome:?}");
            ensure!(
                way == Way::Restored || outcome.reason == "no_snapshot",
                "{outcome:?}"
            );
            cell(client, feature, way);
        }
        last = wanted;
    }
    Ok(())
}

#[test]
fn cri_has_the_image_key_of_ctr() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_has_the_image_key_of_ctr", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["python"])?;
        for way in BOTH {
            ensure!(key(&by_cri(&cri, "python", way)?, way)? == of_ctr("python", "python")?);
            cell("CRI", FEATURE, way);
        }
    }
    lab.done()?;
    Ok(())
}

#[test]
fn cri_pulls_what_was_pushed_again() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_pulls_what_was_pushed_again", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &[])?;
        let registry = Registry::start(&lab, Path::new(Registry::LAB))?;
        let pull = || cri.pull(Registry::IMAGE);
        let start = |way| by_cri(&cri, Registry::IMAGE, way);
        pushes_twice(&registry, "CRI", pull, start)?;
        cri.remove(Registry::IMAGE)?;
    }
    lab.done()
}

#[test]
fn nerdctl_has_the_image_key_of_ctr() -> Result<()> {
    let Some(lab) = Lab::enter_with_tool("nerdctl_has_the_image_key_of_ctr", "nerdctl") else {
        return Ok(());
    };
    {
        for way in BOTH {
            ensure!(key(&by_nerdctl("python", way)?, way)? == of_ctr("python", "python")?);
            cell("nerdctl", FEATURE, way);
        }
    }
    lab.done()?;
    Ok(())
}

#[test]
fn nerdctl_pulls_what_was_pushed_again() -> Result<()> {
    let Some(lab) = Lab::enter_with_tool("nerdctl_pulls_what_was_pushed_again", "nerdctl") else {
        return Ok(());
    };
    {
        let registry = Registry::start(&lab, Path::new(Registry::LAB))?;
        let pull = || ok(&["nerdctl", "pull", "--quiet", Registry::IMAGE]).map(drop);
        let start = |way| by_nerdctl(Registry::IMAGE, way);
        pushes_twice(&registry, "nerdctl", pull, start)?;
        ok(&["nerdctl", "rmi", Registry::IMAGE])?;
    }
    lab.done()
}

fn docker_pulls(lab: &Lab, store: ImageStore) -> Result<()> {
    lab.forget()?;
    let docker = Docker::start(store)?;
    let registry = Registry::start(lab, &docker.host())?;
    let pull = || docker.ok(&["pull", "--quiet", Registry::IMAGE]).map(drop);
    let start = |way| by_docker(&docker, Registry::IMAGE, way);
    pushes_twice(&registry, store.client(), pull, start)?;
    docker.ok(&["rmi", Registry::IMAGE]).map(drop)
}

#[test]
fn docker_pulls_what_was_pushed_again() -> Result<()> {
    Docker::in_each_store("docker_pulls_what_was_pushed_again", docker_pulls)
}
