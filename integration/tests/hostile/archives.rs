//! Archives that lead out.

use std::fs;

use anyhow::{Result, ensure};
use tar::EntryType;
use thaw_integration::forge::Tar;
use thaw_integration::{Lab, forge};

use crate::tally::Tally;

/// Archives that would write elsewhere, or make what must not be there. Their digests are right.
#[test]
fn an_archive_leads_out() -> Result<()> {
    let Some(lab) = Lab::enter("an_archive_leads_out") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    let escape = "/var/lib/containerd/escaped";
    let up = format!("../../../../../../../../../../..{escape}");
    for (what, tar) in metas(escape, &up) {
        lab.with_snapshot()?;
        forge::replace_meta_tar(&lab.store(), &tar.bytes())?;
        tally.cold(
            &lab,
            &format!("meta: {what}"),
            &["images_invalid", "fetch_failed"],
        )?;
        ensure!(!fs::exists(escape)?, "a file was written outside");
    }
    for (what, tar) in layers(escape, &up) {
        lab.with_snapshot()?;
        forge::replace_rootfs(&lab.store(), &tar.bytes())?;
        tally.cold(&lab, &format!("rootfs: {what}"), &["rootfs_diff_failed"])?;
        ensure!(!fs::exists(escape)?, "a file was written outside");
    }
    tally.say("an_archive_leads_out");
    lab.done()
}

/// Metadata archives that must not be unpacked.
fn metas(escape: &str, up: &str) -> Vec<(&'static str, Tar)> {
    use EntryType as T;
    vec![
        ("a path up", Tar::new().file(up, b"out")),
        ("an absolute path", Tar::new().file(escape, b"out")),
        (
            "a symlink",
            Tar::new().entry(T::Symlink, "core-1.img", "/etc/shadow", b""),
        ),
        (
            "a hard link",
            Tar::new().entry(T::Link, "core-1.img", "/etc/shadow", b""),
        ),
        (
            "a character device",
            Tar::new().entry(T::Char, "core-1.img", "", b""),
        ),
        (
            "a block device",
            Tar::new().entry(T::Block, "core-1.img", "", b""),
        ),
        ("a pipe", Tar::new().entry(T::Fifo, "core-1.img", "", b"")),
        ("a folder", Tar::new().entry(T::Directory, "core-1.img", "", b"")),
        (
            "a long name",
            Tar::new().entry(T::GNULongName, "x", "", escape.as_bytes()),
        ),
        ("a page file", Tar::new().file("pages-1.img", b"x")),
        (
            "a script for CRIU's helpers",
            Tar::new().file("iptables-1.img", b"x"),
        ),
        (
            "CRIU's options",
            Tar::new().file("criu.conf", b"action-script /bin/false"),
        ),
        (
            "one file twice",
            Tar::new().file("core-1.img", b"x").file("core-1.img", b"y"),
        ),
        ("no file", Tar::new()),
    ]
}

/// Layers that must not apply.
fn layers(escape: &str, up: &str) -> Vec<(&'static str, Tar)> {
    use EntryType as T;
    let mark = [("SCHILY.xattr.trusted.overlay.redirect", "/")];
    let hole = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "9223372036854775808"),
    ];
    let folder = Tar::new().entry(T::Directory, "srv/", "", b"");
    let mut all = vec![
        ("a path up", Tar::new().file(up, b"out")),
        ("a path up in the middle", folder.file("srv/../../x", b"out")),
        ("an absolute path", Tar::new().file(escape, b"out")),
        (
            "the memory of the machine",
            Tar::new().entry(T::Char, "mem", "", b""),
        ),
        ("a disk", Tar::new().entry(T::Block, "sda", "", b"")),
        ("a whiteout outside", Tar::new().file("../.wh.escaped", b"")),
        ("a whiteout of the folder above", Tar::new().file(".wh...", b"")),
        (
            "a path in a record",
            Tar::new().pax(&[("path", up)]).file("x", b"out"),
        ),
        ("a mark of the overlay", Tar::new().pax(&mark).file("x", b"")),
        ("a hole of 2^63", Tar::new().pax(&hole).file("x", b"1\n0\n1\n")),
    ];
    all.extend(linked_layers());
    all
}

/// Layers that go through a link, or link to the host.
fn linked_layers() -> Vec<(&'static str, Tar)> {
    use EntryType as T;
    let to = |target| Tar::new().entry(T::Symlink, "way", target, b"");
    let hard = |tar: Tar, target| tar.entry(T::Link, "x", target, b"");
    vec![
        (
            "through a symlink to the host",
            to("/var/lib/containerd").file("way/escaped", b"out"),
        ),
        ("through a symlink up", to("../../..").file("way/escaped", b"out")),
        ("through a symlink to itself", to(".").file("way/escaped", b"out")),
        ("a hard link to the host", hard(Tar::new(), "/etc/shadow")),
        ("a hard link up", hard(Tar::new(), "../../../metadata.db")),
        ("a hard link through a symlink", hard(to("/etc"), "way/shadow")),
    ]
}
