//! Whose rights the restored tasks get. A restore takes them from the image and from nowhere else.

use std::collections::BTreeMap;

use crate::image::ReadError;
use crate::wire::{Message, WireError};
use crate::{Images, core, pstree};

/// `core.proto: thread_core_entry.creds`.
const CREDS: u32 = 10;

/// Rights of one thread (`creds.proto: creds_entry`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creds {
    /// Fields 1, 3, 5, 7: real, effective, saved and file system user id.
    pub uids: [u32; 4],
    /// Fields 2, 4, 6, 8: the same for the group.
    pub gids: [u32; 4],
    /// Field 14.
    pub groups: Vec<u32>,
    /// Field 9, as a bit set by capability number.
    pub inheritable: u64,
    /// Field 10.
    pub permitted: u64,
    /// Field 11.
    pub effective: u64,
    /// Field 12.
    pub bounding: u64,
    /// Field 19.
    pub ambient: u64,
    /// Field 13: securebits(7).
    pub secure_bits: u32,
    /// Field 15: AppArmor profile or SELinux label.
    pub lsm_profile: Option<String>,
    /// Field 18.
    pub no_new_privs: bool,
}

/// Rights of the root task's first thread.
///
/// # Errors
/// The process tree or the task's image cannot be read.
pub fn of_root(images: &Images) -> Result<Creds, ReadError> {
    core::read(images, pstree::root(images)?, |core| {
        let thread = core::thread(core)?.ok_or(WireError::Absent(5))?;
        read(thread.required_message(CREDS)?)
    })
}

/// Rights of every thread that has any (a zombie has not), by id.
///
/// # Errors
/// The process tree or an image cannot be read.
pub fn of_all(images: &Images) -> Result<BTreeMap<i32, Creds>, ReadError> {
    let mut all = BTreeMap::new();
    for id in pstree::pids(images)? {
        let creds = core::read(images, id, |core| {
            let Some(thread) = core::thread(core)? else {
                return Ok(None);
            };
            thread.message(CREDS)?.map(read).transpose()
        })?;
        all.extend(creds.map(|creds| (id, creds)));
    }
    Ok(all)
}

fn read(creds: Message<'_>) -> Result<Creds, WireError> {
    let four = |numbers: [u32; 4]| -> Result<[u32; 4], WireError> {
        let mut values = [0; 4];
        for (value, number) in values.iter_mut().zip(numbers) {
            *value = creds.required_uint32(number)?;
        }
        Ok(values)
    };
    Ok(Creds {
        uids: four([1, 3, 5, 7])?,
        gids: four([2, 4, 6, 8])?,
        groups: creds.repeated_uint32(14)?,
        inheritable: capabilities(creds, 9)?,
        permitted: capabilities(creds, 10)?,
        effective: capabilities(creds, 11)?,
        bounding: capabilities(creds, 12)?,
        ambient: capabilities(creds, 19)?,
        secure_bits: creds.required_uint32(13)?,
        lsm_profile: creds.string(15)?.map(str::to_owned),
        no_new_privs: creds.flag(18)?,
    })
}

/// Two words of 32 bits, the low one first. More words would hold capabilities that no kernel has yet.
fn capabilities(creds: Message<'_>, number: u32) -> Result<u64, WireError> {
    match creds.repeated_uint32(number)?.as_slice() {
        [] => Ok(0),
        [low] => Ok(u64::from(*low)),
        [low, high] => Ok(u64::from(*low) | u64::from(*high) << 32),
        _ => Err(WireError::Range(number)),
    }
}
