//! Places that no other test uses: loopback addresses and directories. Tests run side by side in one process and
//! several processes at once; an address of one's own makes fixed ports harmless.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{unshare, CloneFlags};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A loopback address that nobody else in this process gets, and hardly anybody in another.
#[must_use]
pub fn address() -> Ipv4Addr {
    let pid = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let octet = |n: u32| u8::try_from(n).unwrap_or(1);
    // 127.0 stays free for everybody else; 250 addresses for each of many processes.
    Ipv4Addr::new(127, octet(1 + (pid / 256 + number / 250) % 254), octet(pid % 256), octet(2 + number % 250))
}

/// A directory that goes when this value goes.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new, empty directory under `parent`.
    pub fn under(parent: &Path) -> std::io::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ringpost-test-{}-{number}", std::process::id()));
        // Left over from a process with the same number, killed long ago.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What can't be removed is the machine's own affair.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `work` on a thread with a network of its own, which has loopback and these addresses; threads and processes
/// started there are in it, too. `None`, with a word on standard error, where this machine does not allow that.
pub fn in_own_network<T: Send>(addresses: &[IpAddr], work: impl FnOnce() -> T + Send) -> Option<T> {
    apart(CloneFlags::CLONE_NEWNET, work, || {
        ip(&["link", "set", "lo", "up"])?;
        addresses.iter().try_for_each(|address| ip(&["address", "add", &address.to_string(), "dev", "lo"]))
    })
}

/// Runs `work` on a thread that sees a small tmpfs at `dir`, as processes started there do. `None` as in
/// [`in_own_network`].
pub fn on_small_disk<T: Send>(dir: &Path, mib: u32, work: impl FnOnce() -> T + Send) -> Option<T> {
    apart(CloneFlags::CLONE_NEWNS, work, || {
        // Nothing of it may be seen outside.
        command("mount", &["--make-rprivate", "/"])?;
        let dir = dir.display().to_string();
        command("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", &dir])
    })
}

fn apart<T: Send>(
    from: CloneFlags,
    work: impl FnOnce() -> T + Send,
    prepare: impl FnOnce() -> Result<(), String> + Send,
) -> Option<T> {
    let in_there = || {
        unshare(from).map_err(|error| format!("this thread can't be set apart: {error}"))?;
        prepare()?;
        Ok::<T, String>(work())
    };
    let done = std::thread::scope(|scope| scope.spawn(in_there).join());
    match done {
        Ok(Ok(result)) => Some(result),
        Ok(Err(why)) => {
            eprintln!("left out: {why}");
            None
        }
        // The test failed in there: it fails out here.
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs the `ip` command (package iproute2) in the network of this thread.
pub fn ip(arguments: &[&str]) -> Result<(), String> {
    command("ip", arguments)
}

fn command(name: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(name).args(arguments).output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
