//! What guests are made of: an unpacked kernel, static programs and a folder to work in.
//!
//! Two environment variables say where they are; `make -f sysimage/kernel.mk` prepares both and sets them. Without them
//! the tests that boot say so and do nothing, since plain `cargo test` must not need an emulator.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use sysimage::compose::{self, Direct, Spec, CERTIFICATES, DEFAULT_TIME};
use sysimage::modules::GUEST_DRIVERS;

/// Names the folder of the unpacked kernel.
pub const KERNEL: &str = "RINGPOST_KERNEL";
/// Names the folder of the static programs.
pub const STATIC: &str = "RINGPOST_STATIC";

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Kit {
    /// The unpacked kernel.
    pub kernel: PathBuf,
    /// Static programs, `sysimage` among them.
    pub programs: PathBuf,
}

impl Kit {
    /// The kit of the environment; none, with a line that says so, when it is not set.
    pub fn from_env() -> Option<Kit> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        match (path(KERNEL), path(STATIC)) {
            (Some(kernel), Some(programs)) => Some(Kit { kernel, programs }),
            _ => {
                println!("skipped: {KERNEL} and {STATIC} are not set; run make -f sysimage/kernel.mk guest-tests");
                None
            }
        }
    }

    /// A program of the kit, or an example of that name.
    pub fn program(&self, name: &str) -> PathBuf {
        let example = self.programs.join("examples").join(name);
        if example.is_file() {
            return example;
        }
        self.programs.join(name)
    }

    /// What goes into a guest that runs `names`.
    pub fn spec(&self, names: &[&str], conf: &str) -> Spec {
        Spec {
            kernel: self.kernel.clone(),
            init: self.program("sysimage"),
            programs: names.iter().map(|n| self.program(n)).collect(),
            files: certificates(),
            tree: None,
            conf: Some(conf.to_string()),
            drivers: GUEST_DRIVERS.iter().map(|d| d.to_string()).collect(),
            time: DEFAULT_TIME,
        }
    }

    /// Kernel and initramfs of a guest that runs `names`, written into `folder`.
    pub fn direct(&self, names: &[&str], conf: &str, folder: &Path) -> Result<Direct> {
        compose::direct(&self.spec(names, conf), folder)
    }
}

/// The certificates of this machine, where it has them.
fn certificates() -> Vec<(PathBuf, String)> {
    let from = PathBuf::from(CERTIFICATES);
    from.is_file().then(|| (from, CERTIFICATES.to_string())).into_iter().collect()
}

/// A folder of this process below the temporary folder, removed when dropped.
#[derive(Debug)]
pub struct Workplace {
    path: PathBuf,
}

impl Workplace {
    /// Make it; `name` tells it from others of this process.
    pub fn new(name: &str) -> Result<Workplace> {
        let path = std::env::temp_dir().join(format!("ringpost-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Workplace { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).ok();
    }
}
