//! What a container finds around it and in it when it starts, to compare one start with another.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::command::ok;
use crate::container::Container;
use crate::inventory::{Inventory, processes};
use crate::netns::Netns;

/// One fact a line, without what differs from start to start: pids, inodes, times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings(BTreeSet<String>);

/// What thaw keeps of a failed restore on purpose, for whoever looks for the cause.
const KEPT: &str = "restore.log";

impl Surroundings {
    /// Looks at a container that runs in the network namespace `netns`.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn of(container: &Container, netns: &Netns) -> Result<Self> {
        let mut found = BTreeSet::new();
        network(netns, &mut found)?;
        let pid = container.pid()?;
        process(pid, &mut found)?;
        companions(pid, &mut found)?;
        let upper = mounts(pid, &mut found)?;
        lines(
            "upper",
            &ok(&["find", &upper, "-printf", "%P %y %m %U %G %s\n"])?,
            &mut found,
        );
        lines(
            "inside",
            &container.sh("hostname; cat /proc/net/unix | cut -d' ' -f8- | sort")?,
            &mut found,
        );
        cgroups(container.id(), &mut found);
        let bundle = format!(
            "/run/containerd/io.containerd.runtime.v2.task/default/{}",
            container.id()
        );
        for folder in [bundle, format!("/run/thaw/default/{}", container.id())] {
            let listed = ok(&["find", &folder, "-maxdepth", "1", "-printf", "%p %y %m\n"])?;
            lines("file", &listed, &mut found);
        }
        for line in Inventory::take()?.lines() {
            found.insert(without_pid(line));
        }
        found.retain(|line| !line.contains(KEPT));
        Ok(Self(found))
    }

    /// Fails with what is different.
    ///
    /// # Errors
    /// The list.
    pub fn same_as(&self, other: &Self) -> Result<()> {
        let more = self.0.difference(&other.0).map(|line| format!("  + {line}"));
        let less = other.0.difference(&self.0).map(|line| format!("  - {line}"));
        let all: Vec<_> = more.chain(less).collect();
        if !all.is_empty() {
            bail!("differs:\n{}", all.join("\n"));
        }
        Ok(())
    }
}

fn lines(kind: &str, text: &str, found: &mut BTreeSet<String>) {
    found.extend(text.lines().map(|line| format!("{kind}: {line}")));
}

fn network(netns: &Netns, found: &mut BTreeSet<String>) -> Result<()> {
    lines("rule", &netns.ok(&["nft", "list", "ruleset"])?, found);
    let saved = netns.ok(&["iptables-save"])?;
    let rules: String = saved
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |all, line| {
            all + line.split(" [").next().unwrap_or_default() + "\n"
        });
    lines("iptables", &rules, found);
    lines(
        "address",
        &netns.ok(&["ip", "-oneline", "address", "show"])?,
        found,
    );
    lines(
        "route",
        &netns.ok(&["ip", "route", "show", "table", "all"])?,
        found,
    );
    Ok(())
}

fn process(pid: i32, found: &mut BTreeSet<String>) -> Result<()> {
    let read =
        |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).with_context(|| name.to_owned());
    const STATUS: [&str; 9] = [
        "Name",
        "Uid",
        "Gid",
        "Groups",
        "NoNewPrivs",
        "Seccomp",
        "CapEff",
        "CapBnd",
        "SigIgn",
    ];
    let status = read("status")?;
    let kept = status
        .lines()
        .filter(|line| STATUS.iter().any(|name| line.starts_with(&format!("{name}:"))));
    found.extend(kept.map(|line| format!("status: {line}")));
    lines("limit", &read("limits")?, found);
    lines("environment", &read("environ")?.replace('\0', "\n"), found);
    lines("oom_score_adj", &read("oom_score_adj")?, found);
    lines("cgroup", &read("cgroup")?, found);
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // One that was closed meanwhile is none.
        if let Ok(target) = fs::read_link(entry.path()) {
            let kind = target
                .to_string_lossy()
                .split(":[")
                .next()
                .unwrap_or_default()
                .to_owned();
            found.insert(format!(
                "descriptor {}: {kind}",
                entry.file_name().to_string_lossy()
            ));
        }
    }
    Ok(())
}

/// Every process of the container, as often as it is there.
fn companions(init: i32, found: &mut BTreeSet<String>) -> Result<()> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let all = processes()?.into_iter();
    let inside = all.filter(|(pid, _)| namespace(*pid) == namespace(init));
    for (number, (_, line)) in inside.enumerate() {
        found.insert(format!("process inside, number {number}: {line}"));
    }
    Ok(())
}

/// The mounts of a process; answers the upper directory of its root.
fn mounts(pid: i32, found: &mut BTreeSet<String>) -> Result<String> {
    let mut upper = None;
    for line in fs::read_to_string(format!("/proc/{pid}/mountinfo"))?.lines() {
        let (front, back) = line.split_once(" - ").context("mountinfo")?;
        // Ids, device numbers and peer groups are of that one mount, and so are the directories of an overlay.
        let front: Vec<&str> = front
            .split(' ')
            .skip(3)
            .filter(|word| !word.starts_with("master:") && !word.starts_with("shared:"))
            .collect();
        if front.get(1) == Some(&"/") {
            let options = back.rsplit(' ').next().unwrap_or_default();
            let found_upper = options
                .split(',')
                .find_map(|option| option.strip_prefix("upperdir="));
            upper = found_upper.map(str::to_owned);
        }
        let kind = back.split(' ').next().unwrap_or_default();
        let back = if kind == "overlay" { kind } else { back };
        found.insert(format!("mount inside: {} {back}", front.join(" ")));
    }
    upper.context("its root is no overlay")
}

/// What the cgroups of the container say.
fn cgroups(id: &str, found: &mut BTreeSet<String>) {
    for (controller, name) in [
        (".", "memory.max"),
        (".", "memory.swap.max"),
        (".", "cpu.weight"),
        (".", "cpu.max"),
        (".", "pids.max"),
        (".", "cpuset.cpus"),
        (".", "cgroup.freeze"),
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.cfs_quota_us"),
        ("pids", "pids.max"),
        ("devices", "devices.list"),
        ("cpuset", "cpuset.cpus"),
        ("freezer", "freezer.state"),
    ] {
        let path = format!("/sys/fs/cgroup/{controller}/default/{id}/{name}");
        // Neither version of cgroups has all of them, nor has every kernel; then none of the starts has it.
        let text = fs::read_to_string(&path).unwrap_or_default();
        lines(&format!("cgroup {name}"), &text, found);
    }
}

/// A line of the inventory: `process PID COMMAND`, and tasks with theirs.
fn without_pid(line: &str) -> String {
    let plain = |word: &&str| !word.chars().all(|c| c.is_ascii_digit()) || word.is_empty();
    line.split_whitespace()
        .filter(plain)
        .collect::<Vec<_>>()
        .join(" ")
}
