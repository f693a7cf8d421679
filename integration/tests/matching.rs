//! Who is restored from what: tenants, rights, limits; and how the tool explains and judges it.

use anyhow::{Context as _, Result};
use serde_json::Value;
use thaw_integration::{Container, Lab, Run, forge, ok, run};

/// A program that holds some memory, in the given namespace of pods.
fn of_tenant(id: &str, tenant: &str) -> Run {
    let namespace = format!("io.kubernetes.cri.sandbox-namespace={tenant}");
    Run::new(id, "python")
        .flags(&["--annotation", "io.kubernetes.cri.container-type=container"])
        .flags(&["--annotation", &namespace])
        .command(&[
            "python3",
            "-c",
            "import time\nheap = bytearray(8 << 20)\nwhile True: time.sleep(0.1)",
        ])
}

fn explained(container: &Container) -> Result<(Value, String)> {
    let json = ok(&["thaw", "explain", "-o", "json", container.id()])?;
    Ok((
        serde_json::from_str(&json)?,
        ok(&["thaw", "explain", container.id()])?,
    ))
}

/// Fails unless the container is cold, for want of a snapshot, because of this field.
fn assert_differs(container: &Container, field: &str) -> Result<()> {
    container.assert_cold("no_snapshot")?;
    let (json, words) = explained(container)?;
    let differences = json.pointer("/nearest/differences").and_then(Value::as_array);
    let mut fields = differences
        .context("nothing differs")?
        .iter()
        .map(|one| &one["field"]);
    anyhow::ensure!(fields.any(|one| one == field), "{field} is not named in {json}");
    anyhow::ensure!(words.contains(field), "{field} is not named in {words}");
    Ok(())
}

#[test]
fn two_tenants_share_nothing() -> Result<()> {
    let Some(lab) = Lab::enter("two_tenants_share_nothing") else {
        return Ok(());
    };
    {
        let donor = of_tenant("donor", "shop").start()?;
        lab.capture(&donor, &[])?;
        of_tenant("same", "shop").start()?.assert_restored()?;
        assert_differs(&of_tenant("other", "bank").start()?, "scope")?;
        // Nobody else's namespace leads there either.
        assert_differs(&of_tenant("up", "bank/../shop").start()?, "scope")?;
        lab.configure("shared_scope = true")?;
        assert_differs(&of_tenant("asks", "bank").start()?, "scope")?;

        // Published for all: for those nodes only that want it.
        lab.capture(&donor, &["--scope", "shared"])?;
        of_tenant("shared", "bank").start()?.assert_restored()?;
        lab.configure("")?;
        assert_differs(&of_tenant("refuses", "bank").start()?, "scope")?;
    }
    lab.done()
}

#[test]
fn a_snapshot_of_a_mighty_root_stays_away_from_a_narrower_container() -> Result<()> {
    let name = "a_snapshot_of_a_mighty_root_stays_away_from_a_narrower_container";
    let Some(lab) = Lab::enter(name) else {
        return Ok(());
    };
    // One long sleep would end with the restore, which interrupts it.
    let program = "import time\nwhile True: time.sleep(0.1)";
    let sleeper = |id: &str| Run::new(id, "python").command(&["python3", "-c", program]);
    {
        let mighty = ["--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_NET_ADMIN"];
        let donor = sleeper("donor").flags(&mighty).start()?;
        lab.capture(&donor, &[])?;
        sleeper("alike").flags(&mighty).start()?.assert_restored()?;
        let narrow = sleeper("narrow").start()?;
        assert_differs(&narrow, "process.capabilities.bounding")?;

        // A store that lies about it: the mighty images under the key of the narrow container.
        let fields = "/process/capabilities";
        lab.capture(&narrow, &[])?;
        let documents = forge::documents(&lab.store())?;
        let [one, two] = documents.as_slice() else {
            anyhow::bail!("{documents:?}");
        };
        let (one, two): (Value, Value) = (forge::read(one)?, forge::read(two)?);
        let bounding = |document: &Value| {
            document
                .pointer(&format!("/variants/0/fingerprint{fields}/bounding"))
                .cloned()
        };
        let is_mighty = |document: &Value| {
            bounding(document).is_some_and(|caps| caps.to_string().contains("CAP_SYS_ADMIN"))
        };
        let (mighty, mut narrow) = if is_mighty(&one) { (one, two) } else { (two, one) };
        narrow["variants"][0]["blobs"] = mighty["variants"][0]["blobs"].clone();
        for path in &documents {
            if !is_mighty(&forge::read(path)?) {
                std::fs::write(path, serde_json::to_vec(&narrow)?)?;
            }
        }
        lab.empty_cache()?;
        sleeper("fooled").start()?.assert_cold("rights_exceeded")?;
    }
    lab.done()
}

