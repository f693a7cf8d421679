//! An image has one key, whoever runs it and under whatever name; another image under that name has another.

use anyhow::{Result, ensure};
use thaw_integration::cri::{ConfigVersion, Containee, Cri};
use thaw_integration::{Lab, Nerdctl, Run, Way, cell, ok, run};

const PYTHON: &str = "localhost/thaw/python:latest";
const MOVING: &str = "localhost/thaw/moving:latest";
const FEATURE: &str = "image key as with ctr";

/// The key of the Python image as `ctr` runs it.
fn of_ctr(id: &str, image: &str) -> Result<String> {
    let container = Run::new(id, image).command(&["sleep", "100"]).start()?;
    container.outcome()?.image_key()
}

fn names() -> Result<()> {
    let python = of_ctr("python", "python")?;
    ok(&["ctr", "image", "tag", "--force", PYTHON, MOVING])?;
    ensure!(of_ctr("tagged", "moving")? == python, "a tag changes the key");
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
    let tried = names();
    run(&["ctr", "image", "remove", MOVING])?;
    tried?;
    lab.done()?;
    cell("ctr", "image key: kept by a tag, not by a new image", Way::Cold);
    Ok(())
}

#[test]
fn cri_has_the_image_key_of_ctr() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_has_the_image_key_of_ctr", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["python"])?;
        let pod = cri.pod("pod", "thaw", &[])?;
        let app = pod.run(&Containee {
            name: "app",
            image: "python",
            command: vec!["sleep", "100"],
            ..Containee::default()
        })?;
        ensure!(app.outcome()?.image_key()? == of_ctr("python", "python")?);
    }
    lab.done()?;
    cell("CRI", FEATURE, Way::Cold);
    Ok(())
}

#[test]
fn nerdctl_has_the_image_key_of_ctr() -> Result<()> {
    let Some(lab) = Lab::enter_with_tool("nerdctl_has_the_image_key_of_ctr", "nerdctl") else {
        return Ok(());
    };
    {
        let container = Nerdctl::run("key", &["--network", "none"], "python", &["sleep", "100"])?;
        ensure!(container.below().outcome()?.image_key()? == of_ctr("python", "python")?);
    }
    lab.done()?;
    cell("nerdctl", FEATURE, Way::Cold);
    Ok(())
}
