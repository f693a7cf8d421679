//! Noticing that CRIU has died.
//!
//! runc reads CRIU's answer from a socket whose other end every process that CRIU makes inherits. When CRIU is killed
//! half-way, those processes live on, waiting for it, so the socket never ends and runc waits for ever. CRIU is a
//! child of runc, and stays a zombie as long as runc does not look after it: that is what can be seen.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

/// How often to look. A look reads a file per thread of runc and one per child, some 0.1 ms.
const EVERY: Duration = Duration::from_millis(25);

/// In how many looks in a row a dead CRIU must be seen. One that was killed has told runc nothing; one that ended by
/// itself has, as a rule, and runc needs a moment to hear of it, on a busy machine a long one.
const KILLED_LOOKS: u32 = 3;
const ENDED_LOOKS: u32 = 40;

/// A child that has ended and was not waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dead {
    pid: i32,
    /// As `wait` would give it (`man 5 proc_pid_stat`, field 52).
    status: i32,
}

/// Resolves when the CRIU of the runc with this pid is dead and runc does not notice, with how CRIU ended.
pub(crate) async fn criu_died(runc: Pid) -> String {
    let mut seen: Option<(Dead, u32)> = None;
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(dead) = dead_criu(runc) else {
            seen = None;
            continue;
        };
        let looks = match seen.take() {
            Some((before, looks)) if before == dead => looks + 1,
            _ => 1,
        };
        let patience = if by_signal(dead.status).is_some() {
            KILLED_LOOKS
        } else {
            ENDED_LOOKS
        };
        if looks >= patience {
            return in_words(dead.status);
        }
        seen = Some((dead, looks));
    }
}

/// runc calls CRIU several times, for its version first; only one of them is there at a time.
fn dead_criu(runc: Pid) -> Option<Dead> {
    let threads = fs::read_dir(format!("/proc/{runc}/task")).ok()?;
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    for list in lists {
        for pid in list.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            // Helpers of CRIU that have done their work, and are called as it is until the end, end with 0.
            match stat.ok().as_deref().and_then(dead_criu_status) {
                Some(status) if status != 0 => return Some(Dead { pid, status }),
                _ => {}
            }
        }
    }
    None
}

/// The exit status in a line of `/proc/PID/stat`, if it is that of a CRIU that has ended.
fn dead_criu_status(stat: &str) -> Option<i32> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.trim_end().split(' ');
    if name != "criu" || fields.next()? != "Z" {
        return None;
    }
    fields.next_back()?.parse().ok()
}

fn by_signal(status: i32) -> Option<i32> {
    Some(status & 0x7f).filter(|signal| *signal != 0)
}

fn in_words(status: i32) -> String {
    match by_signal(status) {
        Some(signal) => format!("signal {signal}"),
        None => format!("exit code {}", status >> 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_zombie_called_criu() {
        let rest = "7 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0 9";
        assert_eq!(dead_criu_status(&format!("5 (criu) Z {rest}\n")), Some(9));
        assert_eq!(dead_criu_status(&format!("5 (criu) S {rest}\n")), None);
        assert_eq!(dead_criu_status(&format!("5 (runc:[2:INIT]) Z {rest}\n")), None);
        assert_eq!(dead_criu_status("garbage"), None);
    }

    #[test]
    fn how_it_ended() {
        assert_eq!(in_words(9), "signal 9");
        assert_eq!(in_words(1 << 8), "exit code 1");
    }
}
