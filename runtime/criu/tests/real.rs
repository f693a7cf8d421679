//! Images that runc 1.3.6 and CRIU 4.2.1 really wrote: `sleep` is a shell with a child, `python` a server with two
//! threads, listening sockets, one connection, a seccomp filter and a joined network namespace.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its fixture must fail")]

use std::fs;
use std::path::Path;

use thaw_criu::inventory::NetworkLock;
use thaw_criu::sockets::{Family, Proto, State};
use thaw_criu::wire::{self, Message, Value};
use thaw_criu::{
    CheckError, EditError, Images, ReadError, check, core, creds, files, ids, inventory, ipc, memory, mounts,
    netns, pagemap, pstree, seccomp, sockets, tmpfs, uts,
};

fn load(set: &str) -> Images {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(set);
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn both_sets_pass_the_check() {
    check(&load("sleep")).unwrap();
    check(&load("python")).unwrap();
}

#[test]
fn hostname_is_read_and_set() {
    let mut images = load("sleep");
    assert_eq!(uts::hostname(&images).unwrap().as_deref(), Some("donor-sleep"));
    uts::set_names(&mut images, "a-clone-with-a-longer-name", Some("example.org")).unwrap();
    assert_eq!(
        uts::hostname(&images).unwrap().as_deref(),
        Some("a-clone-with-a-longer-name")
    );
    check(&images).unwrap();
    assert_eq!(
        uts::set_names(&mut images, &"x".repeat(65), None),
        Err(EditError::Name)
    );
    assert_eq!(uts::set_names(&mut images, "a\0b", None), Err(EditError::Name));
}

#[test]
fn an_edit_touches_nothing_else() {
    let before = load("python");
    let mut after = before.clone();
    inventory::set_network_lock(&mut after, NetworkLock::Skip).unwrap();
    assert_eq!(inventory::network_lock(&before).unwrap(), NetworkLock::Iptables);
    assert_eq!(inventory::network_lock(&after).unwrap(), NetworkLock::Skip);
    for (name, bytes) in &before {
        assert_eq!(name != "inventory.img", after[name] == *bytes, "{name}");
    }
    inventory::set_network_lock(&mut after, NetworkLock::Iptables).unwrap();
    assert_eq!(before, after);
}

#[test]
fn inventory_facts() {
    let images = load("python");
    assert_eq!(inventory::version(&images).unwrap(), 2);
    assert!(!inventory::tcp_close(&images).unwrap());
    assert_eq!(inventory::lsm(&images).unwrap(), inventory::Lsm::None);
    assert_ne!(
        inventory::root_ids(&images).unwrap().uts,
        ids::of_root(&images).unwrap().uts
    );
}

#[test]
fn network_namespace_comes_and_goes() {
    let joined = load("python");
    assert!(netns::is_external(&joined).unwrap());
    let mut images = joined.clone();
    netns::set_external(&mut images, false).unwrap();
    assert!(!netns::is_external(&images).unwrap());
    assert_eq!(images.len(), joined.len() - 1);
    netns::set_external(&mut images, true).unwrap();
    assert!(netns::is_external(&images).unwrap());
    check(&images).unwrap();

    let mut own = load("sleep");
    assert!(!netns::is_external(&own).unwrap());
    netns::set_external(&mut own, true).unwrap();
    assert!(netns::is_external(&own).unwrap());
    netns::set_external(&mut own, false).unwrap();
    assert_eq!(own, load("sleep"));
}

#[test]
fn pod_members_share_uts_and_ipc() {
    let mut images = load("sleep");
    let host = inventory::root_ids(&images).unwrap();
    let was = ids::of_root(&images).unwrap();
    ids::share_uts_with_root(&mut images).unwrap();
    for task in pstree::tasks(&images).unwrap() {
        let now = ids::of(&images, task.pid).unwrap();
        assert_eq!((now.uts, now.ipc), (host.uts, was.ipc));
    }
    ids::share_ipc_with_root(&mut images).unwrap();
    for task in pstree::tasks(&images).unwrap() {
        let now = ids::of(&images, task.pid).unwrap();
        assert_eq!((now.uts, now.ipc), (host.uts, host.ipc));
        assert_eq!((now.net, now.mnt, now.pid), (was.net, was.mnt, was.pid));
    }
    check(&images).unwrap();
}

#[test]
fn sockets_with_their_ends() {
    let images = load("python");
    let all = sockets::inet(&images).unwrap();
    let find = |text: &str| {
        all.iter()
            .find(|s| s.src.to_string() == text && s.state != State::Established)
            .unwrap()
    };
    assert_eq!(find("0.0.0.0:8080").state, State::Listen);
    assert_eq!(find("[::]:8081").family, Family::V6);
    assert_eq!(find("127.0.0.1:5353").proto, Proto::Udp);
    let up = sockets::established_tcp(&images).unwrap();
    assert_eq!(up.len(), 1);
    assert_eq!(up[0].src.to_string(), "10.88.0.2:8080");
    assert_eq!(up[0].dst.ip().to_string(), "10.88.0.1");
    assert!(images.contains_key(&format!("tcp-stream-{:x}.img", up[0].ino)));
    assert!(sockets::inet(&load("sleep")).unwrap().is_empty());
    assert!(!ipc::has_sysv_ipc(&images));
}

#[test]
fn tasks_threads_and_rights() {
    let python = load("python");
    assert_eq!(pstree::pids(&python).unwrap(), [1, 6]);
    assert_eq!(pstree::tasks(&python).unwrap().len(), 1);
    assert_eq!(pstree::tasks(&load("sleep")).unwrap().len(), 2);
    assert_eq!(core::stopped(&load("sleep")).unwrap(), Vec::<i32>::new());

    let root = creds::of_root(&python).unwrap();
    assert_eq!(root.uids, [0; 4]);
    assert_eq!(root.groups, [20, 1000]);
    assert!(root.no_new_privs);
    // CAP_AUDIT_WRITE, CAP_KILL, CAP_NET_BIND_SERVICE: the default of `runc spec`.
    assert_eq!(root.bounding, 1 << 29 | 1 << 5 | 1 << 10);
    assert_eq!(creds::of_all(&python).unwrap().len(), 2);
    assert!(!creds::of_root(&load("sleep")).unwrap().groups.contains(&20));

    assert!(seccomp::present(&python).unwrap());
    // The second thread has no filter in its own image: the first one's is spread over it.
    assert_eq!(seccomp::of(&python).unwrap().filtered, [1, 6]);
    assert_eq!(seccomp::of(&load("sleep")).unwrap().free, [1, 6]);
}

#[test]
fn files_lose_their_sizes_only_where_asked() {
    let before = load("python");
    assert!(
        files::paths(&before)
            .unwrap()
            .iter()
            .any(|path| path == "/tmp/log")
    );
    let mut after = before.clone();
    files::forget_sizes(&mut after, |_| false).unwrap();
    assert_eq!(after, before);
    files::forget_sizes(&mut after, |path| path == "/tmp/log").unwrap();
    // Size (tag, 6) and mode (tag, three bytes of 0100644).
    assert_eq!(after["files.img"].len(), before["files.img"].len() - 6);
    assert_eq!(files::paths(&after).unwrap(), files::paths(&before).unwrap());
    check(&after).unwrap();
}

#[test]
fn mount_tree() {
    let mounts = mounts::list(&load("python")).unwrap();
    let at = |path: &str| mounts.iter().find(|mount| mount.mountpoint == path).unwrap();
    assert_eq!(at("/etc/hostname").external_key.as_deref(), Some("/etc/hostname"));
    assert!(at("/etc/hostname").external);
    assert_eq!(at("/dev/shm").fstype, "tmpfs");
    assert_eq!(at("/proc").fstype, "proc");
    assert!(!at("/proc").external);
}

#[test]
fn page_files_have_the_size_that_the_maps_say() {
    let sizes = pagemap::page_files(&load("python"), 4096).unwrap();
    assert_eq!(
        sizes.into_iter().collect::<Vec<_>>(),
        [("pages-1.img".to_owned(), 3_907_584)]
    );
    let sizes = pagemap::page_files(&load("sleep"), 4096).unwrap();
    assert_eq!(sizes["pages-1.img"], 69_632);
    assert_eq!(sizes["pages-2.img"], 69_632);
    let map = pagemap::entries(&load("sleep")["pagemap-1.img"]).unwrap();
    assert!(
        map.entries
            .iter()
            .any(|entry| entry.flags == pagemap::PRESENT | pagemap::LAZY)
    );
}

#[test]
fn check_refuses_what_is_missing() {
    for name in [
        "inventory.img",
        "pstree.img",
        "files.img",
        "core-6.img",
        "ids-1.img",
        "mountpoints-13.img",
    ] {
        let mut images = load("python");
        images.remove(name).unwrap();
        assert_eq!(
            check(&images),
            Err(ReadError::Missing {
                file: name.to_owned()
            }
            .into()),
            "{name}"
        );
    }
}

#[test]
fn check_refuses_strange_names() {
    for name in [
        "../evil.img",
        "iptables-9.img",
        "route-9.img",
        "reg-files.img",
        "core-01.img",
        "core-.img",
        "core-x.img",
        "pages-1.img",
        "tmpfs-dev-.tar.gz.img",
        "inventory-1.img",
        "dump.log",
        "",
    ] {
        let mut images = load("sleep");
        images.insert(name.to_owned(), Vec::new());
        assert_eq!(check(&images), Err(CheckError::Name(name.to_owned())));
    }
}

#[test]
fn check_survives_every_cut_and_flip() {
    let images = load("sleep");
    for (name, bytes) in &images {
        for at in 0..bytes.len().min(600) {
            let mut cut = images.clone();
            cut.insert(name.clone(), bytes[..at].to_vec());
            let _ = check(&cut);
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            cut.insert(name.clone(), flipped);
            let _ = check(&cut);
        }
    }
}

/// Sets one number in the only record of a file, found by the path of its field numbers.
fn patch(images: &mut Images, file: &str, path: &[u32], value: u64) {
    fn set(message: &[u8], path: &[u32], value: u64) -> Vec<u8> {
        let (number, rest) = path.split_first().unwrap();
        if rest.is_empty() {
            return wire::set(message, *number, Value::Varint(value)).unwrap();
        }
        let inner = Message::parse(message).unwrap().bytes(*number).unwrap().unwrap();
        wire::set(message, *number, Value::Bytes(&set(inner, rest, value))).unwrap()
    }
    // Magic numbers (the inventory has one), then the length of the record.
    let head = if file == "inventory.img" { 4 } else { 8 };
    let bytes = &images[file];
    let record = set(&bytes[head + 4..], path, value);
    let patched = [&bytes[..head], &(record.len() as u32).to_le_bytes(), &record].concat();
    images.insert(file.to_owned(), patched);
}

#[test]
fn stopped_tasks_are_known() {
    let mut images = load("sleep");
    patch(&mut images, "core-6.img", &[3, 1], 3);
    assert_eq!(core::stopped(&images).unwrap(), [6]);
    assert!(core::is_stopped(&images, 6).unwrap());
    assert!(!core::is_stopped(&images, 1).unwrap());
}

#[test]
fn a_thread_outside_the_filter_is_seen() {
    let mut images = load("python");
    // Mode off in the first thread: nothing is spread any more.
    patch(&mut images, "core-1.img", &[5, 11], 0);
    let found = seccomp::of(&images).unwrap();
    assert!(found.filtered.is_empty());
    assert_eq!(found.free, [1, 6]);
}

#[test]
fn a_task_with_another_hostname_is_refused() {
    let mut images = load("sleep");
    patch(&mut images, "ids-6.img", &[8], 99);
    assert_eq!(check(&images), Err(CheckError::Nested(6)));
}

#[test]
fn a_host_network_has_nothing_to_edit() {
    let mut images = load("sleep");
    let own = ids::of_root(&images).unwrap().net.unwrap();
    patch(&mut images, "inventory.img", &[3, 6], own.into());
    let before = images.clone();
    netns::set_external(&mut images, false).unwrap();
    assert_eq!(images, before);
    assert_eq!(
        netns::set_external(&mut images, true),
        Err(EditError::NoNamespace("network"))
    );
}

#[test]
fn other_versions_of_the_frame_are_refused() {
    let mut images = load("sleep");
    patch(&mut images, "inventory.img", &[1], 1);
    assert_eq!(check(&images), Err(CheckError::Version(1)));
}

#[test]
fn system_v_objects_are_seen() {
    let mut images = load("sleep");
    let empty = [0x5456_4319u32.to_le_bytes(), 0x4628_3044u32.to_le_bytes()].concat();
    images.insert("ipcns-shm-11.img".to_owned(), empty.clone());
    assert!(!ipc::has_sysv_ipc(&images));
    check(&images).unwrap();
    let one = [empty, 2u32.to_le_bytes().to_vec(), vec![0x10, 1, 0xff]].concat();
    images.insert("ipcns-shm-11.img".to_owned(), one);
    assert!(ipc::has_sysv_ipc(&images));
    check(&images).unwrap();
}

/// One length-delimited field.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::push(&mut out, number, Value::Bytes(content));
    out
}

