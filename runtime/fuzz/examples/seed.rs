//! Writes the seeds of every corpus from real data: `cargo run -p thaw-fuzz --example seed`.
//!
//! The images are those that runc and CRIU have written for the tests of `thaw-criu`. What a fuzzer has found lies beside the
//! seeds under other names and is left alone.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::{EntryType, Header};
use thaw_snapshot::{Digest, KeyDocument};

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let sets = [image_set("sleep")?, image_set("python")?];
    documents()?;
    hostile_images()?;
    for (name, set) in ["sleep", "python"].into_iter().zip(&sets) {
        seed("images", name, &row(set))?;
        seed("meta", name, &meta(set)?)?;
    }
    records(&sets[1])?;
    blobs()?;
    rootfs()?;
    annotations()?;
    leases()?;
    listings()
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> Done {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(format!("seed-{name}")), bytes)?)
}

type Files = Vec<(String, Vec<u8>)>;

fn image_set(name: &str) -> Result<Files, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../criu/tests/data")
        .join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    let mut files = Files::new();
    for path in paths {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.push((name, fs::read(path)?));
    }
    Ok(files)
}

fn hostile_images() -> Done {
    for (name, entries) in [
        ("up", &[("../core-1.img", EntryType::Regular, "", "x")][..]),
        ("link", &[("core-1.img", EntryType::Symlink, "/etc/shadow", "")]),
        (
            "twice",
            &[
                ("core-1.img", EntryType::Regular, "", "x"),
                ("core-1.img", EntryType::Regular, "", "y"),
            ],
        ),
    ] {
        seed("meta", name, &layer(entries)?)?;
    }
    let magic = [0x19, 0x43, 0x56, 0x54, 0x30, 0x30, 0x27, 0x50];
    // A record of 4 GiB, a field of 2^63 bytes, and a number of eleven bytes.
    for (name, record) in [
        ("long-record", &[0xff, 0xff, 0xff, 0xff, 0x08, 1][..]),
        (
            "long-field",
            &[
                11, 0, 0, 0, 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0,
            ],
        ),
        (
            "long-number",
            &[
                12, 0, 0, 0, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
        ),
    ] {
        let file = vec![("pstree.img".to_owned(), [&magic[..], record].concat())];
        seed("images", name, &row(&file))?;
    }
    Ok(())
}

/// The form that the target `images` reads. Content of mounts is cut: nothing looks into it.
fn row(files: &Files) -> Vec<u8> {
    let mut row = Vec::new();
    for (name, content) in files {
        let content = if name.contains("tar.gz") {
            &content[..0]
        } else {
            content
        };
        row.push(name.len() as u8);
        row.extend(name.as_bytes());
        row.extend((content.len() as u16).to_le_bytes());
        row.extend(content);
    }
    row
}

fn meta(files: &Files) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let content = if name.contains("tar.gz") {
            &content[..0]
        } else {
            content
        };
        tar.append(&header(name, EntryType::Regular, content.len(), ""), content)?;
    }
    Ok(tar.into_inner()?)
}

fn header(name: &str, kind: EntryType, size: usize, link: &str) -> Header {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    // Taken as they are: the library refuses names that lead out.
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    header
}

fn records(python: &Files) -> Done {
    for (name, content) in python {
        let short = name.trim_end_matches(".img");
        if short.starts_with("pagemap") {
            seed("records", short, &[b"p", &content[..]].concat())?;
        } else if ["core-1", "inventory", "pstree", "files", "mm-1"].contains(&short) {
            // A message: what stands behind the magic numbers and the length of the first record.
            let skip = if short == "inventory" { 8 } else { 12 };
            seed(
                "records",
                short,
                &[&[3][..], content.get(skip..).unwrap_or_default()].concat(),
            )?;
        }
    }
    let stats = [
        0x40, 0x59, 0x10, 0x55, 0x06, 0x33, 0x09, 0x57, 7, 0, 0, 0, 0x0a, 5, 0x08, 5, 0x10, 0xac, 2,
    ];
    seed("records", "stats", &[b"s", &stats[..]].concat())?;
    let log = "(00.0) Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self: no\n\
        (00.2)      1: Error (criu/files-reg.c:2143): File bad size\n";
    seed("records", "log", format!("l{log}").as_bytes())
}

