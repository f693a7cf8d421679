//! The processes of a held container.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `init` and every process below it, parents first. Complete only while none of them runs.
///
/// All processes of a pid namespace descend from its init, since orphans become its children. The lists of children
/// are there wherever CRIU is: `CONFIG_CHECKPOINT_RESTORE` selects them.
pub(crate) fn tree(init: i32) -> Vec<i32> {
    let mut found = vec![init];
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// The pid of a process in its own, innermost pid namespace.
pub(crate) fn inner_pid(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// When a process was started, in clock ticks since boot: with its pid, who it is. `None` when it has ended.
pub(crate) fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the state is the field after it (man 5 proc_pid_stat).
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// Kills what is left of a restore: `init` takes its whole pid namespace along.
pub(crate) fn kill_tree(init: i32) {
    end(&tree(init));
}

/// Kills every process below `ancestor`, but not `ancestor` itself.
pub(crate) fn kill_below(ancestor: i32) {
    end(tree(ancestor).get(1..).unwrap_or_default());
}

/// Kills these processes.
pub(crate) fn end(pids: &[i32]) {
    for &pid in pids {
        // ESRCH only: it has ended.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}
