//! The memory of a clone, whoever has filled it in.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use thaw_integration::{FakeCriu, Lab, Python, Run, processes};

/// Enough for several pieces on several threads.
const HEAP_MB: u64 = 192;

fn python(lab: &Lab, id: &str) -> Run {
    lab.python_run(id)
        .flags(&["--env", &format!("HEAP_MB={HEAP_MB}")])
}

/// Where huge pages are on for all memory CRIU does it alone, see docs/memory.md.
fn can_serve() -> bool {
    let huge = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    !huge.is_ok_and(|chosen| chosen.contains("[always]"))
}

/// Nobody has a hand in anybody's memory any more.
fn nobody_serves() -> Result<()> {
    for (pid, line) in processes()? {
        // Those of a process that has just ended can't be read.
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let targets = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok());
        for target in targets {
            ensure!(
                !target.to_string_lossy().contains("userfaultfd"),
                "{line} has a userfaultfd"
            );
        }
    }
    Ok(())
}

#[test]
fn memory_is_whole_whoever_fills_it_in() -> Result<()> {
    let Some(lab) = Lab::enter("memory_is_whole_whoever_fills_it_in") else {
        return Ok(());
    };
    {
        let donor = Python::ready(python(&lab, "donor").start()?)?;
        let before = donor.state()?;
        lab.capture(&donor.container, &[])?;
        for wanted in [true, false] {
            lab.configure(&format!("page_server = {wanted}"))?;
            let server = wanted && can_serve();
            let least = if server { HEAP_MB << 20 } else { 0 };
            let clone = Python::ready(python(&lab, "clone").start()?)?;
            let outcome = clone.container.assert_restored()?;
            let filled = outcome.bytes["filled"].as_u64().context("no number")?;
            ensure!(
                filled >= least && (filled > 0) == server,
                "page_server = {server}: {outcome:?}"
            );
            ensure!(
                clone.state()?["heap_checksum"] == before["heap_checksum"],
                "page_server = {server}"
            );
            // It is memory like any other: `um` would be missing pages that a userfaultfd brings (proc_pid_smaps(5)).
            let smaps = fs::read_to_string(format!("/proc/{}/smaps", clone.container.pid()?))?;
            let flags = smaps.lines().filter(|line| line.starts_with("VmFlags:"));
            ensure!(
                !flags.into_iter().any(|line| line.contains(" um")),
                "still registered"
            );
            nobody_serves()?;
        }
        // A clone of a clone, so that what was filled in is dumped as what it is.
        lab.configure("")?;
        let again = Python::ready(python(&lab, "again").start()?)?;
        again.container.assert_restored()?;
        lab.capture(&again.container, &[])?;
        let last = Python::ready(python(&lab, "last").start()?)?;
        last.container.assert_restored()?;
        ensure!(
            last.state()?["heap_checksum"] == before["heap_checksum"],
            "the second generation"
        );
    }
    lab.done()
}

/// CRIU that asks the page server for something else than what is in the images, or ends in the middle of it.
#[test]
fn memory_that_nobody_fills_in_ends_in_a_cold_start() -> Result<()> {
    let Some(lab) = Lab::enter("memory_that_nobody_fills_in_ends_in_a_cold_start") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let talk = |words: &str| {
        format!(
            "python3 -c '\nimport glob, socket\ns = socket.socket(socket.AF_UNIX)\n\
             s.connect(*glob.glob(\"/run/thaw/default/cold/restore/*/lazy-pages.socket\"))\n{words}'; exit 1"
        )
    };
    for (words, detail) in [
        ("s.send((99).to_bytes(4, \"little\") + b\"x\")", "talk to CRIU"),
        (
            "r, w = socket.socketpair()\ns.send((99).to_bytes(4, \"little\"))\nsocket.send_fds(s, [b\"x\"], [w.fileno()])",
            "CRIU restores process 99",
        ),
        ("", "restore the processes"),
    ] {
        {
            let _criu = FakeCriu::new(&talk(words))?;
            let python = lab.python("cold")?;
            let outcome = python.container.assert_cold("restore_failed")?;
            let detail = if can_serve() {
                detail
            } else {
                "restore the processes"
            };
            ensure!(outcome.detail.contains(detail), "{outcome:?}");
        }
        lab.forgive()?;
        lab.nothing_left().with_context(|| detail.to_owned())?;
    }
    lab.done()
}