#[test]
fn explain_names_what_differs() -> Result<()> {
    let Some(lab) = Lab::enter("explain_names_what_differs") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    {
        let with = |id: &str, flags: &[&str]| lab.python_run(id).flags(flags).start();
        assert_differs(&with("env", &["--env", "HEAP_MB=9"])?, "env.HEAP_MB")?;
        assert_differs(&with("more", &["--env", "MORE=secret"])?, "env.MORE")?;
        assert_differs(&with("user", &["--user", "1:1"])?, "process.user.uid")?;
        let args = lab
            .python_run("args")
            .command(&["python3", "-u", "/srv/server.py"]);
        assert_differs(&args.start()?, "process.args")?;
        let (_, words) = explained(&with("hidden", &["--env", "MORE=secret"])?)?;
        assert!(!words.contains("secret"), "{words}");

        let small = with("small", &["--memory-limit", "10000000"])?;
        let outcome = small.assert_cold("memory_limit")?;
        assert!(outcome.detail.contains("10000000"), "{}", outcome.detail);

        let data = "type=bind,src=/tmp,dst=/data,options=rbind:rw";
        let writes = with("writes", &["--mount", data])?;
        let outcome = writes.assert_cold("persistent_mount")?;
        assert!(outcome.detail.contains("/data"), "{}", outcome.detail);
        with("privileged", &["--privileged"])?.assert_cold("privileged")?;
    }
    {
        // What is stale after a restore is told, and with a broken configuration too.
        let restored = lab.python_run("restored").flags(&["--env", "HOSTNAME=restored"]);
        let restored = restored.start()?;
        restored.assert_restored()?;
        std::fs::write("/etc/thaw/config.toml", "policy = 'Perhaps'")?;
        let (json, words) = explained(&restored)?;
        assert_eq!(json["stale_env"], serde_json::json!(["HOSTNAME"]));
        assert!(words.contains("HOSTNAME"), "{words}");
        let cold = lab.python_run("cold").start()?;
        cold.assert_cold("config_invalid")?;
        lab.configure("")?;
    }
    lab.done()
}

#[test]
fn verify_tells_before_anybody_tries() -> Result<()> {
    let Some(lab) = Lab::enter("verify_tells_before_anybody_tries") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let id = || -> Result<String> {
        let list: Value = serde_json::from_str(&ok(&["thaw", "ls", "-o", "json"])?)?;
        Ok(list[0]["id"].as_str().context("no snapshot")?.to_owned())
    };
    let verdict: Value = serde_json::from_str(&ok(&["thaw", "verify", &id()?, "--here", "-o", "json"])?)?;
    assert_eq!(
        (&verdict["whole"], &verdict["fits"]),
        (&true.into(), &true.into()),
        "{verdict}"
    );
    assert_eq!(run(&["thaw", "verify", "ffffffff00"])?.code, 3);

    forge::edit(&lab.store(), |manifest| {
        manifest["host"]["kernel"] = "99.0.0".into()
    })?;
    let here = run(&["thaw", "verify", &id()?, "--here"])?;
    assert_eq!(here.code, 4, "{here:?}");
    assert!(
        here.stdout.contains("kernel") && here.stdout.contains("99.0.0"),
        "{here:?}"
    );
    ok(&["thaw", "verify", &id()?])?;

    for blob in ["meta", "rootfs", "pages"] {
        lab.with_snapshot()?;
        let path = forge::blob(&lab.store(), blob)?;
        let mut bytes = std::fs::read(&path)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes)?;
        let broken = run(&["thaw", "verify", &id()?])?;
        assert_eq!(broken.code, 1, "{blob}: {broken:?}");
    }
    lab.done()
}
