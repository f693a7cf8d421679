//! Time goes on in a clone: the wall clock is right, the monotonic clock does not jump, timers fire.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use thaw_integration::{
    Container, Lab, Run, ok, processes, restart_containerd, restart_containerd_under, until,
};

const LIMIT: Duration = Duration::from_secs(30);

/// Counts in every way in which a program can wait, and writes down how far it is.
const COUNTING: &str = r#"
import json, os, select, signal, threading, time
ticks = {"sleep": 0, "event": 0, "itimer": 0, "epoll": 0, "timerfd": 0, "late": 0, "past": 0, "absolute": 0}
def count(name, wait):
    def loop():
        while True:
            wait(); ticks[name] += 1
    threading.Thread(target=loop, daemon=True).start()
def alarm(*_): ticks["itimer"] += 1
signal.signal(signal.SIGALRM, alarm)
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
event, epoll = threading.Event(), select.epoll()
timer = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(timer, initial=0.2, interval=0.2)
far = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(far, flags=os.TFD_TIMER_ABSTIME, initial=time.monotonic() + FAR)
count("event", lambda: event.wait(0.2))
count("epoll", lambda: epoll.poll(0.2))
count("timerfd", lambda: os.read(timer, 8))
count("absolute", lambda: os.read(far, 8))
# Nearly always it has run out and is not read yet.
late = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(late, initial=0.02, interval=0.02)
count("late", lambda: (time.sleep(0.4), os.read(late, 8)))
# It has fired for good before the dump.
past = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(past, flags=os.TFD_TIMER_ABSTIME, initial=time.monotonic() + 0.01)
count("past", lambda: os.read(past, 8))
start, last, back = time.monotonic(), time.monotonic(), False
while True:
    time.sleep(0.1)
    ticks["sleep"] += 1
    now = time.monotonic()
    back, last = back or now < last, now
    state = dict(ticks, monotonic=now, boottime=time.clock_gettime(time.CLOCK_BOOTTIME), wall=time.time(), back=back)
    with open("/srv/part", "w") as f: f.write(json.dumps(state))
    os.rename("/srv/part", "/srv/state")
"#;

/// Seconds from the donor's start to its one absolute timer.
const FAR: u64 = 25;

fn wall() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// What the program has written after the time `since`.
fn state(container: &Container, since: f64) -> Result<Value> {
    until("a state of the program", LIMIT, || {
        let Ok(text) = container.sh("cat /srv/state") else {
            return Ok(None);
        };
        let state: Value = serde_json::from_str(&text)?;
        Ok((state["wall"].as_f64() > Some(since)).then_some(state))
    })
}

fn number(state: &Value, name: &str) -> Result<f64> {
    state[name].as_f64().with_context(|| format!("{name} of {state}"))
}

fn run(id: &str) -> Run {
    let program = COUNTING.replace("FAR", &FAR.to_string());
    Run::new(id, "python").command(&["python3", "-c", &program])
}

/// The donor's machine has been up for `offset` seconds more than this one.
fn moved(offset: &str) -> Result<()> {
    let (monotonic, boottime) = (format!("--monotonic={offset}"), format!("--boottime={offset}"));
    restart_containerd_under(&["unshare", "--time", &monotonic, &boottime])?;
    let donor = run("donor").start()?;
    let before = state(&donor, wall()?)?;
    let (daemon, _) = processes()?
        .into_iter()
        .find(|(_, line)| line.starts_with("containerd --config"))
        .context("containerd does not run")?;
    let inside = daemon.to_string();
    ok(&[
        "nsenter",
        "--time",
        "-t",
        &inside,
        "thaw",
        "capture",
        "--stop",
        donor.id(),
    ])?;
    drop(donor);
    restart_containerd()?;

    let clone = run("clone").start()?;
    clone.assert_restored()?;
    let now = wall()?;
    let after = state(&clone, now)?;
    let later = wall()?;
    ensure!(after["back"] == false, "the monotonic clock went back: {after}");
    for clock in ["monotonic", "boottime"] {
        let passed = number(&after, clock)? - number(&before, clock)?;
        // The time of the freeze and the restore counts or does not; years of another uptime must not.
        ensure!((0.0..300.0).contains(&passed), "{clock} moved by {passed} s");
    }
    let wall = number(&after, "wall")?;
    ensure!(
        (now..=later).contains(&wall),
        "wall clock {wall} is not in {now}..{later}"
    );
    // Every way of waiting ends again, the far timer once.
    let mut last = Value::Null;
    until("the timers of the clone", LIMIT * 4, || {
        last = state(&clone, now)?;
        let on = |name: &str| last[name].as_u64() > after[name].as_u64().map(|ticks| ticks + 2);
        let all = ["sleep", "event", "itimer", "epoll", "timerfd", "late"]
            .into_iter()
            .all(on);
        Ok((all && last["absolute"] == 1).then_some(()))
    })
    .with_context(|| format!("first {after}, then {last}"))?;
    ensure!(last["past"] == 1, "a timer that had fired fired again: {last}");
    // A second process sees the same clock.
    let print = "import time; print(time.monotonic())";
    let other: f64 = clone.exec(&["python3", "-c", print])?.ok()?.trim().parse()?;
    let own = number(&state(&clone, now)?, "monotonic")?;
    ensure!(
        (own - other).abs() < 60.0,
        "exec has the monotonic clock {other}, the program {own}"
    );
    Ok(())
}

#[test]
fn clocks_go_on_after_another_uptime() -> Result<()> {
    let Some(lab) = Lab::enter("clocks_go_on_after_another_uptime") else {
        return Ok(());
    };
    assert!(
        Path::new("/proc/self/ns/time").exists(),
        "the kernel has no time namespaces"
    );
    for offset in ["8640000", "-300"] {
        moved(offset).with_context(|| format!("offset {offset}"))?;
        forget(&lab)?;
    }
    lab.done()
}

/// The next donor's snapshot is to be the only one.
fn forget(lab: &Lab) -> Result<()> {
    lab.empty_cache()?;
    ok(&["rm", "-rf", &lab.store().display().to_string()]).map(drop)
}
