//! System calls per message, counted by strace during a load of its own: a traced server is slow, so nothing else is
//! measured in it.

use super::bed::Bed;
use anyhow::{Context, Result};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Attaches to every process of the server, runs the load, and divides.
pub fn per_message(bed: &Bed, load: impl FnOnce() -> Result<u64>) -> Result<f64> {
    let path = bed.dir.join("strace.txt");
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&path);
    for pid in bed.processes() {
        command.arg("-p").arg(pid.to_string());
    }
    let mut strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("strace is not installed")?;
    std::thread::sleep(Duration::from_millis(500));
    let messages = load();
    let pid = nix::unistd::Pid::from_raw(strace.id() as i32);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
    strace.wait()?;
    let text = fs::read_to_string(&path).unwrap_or_default();
    Ok(total_calls(&text).context("strace counted nothing")? as f64 / messages?.max(1) as f64)
}

/// The number of calls in the line `100.00 seconds usecs/call calls [errors] total`.
fn total_calls(text: &str) -> Option<u64> {
    let line = text.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_line() {
        let text = "% time seconds usecs/call calls errors syscall\n 90.00 0.1 1 7 2 read\n------\n\
             100.00    0.123456           5     12345       678 total\n";
        assert_eq!(total_calls(text), Some(12345));
        assert_eq!(total_calls(""), None);
    }
}
