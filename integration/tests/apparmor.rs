//! AppArmor: a clone is confined by the profile of its own spec.

use anyhow::{Result, ensure};
use thaw_integration::{Lab, Python};

const CONFINEMENT: &str = "cat /proc/1/attr/current";

#[test]
fn the_apparmor_profile_comes_back() -> Result<()> {
    let Some(lab) = Lab::enter_with_apparmor("the_apparmor_profile_comes_back") else {
        return Ok(());
    };
    // ctr loads it, and it stays: it is none of thaw's.
    let run = |id: &str| {
        lab.python_run(id)
            .flags(&["--apparmor-default-profile", "thaw-test"])
    };
    {
        let donor = Python::ready(run("donor").start()?)?;
        ensure!(donor.container.sh(CONFINEMENT)? == "thaw-test (enforce)\n");
        lab.capture(&donor.container, &[])?;
        let clone = Python::ready(run("clone").start()?)?;
        clone.container.assert_restored()?;
        ensure!(clone.container.sh(CONFINEMENT)? == "thaw-test (enforce)\n");
        // Another profile is another spec.
        let free = Python::ready(lab.python_run("free").start()?)?;
        ensure!(free.container.outcome()?.result == "cold");
    }
    lab.done()
}
