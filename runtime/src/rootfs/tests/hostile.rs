//! Archives that nobody of ours wrote.

use tar::{EntryType, Header};

use super::*;

/// An archive under construction.
#[derive(Default)]
struct Forge(Vec<u8>);

impl Forge {
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..6)
                .map(|digits| rest + digits)
                .find(|l| l.to_string().len() + rest == *l)
                .unwrap();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"pax", b"", &data)
    }

    fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", b"evil")
    }

    fn apply(&self) -> Result<Stats, ApplyError> {
        let directory = tempfile::tempdir().unwrap();
        let upper = directory.path().join("upper");
        fs::create_dir(&upper).unwrap();
        let before = RootAttributes::of(&upper).unwrap();
        let limits = Limits {
            entries: 10,
            bytes: 1000,
        };
        let result = apply(self.0.as_slice(), &upper, Marks::Trusted, limits, soon());
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "something is outside of the upper directory"
        );
        clear(&upper, &before).unwrap();
        result
    }
}

fn forge() -> Forge {
    Forge::default()
}

#[test]
fn names_stay_inside() {
    for name in [
        "../x",
        "/x",
        "a/../../x",
        "./x",
        "a//x",
        "x/",
        "..",
        ".",
        "",
        "a/./x",
    ] {
        let result = forge()
            .entry(EntryType::Directory, b"a/", b"", b"")
            .file(name)
            .apply();
        assert!(matches!(result, Err(ApplyError::Name(2))), "{name:?}: {result:?}");
        let result = forge().pax(&[("path", name.as_bytes())]).file("innocent").apply();
        assert!(matches!(result, Err(ApplyError::Name(1))), "{name:?}: {result:?}");
    }
    assert!(matches!(
        forge().pax(&[("path", b"a\0b")]).file("x").apply(),
        Err(ApplyError::Name(1))
    ));
}

#[test]
fn no_way_leads_through_a_symbolic_link() {
    for target in ["..", "/tmp", "real"] {
        let linked = || {
            forge().entry(EntryType::Directory, b"real/", b"", b"").entry(
                EntryType::Symlink,
                b"link",
                target.as_bytes(),
                b"",
            )
        };
        for kind in [
            EntryType::Regular,
            EntryType::Directory,
            EntryType::Symlink,
            EntryType::Fifo,
        ] {
            let result = linked().entry(kind, b"link/x", b"t", b"").apply();
            assert!(
                matches!(result, Err(ApplyError::Make { .. })),
                "{kind:?}: {result:?}"
            );
        }
        assert!(
            linked()
                .entry(EntryType::Regular, b"link/.wh.x", b"", b"")
                .apply()
                .is_err()
        );
        assert!(
            linked()
                .entry(EntryType::Regular, b"link/.wh..wh..opq", b"", b"")
                .apply()
                .is_err()
        );
        assert!(
            linked()
                .entry(EntryType::Link, b"hard", b"link/x", b"")
                .apply()
                .is_err()
        );
        assert!(linked().file("link").apply().is_err());
    }
}

#[test]
fn hard_links_lead_to_files_of_the_archive() {
    for target in ["/etc/passwd", "../upper/x", "missing", "", "dir", ".wh.x"] {
        let archive = forge().entry(EntryType::Directory, b"dir/", b"", b"");
        let result = archive
            .entry(EntryType::Link, b"hard", target.as_bytes(), b"")
            .apply();
        assert!(
            matches!(result, Err(ApplyError::Link(_) | ApplyError::Make { .. })),
            "{target:?}: {result:?}"
        );
    }
    let whiteout = forge().entry(EntryType::Regular, b".wh.x", b"", b"");
    assert!(matches!(
        whiteout.entry(EntryType::Link, b"y", b"x", b"").apply(),
        Err(ApplyError::Link(_))
    ));
}

#[test]
fn no_devices_and_nothing_unknown() {
    for kind in [
        EntryType::Char,
        EntryType::Block,
        EntryType::GNULongName,
        EntryType::XGlobalHeader,
        EntryType::new(b'S'),
    ] {
        let result = forge().entry(kind, b"x", b"", b"").apply();
        assert!(
            matches!(result, Err(ApplyError::Kind { .. })),
            "{kind:?}: {result:?}"
        );
    }
}

