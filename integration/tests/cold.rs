//! The same observable facts under containerd's own runtime and under thaw.
//!
//! Every test here runs under the stock runtime first, which proves the test, and then under ours.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use thaw_integration::{Console, Events, Lab, Run, STOCK, THAW, ok, processes, run, until};

const SOON: Duration = Duration::from_secs(5);

/// Runs `facts` under both runtimes: it answers what can be seen, which has to be the same.
fn both<T: PartialEq + std::fmt::Debug>(name: &str, facts: impl Fn(&str) -> Result<T>) -> Result<()> {
    let Some(lab) = Lab::enter(name) else {
        return Ok(());
    };
    let stock = facts(STOCK).context("under the stock runtime")?;
    lab.nothing_left().context("under the stock runtime")?;
    let ours = facts(THAW).context("under thaw")?;
    assert_eq!(ours, stock, "thaw on the left");
    lab.done()
}

fn shell(runtime: &str, script: &str) -> Run {
    Run::new("cold", "static")
        .runtime(runtime)
        .command(&["sh", "-c", script])
}

#[test]
fn exit_codes_and_signals() -> Result<()> {
    both("exit_codes_and_signals", |runtime| {
        let mut codes = Vec::new();
        for script in ["exit 0", "exit 7", "kill -9 $$", "exec /nonexistent"] {
            codes.push(shell(runtime, script).start()?.end()?);
        }
        for signal in ["SIGTERM", "SIGKILL", "SIGUSR1", "9"] {
            let script = "trap 'exit 40' TERM; trap 'exit 41' USR1; echo on; while :; do sleep 0.1; done";
            let container = shell(runtime, script).start()?;
            until("the trap", SOON, || {
                Ok(container.log()?.contains("on").then_some(()))
            })?;
            container.kill(signal)?;
            codes.push(container.end()?);
        }
        Ok(codes)
    })
}

#[test]
fn starts_that_fail() -> Result<()> {
    both("starts_that_fail", |runtime| {
        let mut facts = Vec::new();
        for (command, flags) in [
            (vec!["/no/such/program"], vec![]),
            (vec!["true"], vec!["--cwd", "/bin/sh"]),
            (
                vec!["true"],
                vec!["--mount", "type=bind,src=/no/such,dst=/mnt,options=rbind"],
            ),
        ] {
            let run = Run::new("cold", "static")
                .runtime(runtime)
                .flags(&flags)
                .command(&command);
            let (container, ran) = run.try_start()?;
            let known = ["no such file", "not a directory"].map(|words| ran.stderr.contains(words));
            facts.push((ran.code, known, container.status()?));
        }
        Ok(facts)
    })
}

#[test]
fn output_and_input() -> Result<()> {
    both("output_and_input", |runtime| {
        let (container, mut client) =
            shell(runtime, "echo out; echo err >&2; cat; echo end; exit 3").attached()?;
        // ctr forgets to close the input of a task that was not there when its own ended.
        until("the task", SOON, || {
            Ok((container.status()? == "RUNNING").then_some(()))
        })?;
        client.write("one\ntwo\n")?;
        let ran = client.wait(SOON)?;
        // More than a pipe holds, to the last byte.
        let (_many, client) = Run::new("many", "static")
            .runtime(runtime)
            .command(&["seq", "1", "200000"])
            .attached()?;
        let many = client.wait(Duration::from_secs(20))?;
        Ok((
            ran.code,
            ran.stdout,
            ran.stderr.contains("err\n"),
            many.stdout.len(),
            many.stdout.ends_with("200000\n"),
        ))
    })
}

#[test]
fn exec_with_and_without_a_terminal() -> Result<()> {
    both("exec_with_and_without_a_terminal", |runtime| {
        let container = shell(runtime, "sleep 100").start()?;
        let plain = container.exec(&["sh", "-c", "echo $PPID; tty; exit 9"])?;
        let missing = container.exec(&["/no/such"])?;
        let mut console = Console::spawn(&[
            "ctr",
            "task",
            "exec",
            "--tty",
            "--exec-id",
            "tty",
            "cold",
            "sh",
            "-c",
            "tty; stty size; read x; echo got $x; exit 8",
        ])?;
        console.expect("/dev/pts/0")?;
        console.write("typed\n")?;
        console.expect("got typed")?;
        Ok((
            plain.code,
            plain.stdout,
            missing.code,
            console.wait()?,
            container.status()?,
        ))
    })
}