/// `cgroup.img` with one controller that has this folder, and one set in which a task is at `path`.
fn cgroups(folder: &[u8], path: &str) -> Images {
    let member = [field(1, b"memory"), field(2, path.as_bytes())].concat();
    let set = field(1, &field(2, &member));
    let controller = [field(1, b"memory"), field(2, folder)].concat();
    let entry = [set, field(2, &controller)].concat();
    let mut image = load("sleep")["cgroup.img"][..8].to_vec();
    image.extend((entry.len() as u32).to_le_bytes());
    image.extend(entry);
    let mut images = load("sleep");
    images.insert("cgroup.img".to_owned(), image);
    images
}

#[test]
fn tasks_stay_in_the_cgroups_of_the_container() {
    let own = field(1, b"lab-01-sleep");
    let with = |more: Vec<u8>| [own.clone(), more].concat();
    let file = |name: &str| with(field(3, &[field(1, name.as_bytes()), field(2, b"max")].concat()));
    let child = |name: &str| with(field(2, &field(1, name.as_bytes())));
    for (folder, path, outside) in [
        (own.clone(), "/lab-01-sleep", None),
        (own.clone(), "/lab-01-sleep/below", None),
        (file("memory.max"), "/lab-01-sleep", None),
        (child("below"), "/lab-01-sleep", None),
        (own.clone(), "/", Some("/")),
        (own.clone(), "/lab-01-sleeper", Some("/lab-01-sleeper")),
        (own.clone(), "/lab-01-sleep/../x", Some("/lab-01-sleep/../x")),
        (own.clone(), "lab-01-sleep", Some("lab-01-sleep")),
        (file("../memory.max"), "/lab-01-sleep", Some("../memory.max")),
        (child(".."), "/lab-01-sleep", Some("..")),
        (child("/x"), "/lab-01-sleep", Some("/x")),
        (field(1, b"../x"), "/../x", Some("../x")),
    ] {
        let found = check(&cgroups(&folder, path));
        let wanted = outside.map_or(Ok(()), |path| Err(CheckError::Cgroup(path.to_owned())));
        assert_eq!(found, wanted, "{path}");
    }
}