#[test]
fn only_the_two_forms_of_whiteouts() {
    for name in [
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh..wh.aufs",
        ".wh..wh..opq.x",
        ".wh..wh..opq",
    ] {
        let result = forge()
            .entry(EntryType::Regular, name.as_bytes(), b"", b"")
            .apply();
        assert!(matches!(result, Err(ApplyError::Name(1))), "{name:?}: {result:?}");
    }
    assert!(matches!(forge().file(".wh.x").apply(), Err(ApplyError::Name(1))));
    assert!(matches!(
        forge().entry(EntryType::Directory, b".wh.x/", b"", b"").apply(),
        Err(ApplyError::Name(1))
    ));
}

#[test]
fn only_attributes_of_the_list() {
    for name in [
        "trusted.overlay.redirect",
        "security.selinux",
        "security.ima",
        "system.posix_acl_access",
        "user",
    ] {
        let key = format!("SCHILY.xattr.{name}");
        let result = forge().pax(&[(&key, b"y")]).file("x").apply();
        assert!(
            matches!(result, Err(ApplyError::Attribute { .. })),
            "{name}: {result:?}"
        );
    }
    let upper = tempfile::tempdir().unwrap();
    let archive = forge()
        .pax(&[("SCHILY.xattr.user.overlay.redirect", b"/")])
        .file("x")
        .0;
    let result = apply(archive.as_slice(), upper.path(), Marks::User, LIMITS, soon());
    assert!(matches!(result, Err(ApplyError::Attribute { .. })));
}

#[test]
fn limits_hold() {
    let many = (0..11).fold(forge(), |archive, n| archive.file(&format!("f{n}")));
    assert!(matches!(many.apply(), Err(ApplyError::Limit(_))));
    let big = forge().entry(EntryType::Regular, b"big", b"", &[0; 1001]);
    assert!(matches!(big.apply(), Err(ApplyError::Limit(_))));
    let upper = tempfile::tempdir().unwrap();
    let late = apply(
        forge().file("x").0.as_slice(),
        upper.path(),
        Marks::Trusted,
        LIMITS,
        Instant::now(),
    );
    assert!(matches!(late, Err(ApplyError::Deadline(_))), "{late:?}");
    // A size without the bytes to go with it.
    let mut cut = forge().entry(EntryType::Regular, b"cut", b"", &[0; 900]);
    cut.0.truncate(1000);
    assert!(matches!(cut.apply(), Err(ApplyError::Archive(_))));
    let records = vec![b'x'; (1 << 20) + 1];
    let huge = forge().entry(EntryType::XHeader, b"pax", b"", &records);
    assert!(matches!(huge.apply(), Err(ApplyError::Record { .. })));
}

#[test]
fn maps_of_holes_add_up() {
    let sparse = |map: &str, data: &[u8]| {
        let mut content = map.as_bytes().to_vec();
        content.resize(512, 0);
        content.extend_from_slice(data);
        let records: [(&str, &[u8]); 3] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"4096"),
        ];
        forge()
            .pax(&records)
            .entry(EntryType::Regular, b"x", b"", &content)
            .apply()
    };
    assert!(sparse("2\n100\n4\n4096\n0\n", b"data").is_ok());
    for map in [
        "1\n100\n5\n",
        "1\n4095\n4\n",
        "2\n100\n2\n101\n2\n",
        "1\n18446744073709551615\n4\n",
        "18446744073709551615\n",
        "x\n",
        "-1\n",
        "1\n99999999999999999999999\n4\n",
    ] {
        assert!(sparse(map, b"data").is_err(), "{map:?}");
    }
}

#[test]
fn the_upper_directory_must_be_empty_and_entries_new() {
    let upper = tempfile::tempdir().unwrap();
    fs::write(upper.path().join("x"), "").unwrap();
    let result = apply(forge().0.as_slice(), upper.path(), Marks::Trusted, LIMITS, soon());
    assert!(matches!(result, Err(ApplyError::NotEmpty(_))));
    assert!(matches!(
        forge().file("x").file("x").apply(),
        Err(ApplyError::Make { .. })
    ));
    assert!(matches!(
        forge().file("missing/x").apply(),
        Err(ApplyError::Make { .. })
    ));
}
