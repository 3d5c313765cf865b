//! Runs the image tools of the distribution, and says which package a missing one is in.
//!
//! Every tool gets the fixed time of the image in its environment, so that none of them writes the time of day. Never
//! uses a shell.

use anyhow::{bail, Context, Result};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

/// Tools and the packages they come in.
const PACKAGES: [(&str, &str); 8] = [
    ("mksquashfs", "squashfs-tools"),
    ("mkfs.vfat", "dosfstools"),
    ("mmd", "mtools"),
    ("mcopy", "mtools"),
    ("mke2fs", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
];

/// Run `tool` in `folder`; its standard output when it succeeds, its complaints as an error when not.
pub fn run<S: AsRef<OsStr>>(tool: &str, arguments: &[S], folder: &Path, time: u32) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(tool)
        .args(arguments)
        .current_dir(folder)
        // Some tools live where only root looks.
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("SOURCE_DATE_EPOCH", time.to_string())
        .env("E2FSPROGS_FAKE_TIME", time.to_string())
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let package = PACKAGES.iter().find(|(name, _)| *name == tool).map_or(tool, |(_, package)| package);
            bail!("{tool} is not installed; it is in the package {package}");
        }
        Err(e) => return Err(e).with_context(|| format!("start {tool}")),
    };
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{tool} failed ({}): {}", output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