#[test]
fn a_second_mount_namespace_is_refused() {
    let mut images = load("sleep");
    images.insert(
        "mountpoints-99.img".to_owned(),
        images["mountpoints-13.img"].clone(),
    );
    let refused = CheckError::MountNamespace("mountpoints-99.img".to_owned());
    assert_eq!(check(&images), Err(refused));
}

#[test]
fn limits_stand_at_their_numbers() {
    let all = core::limits(&load("sleep")).unwrap();
    let of_root = &all[&1];
    assert_eq!(of_root.len(), 16);
    // RLIMIT_NOFILE (asm-generic/resource.h), as `runc spec` sets it.
    assert_eq!((of_root[7].soft, of_root[7].hard), (1024, 1024));
}

#[test]
fn memory_that_criu_leaves_out() {
    // A shell with a child.
    assert_eq!(memory::left_out(&load("sleep"), 4096).unwrap(), None);

    let images = load("python");
    let left_out = memory::left_out(&images, 4096).unwrap().unwrap();
    assert_eq!((left_out.pid, left_out.pages.as_str()), (1, "pages-1.img"));
    let size = pagemap::page_files(&images, 4096).unwrap()["pages-1.img"];
    assert!(
        left_out.bytes() > size / 2 && left_out.bytes() < size,
        "{} of {size}",
        left_out.bytes()
    );
    let ends = left_out.runs.iter().map(|run| run.offset + run.length);
    assert!(ends.max().unwrap() <= size);
    assert!(left_out.runs.is_sorted_by_key(|run| (run.address, run.offset)));
}

#[test]
fn empty_tmpfs_mounts_are_left_alone() {
    let before = load("sleep");
    let mut images = before.clone();
    tmpfs::leave_empty_ones(&mut images).unwrap();
    check(&images).unwrap();
    // They are the same mounts to whoever goes by the name.
    assert_eq!(mounts::list(&images).unwrap(), mounts::list(&before).unwrap());
    let changed: Vec<_> = before
        .iter()
        .filter(|(name, bytes)| images[*name] != **bytes)
        .collect();
    let [(file, _)] = changed.as_slice() else {
        panic!("{} files were changed", changed.len());
    };
    assert_eq!(file.as_str(), "mountpoints-13.img");
    // /dev and the one that the cgroups are mounted in have something in them; /dev/shm has not, nor has the one that two
    // directories are masked with.
    let name = b"\x72\x05tmpfs";
    let named = images[*file]
        .windows(name.len())
        .filter(|part| part == name)
        .count();
    assert_eq!(named, 3);
}
