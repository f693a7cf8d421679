//! A container without a snapshot starts as soon under thaw as under the stock runtime.
//!
//! The exact figures are the bench's business; this is here to catch disasters.

use std::time::{Duration, Instant};

use anyhow::Result;
use thaw_integration::{Lab, STOCK, THAW, ok};

const PAIRS: usize = 10;

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
    assert!(
        ours <= stock.mul_f64(1.5),
        "{ours:?} under thaw, {stock:?} under the stock runtime"
    );
    lab.done()
}
