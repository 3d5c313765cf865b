//! File systems of the appliance: the kernel's views, scratch space, root and data.
//!
//! Every mount says in its error what was mounted where. Nothing is formatted here and nothing is repaired.

use super::conf::Device;
use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::mount::{mount, umount, MsFlags};
use nix::unistd::{chdir, chroot};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the data file system is mounted.
pub const DATA: &str = "/data";
const NEW_ROOT: &str = "/sysroot";
const KERNEL_VIEWS: [&str; 3] = ["/dev", "/proc", "/sys"];

fn one(source: &str, at: &str, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    let done = mount(Some(source), at, Some(kind), flags, Some(options).filter(|o| !o.is_empty()));
    match done {
        // Already there, for instance /dev from the kernel itself.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("mount {source} ({kind}) on {at}")),
    }
}

/// `/proc`, `/sys` and `/dev`.
pub fn kernel_views() -> Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    for folder in KERNEL_VIEWS.iter().filter(|f| !Path::new(f).is_dir()) {
        fs::create_dir_all(folder).with_context(|| format!("make {folder}"))?;
    }
    one("proc", "/proc", "proc", plain | MsFlags::MS_NODEV, "")?;
    one("sysfs", "/sys", "sysfs", plain | MsFlags::MS_NODEV, "")?;
    one("devtmpfs", "/dev", "devtmpfs", plain, "mode=0755")
}

/// Memory-backed `/run`, `/tmp` and `/dev/shm`.
pub fn scratch() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (at, mode) in [("/run", "mode=0755"), ("/tmp", "mode=1777"), ("/dev/shm", "mode=1777")] {
        // On a read-only root the folder is there; elsewhere it is made.
        if !Path::new(at).is_dir() {
            fs::create_dir_all(at).with_context(|| format!("make {at}"))?;
        }
        one("tmpfs", at, "tmpfs", flags, mode)?;
    }
    Ok(())
}

/// Mount the data file system, ext4 without access times.
pub fn data(device: &Path) -> Result<()> {
    if !Path::new(DATA).is_dir() {
        fs::create_dir_all(DATA).context("make /data")?;
    }
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    one(&device.to_string_lossy(), DATA, "ext4", flags, "")
}

/// Unmount the data file system, or at least make it read-only.
pub fn leave_data() {
    if umount(DATA) == Err(Errno::EBUSY) {
        mount(None::<&str>, DATA, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>).ok();
    }
}

/// Mount `device` as the new root, take the kernel's views along, and go there.
pub fn enter_root(device: &Path) -> Result<()> {
    fs::create_dir_all(NEW_ROOT).context("make /sysroot")?;
    one(&device.to_string_lossy(), NEW_ROOT, "squashfs", MsFlags::MS_RDONLY, "")?;
    for view in KERNEL_VIEWS {
        let to = format!("{NEW_ROOT}{view}");
        let moved = mount(Some(view), to.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>);
        moved.with_context(|| format!("move {view} to {to}"))?;
    }
    chdir(NEW_ROOT).context("go to /sysroot")?;
    let moved = mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>);
    moved.context("make /sysroot the root")?;
    chroot(".").context("make /sysroot the root of this process")?;
    chdir("/").context("go to the new root")
}

/// The device's node, as soon as the kernel has found it.
pub fn wait_for(device: &Device, patience: Duration) -> Result<PathBuf> {
    let start = Instant::now();
    loop {
        let found = match device {
            Device::Path(path) => Some(PathBuf::from(path)).filter(|p| p.exists()),
            Device::Label(label) => by_label(Path::new("/sys/class/block"), label),
        };
        match found {
            Some(path) => return Ok(path),
            None if start.elapsed() > patience => bail!("no disk holds {device:?} after {patience:?}"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The partition named `label`: its `uevent` file holds `PARTNAME=` and `DEVNAME=`.
fn by_label(class: &Path, label: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(class).ok()?.flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join("uevent")) else { continue };
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key));
        if value("PARTNAME=") == Some(label) {
            return value("DEVNAME=").map(|name| Path::new("/dev").join(name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_found_by_its_name() {
        let class = std::env::temp_dir().join(format!("sysimage-block-{}", std::process::id()));
        for (disk, text) in [("vda", "DEVNAME=vda\n"), ("vda3", "DEVNAME=vda3\nPARTNAME=data\n")] {
            fs::create_dir_all(class.join(disk)).unwrap();
            fs::write(class.join(disk).join("uevent"), text).unwrap();
        }
        let (found, none) = (by_label(&class, "data"), by_label(&class, "dat"));
        fs::remove_dir_all(&class).unwrap();
        assert_eq!((found, none), (Some(PathBuf::from("/dev/vda3")), None));
    }
}
