//! inotify and fanotify.

use std::fs;

use super::Refusal;

/// The first CRIU that finds files on an overlay again by their handles alone.
const FIXED: (u32, u32) = (4, 3);

/// A watch is dumped by the file handle in `fdinfo`. An overlay gives handles that can't be opened, and CRIU up to 4.2
/// then looks for the inode in the places where it usually is, in vain.
pub(super) fn check(pid: i32, fd: u32, criu: &str) -> Result<(), Refusal> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let overlays = overlays(pid);
    let on_overlay = info
        .lines()
        .filter(|line| line.starts_with("inotify ") || line.starts_with("fanotify ino:"))
        .filter_map(device)
        .any(|device| overlays.contains(&device));
    if on_overlay && version(criu).is_some_and(|version| version < FIXED) {
        return Err(Refusal::Notify {
            pid,
            fd,
            criu: criu.to_owned(),
        });
    }
    Ok(())
}

/// `sdev:` of a watch, which is in the kernel's own form: major above the 20 bits of minor.
fn device(line: &str) -> Option<(u32, u32)> {
    let text = line.split(' ').find_map(|word| word.strip_prefix("sdev:"))?;
    let number = u32::from_str_radix(text, 16).ok()?;
    Some((number >> 20, number & 0xf_ffff))
}

/// Devices of the overlays that the process sees.
fn overlays(pid: i32) -> Vec<(u32, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains(" - overlay "))
        .filter_map(|line| {
            let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        })
        .collect()
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_names_its_device() {
        let line = "inotify wd:1 ino:61ba sdev:800013 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1";
        assert_eq!(device(line), Some((8, 0x13)));
        assert_eq!(version("4.2.1"), Some((4, 2)));
        assert!(version("4.3") >= Some(FIXED));
    }
}
