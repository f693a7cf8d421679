//! Clients with a terminal, and clients that feed standard input.

use std::time::Duration;

use anyhow::Result;
use thaw_integration::{Console, Container, Lab, Run, until};

fn console(run: &Run) -> Result<Console> {
    let words = run.foreground();
    Console::spawn(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_shell_on_a_terminal_comes_back() -> Result<()> {
    let Some(lab) = Lab::enter("a_shell_on_a_terminal_comes_back") else {
        return Ok(());
    };
    {
        let run = |id: &str| Run::new(id, "static").flags(&["--tty"]).command(&["sh"]);
        let donor = Container::named("donor", None);
        let mut terminal = console(&run("donor"))?;
        terminal.write("KEPT=six; echo $((6 * 7))\n")?;
        terminal.expect("42")?;
        lab.capture(&donor, &[])?;
        terminal.write("echo still $KEPT here\n")?;
        terminal.expect("still six here")?;

        let clone = Container::named("clone", None);
        let mut other = console(&run("clone"))?;
        other.write("echo also $KEPT there\n")?;
        other.expect("also six there")?;
        clone.assert_restored()?;
        other.write("exit 5\n")?;
        assert_eq!(other.wait()?, 5);
        terminal.write("exit 6\n")?;
        assert_eq!(terminal.wait()?, 6);
    }
    lab.done()
}

#[test]
fn standard_input_reaches_the_clone() -> Result<()> {
    let Some(lab) = Lab::enter("standard_input_reaches_the_clone") else {
        return Ok(());
    };
    {
        let script = "while read line; do echo got $line; done; echo end";
        let run = |id: &str| Run::new(id, "static").command(&["sh", "-c", script]);
        let (donor, mut donor_client) = run("donor").attached()?;
        until("the donor", Duration::from_secs(10), || {
            Ok((donor.status()? == "RUNNING").then_some(()))
        })?;
        donor_client.write("one\n")?;
        lab.capture(&donor, &[])?;
        donor_client.write("two\n")?;
        assert_eq!(
            donor_client.wait(Duration::from_secs(10))?.ok()?,
            "got one\ngot two\nend\n"
        );

        let (clone, mut client) = run("clone").attached()?;
        until("the clone", Duration::from_secs(10), || {
            Ok((clone.status()? == "RUNNING").then_some(()))
        })?;
        clone.assert_restored()?;
        client.write("three\n")?;
        assert_eq!(client.wait(Duration::from_secs(10))?.ok()?, "got three\nend\n");
    }
    lab.done()
}
