//! `utsns-<id>.img`: host and domain name.

use crate::image::{self, EditError, ReadError, in_record, magic};
use crate::wire::{self, Value};
use crate::{Images, ids};

/// `utsns.proto: utsns_entry.nodename`.
const NODENAME: u32 = 1;
/// `utsns.proto: utsns_entry.domainname`.
const DOMAINNAME: u32 = 2;

/// Longest name in bytes (`linux/utsname.h: __NEW_UTS_LEN`).
const MAX_NAME: usize = 64;

/// The hostname that the root task would get back; `None` when the dump has no uts namespace of its own
/// (`utsns_entry`, field 1).
///
/// # Errors
/// An image cannot be read.
pub fn hostname(images: &Images) -> Result<Option<String>, ReadError> {
    let Some(file) = file_of_root(images)? else {
        return Ok(None);
    };
    let record = image::single(images, &file, magic::UTSNS)?;
    record
        .required_lossy(NODENAME)
        .map(Some)
        .map_err(in_record(&file, 0))
}

/// Sets the host name and, where one is given, the domain name that the restored tasks see (`utsns_entry`, fields 1
/// and 2). `None` keeps the donor's domain name.
///
/// # Errors
/// A name that the kernel would refuse, a dump without a uts namespace of its own, or an image that cannot be read.
pub fn set_names(images: &mut Images, nodename: &str, domainname: Option<&str>) -> Result<(), EditError> {
    if !(fits(nodename) && domainname.is_none_or(fits)) {
        return Err(EditError::Name);
    }
    let file = file_of_root(images)?.ok_or(EditError::NoNamespace("uts"))?;
    image::single(images, &file, magic::UTSNS)?;
    image::rewrite(images, &file, magic::UTSNS, |record| {
        let named = wire::set(record.as_bytes(), NODENAME, Value::Bytes(nodename.as_bytes()))?;
        match domainname {
            Some(domain) => wire::set(&named, DOMAINNAME, Value::Bytes(domain.as_bytes())),
            None => Ok(named),
        }
    })?;
    Ok(())
}

fn fits(name: &str) -> bool {
    name.len() <= MAX_NAME && !name.contains('\0')
}

/// The file of the root task's uts namespace, if there is one.
fn file_of_root(images: &Images) -> Result<Option<String>, ReadError> {
    let file = ids::of_root(images)?.uts.map(|id| format!("utsns-{id}.img"));
    Ok(file.filter(|name| images.contains_key(name)))
}
