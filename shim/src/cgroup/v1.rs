//! Figures of cgroup v1, as `io.containerd.cgroups.v1.Metrics`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat,
    Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};
use containerd_shim_protos::protobuf::MessageField;

use super::StatsError;
use super::files::{huge_pages, keyed, lines, number, table};

/// `USER_HZ`, in which the kernel counts user and system time here; it is 100 on every architecture that Linux
/// containers run on.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

pub(super) fn metrics(dirs: &BTreeMap<String, PathBuf>) -> Result<Metrics, StatsError> {
    let dir = |name: &str| dirs.get(name).filter(|dir| dir.is_dir()).map(PathBuf::as_path);
    if !dirs
        .keys()
        .filter(|name| *name != "systemd")
        .any(|name| dir(name).is_some())
    {
        return Err(StatsError::Gone);
    }
    Ok(Metrics {
        hugetlb: dir("hugetlb").map(hugetlb).unwrap_or_default(),
        pids: dir("pids").map(pids).into(),
        cpu: cpu(dir("cpu"), dir("cpuacct")).into(),
        memory: dir("memory").map(memory).into(),
        blkio: dir("blkio").map(blkio).into(),
        rdma: dir("rdma").map(rdma).into(),
        memory_oom_control: dir("memory").map(oom_control).into(),
        ..Metrics::default()
    })
}

fn hugetlb(dir: &Path) -> Vec<HugetlbStat> {
    let of = |size: &str, what: &str| number(dir, &format!("hugetlb.{size}.{what}")).unwrap_or_default();
    huge_pages(dir)
        .into_iter()
        .map(|size| HugetlbStat {
            usage: of(&size, "usage_in_bytes"),
            max: of(&size, "max_usage_in_bytes"),
            failcnt: of(&size, "failcnt"),
            pagesize: size,
            ..HugetlbStat::default()
        })
        .collect()
}

fn pids(dir: &Path) -> PidsStat {
    let limit = number(dir, "pids.max").unwrap_or_default();
    PidsStat {
        current: number(dir, "pids.current").unwrap_or_default(),
        // "max" is told as 0 by the stock shim.
        limit: if limit == u64::MAX { 0 } else { limit },
        ..PidsStat::default()
    }
}

fn cpu(cpu: Option<&Path>, cpuacct: Option<&Path>) -> Option<CPUStat> {
    let usage = cpuacct.map(|dir| {
        let ticks = table(dir, "cpuacct.stat");
        let time = |key| ticks.get(key).map_or(0, |ticks| ticks * NANOSECONDS_PER_TICK);
        let per_cpu = lines(dir, "cpuacct.usage_percpu");
        CPUUsage {
            total: number(dir, "cpuacct.usage").unwrap_or_default(),
            kernel: time("system"),
            user: time("user"),
            per_cpu: per_cpu
                .iter()
                .flat_map(|line| line.split_whitespace())
                .flat_map(str::parse)
                .collect(),
            ..CPUUsage::default()
        }
    });
    let throttling = cpu.map(|dir| {
        let stat = table(dir, "cpu.stat");
        Throttle {
            periods: value(&stat, "nr_periods"),
            throttled_periods: value(&stat, "nr_throttled"),
            throttled_time: value(&stat, "throttled_time"),
            ..Throttle::default()
        }
    });
    if usage.is_none() && throttling.is_none() {
        return None;
    }
    Some(CPUStat {
        usage: usage.into(),
        throttling: throttling.into(),
        ..CPUStat::default()
    })
}

fn value(table: &HashMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or_default()
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = table(dir, "memory.stat");
    let get = |key| value(&stat, key);
    let entry = |module: &str| {
        let of = |what: &str| number(dir, &format!("memory.{module}{what}"));
        let entry = of("usage_in_bytes").map(|usage| MemoryEntry {
            usage,
            limit: of("limit_in_bytes").unwrap_or_default(),
            max: of("max_usage_in_bytes").unwrap_or_default(),
            failcnt: of("failcnt").unwrap_or_default(),
            ..MemoryEntry::default()
        });
        MessageField::from(entry)
    };
    MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..MemoryStat::default()
    }
}

