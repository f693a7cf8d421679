//! A set of CRIU images: the check, every reader, every edit, and the comparison with a spec.
//!
//! The input is a row of files: one byte with the length of the name, the name, two bytes with the length of the
//! content (little endian), the content.

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use thaw_criu::inventory::NetworkLock;
use thaw_criu::{
    Images, cgroup, check, core, creds, fdinfo, files, ids, inventory, ipc, memory, mounts, netns, pagemap,
    pstree, seccomp, sockets, timerfd, tmpfs, uts,
};
use thaw_runtime::parsers;

pub(crate) fn run(data: &[u8]) {
    look_at(&parse(data));
}

/// The files of an input; what does not fit the form ends it.
fn parse(mut data: &[u8]) -> Images {
    let mut images = Images::new();
    while let Some((name, content)) = take(&mut data) {
        images.insert(String::from_utf8_lossy(name).into_owned(), content.to_vec());
    }
    images
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (length, after) = rest.split_first()?;
    let (name, after) = after.split_at_checked(usize::from(*length))?;
    let (length, after) = after.split_first_chunk::<2>()?;
    let (content, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *rest = after;
    Some((name, content))
}

/// Reads and edits a set of images in every way that boot does.
pub(crate) fn look_at(images: &Images) {
    read(images);
    if check(images).is_ok() {
        edit(images);
    }
}

fn read(images: &Images) {
    pstree::tasks(images).ok();
    pstree::root(images).ok();
    pstree::pids(images).ok();
    core::stopped(images).ok();
    creds::of_root(images).ok();
    creds::of_all(images).ok();
    files::paths(images).ok();
    ids::of_root(images).ok();
    inventory::version(images).ok();
    inventory::root_ids(images).ok();
    inventory::network_lock(images).ok();
    inventory::tcp_close(images).ok();
    inventory::lsm(images).ok();
    ipc::has_sysv_ipc(images);
    mounts::list(images).ok();
    netns::is_external(images).ok();
    pagemap::page_files(images, 4096).ok();
    pagemap::page_files(images, 1 << 16).ok();
    read_left_out(images);
    seccomp::of(images).ok();
    seccomp::present(images).ok();
    fdinfo::holders(images).ok();
    sockets::inet(images).ok();
    sockets::established_tcp(images).ok();
    uts::hostname(images).ok();
    core::limits(images).ok();
    cgroup::outside(images).ok();
    parsers::rights(images, &narrow()).ok();
    compare_mounts(images);
}

/// What a page server is to fill in lies in the page file, and goes to one place each.
fn read_left_out(images: &Images) {
    let Ok(Some(left_out)) = memory::left_out(images, 4096) else {
        return;
    };
    let size = pagemap::page_files(images, 4096)
        .ok()
        .and_then(|sizes| sizes.get(&left_out.pages).copied());
    let mut free_from = 0;
    for run in &left_out.runs {
        assert!(run.length > 0 && run.address >= free_from, "runs overlap");
        free_from = run.address + run.length;
        assert!(
            size >= Some(run.offset + run.length),
            "a run outside of the page file"
        );
    }
}

/// With a spec that has no mount, whatever is not the root is refused.
fn compare_mounts(images: &Images) {
    let mut bare = Spec::default();
    bare.set_mounts(None).set_linux(None);
    let passed = parsers::mounts(images, &bare).is_ok();
    let only_root = mounts::list(images).is_ok_and(|found| found.iter().all(|mount| mount.mountpoint == "/"));
    assert!(!passed || only_root, "a mount that no spec has came through");
}

/// A spec that gives nothing: whatever the images bring is too much.
fn narrow() -> Value {
    json!({"process": {"user": {"uid": 1000}, "noNewPrivileges": true, "capabilities": {"bounding": []}},
        "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}})
}

/// Every edit does what it says, and what it leaves passes the check again.
fn edit(images: &Images) {
    let mut edited = images.clone();
    if inventory::set_network_lock(&mut edited, NetworkLock::Skip).is_ok() {
        assert_eq!(inventory::network_lock(&edited), Ok(NetworkLock::Skip));
    }
    let name = "a-clone.of-another";
    if uts::set_names(&mut edited, name, Some("example.org")).is_ok() {
        assert_eq!(uts::hostname(&edited), Ok(Some(name.to_owned())));
    }
    for external in [true, false] {
        if netns::set_external(&mut edited, external).is_ok()
            && ids::of_root(&edited).is_ok_and(|ids| ids.net.is_some())
        {
            let host = inventory::root_ids(&edited)
                .is_ok_and(|host| host.net == ids::of_root(&edited).ok().and_then(|own| own.net));
            assert!(host || netns::is_external(&edited) == Ok(external));
        }
    }
    files::forget_sizes(&mut edited, |path| path.len() % 2 == 0).ok();
    assert_eq!(
        files::paths(&edited),
        files::paths(images),
        "forgetting sizes changed a path"
    );
    assert_eq!(
        sockets::inet(&edited),
        sockets::inet(images),
        "an edit changed a socket"
    );
    assert_eq!(
        creds::of_all(&edited),
        creds::of_all(images),
        "an edit changed a right"
    );
    tmpfs::leave_empty_ones(&mut edited).ok();
    assert_eq!(
        mounts::list(&edited),
        mounts::list(images),
        "an edit changed a mount"
    );
    timerfd::mend(&mut edited).ok();
    ids::share_uts_with_root(&mut edited).ok();
    ids::share_ipc_with_root(&mut edited).ok();
    let moved = sockets::rebind(&mut edited, |socket| {
        Some(sockets::Rebind {
            src: socket.src.ip(),
            disconnect: socket.is_connected_datagram(),
            v6only: true,
        })
    });
    if moved.is_ok() {
        assert!(
            sockets::inet(&edited)
                .is_ok_and(|all| !all.iter().any(sockets::InetSocket::is_connected_datagram)),
            "a socket was not let go"
        );
    }
    if let Err(error) = check(&edited) {
        panic!("edited images do not pass the check: {error:?}");
    }
}
