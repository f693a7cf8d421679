//! The shape that Kubernetes gives: a sandbox, and containers that join its namespaces and share its shim.

use std::time::Duration;

use anyhow::Result;
use thaw_integration::{Container, Lab, Python, Run, ok, processes, until};

struct Pod {
    id: String,
    sandbox: Container,
}

impl Pod {
    fn start(id: &str) -> Result<Self> {
        let flags = [
            "--hostname",
            id,
            "--annotation",
            "io.kubernetes.cri.container-type=sandbox",
        ];
        let sandbox = Run::new(id, "static")
            .flags(&flags)
            .command(&["sleep", "1000"])
            .start()?;
        Ok(Self {
            id: id.to_owned(),
            sandbox,
        })
    }

    fn run(&self, id: &str) -> Result<Run> {
        let pid = self.sandbox.pid()?;
        let namespaces = ["network:net", "ipc:ipc", "uts:uts"].map(|name| {
            let (kind, file) = name.split_once(':').unwrap_or_default();
            format!("{kind}:/proc/{pid}/ns/{file}")
        });
        let sandbox = format!("io.kubernetes.cri.sandbox-id={}", self.id);
        let mut run = Run::new(id, "python").flags(&["--env", "HEAP_MB=8", "--annotation", &sandbox]);
        run = run.flags(&["--annotation", "io.kubernetes.cri.container-type=container"]);
        run = run.flags(&["--annotation", "io.kubernetes.cri.sandbox-namespace=shop"]);
        for namespace in &namespaces {
            run = run.flags(&["--with-ns", namespace]);
        }
        Ok(run)
    }
}

fn shims() -> Result<usize> {
    Ok(processes()?
        .iter()
        .filter(|(_, line)| line.contains("containerd-shim-thaw-v1"))
        .count())
}

#[test]
fn a_container_of_another_pod() -> Result<()> {
    let Some(lab) = Lab::enter("a_container_of_another_pod") else {
        return Ok(());
    };
    {
        let (first, second) = (Pod::start("pod-a")?, Pod::start("pod-b")?);
        first.sandbox.assert_cold("sandbox")?;
        let donor = Python::ready(first.run("donor")?.start()?)?;
        donor.container.assert_cold("no_snapshot")?;
        assert_eq!(donor.state()?["hostname"], "pod-a");
        lab.capture(&donor.container, &[])?;

        let clone = Python::ready(second.run("clone")?.start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(clone.state()?["hostname"], "pod-b");
        assert_eq!(clone.state()?["heap_checksum"], donor.state()?["heap_checksum"]);
        assert_eq!(second.sandbox.sh("hostname")?, "pod-b\n");
        assert_eq!(shims()?, 2, "a pod has one shim");

        // The container is replaced, the pod stays.
        clone.container.kill("SIGKILL")?;
        assert_eq!(clone.container.end()?, 137);
        drop(clone);
        let again = Python::ready(second.run("again")?.start()?)?;
        again.container.assert_restored()?;
        assert_eq!(again.state()?["hostname"], "pod-b");
        assert_eq!(second.sandbox.status()?, "RUNNING");
        drop((donor, again));
        until("the pods alone", Duration::from_secs(5), || {
            Ok((shims()? == 2).then_some(()))
        })?;
    }
    lab.done()
}

/// A second container of the same kind in the same pod.
#[test]
fn two_clones_in_one_pod() -> Result<()> {
    let Some(lab) = Lab::enter("two_clones_in_one_pod") else {
        return Ok(());
    };
    {
        let (first, second) = (Pod::start("pod-a")?, Pod::start("pod-b")?);
        let sleeper = |pod: &Pod, id: &str| -> Result<Container> {
            pod.run(id)?
                .command(&["python3", "-c", "import time\nwhile True: time.sleep(0.1)"])
                .start()
        };
        let donor = sleeper(&first, "donor")?;
        lab.capture(&donor, &[])?;
        let clones = [sleeper(&second, "one")?, sleeper(&second, "two")?];
        for clone in &clones {
            clone.assert_restored()?;
            assert_eq!(clone.sh("hostname")?, "pod-b\n");
        }
        assert_eq!(shims()?, 2);
    }
    lab.done()
}

impl Pod {
    /// Runs a shell script of the host's in the pod's uts and ipc namespaces.
    fn outside(&self, script: &str) -> Result<String> {
        let pid = self.sandbox.pid()?.to_string();
        ok(&["nsenter", "--uts", "--ipc", "-t", &pid, "sh", "-c", script])
    }
}

/// What a container finds in the namespaces that it shares.
const SHARED: &str = "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/kernel/msgmax \
                      /proc/sys/kernel/sem; ls -A /dev/mqueue; tail -n +2 /proc/sysvipc/*";

#[test]
fn the_pods_own_names_and_ipc_stay() -> Result<()> {
    let Some(lab) = Lab::enter("the_pods_own_names_and_ipc_stay") else {
        return Ok(());
    };
    {
        let (first, second) = (Pod::start("pod-a")?, Pod::start("pod-b")?);
        first.outside("echo domain-a >/proc/sys/kernel/domainname; echo 12345 >/proc/sys/kernel/msgmax")?;
        second.outside("echo domain-b >/proc/sys/kernel/domainname; echo 23456 >/proc/sys/kernel/msgmax")?;
        let donor = Python::ready(first.run("donor")?.start()?)?;
        lab.capture(&donor.container, &[])?;
        // The second pod's other containers have queues of their own.
        second.outside("ipcmk -Q >/dev/null")?;
        let before = second.outside(SHARED)?;
        assert!(before.starts_with("pod-b\ndomain-b\n23456\n"), "{before}");
        let clone = Python::ready(second.run("clone")?.start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(second.outside(SHARED)?, before);
        assert_eq!(clone.state()?["hostname"], "pod-b");
        let seen = clone
            .container
            .sh("cat /proc/sys/kernel/domainname /proc/sys/kernel/msgmax")?;
        assert_eq!(seen, "domain-b\n23456\n");
        let told = clone.container.sh("cat /run/thaw/restored.json")?;
        assert!(
            told.contains("\"pod-b\"") && told.contains("\"domain-b\""),
            "{told}"
        );
        for place in [
            "/proc/1/mountinfo",
            "/proc/1/cgroup",
            "/proc/net/unix",
            "/etc/hostname",
        ] {
            let text = clone.container.sh(&format!("cat {place} 2>/dev/null || true"))?;
            assert!(
                !text.contains("donor") && !text.contains("pod-a"),
                "{place}: {text}"
            );
        }
    }
    lab.done()
}

/// A pod's System V objects belong to all of its containers: no snapshot of one of them carries them away.
#[test]
fn objects_of_a_pod_are_not_captured() -> Result<()> {
    let Some(lab) = Lab::enter("objects_of_a_pod_are_not_captured") else {
        return Ok(());
    };
    {
        let pod = Pod::start("pod-a")?;
        pod.outside("ipcmk -Q >/dev/null")?;
        let donor = Python::ready(pod.run("donor")?.start()?)?;
        let refused = thaw_integration::run(&["thaw", "capture", donor.container.id()])?;
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains("System V"), "{refused:?}");
        donor.get("/healthz")?;
    }
    lab.done()
}
