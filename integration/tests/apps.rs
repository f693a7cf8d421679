//! Real applications: threads, databases, a hundred thousand objects, a just-in-time compiler, worker processes.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use thaw_integration::{Container, Lab, Run, http, until};

const CLONES: usize = 3;

/// A cold start of the largest one takes 10 s on two idle cores.
const BOOT: Duration = Duration::from_secs(120);

/// Where an application answers.
#[derive(Debug, Clone, Copy)]
struct Page {
    port: u16,
    path: &'static str,
    /// So many times sooner it answers thawed than cold, in any build on any machine; the promise is much higher.
    sooner: u32,
}

impl Page {
    /// The body of its first 200.
    fn of(self, container: &Container) -> Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        http::get(&container.netns()?, address, self.path, BOOT)
    }
}

/// Time from the client's call to the first 200 that it reads, and the body.
fn first_answer(run: Run, page: Page) -> Result<(Container, Duration, String)> {
    let started = Instant::now();
    let container = run.start()?;
    let body = page.of(&container)?;
    Ok((container, started.elapsed(), body))
}

/// Starts the image cold, captures it, and starts clones of it, each of which `proves` that it is itself.
fn comes_back(name: &str, image: &str, page: Page, proves: fn(&Container, &str) -> Result<()>) -> Result<()> {
    let Some(lab) = Lab::enter_with_image(name, image) else {
        return Ok(());
    };
    {
        let run = |id: &str| Run::new(id, image).flags(&["--hostname", id]);
        let (donor, cold, body) = first_answer(run("donor"), page)?;
        proves(&donor, &body)?;
        lab.capture(&donor, &[])?;
        // The donor goes on.
        proves(&donor, &page.of(&donor)?)?;
        for n in 0..CLONES {
            let id = format!("clone-{n}");
            let (clone, thawed, body) = first_answer(run(&id), page)?;
            clone.assert_restored()?;
            assert_eq!(clone.sh("hostname")?, format!("{id}\n"));
            proves(&clone, &body)?;
            assert!(thawed * page.sooner < cold, "{thawed:?} thawed, {cold:?} cold");
        }
    }
    lab.done()
}

/// The application names its host.
fn says_its_name(container: &Container, body: &str) -> Result<()> {
    let name = body.split_whitespace().next();
    ensure!(name == Some(container.id()), "{} says {body:?}", container.id());
    Ok(())
}

const PUMA: Page = Page {
    port: 3000,
    path: "/",
    sooner: 3,
};

#[test]
fn redmine_comes_back() -> Result<()> {
    comes_back("redmine_comes_back", "redmine", PUMA, |_container, _body| Ok(()))
}

#[test]
fn the_fat_application_comes_back() -> Result<()> {
    comes_back(
        "the_fat_application_comes_back",
        "fat-app",
        PUMA,
        |_container, _body| Ok(()),
    )
}

#[test]
fn a_jvm_comes_back() -> Result<()> {
    const TOMCAT: Page = Page {
        port: 8080,
        path: "/",
        sooner: 3,
    };
    comes_back("a_jvm_comes_back", "jvm", TOMCAT, |container, body| {
        says_its_name(container, body)?;
        // Compiled at the first request, after the restore: class loader, compiler and files still work.
        let example = Page {
            port: 8080,
            path: "/examples/jsp/jsp2/el/basic-arithmetic.jsp",
            ..TOMCAT
        };
        ensure!(
            example.of(container)?.contains("Basic Arithmetic"),
            "another page"
        );
        Ok(())
    })
}

/// It boots in a second or so: nothing is promised of the time.
const WHOAMI: Page = Page {
    port: 8000,
    path: "/whoami",
    sooner: 0,
};

#[test]
fn a_server_with_workers_comes_back() -> Result<()> {
    comes_back(
        "a_server_with_workers_comes_back",
        "prefork",
        WHOAMI,
        |container, body| {
            says_its_name(container, body)?;
            let mut workers = BTreeSet::new();
            until("answers of two workers", Duration::from_secs(30), || {
                let body = WHOAMI.of(container)?;
                says_its_name(container, &body)?;
                workers.extend(body.split_whitespace().nth(1).map(str::to_owned));
                Ok((workers.len() > 1).then_some(()))
            })?;
            Ok(())
        },
    )
}
