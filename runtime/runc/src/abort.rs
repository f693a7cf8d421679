//! Ending a restore that hangs.
//!
//! Killing runc would leave CRIU and the half-restored processes behind. So everything below runc is killed, and runc
//! sees its CRIU fail and undoes what it had done.

use std::collections::HashMap;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends SIGKILL to every process below `ancestor`, children last-born first, and not to `ancestor` itself.
///
/// Processes may be born while the list is made, so it is made again until it is empty or has been made five times.
pub(crate) fn kill_descendants(ancestor: Pid) {
    for _ in 0..5 {
        let below = descendants(&parents(), ancestor.as_raw());
        if below.is_empty() {
            return;
        }
        for pid in below {
            // ESRCH only: it has just ended.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

/// Every process with its parent; zombies are left out, since they cannot be killed any more.
fn parents() -> HashMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            Some((
                pid,
                parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?,
            ))
        })
        .collect()
}

/// The parent in a line of `/proc/PID/stat`. The name in parentheses may hold anything (`man 5 proc_pid_stat`).
fn parent(stat: &str) -> Option<i32> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.next()?.parse().ok(),
    }
}

fn descendants(parents: &HashMap<i32, i32>, ancestor: i32) -> Vec<i32> {
    let mut found = vec![ancestor];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, p)| **p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_a_parenthesis() {
        assert_eq!(parent("7 (a) b) S 3 7 7 0"), Some(3));
        assert_eq!(parent("7 (a) Z 3 7 7 0"), None);
        assert_eq!(parent(""), None);
    }

    #[test]
    fn all_generations_and_nobody_else() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1)]);
        let mut found = descendants(&parents, 2);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
    }
}
