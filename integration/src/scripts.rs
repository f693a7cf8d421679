//! Programs that containers of several clients run.

/// For the shell: says `up`; asked to end by SIGTERM, it says `bye` and ends with 3.
pub const GRACEFUL: &str = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.2; done";

/// For Python: says `ready`, and takes 300 MiB of memory once there is a file `/dev/shm/go`.
pub const HUNGRY: &str = "import os, time
print('ready', flush=True)
while not os.path.exists('/dev/shm/go'): time.sleep(0.1)
x = b'x' * (300 << 20)";
