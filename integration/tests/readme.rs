//! The quick starts of the README that need no daemon of their own, line by line.

use anyhow::{Result, ensure};
use thaw_integration::{Container, Lab, Python, Way, cell, ok, quick_start, run};

/// What the README calls the image, and what it is here.
const IMAGE: [&str; 2] = ["localhost/thaw/python:latest", "docker.io/library/redmine:6"];

fn by_ctr() -> Result<()> {
    let [_web, web2] = ["web", "web2"].map(|name| Container::named(name, None));
    let printed = quick_start("ctr run", "CLIENT=ctr", || {
        let web = std::mem::ManuallyDrop::new(Python::ready(Container::named("web", None))?);
        web.container.assert_cold("no_snapshot").map(drop)
    })?;
    ensure!(printed.contains("was restored from a snapshot"), "{printed}");
    web2.assert_restored().map(drop)
}

#[test]
fn ctr_does_as_the_readme_says() -> Result<()> {
    let Some(lab) = Lab::enter("ctr_does_as_the_readme_says") else {
        return Ok(());
    };
    ok(&[&["ctr", "image", "tag"], &IMAGE[..]].concat())?;
    let tried = by_ctr();
    run(&["ctr", "image", "remove", IMAGE[1]])?;
    tried?;
    lab.done()?;
    for way in [Way::Cold, Way::Restored] {
        cell("ctr", "the lines of the README", way);
    }
    Ok(())
}
