//! What thaw costs a container that has no snapshot: no time, and less memory than the stock runtime.
//!
//! `hack/test a_cold_start` prints the figures.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use thaw_integration::{Lab, Run, STOCK, THAW, ok, processes};

/// The median of fewer is too uneven on a machine with neighbours.
const PAIRS: usize = 20;

fn once(runtime: &str) -> Result<Duration> {
    let started = Instant::now();
    ok(&[
        "ctr",
        "run",
        "--rm",
        "--runtime",
        runtime,
        "localhost/thaw/static:latest",
        "cost",
        "true",
    ])?;
    Ok(started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_cold_start_is_not_slower() -> Result<()> {
    let Some(lab) = Lab::enter("a_cold_start_is_not_slower") else {
        return Ok(());
    };
    let (mut stock, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        stock.push(once(STOCK)?);
        ours.push(once(THAW)?);
    }
    let (stock, ours) = (median(stock), median(ours));
    println!(
        "ctr run --rm true, median of {PAIRS}: stock {stock:.1?}, thaw {ours:.1?}, ratio {:.2}",
        ours.as_secs_f64() / stock.as_secs_f64()
    );
    assert!(
        ours <= stock,
        "{ours:?} under thaw, {stock:?} under the stock runtime"
    );
    lab.done()
}

/// Anonymous memory of the shim of a container that has just been started, in KiB.
fn idle_shim(runtime: &str) -> Result<u64> {
    let container = Run::new("idle", "static")
        .runtime(runtime)
        .command(&["sleep", "1000"])
        .start()?;
    let of_it =
        |line: &str| line.contains("containerd-shim-") && line.contains(&format!("-id {}", container.id()));
    let (shim, _) = processes()?
        .into_iter()
        .find(|(_, line)| of_it(line))
        .context("no shim")?;
    let status = std::fs::read_to_string(format!("/proc/{shim}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    Ok(line
        .context("no RssAnon")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?)
}

#[test]
fn an_idle_shim_is_smaller() -> Result<()> {
    let Some(lab) = Lab::enter("an_idle_shim_is_smaller") else {
        return Ok(());
    };
    let (stock, ours) = (idle_shim(STOCK)?, idle_shim(THAW)?);
    println!("anonymous memory of an idle shim: stock {stock} KiB, thaw {ours} KiB");
    assert!(
        ours < stock,
        "{ours} KiB under thaw, {stock} KiB under the stock runtime"
    );
    lab.done()
}
