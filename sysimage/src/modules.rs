//! Kernel modules: which ones a driver needs, in which order, read from the modules themselves.
//!
//! A distribution's kernel package holds no `modules.dep` (it is made on the target), so the `depends=` line of each
//! module's `.modinfo` section is read instead. A module that is built in, or not there, is simply not in the order.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Drivers of the machines we boot on: disks, network cards and file systems.
pub const DRIVERS: [&str; 24] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_net",
    "virtio_rng",
    "nvme",
    "ahci",
    "sd_mod",
    "megaraid_sas",
    "mpt3sas",
    "squashfs",
    "ext4",
    "xfs",
    "e1000",
    "e1000e",
    "igb",
    "igc",
    "ixgbe",
    "i40e",
    "ice",
    "r8169",
    "tg3",
    "mlx5_core",
    "ena",
];

/// Drivers of an emulated guest with one virtio disk: the least that boots.
pub const GUEST_DRIVERS: [&str; 5] = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "squashfs"];

/// The modules of one kernel.
#[derive(Debug)]
pub struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
}

/// The name the kernel uses: no folder, no ending, underscores.
pub fn canonical(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// What a module says it depends on: the `depends=` entry between two zero bytes.
pub fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    let text = String::from_utf8_lossy(&value[..end]);
    text.split(',').filter(|n| !n.is_empty()).map(canonical).collect()
}

impl ModuleTree {
    /// Find every module below `folder` (`lib/modules/<release>`).
    pub fn read(folder: &Path) -> Result<ModuleTree> {
        let mut files = BTreeMap::new();
        let mut open = vec![folder.to_path_buf()];
        while let Some(at) = open.pop() {
            let entries = std::fs::read_dir(&at).with_context(|| format!("read {}", at.display()))?;
            for entry in entries {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() {
                    open.push(path);
                } else if name.ends_with(".ko") {
                    files.insert(canonical(&name), path);
                }
            }
        }
        Ok(ModuleTree { files })
    }

    /// The files of `wanted` and of all they need, each after what it depends on.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<(String, PathBuf)>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.visit(&canonical(name), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<(String, PathBuf)>) -> Result<()> {
        let Some(path) = self.files.get(name) else { return Ok(()) };
        if !seen.insert(name.to_string()) {
            return Ok(());
        }
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        for needed in depends(&bytes) {
            self.visit(&needed, seen, order)?;
        }
        order.push((name.to_string(), path.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dependencies_are_read_as_the_kernel_means_them() {
        assert_eq!(canonical("kernel/arch/x86/crc32c-intel.ko.xz"), "crc32c_intel");
        let module = b"\x7fELF\0license=GPL\0depends=virtio-ring,virtio\0name=x\0";
        assert_eq!(depends(module), ["virtio_ring", "virtio"]);
        assert!(depends(b"\0depends=\0").is_empty() && depends(b"").is_empty());
        assert_eq!(depends(b"\0depends=a"), ["a"]);
    }

    #[test]
    fn a_module_comes_after_what_it_needs_and_a_circle_ends() {
        let folder = std::env::temp_dir().join(format!("sysimage-modules-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("kernel")).unwrap();
        let put = |name: &str, text: &[u8]| std::fs::write(folder.join("kernel").join(name), text).unwrap();
        put("virtio_blk.ko", b"\0depends=virtio_ring,virtio\0");
        put("virtio_ring.ko", b"\0depends=virtio\0");
        put("virtio.ko", b"\0depends=virtio_blk\0");
        let tree = ModuleTree::read(&folder).unwrap();
        let order = tree.load_order(&["virtio-blk", "ext4"]).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let names: Vec<_> = order.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_blk"]);
    }
}
