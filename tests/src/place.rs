//! Places that no other test uses: loopback addresses and directories. Tests run side by side in one process and
//! several processes at once; an address of one's own makes fixed ports harmless.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

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
