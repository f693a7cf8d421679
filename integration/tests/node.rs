//! What a node has to know and to remember of itself.

use std::fs;

use anyhow::Result;
use thaw_integration::{Lab, Python};

/// The node's configuration names another CRIU than the one in PATH.
#[test]
fn the_criu_of_the_configuration_is_used() -> Result<()> {
    let Some(lab) = Lab::enter("the_criu_of_the_configuration_is_used") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let (criu, used) = (lab.path("criu"), lab.path("used"));
    let script = "#!/bin/bash\nif [ \"$1\" = swrk ]; then touch USED; fi\nexec /usr/sbin/criu \"$@\"\n";
    fs::write(&criu, script.replace("USED", &used.display().to_string()))?;
    fs::set_permissions(&criu, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    lab.configure(&format!("criu = {criu:?}"))?;
    Python::ready(lab.python_run("clone").start()?)?
        .container
        .assert_restored()?;
    assert!(used.exists(), "runc has used another");
    lab.done()
}

/// The first boot of a node asks runc and CRIU for their versions, in a process that reaps all of its children.
#[test]
fn the_first_boot_of_a_node_restores() -> Result<()> {
    let Some(lab) = Lab::enter("the_first_boot_of_a_node_restores") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    for _ in 0..3 {
        fs::remove_file("/run/thaw/host.json").ok();
        Python::ready(lab.python_run("clone").start()?)?
            .container
            .assert_restored()?;
    }
    lab.done()
}

#[test]
fn the_state_of_the_node_is_damaged() -> Result<()> {
    let Some(lab) = Lab::enter("the_state_of_the_node_is_damaged") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    for text in ["", "garbage", "{}"] {
        fs::create_dir_all("/run/thaw")?;
        fs::write("/run/thaw/host.json", text)?;
        Python::ready(lab.python_run("clone").start()?)?
            .container
            .assert_restored()?;
    }
    // What a shim that was killed has left under the same id.
    fs::create_dir_all("/run/thaw/default/clone/restore/images")?;
    fs::write("/run/thaw/default/clone/restore/images/core-1.img", "old")?;
    Python::ready(lab.python_run("clone").start()?)?
        .container
        .assert_restored()?;
    lab.done()
}
