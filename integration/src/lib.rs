//! Proof on real containerd, runc, CRIU and object stores.
//!
//! The tests in `tests/` are scripts over this small fixture. They run inside the lab (`hack/lab`), as root, one after
//! another; elsewhere each of them skips and says so. Nothing of thaw is linked in: the tests drive the built
//! binaries as a user does, by `ctr`, `thaw` and the files that they document.
//!
//! ```text
//! Lab::enter(name)      a store, a cache and a configuration of the test's own; what the node looks like before
//!   .python("donor")    a container, removed by its exact id when dropped
//!   .capture(&donor)    thaw capture
//!   .done()             the node has to look as before
//! ```

mod cgroup;
mod command;
mod compatibility;
mod console;
mod container;
pub mod cri;
mod crictl;
mod criu;
mod faulty;
mod containerd;
mod daemon;
mod docker;
pub mod forge;
pub mod http;
mod inventory;
mod kubernetes;
mod lab;
mod nerdctl;
mod netns;
mod readme;
mod registry;
mod run;
mod scripts;
mod surroundings;
mod wait;

pub use cgroup::unified;
pub use command::{Background, Ran, ok, run, run_within, spawn};
pub use compatibility::{Way, cell, cell_moot, cell_refused};
pub use console::Console;
pub use container::{Container, Outcome, Python, Stage};
pub use containerd::Events;
pub use crictl::Crictl;
pub use criu::{FakeCriu, FakeRunc};
pub use daemon::{kill_shim_of, restart_containerd, restart_containerd_under, restart_kubelet};
pub use docker::{Docked, Docker, ImageStore};
pub use faulty::{Fault, FaultyStore};
pub use inventory::{Inventory, processes};
pub use kubernetes::{Cluster, Pod};
pub use lab::Lab;
pub use nerdctl::{Nerdctl, addresses_of};
pub use netns::{Bridge, Netns};
pub use readme::quick_start;
pub use registry::Registry;
pub use run::{Run, STOCK, THAW};
pub use scripts::{GRACEFUL, HUNGRY};
pub use surroundings::Surroundings;
pub use wait::{patience, until};
