//! `sysimage`: compose the appliance's image, be its first process, and probe a guest.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::time::Instant;
use sysimage::compose::{self, Spec, DEFAULT_TIME};
use sysimage::disk::{self, DiskSpec};
use sysimage::probe::durable::{self, Options};
use sysimage::{boot, kernel, modules, probe};

/// The appliance of Ringpost: disk image, first process, probes.
#[derive(Parser)]
#[command(name = "sysimage", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Compose a bootable disk, or with --direct a kernel and an initramfs.
    Compose(Compose),
    /// Fetch the newest cloud kernel of the distribution and unpack it; nothing is installed.
    FetchKernel {
        /// Where to.
        folder: PathBuf,
    },
    /// Be process 1 (what the kernel starts as /init and /sbin/init).
    Init {
        /// Left to the first process.
        rest: Vec<String>,
    },
    /// Say where memory lies when threads are pinned first; fails when a page is remote.
    NumaProbe {
        /// Nodes there must be.
        #[arg(long, default_value_t = 2)]
        nodes: usize,
        /// MiB to place on each node.
        #[arg(long, default_value_t = 16)]
        mib: usize,
        /// Touch from the wrong node, to show that the probe notices.
        #[arg(long)]
        wrong_touch: bool,
    },
    /// Append numbered blocks, acknowledge each, and say on the next start which are there.
    DurableProbe {
        /// A file or a block device.
        path: PathBuf,
        /// Blocks to append.
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Acknowledge before it is durable, to show that a loss is noticed.
        #[arg(long)]
        no_sync: bool,
        /// Only say what is there.
        #[arg(long)]
        look: bool,
    },
}

#[derive(clap::Args)]
struct Compose {
    /// An unpacked kernel, see fetch-kernel.
    #[arg(long)]
    kernel: PathBuf,
    /// The disk file to write; with --direct the folder for `kernel` and `initramfs`.
    #[arg(long)]
    out: PathBuf,
    /// The static sysimage that becomes process 1; this program itself when left out.
    #[arg(long)]
    init: Option<PathBuf>,
    /// A static program for /bin; may be given several times.
    #[arg(long = "program")]
    programs: Vec<PathBuf>,
    /// A file and where it goes, FROM=TO; may be given several times.
    #[arg(long = "file", value_parser = from_to)]
    files: Vec<(PathBuf, String)>,
    /// A folder laid over / of the image.
    #[arg(long)]
    tree: Option<PathBuf>,
    /// A file that becomes /etc/ringpost/boot.conf.
    #[arg(long)]
    conf: Option<PathBuf>,
    /// Only kernel and initramfs, for an emulator that loads them itself.
    #[arg(long)]
    direct: bool,
    /// Only the drivers of an emulated guest.
    #[arg(long)]
    guest: bool,
    /// What the kernel is told beside the root.
    #[arg(long)]
    cmdline: Option<String>,
    /// The kernel boots by itself: EFI stub, command line and drivers built in; no loader, no initramfs.
    #[arg(long)]
    bare_kernel: bool,
    /// MiB of the root partition.
    #[arg(long)]
    root_mib: Option<u64>,
    /// MiB of the data partition.
    #[arg(long)]
    data_mib: Option<u64>,
}

fn main() -> Result<()> {
    if std::process::id() == 1 {
        let arguments: Vec<String> = std::env::args().collect();
        boot::first_process(&arguments);
    }
    match Cli::parse().verb {
        Verb::Compose(arguments) => compose_image(arguments),
        Verb::FetchKernel { folder } => {
            let found = kernel::fetch(&folder)?;
            println!("{} in {}", found.release, folder.display());
            Ok(())
        }
        Verb::Init { .. } => anyhow::bail!("init is process 1 of a machine, and this is not process 1"),
        Verb::NumaProbe { nodes, mib, wrong_touch } => probe::memory::run(nodes, mib << 20, wrong_touch),
        Verb::DurableProbe { path, count, no_sync, look } => {
            durable::run(&path, Options { count, sync: !no_sync, look_only: look })
        }
    }
}

fn from_to(text: &str) -> Result<(PathBuf, String), String> {
    let (from, to) = text.split_once('=').ok_or("expected FROM=TO")?;
    Ok((from.into(), to.into()))
}

fn compose_image(arguments: Compose) -> Result<()> {
    let start = Instant::now();
    let init = match arguments.init {
        Some(path) => path,
        None => std::env::current_exe().context("find this program")?,
    };
    let conf = match &arguments.conf {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?),
        None => None,
    };
    let drivers: &[&str] = if arguments.guest { &modules::GUEST_DRIVERS } else { &modules::DRIVERS };
    let time = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|t| t.parse().ok()).unwrap_or(DEFAULT_TIME);
    let spec = Spec {
        kernel: arguments.kernel,
        init,
        programs: arguments.programs,
        files: arguments.files,
        tree: arguments.tree,
        conf,
        drivers: drivers.iter().map(|d| d.to_string()).collect(),
        time,
    };
    if arguments.direct {
        let made = compose::direct(&spec, &arguments.out)?;
        let size = std::fs::metadata(&made.initramfs)?.len();
        println!("{}: kernel {}, initramfs {size} bytes", arguments.out.display(), made.release);
    } else {
        let mut wanted = DiskSpec::default();
        wanted.cmdline = arguments.cmdline.unwrap_or(wanted.cmdline);
        wanted.root_mib = arguments.root_mib.unwrap_or(wanted.root_mib);
        wanted.data_mib = arguments.data_mib.unwrap_or(wanted.data_mib);
        wanted.bare_kernel = arguments.bare_kernel;
        let report = disk::compose(&spec, &wanted, &arguments.out)?;
        println!("{}", serde_json::to_string(&report)?);
    }
    println!("made in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