fn blobs() -> Done {
    let raw = b"a page of memory, and another one, and another one".repeat(40);
    let packed = zstd::bulk::compress(&raw, 3)?;
    let size = (raw.len() as u16).to_le_bytes();
    seed("blobs", "archive", &[b"a", &size[..], &packed].concat())?;
    seed("blobs", "archive-short", &[b"a", &[10, 0][..], &packed].concat())?;
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19)?;
    seed("blobs", "archive-bomb", &[b"a", &size[..], &bomb].concat())?;
    let mut pages = vec![b'p', 2];
    for _ in 0..3 {
        pages.extend((packed.len() as u16).to_le_bytes());
        pages.extend(size);
        pages.extend(&packed);
    }
    seed("blobs", "pages", &pages)?;
    let stored = zstd::bulk::compress(&[1, 2, 3], 1)?;
    let head = [(stored.len() as u16).to_le_bytes(), 3u16.to_le_bytes()].concat();
    seed("blobs", "pages-small", &[b"p\0", &head[..], &stored].concat())
}

/// A record of a PAX header, its length included in itself.
fn pax(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = (1..4)
        .map(|digits| rest + digits)
        .find(|length| length.to_string().len() + rest == *length);
    format!("{} {key}={value}\n", length.unwrap_or_default())
}

fn rootfs() -> Done {
    let plain: &[(&str, EntryType, &str, &str)] = &[
        ("./", EntryType::Directory, "", ""),
        ("srv/", EntryType::Directory, "", ""),
        ("srv/marker", EntryType::Regular, "", "made by the donor"),
        ("srv/link", EntryType::Symlink, "/etc/passwd", ""),
        ("srv/same", EntryType::Link, "srv/marker", ""),
        ("srv/pipe", EntryType::Fifo, "", ""),
        ("srv/.wh.gone", EntryType::Regular, "", ""),
        ("srv/.wh..wh..opq", EntryType::Regular, "", ""),
    ];
    seed("rootfs", "plain", &layer(plain)?)?;
    let attributes = [
        pax("path", "a-name"),
        pax("mtime", "1700000000.5"),
        pax("SCHILY.xattr.user.x", "y"),
    ]
    .concat();
    let extended: &[(&str, EntryType, &str, &str)] = &[
        ("pax", EntryType::XHeader, "", &attributes),
        ("file", EntryType::Regular, "", "x"),
    ];
    seed("rootfs", "attributes", &layer(extended)?)?;
    let sparse = [
        pax("GNU.sparse.major", "1"),
        pax("GNU.sparse.minor", "0"),
        pax("GNU.sparse.name", "holes"),
        pax("GNU.sparse.realsize", "8192"),
    ]
    .concat();
    let map = format!("{:\0<512}data", "2\n0\n2\n4096\n2\n");
    let holes: &[(&str, EntryType, &str, &str)] = &[
        ("pax", EntryType::XHeader, "", &sparse),
        ("f", EntryType::Regular, "", &map),
    ];
    seed("rootfs", "sparse", &layer(holes)?)?;
    for (name, entries) in [
        ("up", &[("../secret", EntryType::Regular, "", "x")][..]),
        ("absolute", &[("/secret", EntryType::Regular, "", "x")]),
        (
            "through-a-link",
            &[
                ("a", EntryType::Symlink, "..", ""),
                ("a/x", EntryType::Regular, "", "x"),
            ],
        ),
        ("hard-link-out", &[("a", EntryType::Link, "../secret", "")]),
        ("device", &[("a", EntryType::Char, "", "")]),
    ] {
        seed("rootfs", name, &layer(entries)?)?;
    }
    Ok(())
}

