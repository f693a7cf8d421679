//! Network namespaces and a bridge between them.

use std::path::PathBuf;

use anyhow::Result;

use crate::command::{ok, run};

/// A named network namespace; removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes it, with `lo` up as CNI does.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new(name: &str) -> Result<Self> {
        ok(&["ip", "netns", "add", name])?;
        let made = Self {
            name: name.to_owned(),
        };
        ok(&["ip", "-n", name, "link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}", self.name))
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok(&self, words: &[&str]) -> Result<String> {
        let mut line = vec!["ip", "netns", "exec", &self.name];
        line.extend(words);
        ok(&line)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        run(&["ip", "netns", "del", &self.name]).ok();
    }
}

/// A bridge in the lab's own namespace, at 10.77.0.1/24; removed when dropped.
#[derive(Debug)]
pub struct Bridge(());

impl Bridge {
    /// Makes it.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new() -> Result<Self> {
        ok(&["ip", "link", "add", "thaw0", "type", "bridge"])?;
        let made = Self(());
        ok(&["ip", "address", "add", "10.77.0.1/24", "dev", "thaw0"])?;
        ok(&["ip", "link", "set", "thaw0", "up"])?;
        Ok(made)
    }

    /// Gives the namespace an interface on the bridge.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn join(&self, netns: &Netns, address: &str, mac: &str) -> Result<()> {
        let name = &netns.name;
        let outside = format!("v-{name}");
        let peer = ["peer", "name", "eth0", "netns", name];
        ok(&[["ip", "link", "add", &outside, "type", "veth"].as_slice(), &peer].concat())?;
        ok(&["ip", "link", "set", &outside, "master", "thaw0", "up"])?;
        ok(&["ip", "-n", name, "link", "set", "eth0", "address", mac, "up"])?;
        ok(&[
            "ip",
            "-n",
            name,
            "address",
            "add",
            &format!("{address}/24"),
            "dev",
            "eth0",
        ])?;
        Ok(())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        run(&["ip", "link", "del", "thaw0"]).ok();
    }
}
