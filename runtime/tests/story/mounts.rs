//! What CRIU would have dumped of the mounts that runc makes for a spec.

use serde_json::Value;
use thaw_criu::wire::{Value as Field, push};

/// Magic numbers and file of the fixtures' mount trees.
pub(crate) const FILE: &str = "mountpoints-13.img";
const MAGIC: [u32; 2] = [0x5456_4319, 0x5556_3928];

/// `mnt.proto: fstype`.
const UNSUPPORTED: u64 = 0;
const PROC: u64 = 1;
const TMPFS: u64 = 5;

/// `MS_RDONLY`.
const READ_ONLY: u64 = 1;

/// The image of a container with this spec, where every masked path is there.
pub(crate) fn image(spec: &Value) -> Vec<u8> {
    let list = |pointer: &str| {
        let list = spec.pointer(pointer).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let readonly = spec.pointer("/root/readonly") == Some(&Value::Bool(true));
    let mut tree = Tree::default();
    tree.add("/", UNSUPPORTED, u64::from(readonly), "/", None);
    for mount in list("/mounts") {
        let path = mount["destination"].as_str().unwrap().to_owned();
        let options: Vec<&str> = mount["options"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let flags =
            u64::from(options.contains(&"ro")) * READ_ONLY + u64::from(options.contains(&"nosuid")) * 2;
        match mount["type"].as_str().unwrap() {
            "proc" => tree.add(&path, PROC, flags, "/", None),
            "tmpfs" => tree.add(
                &path,
                TMPFS,
                flags,
                "/",
                options.iter().copied().find(|it| it.starts_with("size=")),
            ),
            _ => tree.add_bind(&path, flags, &path),
        }
    }
    for path in list("/linux/readonlyPaths") {
        let path = path.as_str().unwrap();
        tree.add(path, PROC, READ_ONLY, path.strip_prefix("/proc").unwrap(), None);
    }
    for path in list("/linux/maskedPaths") {
        tree.add_bind(path.as_str().unwrap(), 0, "/dev/null");
    }
    let records = tree.records.into_iter().flat_map(|(_, record)| record);
    MAGIC
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .chain(records)
        .collect()
}

#[derive(Default)]
struct Tree {
    /// Path and record; the number of a mount is its place here, from 1.
    records: Vec<(String, Vec<u8>)>,
}

impl Tree {
    fn add(&mut self, path: &str, fstype: u64, flags: u64, root: &str, options: Option<&str>) {
        self.record(path, fstype, flags, root, options.unwrap_or_default(), None);
    }

    fn add_bind(&mut self, path: &str, flags: u64, key: &str) {
        self.record(path, UNSUPPORTED, flags, "/", "", Some(key));
    }

    fn record(&mut self, path: &str, fstype: u64, flags: u64, root: &str, options: &str, key: Option<&str>) {
        let number = self.records.len() as u64 + 1;
        let above = |(other, _): &&(String, Vec<u8>)| other != path && path.starts_with(other.as_str());
        let parent = self
            .records
            .iter()
            .filter(above)
            .max_by_key(|(other, _)| other.len());
        let parent = parent.and_then(|parent| self.records.iter().position(|it| std::ptr::eq(it, parent)));
        let mut record = Vec::new();
        push(&mut record, 1, Field::Varint(fstype));
        push(&mut record, 2, Field::Varint(number));
        push(&mut record, 3, Field::Varint(1));
        push(
            &mut record,
            4,
            Field::Varint(parent.map_or(999, |parent| parent as u64 + 1)),
        );
        push(&mut record, 5, Field::Varint(flags));
        push(&mut record, 6, Field::Bytes(root.as_bytes()));
        push(&mut record, 7, Field::Bytes(format!(".{path}").as_bytes()));
        push(&mut record, 8, Field::Bytes(b"none"));
        push(&mut record, 9, Field::Bytes(options.as_bytes()));
        if let Some(key) = key {
            push(&mut record, 18, Field::Bytes(key.as_bytes()));
        }
        let mut framed = u32::try_from(record.len()).unwrap().to_le_bytes().to_vec();
        framed.append(&mut record);
        self.records.push((path.to_owned(), framed));
    }
}
