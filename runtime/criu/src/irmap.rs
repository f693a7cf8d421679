//! The cache of inode names (`irmap-cache`, CRIU `criu/irmap.c`).
//!
//! CRIU carries a watch of inotify over by the name of what is watched, since inodes are others after the restore. It
//! asks the kernel for the name, which an overlay and a file that is mounted by itself don't tell, and then searches a
//! few folders such as `/etc`. Before that it looks into this file in its working directory, which it writes in a
//! pre-dump, and believes what is still so.

use crate::wire::{Value, push};

/// Name of the file; unlike an image it has no extension.
pub const FILE: &str = "irmap-cache";

/// `magic.h`: SERVICE_MAGIC, then IRMAP_CACHE_MAGIC. It has the frame of a statistics file, not of an image.
const MAGIC: [u32; 2] = [0x5510_5940, 0x5700_4059];

/// `fsnotify.proto: irmap_cache_entry` dev, inode and path.
const DEV: u32 = 1;
const INODE: u32 = 2;
const PATH: u32 = 3;

/// An inode and its name.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    /// Device in the kernel's own form, as `fdinfo` has it: the major number above 20 bits of minor number.
    pub device: u32,
    /// Number of the inode.
    pub inode: u64,
    /// Its path from the root of the container, with a slash in front.
    pub path: &'a [u8],
}

/// The content of the file.
#[must_use]
pub fn cache<'a>(names: impl IntoIterator<Item = Name<'a>>) -> Vec<u8> {
    let mut out: Vec<u8> = MAGIC.into_iter().flat_map(u32::to_le_bytes).collect();
    for name in names {
        let mut entry = Vec::with_capacity(name.path.len() + 24);
        push(&mut entry, DEV, Value::Varint(u64::from(name.device)));
        push(&mut entry, INODE, Value::Varint(name.inode));
        // CRIU leaves out the first byte, and the rest may not be empty.
        let path = if name.path == b"/" { b"/." } else { name.path };
        push(&mut entry, PATH, Value::Bytes(path));
        // A path is no longer than PATH_MAX.
        out.extend((entry.len() as u32).to_le_bytes());
        out.extend(entry);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Message;

    #[test]
    fn each_inode_is_a_record() {
        let name = |path| Name {
            device: 0x4b,
            inode: 300,
            path,
        };
        let file = cache([name(b"/srv"), name(b"/")]);
        assert_eq!(file[..8], [0x40, 0x59, 0x10, 0x55, 0x59, 0x40, 0x00, 0x57]);
        let first = &file[12..][..usize::from(file[8])];
        let entry = Message::parse(first).unwrap();
        assert_eq!(entry.required_uint32(1), Ok(0x4b));
        assert_eq!(entry.required_uint64(2), Ok(300));
        assert_eq!(entry.string(3), Ok(Some("/srv")));
        assert!(file.ends_with(b"\x1a\x02/."));
    }
}
