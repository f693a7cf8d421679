//! Real applications: threads, databases, a hundred thousand objects.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use thaw_integration::{Container, Lab, Run, http};

const CLONES: usize = 3;

/// Time from the client's call to the first 200 that it reads.
fn first_answer(run: Run) -> Result<(Container, Duration)> {
    let started = Instant::now();
    let container = run.start()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
    http::get(&container.netns()?, address, "/", Duration::from_secs(90))?;
    Ok((container, started.elapsed()))
}

fn comes_back(name: &str, image: &str) -> Result<()> {
    let Some(lab) = Lab::enter_with_image(name, image) else {
        return Ok(());
    };
    {
        let run = |id: &str| Run::new(id, image).flags(&["--hostname", id]);
        let (donor, cold) = first_answer(run("donor"))?;
        lab.capture(&donor, &[])?;
        for n in 0..CLONES {
            let id = format!("clone-{n}");
            let (clone, thawed) = first_answer(run(&id))?;
            clone.assert_restored()?;
            assert_eq!(clone.sh("hostname")?, format!("{id}\n"));
            // The promise is much higher; this one holds in any build on any machine.
            assert!(thawed * 3 < cold, "{thawed:?} thawed, {cold:?} cold");
        }
    }
    lab.done()
}

#[test]
fn redmine_comes_back() -> Result<()> {
    comes_back("redmine_comes_back", "redmine")
}

#[test]
fn the_fat_application_comes_back() -> Result<()> {
    comes_back("the_fat_application_comes_back", "fat-app")
}
