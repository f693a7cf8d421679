//! Small readers of single files: a message on the wire, a pagemap, CRIU's statistics, CRIU's log.
//!
//! The first byte of the input chooses.

use std::fs;
use std::sync::LazyLock;

use tempfile::TempDir;
use thaw_criu::wire::{self, Message, Value};
use thaw_criu::{pagemap, stats};
use thaw_runc::first_criu_error;

use crate::scratch;

pub(crate) fn run(data: &[u8]) {
    match data.split_first() {
        Some((b'p', rest)) => read_pagemap(rest),
        Some((b's', rest)) => {
            let _time = stats::frozen_time(rest);
        }
        Some((b'l', rest)) => log(rest),
        Some((number, rest)) => message(u32::from(*number), rest),
        None => {}
    }
}

fn message(number: u32, bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else {
        assert!(wire::set(bytes, 1, Value::Varint(0)).is_err());
        return;
    };
    let fields: Vec<_> = message.fields().filter_map(Result::ok).collect();
    let raw: Vec<u8> = fields
        .iter()
        .flat_map(|field| field.raw.iter().copied())
        .collect();
    assert_eq!(raw, bytes, "fields do not add up to the message");
    message.uint64(number).ok();
    message.uint32(number).ok();
    message.string(number).ok();
    message.required_lossy(number).ok();
    message.message(number).ok();
    message.repeated_uint32(number).ok();
    let number = number.max(1);
    let set = wire::set(bytes, number, Value::Bytes(b"new"));
    if let Ok(set) = &set {
        let again = Message::parse(set).unwrap_or_else(|error| panic!("after set: {error:?}"));
        assert_eq!(again.bytes(number), Ok(Some(&b"new"[..])));
        assert_eq!(wire::clear(set, &[number]), wire::clear(bytes, &[number]));
    }
    let cleared = wire::clear(bytes, &[number]).unwrap_or_else(|error| panic!("clear: {error:?}"));
    let left = Message::parse(&cleared).and_then(|message| message.count(number));
    assert_eq!(left, Ok(0));
}

fn read_pagemap(bytes: &[u8]) {
    let Ok(map) = pagemap::entries(bytes) else { return };
    let mut free_from = 0;
    for entry in map.entries {
        assert!(entry.vaddr >= free_from, "runs overlap");
        free_from = entry.vaddr + entry.pages * 4096;
    }
}

fn log(bytes: &[u8]) {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(scratch::folder);
    let path = FOLDER.path().join("restore.log");
    fs::write(&path, bytes).unwrap_or_else(|error| panic!("write a log: {error}"));
    if let Some(said) = first_criu_error(&path) {
        assert!(
            said.chars().count() <= 500 && !said.chars().any(char::is_control),
            "{said:?}"
        );
    }
}
