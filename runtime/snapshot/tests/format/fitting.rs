//! On which machines a snapshot fits, and which of several is taken.

use super::*;

/// A machine where every path exists, and a container without a limit.
fn at(host: &HostFacts) -> Place<'_> {
    Place {
        host,
        memory_limit: None,
        exists: |_| true,
    }
}

/// Changes one fact of this machine.
type Change = fn(&mut HostFacts);

#[test]
fn what_fits_and_what_does_not() {
    let rows: [(Change, Option<&str>); 20] = [
        (|_| {}, None),
        (|h| h.cpu.features.push("zzz".to_owned()), None),
        (|h| h.cpu.features.reverse(), None),
        (|h| h.cpu.vendor.clear(), None),
        (|h| h.cpu.features.truncate(1), Some("cpu_features")),
        (|h| h.cpu.xsave_size = 832, Some("xsave_size")),
        (|h| h.kernel = "6.18.6".to_owned(), None),
        (|h| h.kernel = "6.18.5+".to_owned(), None),
        (|h| h.kernel = "7.0".to_owned(), None),
        (|h| h.kernel = "6.18.4".to_owned(), Some("kernel_older")),
        (|h| h.kernel = "6.9.99".to_owned(), Some("kernel_older")),
        (|h| h.kernel = "6.18-rc7".to_owned(), Some("kernel_older")),
        (|h| h.kernel = "unknown".to_owned(), Some("kernel_older")),
        (|h| h.criu = "4.10".to_owned(), None),
        (|h| h.criu = "4.2".to_owned(), Some("criu_older")),
        (|h| h.criu = "3.19".to_owned(), Some("criu_older")),
        (|h| h.page_size = 65536, Some("page_size")),
        (|h| h.lsm = "apparmor".to_owned(), Some("lsm")),
        (|h| h.cgroup = "v1".to_owned(), Some("cgroup")),
        (|h| h.runc = "1.2.0".to_owned(), None),
    ];
    for (index, (change, code)) in rows.into_iter().enumerate() {
        let mut here = host();
        change(&mut here);
        let found = check(&manifest(), &manifest().key, at(&here)).err();
        assert_eq!(found.as_ref().map(Mismatch::code), code, "row {index}: {found:?}");
    }
    let other = Key {
        platform: "linux-arm64".to_owned(),
        ..manifest().key
    };
    assert_eq!(check(&manifest(), &other, at(&host())), Err(Mismatch::Key));
}

#[test]
fn the_newest_that_fits_is_chosen() {
    let of = |created: &str| Manifest {
        created: created.to_owned(),
        ..manifest()
    };
    let mut newest_elsewhere = of("2026-09-09T10:00:00Z");
    newest_elsewhere.host.lsm = "selinux".to_owned();
    let variants = vec![
        of("2026-09-01T10:00:00Z"),
        of("2026-09-03T10:00:00.5Z"),
        newest_elsewhere,
        of("2026-09-03T10:00:00Z"),
    ];
    let key = manifest().key;
    let document = KeyDocument::new(variants.clone());
    assert_eq!(choose(&document, &key, at(&host())).unwrap(), &variants[1]);
    let mut turned = variants.clone();
    turned.reverse();
    assert_eq!(
        choose(&KeyDocument::new(turned), &key, at(&host())).unwrap(),
        &variants[1]
    );

    let mut twin = variants[1].clone();
    twin.donor.id = "b".to_owned();
    let smaller = if twin.id() < variants[1].id() {
        twin.clone()
    } else {
        variants[1].clone()
    };
    let document = KeyDocument::new(vec![variants[1].clone(), twin]);
    assert_eq!(choose(&document, &key, at(&host())).unwrap(), &smaller);
}

#[test]
fn the_container_s_limit_and_masked_paths_count() {
    let mut donor = manifest();
    donor.donor.masked_paths = vec!["/proc/kcore".to_owned(), "/proc/gone".to_owned()];
    let here = host();
    let codes = |limit: Option<u64>, exists: fn(&str) -> bool| -> Vec<&str> {
        let place = Place {
            memory_limit: limit,
            exists,
            ..at(&here)
        };
        mismatches(&donor, place).iter().map(Mismatch::code).collect()
    };
    let pages = donor.memory();
    assert!(pages > 0);
    assert!(codes(None, |_| true).is_empty());
    assert!(codes(Some(pages + pages / 64), |_| true).is_empty());
    assert_eq!(codes(Some(pages), |_| true), ["memory"]);
    assert_eq!(codes(None, |path| path != "/proc/gone"), ["masked_path"]);
    // All of it is told, not only what decides.
    assert_eq!(codes(Some(0), |_| false), ["masked_path", "memory"]);
}

#[test]
fn the_best_fit_is_chosen() {
    let of = |features: &[&str], kernel: &str, created: &str| {
        let mut one = manifest();
        one.host.cpu.features = features.iter().map(|&name| name.to_owned()).collect();
        one.host.kernel = kernel.to_owned();
        one.created = created.to_owned();
        one
    };
    let plain = of(&["avx2"], "6.1.0", "2026-09-09T10:00:00Z");
    let wide = of(&["avx2", "avx512f"], "6.1.0", "2026-09-01T10:00:00Z");
    let newer = of(&["avx2"], "6.12.0", "2026-09-01T10:00:00Z");
    let key = manifest().key;
    let variants = vec![plain.clone(), newer.clone(), wide.clone()];
    let chosen = |features: &[&str], kernel: &str| {
        let mut here = host();
        here.cpu.features = features.iter().map(|&name| name.to_owned()).collect();
        here.kernel = kernel.to_owned();
        let document = KeyDocument::new(variants.clone());
        choose(&document, &key, at(&here)).ok().map(Manifest::id)
    };
    assert_eq!(chosen(&["avx2", "avx512f", "amx"], "6.18.0"), Some(wide.id()));
    assert_eq!(chosen(&["avx2"], "6.18.0"), Some(newer.id()));
    assert_eq!(chosen(&["avx2"], "6.1.0"), Some(plain.id()));
    assert_eq!(chosen(&["sse2"], "6.18.0"), None);
}

#[test]
fn classes_of_machines() {
    let rows: [(Change, bool); 8] = [
        (|_| {}, true),
        (|h| h.cpu.features.reverse(), true),
        (|h| h.kernel = "6.18.99-other".to_owned(), true),
        (|h| h.criu = "9.9".to_owned(), true),
        (|h| h.kernel = "6.19.0".to_owned(), false),
        (|h| h.cpu.features.push("zzz".to_owned()), false),
        (|h| h.cpu.xsave_size = 832, false),
        (|h| h.lsm = "selinux".to_owned(), false),
    ];
    for (index, (change, same)) in rows.into_iter().enumerate() {
        let mut other = host();
        change(&mut other);
        assert_eq!(same_class(&host(), &other), same, "row {index}");
    }
}

#[test]
fn none_fits() {
    let mut here = host();
    here.cgroup = "v1".to_owned();
    let document = KeyDocument::new(vec![manifest(), manifest()]);
    let codes: Vec<_> = choose(&document, &manifest().key, at(&here))
        .unwrap_err()
        .iter()
        .map(Mismatch::code)
        .collect();
    assert_eq!(codes, ["cgroup", "cgroup"]);
    assert_eq!(
        choose(&KeyDocument::new(Vec::new()), &manifest().key, at(&here)),
        Err(Vec::new())
    );
}
