//! The first process of the appliance: mounts, loopback, programs kept running, power off.
//!
//! The same program runs twice. In the initramfs it loads drivers and, when the command line names a `root=`, moves
//! into it; there (or at once, without a root) it mounts the rest, reads [`conf`] and keeps programs running
//! ([`supervise`], [`backoff`]). It never parses a byte from the network and never returns.

pub mod backoff;
pub mod conf;
pub mod mounts;
pub mod supervise;

use anyhow::{Context, Result};
use conf::{parameter, BootConf, Device};
use nix::kmod::{finit_module, ModuleInitFlags};
use nix::sys::reboot::{reboot, set_cad_enabled, RebootMode};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Printed when the programs are about to be started.
pub const READY: &str = "sysimage: ready";
/// Begins the line that says why a boot failed.
pub const FAILED: &str = "sysimage: boot failed";
/// Where the configuration of the boot is.
pub const CONF: &str = "/etc/ringpost/boot.conf";
/// The drivers of the initramfs, one path per line, in order.
pub const MODULES: &str = "/lib/modules/order";
/// Started under this name the process is in its root already, from an initramfs or straight by the kernel.
const IN_ROOT: &str = "/sbin/init";
const DISK_PATIENCE: Duration = Duration::from_secs(20);

/// Be process 1. Whatever goes wrong is said on the console and ends in power off: a machine that hangs helps nobody.
pub fn first_process(arguments: &[String]) -> ! {
    if let Err(e) = stages(arguments) {
        println!("{FAILED}: {e:#}");
    }
    power_off()
}

fn stages(arguments: &[String]) -> Result<()> {
    set_cad_enabled(false).ok();
    mounts::kernel_views().context("mount /proc, /sys and /dev")?;
    load_modules();
    if arguments.first().map(String::as_str) != Some(IN_ROOT) {
        let cmdline = fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
        if let Some(root) = parameter(&cmdline, "root").and_then(|r| Device::parse(&r)) {
            let device = mounts::wait_for(&root, DISK_PATIENCE)?;
            mounts::enter_root(&device)?;
            // Returns only when it failed.
            let error = Command::new(IN_ROOT).exec();
            return Err(error).context("start /sbin/init of the root");
        }
    }
    in_root()
}

fn in_root() -> Result<()> {
    let cmdline = fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
    let text = match fs::read_to_string(CONF) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).context(CONF),
    };
    let conf = BootConf::parse(&text)?.overridden(&cmdline);
    mounts::scratch().context("mount /run, /tmp and /dev/shm")?;
    if let Err(e) = crate::sys::interface_up("lo") {
        println!("sysimage: loopback stays down: {e}");
    }
    if let Some(name) = &conf.hostname {
        nix::unistd::sethostname(name).ok();
    }
    if let Some(data) = &conf.data {
        let device = mounts::wait_for(data, DISK_PATIENCE)?;
        mounts::data(&device)?;
    }
    println!("{READY} after {} s", uptime());
    supervise::run(&conf)
}

/// Seconds since the kernel started, as it prints them.
fn uptime() -> String {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_string()
}

/// A driver that refuses is said and skipped: another one may be the one that counts.
fn load_modules() {
    let Ok(order) = fs::read_to_string(MODULES) else { return };
    for path in order.lines() {
        let loaded = File::open(path)
            .map_err(|e| e.to_string())
            .and_then(|file| finit_module(file, c"", ModuleInitFlags::empty()).map_err(|e| e.to_string()));
        match loaded {
            Ok(()) => {}
            Err(e) if e.contains("EEXIST") => {}
            Err(e) => println!("sysimage: {path}: {e}"),
        }
    }
}

/// Write everything back, let go of the data, switch off.
fn power_off() -> ! {
    nix::unistd::sync();
    mounts::leave_data();
    println!("sysimage: power off");
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        // Process 1 must not end: the kernel would panic before the console is empty.
        Err(e) => loop {
            println!("sysimage: power off failed: {e}");
            std::thread::sleep(Duration::from_secs(60));
        },
    }
}
