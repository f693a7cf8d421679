//! `cgroup.img`: in which cgroups the tasks are, and what CRIU makes of them.
//!
//! runc tells CRIU to put its own path in the place of each controller's folder here (`criu/cgroup.c:
//! rewrite_cgroup_roots`). What does not lie below that folder stays as it is, so it would lead anywhere on the host,
//! out of the container's limits; and names with a slash would be files that CRIU writes anywhere.

use std::path::{Component, Path};

use crate::Images;
use crate::image::{ReadError, in_record, magic, records_of};
use crate::wire::{Message, WireError};

/// The file; only a dump without cgroups has none.
const FILE: &str = "cgroup.img";
/// `cgroup.proto: cgroup_entry.sets`, each of `cg_set_entry.ctls`.
const SETS: u32 = 1;
const MEMBERS: u32 = 2;
/// `cgroup.proto: cgroup_entry.controllers`.
const CONTROLLERS: u32 = 2;
/// `cgroup.proto: cg_controller_entry.cnames` and `dirs`.
const NAMES: u32 = 1;
const FOLDERS: u32 = 2;
/// `cgroup.proto: cgroup_dir_entry.children` and `properties`.
const CHILDREN: u32 = 2;
const PROPERTIES: u32 = 3;

/// Deepest tree of cgroups that is looked into; the kernel's own limit is of another order only on paper.
const DEEPEST: u32 = 64;

/// One controller, or several mounted together, and the folder that the container has there.
#[derive(Debug)]
struct Controller {
    names: Vec<String>,
    folder: Option<String>,
}

/// The first thing that leads out of the container's own cgroups: a path, or the name of a folder or a file.
///
/// # Errors
/// The image is there and cannot be read.
pub fn outside(images: &Images) -> Result<Option<String>, ReadError> {
    if !images.contains_key(FILE) {
        return Ok(None);
    }
    for (index, entry) in records_of(images, FILE, magic::CGROUP)?.into_iter().enumerate() {
        if let Some(found) = in_entry(entry).map_err(in_record(FILE, index))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn in_entry(entry: Message<'_>) -> Result<Option<String>, WireError> {
    let mut controllers = Vec::new();
    for controller in entry.messages(CONTROLLERS)? {
        let mut names = Vec::new();
        for name in controller.repeated_bytes(NAMES)? {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
        let folders = controller.messages(FOLDERS)?;
        for folder in &folders {
            if let Some(found) = in_folder(*folder, DEEPEST)? {
                return Ok(Some(found));
            }
        }
        // Each of several would become the container's: none of them can be told from a stranger's.
        let folder = match folders.as_slice() {
            [] => None,
            [only] => Some(only.required_lossy(1)?),
            [_, second, ..] => return Ok(Some(second.required_lossy(1)?)),
        };
        controllers.push(Controller { names, folder });
    }
    for set in entry.messages(SETS)? {
        for member in set.messages(MEMBERS)? {
            let (name, path) = (member.required_lossy(1)?, member.required_lossy(2)?);
            let of = controllers.iter().find(|known| known.names.contains(&name));
            if !is_within(&path, of.and_then(|controller| controller.folder.as_deref())) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// A folder that CRIU makes, with the files that it writes there.
fn in_folder(folder: Message<'_>, depth: u32) -> Result<Option<String>, WireError> {
    let name = folder.required_lossy(1)?;
    if depth == 0 || !is_below(&name) {
        return Ok(Some(name));
    }
    for property in folder.messages(PROPERTIES)? {
        let name = property.required_lossy(1)?;
        if name.is_empty() || name.contains('/') || name == ".." {
            return Ok(Some(name));
        }
    }
    for child in folder.messages(CHILDREN)? {
        if let Some(found) = in_folder(child, depth - 1)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A way down only, or none at all.
fn is_below(name: &str) -> bool {
    Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
}

/// A task's path in the folder that the container has there; in the root where it has none.
fn is_within(path: &str, folder: Option<&str>) -> bool {
    let Some(inside) = path.strip_prefix('/') else {
        return false;
    };
    match folder {
        None => inside.is_empty(),
        Some(folder) => is_below(inside) && Path::new(inside).starts_with(folder),
    }
}