fn layer(entries: &[(&str, EntryType, &str, &str)]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        tar.append(&header(name, *kind, content.len(), link), content.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

fn annotations() -> Done {
    for (name, text) in [
        ("policy", "\0snapshot-policy=Required\ntcp=established\n"),
        ("never", "\x01snapshot-policy=Never\n"),
        ("path", "\x02snapshot-path=s3://bucket/apps/shop\n"),
        ("file", "\0snapshot-path=file:///srv/thaw/../x\n"),
        ("other", "\0example.org/x=file:///a%2e%2e/b\n"),
    ] {
        seed("annotations", name, text.as_bytes())?;
    }
    Ok(())
}

fn leases() -> Done {
    let now = 1_800_000_000_i64;
    for (name, document) in [
        (
            "held",
            json!({"format": 1, "owner": "node default/web 42", "expires": now + 60}),
        ),
        (
            "failed",
            json!({"format": 1, "owner": "node", "expires": now + 600, "failed": "proof_failed"}),
        ),
        ("given-back", json!({"format": 1, "owner": "node", "expires": 0})),
        (
            "for-ever",
            json!({"format": 1, "owner": "node", "expires": i64::MAX}),
        ),
        ("no-lease", json!(["format", 1])),
    ] {
        let text = document.to_string();
        seed("lease", name, &[&now.to_le_bytes()[..], text.as_bytes()].concat())?;
    }
    Ok(())
}

fn listings() -> Done {
    let digest = Digest::of(b"something").hex();
    for (name, text) in [
        (
            "plain",
            format!("v1/keys/default/linux-amd64/{digest}/{digest}.json"),
        ),
        (
            "pod",
            format!("v1/keys/k8s.io_2fshop/linux-arm64/{digest}/{digest}.json\nk8s.io/shop"),
        ),
        (
            "others",
            "v1/blobs/sha256/00\nv1/leases/a/b/c/d.json\nv1/keys/a/b/c/d.json/".to_owned(),
        ),
        (
            "out",
            "v1/keys/../../etc/x.json\nv1/keys/a/%2e%2e/..%2f/d.json\nv1/keys//b/c/d.json".to_owned(),
        ),
        ("names", "*\n\n.\n..\na/b\n_\n\u{e4}".to_owned()),
    ] {
        seed("listing", name, text.as_bytes())?;
    }
    Ok(())
}

fn documents() -> Done {
    let document = json!({"format": 1, "variants": [manifest(1), manifest(2)]});
    let bytes = serde_json::to_vec(&document)?;
    // A seed that is refused would be of no use.
    KeyDocument::parse(&bytes)?;
    seed("document", "two", &bytes)?;
    let one = serde_json::to_vec(&json!({"format": 1, "variants": [manifest(1)]}))?;
    seed("document", "one", &one)?;
    seed("document", "none", br#"{"format":1,"variants":[]}"#)?;
    seed("document", "newer", br#"{"format":2,"variants":[]}"#)
}

fn manifest(number: u32) -> Value {
    let digest = Digest::of(b"something").to_string();
    let fingerprint =
        json!({"version": 1, "stdin": false, "env": {"A": "00"}, "process": {"args": ["x", number]}});
    // Objects of serde_json are sorted, so its text is the canonical form.
    let archive = json!({"digest": digest, "size": 100, "raw_digest": digest, "raw_size": 1000});
    json!({
        "format": 1,
        "created": format!("2026-01-0{number}T00:00:00Z"),
        "key": {"scope": "default", "platform": "linux-amd64", "config": digest,
            "fingerprint": Digest::of(fingerprint.to_string().as_bytes()).to_string()},
        "fingerprint": fingerprint,
        "image": {"name": "example.com/app:1", "target": digest, "manifest": digest, "config": digest,
            "chain_id": digest},
        "host": {"kernel": "6.12.0", "criu": "4.2", "runc": "1.3.0", "cgroup": "v2", "lsm": "none", "page_size": 4096,
            "cpu": {"vendor": "GenuineIntel", "features": ["avx"], "xsave_size": 832}},
        "donor": {"id": "donor", "hostname": "donor", "addresses": ["10.0.0.2", "::1"], "established_tcp": 0,
            "freeze_ms": 1, "masked_paths": ["/proc/kcore", "/sys/firmware"]},
        "blobs": {"meta": archive, "rootfs": archive, "pages": {"digest": digest, "size": 300,
            "files": [{"name": "pages-1.img", "size": 4096}, {"name": "pages-2.img", "size": 4096}],
            "chunks": [{"digest": digest, "size": 100, "raw_size": 5000}, {"digest": digest, "size": 200, "raw_size": 3192}]}},
    })
}
