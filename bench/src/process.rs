//! The process itself: which cores it runs on, what CPU it used.

use anyhow::{Context, Result};
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;

/// Pins the calling process to cores written as `0`, `1,2` or `0-3`. Threads started later inherit it.
pub fn pin_self(cores: &str) -> Result<()> {
    let mut set = CpuSet::new();
    for core in parse_cores(cores)? {
        set.set(core).with_context(|| format!("core {core}"))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning to cores {cores}"))
}

/// The cores named in a list.
pub fn parse_cores(text: &str) -> Result<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('-') {
            Some((from, to)) => cores.extend(from.parse::<usize>()?..=to.parse::<usize>()?),
            None => cores.push(part.parse().with_context(|| format!("core {part}"))?),
        }
    }
    anyhow::ensure!(!cores.is_empty(), "no core named in {text:?}");
    Ok(cores)
}

/// CPU time this process has used, seconds.
pub fn cpu_seconds() -> f64 {
    use nix::sys::resource::{getrusage, UsageWho};
    use nix::sys::time::TimeValLike;
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists() {
        assert_eq!(parse_cores("0,2-4").unwrap(), vec![0, 2, 3, 4]);
        assert!(parse_cores("").is_err() && parse_cores("x").is_err());
    }
}
