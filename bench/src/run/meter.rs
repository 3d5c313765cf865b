//! What a server costs: CPU, memory, disk, kernel workers, and how loud the rest of the machine is.
//!
//! A control group of its own (v1 `cpuacct` + `memory`, or v2) counts every process the server starts, also those that
//! ended. Without control groups the process tree is summed from `/proc`, which loses children that nobody waited for.

use anyhow::{Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the figures come from.
#[derive(Debug)]
pub enum Meter {
    /// `/sys/fs/cgroup/cpuacct/NAME` and, if present, `/sys/fs/cgroup/memory/NAME`.
    V1 {
        /// CPU accounting.
        cpu: PathBuf,
        /// Memory accounting.
        memory: Option<PathBuf>,
    },
    /// `/sys/fs/cgroup/NAME`.
    V2(PathBuf),
    /// The tree below one process.
    Tree(std::cell::Cell<i32>),
}

/// Everything read at one moment. Differences of two are the figures.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// CPU of the server, nanoseconds.
    pub cpu_ns: u64,
    /// Anonymous memory of the server, bytes.
    pub anon: u64,
    /// CPU of kernel threads that work for it (kworker, jbd2), by thread, nanoseconds.
    pub workers: BTreeMap<i32, u64>,
    /// CPU of everything on the machine, nanoseconds.
    pub busy_ns: u64,
    /// Bytes its living processes read from files and sockets.
    pub read: u64,
    /// Flushes of all block devices.
    pub flushes: u64,
    /// Bytes written to all block devices.
    pub disk_bytes: u64,
}

impl Reading {
    /// CPU of kernel workers since `before`, nanoseconds.
    pub fn workers_since(&self, before: &Reading) -> u64 {
        let since = |(thread, ns): (&i32, &u64)| ns.saturating_sub(before.workers.get(thread).copied().unwrap_or(0));
        self.workers.iter().map(since).sum()
    }
}

impl Meter {
    /// Makes a control group, or says on standard error why there is none.
    pub fn new(name: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        for folder in [root.to_owned(), root.join("cpuacct"), root.join("memory")] {
            remove_stale(&folder);
        }
        let v1 = root.join("cpuacct").join(name);
        if root.join("cpuacct/cpuacct.usage").exists() && fs::create_dir_all(&v1).is_ok() {
            let memory = root.join("memory").join(name);
            let memory = (root.join("memory").exists() && fs::create_dir_all(&memory).is_ok()).then_some(memory);
            return Meter::V1 { cpu: v1, memory };
        }
        let v2 = root.join(name);
        if root.join("cgroup.controllers").exists() && fs::create_dir_all(&v2).is_ok() && v2.join("cpu.stat").exists() {
            return Meter::V2(v2);
        }
        eprintln!("no control group available: CPU is summed over the process tree");
        Meter::Tree(std::cell::Cell::new(0))
    }

    /// Files into which a process writes its number to be counted.
    pub fn doors(&self) -> Vec<PathBuf> {
        match self {
            Meter::V1 { cpu, memory } => {
                std::iter::once(cpu).chain(memory).map(|group| group.join("cgroup.procs")).collect()
            }
            Meter::V2(group) => vec![group.join("cgroup.procs")],
            Meter::Tree(_) => Vec::new(),
        }
    }

    /// Tells a tree meter its root.
    pub fn root(&self, pid: i32) {
        if let Meter::Tree(root) = self {
            root.set(pid);
        }
    }

    /// The processes counted now.
    pub fn processes(&self) -> Vec<i32> {
        match self {
            Meter::V1 { cpu, .. } => numbers(&cpu.join("cgroup.procs")),
            Meter::V2(group) => numbers(&group.join("cgroup.procs")),
            Meter::Tree(root) => tree(root.get()),
        }
    }

