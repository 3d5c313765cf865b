//! A kernel of the distribution: fetched by its package manager, unpacked, and found again.
//!
//! Nothing is installed: `apt-get download` and `dpkg-deb -x` only. An unpacked kernel is a folder with
//! `boot/vmlinuz-<release>` and `lib/modules/<release>`.

use crate::tools;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The package whose dependency names the newest kernel for virtual machines.
pub const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, for instance `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The compressed image.
    pub image: PathBuf,
    /// `lib/modules/<release>`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The kernel unpacked in `folder`; the last one by name when there are several.
    pub fn find(folder: &Path) -> Result<Kernel> {
        let boot = folder.join("boot");
        let entries = fs::read_dir(&boot).with_context(|| {
            format!("no kernel in {}; run `sysimage fetch-kernel {}`", boot.display(), folder.display())
        })?;
        let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let mut releases: Vec<String> = names.filter_map(|n| n.strip_prefix("vmlinuz-").map(str::to_string)).collect();
        releases.sort();
        let Some(release) = releases.pop() else { bail!("no vmlinuz-* in {}", boot.display()) };
        let modules = ["lib/modules", "usr/lib/modules"].map(|at| folder.join(at).join(&release));
        let Some(modules) = modules.into_iter().find(|m| m.is_dir()) else {
            bail!("{} has no modules of {release}", folder.display());
        };
        Ok(Kernel { image: boot.join(format!("vmlinuz-{release}")), modules, release })
    }
}

/// Fetch the newest cloud kernel of the machine's package sources and unpack it into `folder`.
pub fn fetch(folder: &Path) -> Result<Kernel> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let shown = tools::run("apt-cache", &["show", "--no-all-versions", META_PACKAGE], folder, 0)?;
    let package = newest(&shown).with_context(|| format!("{META_PACKAGE} names no kernel; run apt-get update"))?;
    tools::run("apt-get", &["download", "-qq", package], folder, 0)?;
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(package) && name.ends_with(".deb") {
            archives.push(name);
        }
    }
    archives.sort();
    let Some(archive) = archives.pop() else { bail!("apt-get download left no {package} archive") };
    tools::run("dpkg-deb", &["-x", archive.as_str(), "."], folder, 0)?;
    fs::remove_file(folder.join(archive)).ok();
    Kernel::find(folder)
}

/// The kernel package that a `Depends:` line of `apt-cache show` names first.
fn newest(shown: &str) -> Option<&str> {
    let depends = shown.lines().find_map(|l| l.strip_prefix("Depends:"))?;
    let package = depends.trim().split([' ', ',']).next()?;
    package.starts_with("linux-image-").then_some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_the_first_dependency() {
        let shown = "Package: x\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.1-2)\n\nDepends: linux-image-1\n";
        assert_eq!(newest(shown), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("Depends: bash"), None);
        assert_eq!(newest(""), None);
    }
}
