//! An image has one key, whoever runs it and under whatever name; another image under that name has another.

use anyhow::{Result, ensure};
use thaw_integration::cri::{ConfigVersion, Containee, Cri};
use thaw_integration::{Lab, Nerdctl, Outcome, Run, Way, cell, ok, run};

const PYTHON: &str = "localhost/thaw/python:latest";
const MOVING: &str = "localhost/thaw/moving:latest";
const FEATURE: &str = "image key as with ctr";

const COMMAND: [&str; 2] = ["sleep", "100"];
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

#[test]
fn cri_has_the_image_key_of_ctr() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_has_the_image_key_of_ctr", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["python"])?;
        for way in BOTH {
            let pod = cri.pod("pod", "thaw", &[])?;
            let app = pod.run(&Containee {
                name: "app",
                image: "python",
                command: COMMAND.to_vec(),
                ..Containee::default()
            })?;
            ensure!(key(&app.outcome()?, way)? == of_ctr("python", "python")?);
            if way == Way::Cold {
                cri.capture("pod/app")?;
            }
            cell("CRI", FEATURE, way);
        }
    }
    lab.done()?;
    Ok(())
}

#[test]
fn nerdctl_has_the_image_key_of_ctr() -> Result<()> {
    let Some(lab) = Lab::enter_with_tool("nerdctl_has_the_image_key_of_ctr", "nerdctl") else {
        return Ok(());
    };
    {
        for way in BOTH {
            let container = Nerdctl::run("key", &["--network", "none"], "python", &COMMAND)?;
            ensure!(key(&container.below().outcome()?, way)? == of_ctr("python", "python")?);
            if way == Way::Cold {
                ok(&["thaw", "capture", container.name()])?;
            }
            cell("nerdctl", FEATURE, way);
        }
    }
    lab.done()?;
    Ok(())
}
