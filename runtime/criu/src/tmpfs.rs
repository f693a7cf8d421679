//! Empty tmpfs mounts, of which a container has one for each directory that is masked.
//!
//! CRIU unpacks the content of every tmpfs with `tar` and `gzip` (`criu/filesystems.c: tmpfs_restore`), which takes 5 ms
//! each, also when there is nothing in it. A mount of the type `AUTO` it mounts in the same way, by the name of the file
//! system that stands beside, and leaves as it is.

use std::collections::BTreeSet;
use std::io::Read as _;

use flate2::read::GzDecoder;

use crate::image::{self, ReadError, magic};
use crate::mounts::{self, Mount};
use crate::wire::{self, Message, Value, WireError};
use crate::{EditError, Images};

/// `mnt.proto: mnt_entry.fstype`, and of its values `TMPFS` and `AUTO`.
const FSTYPE: u32 = 1;
const TMPFS: u32 = 5;
const AUTO: u32 = 16;
/// `mnt_entry.root_dev`: the device number.
const ROOT_DEV: u32 = 3;
/// `mnt_entry.fsname`, for `AUTO`.
const FSNAME: u32 = 14;

/// One block of a tar archive, in bytes.
const BLOCK: usize = 512;
/// An archive of nothing is 10 KiB of nearly nothing, and not a hundred bytes of gzip.
const PACKED: usize = 512;
const UNPACKED: u64 = 64 << 10;

/// Has CRIU leave those alone which are empty in the images, and have the attributes that a new tmpfs has.
///
/// # Errors
/// The mounts cannot be read.
pub fn leave_empty_ones(images: &mut Images) -> Result<(), EditError> {
    let empty = empty_ones(images)?;
    if empty.is_empty() {
        return Ok(());
    }
    let file = mounts::file(images)?;
    image::rewrite(images, &file, magic::MOUNTPOINTS, |record| {
        if is_tmpfs(record)? && empty.contains(&record.required_uint32(ROOT_DEV)?) {
            let record = wire::set(record.as_bytes(), FSTYPE, Value::Varint(AUTO.into()))?;
            return wire::set(&record, FSNAME, Value::Bytes(b"tmpfs"));
        }
        Ok(record.as_bytes().to_vec())
    })?;
    Ok(())
}

fn is_tmpfs(record: Message<'_>) -> Result<bool, WireError> {
    Ok(record.required_uint32(FSTYPE)? == TMPFS)
}

/// Their device numbers.
fn empty_ones(images: &Images) -> Result<BTreeSet<u32>, ReadError> {
    let file = mounts::file(images)?;
    let mut found = BTreeSet::new();
    for (index, record) in image::records_of(images, &file, magic::MOUNTPOINTS)?
        .into_iter()
        .enumerate()
    {
        let read = || {
            Ok((
                is_tmpfs(record)?,
                record.required_uint32(ROOT_DEV)?,
                mounts::read(record)?,
            ))
        };
        let (tmpfs, device, mount) = read().map_err(image::in_record(&file, index))?;
        let archive = images.get(&format!("tmpfs-dev-{device}.tar.gz.img"));
        if tmpfs && archive.is_some_and(|archive| is_empty(archive, &mount)) {
            found.insert(device);
        }
    }
    Ok(found)
}

/// Whether all that `tar` would do is to give the root directory the attributes that `mount` has given it.
fn is_empty(archive: &[u8], mount: &Mount) -> bool {
    let mut unpacked = Vec::new();
    let read = archive.len() <= PACKED
        && GzDecoder::new(archive)
            .take(UNPACKED)
            .read_to_end(&mut unpacked)
            .is_ok();
    let Some((header, rest)) = unpacked.split_first_chunk::<BLOCK>().filter(|_| read) else {
        return false;
    };
    let header = tar::Header::from_byte_slice(header);
    let is_root =
        header.entry_type().is_dir() && ["./", "."].map(str::as_bytes).contains(&&*header.path_bytes());
    // Without options: `linux/mm/shmem.c: shmem_init_fs_context`, and root mounts it.
    let option = |name, default, radix| {
        let mut options = mount.options.split(',');
        let given = options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
        given.map_or(Some(default), |value| u64::from_str_radix(value, radix).ok())
    };
    let same =
        |found: std::io::Result<u64>, wanted: Option<u64>| found.is_ok_and(|found| Some(found) == wanted);
    is_root
        && rest.iter().all(|byte| *byte == 0)
        && same(
            header.mode().map(|mode| u64::from(mode & 0o7777)),
            option("mode", 0o1777, 8),
        )
        && same(header.uid(), option("uid", 0, 10))
        && same(header.gid(), option("gid", 0, 10))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn directory(name: &str, mode: u32, gid: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(gid);
        header.set_size(0);
        header.set_cksum();
        header
    }

    fn archive(headers: &[tar::Header]) -> Vec<u8> {
        let mut blocks: Vec<u8> = headers.iter().flat_map(|header| *header.as_bytes()).collect();
        blocks.resize(10240, 0);
        packed(&blocks)
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn mount(options: &str) -> Mount {
        Mount {
            mnt_id: 1,
            parent_id: 0,
            flags: 0,
            root: "/".to_owned(),
            mountpoint: "/proc/acpi".to_owned(),
            fstype: "tmpfs".to_owned(),
            source: "tmpfs".to_owned(),
            options: options.to_owned(),
            external: false,
            external_key: None,
        }
    }

    #[test]
    fn attributes_are_those_of_the_mount_options() {
        for (header, options) in [
            (directory("./", 0o1777, 0), "size=0k,inode64"),
            (directory(".", 0o1777, 0), ""),
            (directory("./", 0o755, 0), "size=65536k,mode=755,inode64"),
            (directory("./", 0o1777, 5), "gid=5,inode64"),
        ] {
            assert!(
                is_empty(&archive(std::slice::from_ref(&header)), &mount(options)),
                "{options}"
            );
            // Somebody has changed them since.
            for other in ["mode=700,gid=5", "mode=755,uid=7", "mode=rwx"] {
                assert!(
                    !is_empty(&archive(std::slice::from_ref(&header)), &mount(other)),
                    "{other}"
                );
            }
        }
    }

    #[test]
    fn whatever_else_there_is_goes_to_tar() {
        let root = directory("./", 0o1777, 0);
        let full = archive(&[root.clone(), directory("./a", 0o755, 0)]);
        assert!(!is_empty(&full, &mount("")));
        let elsewhere = archive(&[directory("./a", 0o1777, 0)]);
        assert!(!is_empty(&elsewhere, &mount("")));
        let whole = archive(&[root]);
        assert!(is_empty(&whole, &mount("")));
        assert!(!is_empty(&whole[..whole.len() - 9], &mount("")), "cut off");
        for bytes in [
            &b""[..],
            b"no gzip",
            &packed(b""),
            &packed(&[0; 20]),
            &packed(&vec![0; 200_000]),
        ] {
            assert!(!is_empty(bytes, &mount("")));
        }
    }
}