fn oom_control(dir: &Path) -> MemoryOomControl {
    let stat = table(dir, "memory.oom_control");
    MemoryOomControl {
        oom_kill_disable: value(&stat, "oom_kill_disable"),
        under_oom: value(&stat, "under_oom"),
        oom_kill: value(&stat, "oom_kill"),
        ..MemoryOomControl::default()
    }
}

fn blkio(dir: &Path) -> BlkIOStat {
    let bfq = !lines(dir, "blkio.bfq.io_service_bytes_recursive").is_empty();
    let kind = if bfq { "bfq." } else { "" };
    let of = |what: &str| entries(&lines(dir, &format!("blkio.{kind}{what}")));
    let throttle = |what: &str, fallback: &str| {
        let found = of(what);
        if found.is_empty() {
            entries(&lines(dir, &format!("blkio.throttle.{fallback}")))
        } else {
            found
        }
    };
    BlkIOStat {
        io_service_bytes_recursive: throttle("io_service_bytes_recursive", "io_service_bytes"),
        io_serviced_recursive: throttle("io_serviced_recursive", "io_serviced"),
        io_queued_recursive: of("io_queued_recursive"),
        io_service_time_recursive: of("io_service_time_recursive"),
        io_wait_time_recursive: of("io_wait_time_recursive"),
        io_merged_recursive: of("io_merged_recursive"),
        io_time_recursive: of("time_recursive"),
        sectors_recursive: of("sectors_recursive"),
        ..BlkIOStat::default()
    }
}

/// Lines of `major:minor operation value`, or without an operation.
fn entries(lines: &[String]) -> Vec<BlkIOEntry> {
    lines
        .iter()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (major, minor) = words.first()?.split_once(':')?;
            let (op, value) = match words[1..] {
                [op, value] => (op, value),
                [value] => ("", value),
                _ => return None,
            };
            Some(BlkIOEntry {
                op: op.to_owned(),
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                value: value.parse().ok()?,
                ..BlkIOEntry::default()
            })
        })
        .collect()
}

fn rdma(dir: &Path) -> RdmaStat {
    let of = |name: &str| {
        let count = |line: &str, key| keyed(line, key).map_or(0, |n| n.parse().unwrap_or(u32::MAX));
        let entry = |line: &String| RdmaEntry {
            device: line.split_whitespace().next().unwrap_or_default().to_owned(),
            hca_handles: count(line, "hca_handle"),
            hca_objects: count(line, "hca_object"),
            ..RdmaEntry::default()
        };
        lines(dir, name).iter().map(entry).collect()
    };
    RdmaStat {
        current: of("rdma.current"),
        limit: of("rdma.max"),
        ..RdmaStat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_cgroup_is_gone() {
        let dirs = BTreeMap::from([("memory".to_owned(), PathBuf::from("/nonexistent"))]);
        assert!(matches!(metrics(&dirs), Err(StatsError::Gone)));
    }

    #[test]
    fn figures_are_taken_from_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "memory.stat",
            "cache 1\nrss 2\ntotal_rss 3\nhierarchical_memory_limit 4\n",
        );
        write("memory.usage_in_bytes", "5\n");
        write("memory.limit_in_bytes", "6\n");
        write(
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
        );
        write("cpuacct.usage", "8\n");
        write("cpuacct.stat", "user 2\nsystem 1\n");
        write("cpuacct.usage_percpu", "3 5 \n");
        write("blkio.throttle.io_serviced", "8:0 Read 9\nTotal 9\n");
        let names = ["memory", "cpuacct", "blkio"];
        let dirs = names
            .iter()
            .map(|name| ((*name).to_owned(), dir.path().to_owned()))
            .collect();
        let metrics = metrics(&dirs).unwrap();
        assert_eq!((metrics.memory.rss, metrics.memory.total_rss), (2, 3));
        assert_eq!((metrics.memory.usage.usage, metrics.memory.usage.limit), (5, 6));
        assert!(metrics.memory.swap.is_none());
        assert_eq!(metrics.memory_oom_control.oom_kill, 7);
        assert_eq!(metrics.cpu.usage.per_cpu, [3, 5]);
        assert_eq!(metrics.cpu.usage.user, 20_000_000);
        assert_eq!(metrics.blkio.io_serviced_recursive.len(), 1);
    }
}
