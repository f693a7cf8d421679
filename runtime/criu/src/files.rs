//! `files.img`: what the tasks have open.

use crate::Images;
use crate::image::{self, EditError, ReadError, in_record, magic};
use crate::wire::{self, Message, Value, WireError};

/// The file.
pub(crate) const FILE: &str = "files.img";

/// `fdinfo.proto: fd_types.REG`.
const REG: u32 = 1;
/// `fdinfo.proto: fd_types.INETSK`.
pub(crate) const INETSK: u32 = 4;
/// `fdinfo.proto: fd_types.TIMERFD`.
pub(crate) const TIMERFD: u32 = 17;

/// `fdinfo.proto: file_entry.type`.
const TYPE: u32 = 1;
/// `fdinfo.proto: file_entry.reg`.
const REG_ENTRY: u32 = 3;
/// `regfile.proto: reg_file_entry.name`.
const NAME: u32 = 6;
/// `regfile.proto: reg_file_entry` size, mode, build_id, checksum, checksum_config, checksum_parameter.
const CHECKED: [u32; 6] = [8, 10, 11, 12, 13, 14];

/// Type of a `file_entry`.
pub(crate) fn kind(record: Message<'_>) -> Result<u32, WireError> {
    record.required_uint32(TYPE)
}

/// Paths of the regular files (and folders, and devices) that tasks have open, map, or stand in, as their mount namespace sees
/// them (`reg_file_entry`, field 6).
///
/// # Errors
/// The image cannot be read.
pub fn paths(images: &Images) -> Result<Vec<String>, ReadError> {
    let mut paths = Vec::new();
    for (index, record) in image::records_of(images, FILE, magic::FILES)?
        .into_iter()
        .enumerate()
    {
        let read = || -> Result<Option<String>, WireError> {
            if kind(record)? != REG {
                return Ok(None);
            }
            path(record.required_message(REG_ENTRY)?).map(Some)
        };
        paths.extend(read().map_err(in_record(FILE, index))?);
    }
    Ok(paths)
}

/// Makes CRIU reopen some files without comparing them: clears the optional size, mode, build id and checksum
/// (`reg_file_entry`, fields 8 and 10 to 14) where `forget` says so of the path.
///
/// For files that come from a mount and so differ between donor and clone, such as `/etc/hosts`. CRIU compares only
/// what the image holds (`criu/files-reg.c: validate_file`).
///
/// # Errors
/// The image cannot be read.
pub fn forget_sizes<F>(images: &mut Images, forget: F) -> Result<(), EditError>
where
    F: Fn(&str) -> bool,
{
    image::rewrite(images, FILE, magic::FILES, |record| {
        if kind(record)? != REG {
            return Ok(record.as_bytes().to_vec());
        }
        let reg = record.required_message(REG_ENTRY)?;
        if !forget(&path(reg)?) {
            return Ok(record.as_bytes().to_vec());
        }
        let cleared = wire::clear(reg.as_bytes(), &CHECKED)?;
        wire::set(record.as_bytes(), REG_ENTRY, Value::Bytes(&cleared))
    })?;
    Ok(())
}

/// CRIU writes absolute paths for most files; relative ones begin with a dot.
fn path(reg: Message<'_>) -> Result<String, WireError> {
    let name = reg.required_lossy(NAME)?;
    Ok(match name.strip_prefix('.') {
        Some(rest) if rest.starts_with('/') => rest.to_owned(),
        _ => name,
    })
}
