//! systemd's cgroup driver: a container's cgroup is a scope that systemd makes, and removes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use thaw_integration::{FakeCriu, Lab, Python, Run, ok, run};

const SLICE: &str = "/sys/fs/cgroup/system.slice";

/// The form of the path tells the driver, as kubelets with `cgroupDriver: systemd` send it.
fn in_scope(lab: &Lab, id: &str) -> Run {
    lab.python_run(id)
        .flags(&["--cgroup", &format!("system.slice:thaw-test:{id}")])
}

/// The container's init is in its scope, and systemd knows it.
fn ensure_scope(python: &Python, id: &str) -> Result<()> {
    let unit = format!("thaw-test-{id}.scope");
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", python.container.pid()?))?;
    ensure!(cgroup == format!("0::/system.slice/{unit}\n"), "{cgroup}");
    ok(&["systemctl", "is-active", &unit]).map(drop)
}

fn ensure_no_scope(id: &str) -> Result<()> {
    let unit = format!("thaw-test-{id}.scope");
    ensure!(!Path::new(SLICE).join(&unit).exists(), "{unit} is left");
    ensure!(
        run(&["systemctl", "is-active", &unit])?.code != 0,
        "{unit} is active"
    );
    Ok(())
}

#[test]
fn systemd_s_scopes_are_restored() -> Result<()> {
    let Some(lab) = Lab::enter_with_systemd("systemd_s_scopes_are_restored") else {
        return Ok(());
    };
    {
        let donor = Python::ready(in_scope(&lab, "donor").start()?)?;
        ensure_scope(&donor, "donor")?;
        lab.capture(&donor.container, &[])?;
        let limits = ["--memory-limit", "134217728", "--cpus", "0.5"];
        let clone = Python::ready(in_scope(&lab, "clone").flags(&limits).start()?)?;
        clone.container.assert_restored()?;
        ensure_scope(&clone, "clone")?;
        ensure!(clone.container.sh("hostname")? == "clone\n", "another hostname");
        for (name, value) in [("memory.max", "134217728\n"), ("cpu.max", "50000 100000\n")] {
            let file = Path::new(SLICE).join("thaw-test-clone.scope").join(name);
            let found = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            ensure!(found == value, "{name} is {found}");
        }
        ok(&["ctr", "task", "metrics", "clone"])?;
    }
    ensure_no_scope("donor")?;
    ensure_no_scope("clone")?;
    lab.done()
}

#[test]
fn systemd_s_scopes_are_those_of_a_first_start_after_a_fallback() -> Result<()> {
    let Some(lab) = Lab::enter_with_systemd("systemd_s_scopes_are_those_of_a_first_start_after_a_fallback")
    else {
        return Ok(());
    };
    {
        let donor = Python::ready(in_scope(&lab, "donor").start()?)?;
        lab.capture(&donor.container, &[])?;
    }
    lab.configure("deadlines.restore = '10s'")?;
    for (program, reason) in [("exit 1", "restore_failed"), ("sleep 1000", "restore_timeout")] {
        {
            let _criu = FakeCriu::new(program)?;
            let cold = Python::ready(in_scope(&lab, "cold").start()?)?;
            let outcome = cold.container.outcome()?;
            ensure!(outcome.reason == reason, "{outcome:?}");
            ensure_scope(&cold, "cold")?;
        }
        ensure_no_scope("cold")?;
        lab.forgive()?;
        lab.nothing_left().with_context(|| reason.to_owned())?;
    }
    lab.done()
}