#[test]
fn pause_resume_and_update() -> Result<()> {
    both("pause_resume_and_update", |runtime| {
        let container = shell(runtime, "while :; do echo tick; sleep 0.05; done").start()?;
        ok(&["ctr", "task", "pause", "cold"])?;
        let paused = container.status()?;
        let before = container.log()?.len();
        std::thread::sleep(Duration::from_millis(200));
        let still = container.log()?.len() == before;
        let refused = container.exec(&["true"])?.code != 0;
        ok(&["ctr", "task", "resume", "cold"])?;
        until("ticks", SOON, || {
            Ok((container.log()?.len() > before).then_some(()))
        })?;
        let again = run(&["ctr", "task", "resume", "cold"])?.code;
        Ok((paused, still, refused, container.status()?, again))
    })
}

#[test]
fn kill_all_and_orphans() -> Result<()> {
    both("kill_all_and_orphans", |runtime| {
        let container = shell(runtime, "(sleep 1000 &); sleep 2000 & wait").start()?;
        until("the children", SOON, || {
            Ok((container.sh("pidof sleep | wc -w")?.trim() == "2").then_some(()))
        })?;
        let pids = ok(&["ctr", "task", "ps", "cold"])?.lines().count();
        ok(&["ctr", "task", "kill", "--all", "--signal", "SIGKILL", "cold"])?;
        let code = container.end()?;
        let left = processes()?.iter().any(|(_, line)| line.starts_with("sleep "));
        Ok((pids, code, left))
    })
}

#[test]
fn the_order_of_events() -> Result<()> {
    both("the_order_of_events", |runtime| {
        let events = Events::subscribe()?;
        let container = shell(runtime, "sleep 100").start()?;
        container.exec(&["true"])?.ok()?;
        ok(&["ctr", "task", "pause", "cold"])?;
        ok(&["ctr", "task", "resume", "cold"])?;
        container.kill("SIGKILL")?;
        container.end()?;
        drop(container);
        let mut topics: Vec<_> = events.of("cold")?.into_iter().map(|(topic, _)| topic).collect();
        // The stock shim now and then ends before it has handed over its last event; ours must not.
        let told = topics.iter().any(|topic| topic == "/tasks/delete");
        ensure!(told || runtime == STOCK, "no /tasks/delete in {topics:?}");
        topics.retain(|topic| topic != "/tasks/delete");
        Ok(topics)
    })
}

#[test]
fn lack_of_memory_is_reported() -> Result<()> {
    both("lack_of_memory_is_reported", |runtime| {
        let events = Events::subscribe()?;
        let run = Run::new("cold", "python")
            .runtime(runtime)
            .flags(&["--memory-limit", "33554432"]);
        let container = run
            .command(&["python3", "-c", "x = bytearray(200 << 20)"])
            .start()?;
        let code = container.end()?;
        let topics: Vec<_> = events.of("cold")?.into_iter().map(|(topic, _)| topic).collect();
        Ok((code, topics.iter().any(|topic| topic == "/tasks/oom")))
    })
}

#[test]
fn metrics_name_the_same_things() -> Result<()> {
    both("metrics_name_the_same_things", |runtime| {
        let container = shell(runtime, "sleep 100").start()?;
        let text = ok(&["ctr", "task", "metrics", container.id()])?;
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        let names: Vec<_> = names
            .filter(|name| *name != "TIMESTAMP")
            .map(str::to_owned)
            .collect();
        let used = text
            .lines()
            .find(|line| line.starts_with("memory.usage_in_bytes ") || line.starts_with("memory.usage "))
            .unwrap_or_default()
            .to_owned();
        let used = used
            .split_whitespace()
            .nth(1)
            .and_then(|number| number.parse::<u64>().ok());
        ensure!(used.is_some_and(|bytes| bytes > 0), "{text}");
        Ok(names)
    })
}

#[test]
fn rm_leaves_nothing() -> Result<()> {
    both("rm_leaves_nothing", |runtime| {
        let run = shell(runtime, "echo hello; exit 4").flags(&["--rm"]);
        let (_container, client) = run.attached()?;
        let ran = client.wait(SOON)?;
        Ok((ran.code, ran.stdout))
    })
}