    /// Kills whatever the server left behind.
    pub fn kill_all(&self) {
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Reads everything.
    pub fn read(&self) -> Result<Reading> {
        let processes = self.processes();
        let (cpu_ns, anon) = match self {
            Meter::V1 { cpu, memory } => {
                let usage = text(&cpu.join("cpuacct.usage"))?.trim().parse().context("cpuacct.usage")?;
                let anon = match memory {
                    Some(group) => field(&text(&group.join("memory.stat"))?, "total_rss"),
                    None => processes.iter().map(|pid| status_anon(*pid)).sum(),
                };
                (usage, anon)
            }
            Meter::V2(group) => {
                let usage = field(&text(&group.join("cpu.stat"))?, "usage_usec") * 1000;
                let anon = text(&group.join("memory.stat")).map(|stat| field(&stat, "anon"));
                (usage, anon.unwrap_or_else(|_| processes.iter().map(|pid| status_anon(*pid)).sum()))
            }
            Meter::Tree(_) => (
                processes.iter().map(|pid| stat_cpu_ns(*pid)).sum(),
                processes.iter().map(|pid| status_anon(*pid)).sum(),
            ),
        };
        let (flushes, disk_bytes) = block_devices();
        Ok(Reading {
            cpu_ns,
            anon,
            workers: kernel_workers(),
            busy_ns: machine_busy_ns(),
            read: processes.iter().map(|pid| io_field(*pid, "rchar:")).sum(),
            flushes,
            disk_bytes,
        })
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.kill_all();
        match self {
            Meter::V1 { cpu, memory } => {
                for group in std::iter::once(&*cpu).chain(&*memory) {
                    let _ = fs::remove_dir(group);
                }
            }
            Meter::V2(group) => {
                let _ = fs::remove_dir(group);
            }
            Meter::Tree(_) => {}
        }
    }
}

/// Kills what is in a control group.
pub fn empty(door: &Path) {
    for _ in 0..50 {
        let left = numbers(door);
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Groups left by a run that was killed; removing one that is in use fails, and should.
fn remove_stale(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix("ringbench-")).map(|rest| rest.trim_start_matches("raw-"));
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn numbers(path: &Path) -> Vec<i32> {
    fs::read_to_string(path).unwrap_or_default().lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn processes_of_machine() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Fields of `/proc/PID/stat` behind the name, which may hold blanks and brackets.
fn stat(pid: i32) -> Option<(String, Vec<String>)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    Some((name.to_owned(), tail.split_whitespace().map(str::to_owned).collect()))
}

fn tree(root: i32) -> Vec<i32> {
    let mut parents: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in processes_of_machine() {
        let parent = stat(pid).and_then(|(_, fields)| fields.get(1)?.parse().ok());
        parents.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut seen = BTreeSet::new();
    let mut todo = vec![root];
    while let Some(pid) = todo.pop() {
        if pid > 0 && seen.insert(pid) {
            todo.extend(parents.get(&pid).into_iter().flatten());
        }
    }
    seen.into_iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect()
}

/// User and system time with that of waited-for children, nanoseconds (fields 14 to 17, in ticks of 10 ms).
fn stat_cpu_ns(pid: i32) -> u64 {
    let Some((_, fields)) = stat(pid) else { return 0 };
    let ticks: u64 = fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * 10_000_000
}

fn status_anon(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn io_field(pid: i32, name: &str) -> u64 {
    field(&fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default(), name)
}

/// On-CPU time of kernel threads that do work for processes: block and file system workers, journals. io_uring's own
/// workers belong to the process and are in its control group already.
fn kernel_workers() -> BTreeMap<i32, u64> {
    let mut workers = BTreeMap::new();
    for pid in processes_of_machine() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with("kworker") || name.starts_with("jbd2") {
            let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
            let ns = schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok());
            workers.insert(pid, ns.unwrap_or(0));
        }
    }
    workers
}

/// Busy time of all cores, nanoseconds: everything but idle and iowait.
fn machine_busy_ns() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
    let busy: u64 = ticks.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4 | 8 | 9)).map(|(_, tick)| tick).sum();
    busy * 10_000_000
}

/// (flushes, bytes written) of all whole block devices (Documentation/block/stat.rst: fields 7 and 16).
fn block_devices() -> (u64, u64) {
    let (mut flushes, mut bytes) = (0, 0);
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields: Vec<u64> = stat.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        bytes += fields.get(6).copied().unwrap_or(0) * 512;
        flushes += fields.get(15).copied().unwrap_or(0);
    }
    (flushes, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_in_its_own_tree() {
        let me = std::process::id() as i32;
        assert!(tree(me).contains(&me));
        assert!(status_anon(me) > 0);
    }

    #[test]
    fn workers_that_came_later_count_from_zero() {
        let before = Reading { workers: BTreeMap::from([(1, 10)]), ..Reading::default() };
        let after = Reading { workers: BTreeMap::from([(1, 15), (2, 7)]), ..Reading::default() };
        assert_eq!(after.workers_since(&before), 12);
    }
}
