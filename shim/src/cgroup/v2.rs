//! Figures of cgroup v2, as `io.containerd.cgroups.v2.Metrics`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats, PidsStat,
    RdmaEntry, RdmaStat,
};
use containerd_shim_protos::protobuf::MessageField;

use super::StatsError;
use super::files::{huge_pages, keyed, lines, number, table};

pub(super) fn metrics(dir: &Path) -> Result<Metrics, StatsError> {
    if !dir.is_dir() {
        return Err(StatsError::Gone);
    }
    Ok(Metrics {
        pids: Some(pids(dir)).into(),
        cpu: Some(cpu(dir)).into(),
        memory: Some(memory(dir)).into(),
        rdma: Some(rdma(dir)).into(),
        io: Some(io(dir)).into(),
        hugetlb: hugetlb(dir),
        memory_events: Some(memory_events(dir)).into(),
        ..Metrics::default()
    })
}

fn value(table: &HashMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or_default()
}

fn pids(dir: &Path) -> PidsStat {
    PidsStat {
        current: number(dir, "pids.current").unwrap_or_default(),
        limit: number(dir, "pids.max").unwrap_or_default(),
        ..PidsStat::default()
    }
}

fn cpu(dir: &Path) -> CPUStat {
    let stat = table(dir, "cpu.stat");
    let get = |key| value(&stat, key);
    CPUStat {
        usage_usec: get("usage_usec"),
        user_usec: get("user_usec"),
        system_usec: get("system_usec"),
        nr_periods: get("nr_periods"),
        nr_throttled: get("nr_throttled"),
        throttled_usec: get("throttled_usec"),
        nr_bursts: get("nr_bursts"),
        burst_usec: get("burst_usec"),
        psi: pressure(dir, "cpu.pressure"),
        ..CPUStat::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = table(dir, "memory.stat");
    let get = |key| value(&stat, key);
    let file = |name| number(dir, name).unwrap_or_default();
    MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        // The kernel counts pages of both kinds apart since 5.9; the stock shim only knows the old sum.
        workingset_refault: get("workingset_refault"),
        workingset_activate: get("workingset_activate"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        usage: file("memory.current"),
        usage_limit: file("memory.max"),
        max_usage: file("memory.peak"),
        swap_usage: file("memory.swap.current"),
        swap_limit: file("memory.swap.max"),
        swap_max_usage: file("memory.swap.peak"),
        psi: pressure(dir, "memory.pressure"),
        ..MemoryStat::default()
    }
}

fn memory_events(dir: &Path) -> MemoryEvents {
    let stat = table(dir, "memory.events");
    MemoryEvents {
        low: value(&stat, "low"),
        high: value(&stat, "high"),
        max: value(&stat, "max"),
        oom: value(&stat, "oom"),
        oom_kill: value(&stat, "oom_kill"),
        oom_group_kill: value(&stat, "oom_group_kill"),
        ..MemoryEvents::default()
    }
}

fn io(dir: &Path) -> IOStat {
    let usage = lines(dir, "io.stat")
        .iter()
        .filter_map(|line| io_entry(line))
        .collect();
    IOStat {
        usage,
        psi: pressure(dir, "io.pressure"),
        ..IOStat::default()
    }
}

fn io_entry(line: &str) -> Option<IOEntry> {
    let (major, minor) = line.split_whitespace().next()?.split_once(':')?;
    let count = |key| {
        keyed(line, key)
            .and_then(|text| text.parse().ok())
            .unwrap_or_default()
    };
    Some(IOEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        rbytes: count("rbytes"),
        wbytes: count("wbytes"),
        rios: count("rios"),
        wios: count("wios"),
        ..IOEntry::default()
    })
}

fn hugetlb(dir: &Path) -> Vec<HugeTlbStat> {
    huge_pages(dir)
        .into_iter()
        .map(|size| HugeTlbStat {
            current: number(dir, &format!("hugetlb.{size}.current")).unwrap_or_default(),
            max: number(dir, &format!("hugetlb.{size}.max")).unwrap_or_default(),
            failcnt: value(&table(dir, &format!("hugetlb.{size}.events")), "max"),
            pagesize: size,
            ..HugeTlbStat::default()
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

/// Pressure stall figures; none when the kernel does not keep them.
fn pressure(dir: &Path, name: &str) -> MessageField<PSIStats> {
    let Ok(text) = fs::read_to_string(dir.join(name)) else {
        return MessageField::none();
    };
    let of = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(kind))?;
        let average = |key| {
            keyed(line, key)
                .and_then(|text| text.parse().ok())
                .unwrap_or_default()
        };
        Some(PSIData {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: keyed(line, "total")
                .and_then(|text| text.parse().ok())
                .unwrap_or_default(),
            ..PSIData::default()
        })
    };
    MessageField::some(PSIStats {
        some: of("some").into(),
        full: of("full").into(),
        ..PSIStats::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_cgroup_is_gone() {
        assert!(matches!(
            metrics(Path::new("/nonexistent")),
            Err(StatsError::Gone)
        ));
    }

    #[test]
    fn figures_are_taken_from_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 1\nuser_usec 2\nnr_bursts 3\n");
        write("memory.stat", "anon 4\nfile 5\n");
        write("memory.max", "max\n");
        write("memory.events", "low 0\noom 6\noom_kill 7\noom_group_kill 0\n");
        write(
            "io.stat",
            "8:0 rbytes=9 wbytes=10 rios=11 wios=12 dbytes=0 dios=0\n",
        );
        write(
            "memory.pressure",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=13\nfull avg10=0.00 total=0\n",
        );
        let metrics = metrics(dir.path()).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.nr_bursts), (1, 3));
        assert_eq!((metrics.memory.anon, metrics.memory.usage_limit), (4, u64::MAX));
        assert_eq!(metrics.memory_events.oom_kill, 7);
        assert_eq!((metrics.io.usage[0].rbytes, metrics.io.usage[0].wios), (9, 12));
        assert_eq!(
            (metrics.memory.psi.some.avg10, metrics.memory.psi.some.total),
            (1.5, 13)
        );
        assert!(metrics.cpu.psi.is_none());
    }
}
