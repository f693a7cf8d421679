//! Waiting for something to become true.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How many times slower than usual the machine is, according to `$THAW_TEST_PATIENCE`.
static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
    let told = std::env::var("THAW_TEST_PATIENCE").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(1)
});

/// As long as this takes on the usual machine.
#[must_use]
pub fn patience(usual: Duration) -> Duration {
    usual * *PATIENCE
}

/// Asks every 10 ms until the answer is there.
///
/// # Errors
/// After `limit`, or longer on a slow machine, with `what` was waited for; and what `ask` fails with.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = patience(limit);
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}
