//! One QEMU guest: started from its arguments, read on its console, killed when dropped.

use anyhow::{bail, Context, Result};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// Longest line of the console that is kept.
const LINE: u64 = 4096;

/// What the machine is made of.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    arguments: Vec<String>,
}

impl Machine {
    /// Processors and memory, nothing else. `-cx16`: QEMU 7.2 mixes up the flags of cmpxchg16b when an interrupt
    /// follows it, and the guest dies of a double fault.
    pub fn new(cpus: u32, memory_mib: u32) -> Machine {
        let mut machine = Machine::default();
        machine.add(&["-accel", "tcg", "-cpu", "max,-cx16", "-nodefaults", "-display", "none", "-no-reboot"]);
        machine.add(&["-serial", "stdio", "-m", &memory_mib.to_string(), "-smp", &cpus.to_string()]);
        machine
    }

    /// Two memory nodes of `node_mib` with two processors each.
    pub fn two_nodes(node_mib: u32) -> Machine {
        let mut machine = Machine::new(4, 2 * node_mib);
        for node in 0..2 {
            let cpus = [2 * node, 2 * node + 1];
            let memory = format!("memory-backend-ram,id=m{node},size={node_mib}M");
            let numa = format!("node,nodeid={node},memdev=m{node},cpus={}-{}", cpus[0], cpus[1]);
            machine.add(&["-object", &memory, "-numa", &numa]);
        }
        machine.add(&["-numa", "dist,src=0,dst=1,val=21"]);
        machine
    }

    /// Arguments as QEMU takes them.
    pub fn add(&mut self, arguments: &[&str]) -> &mut Machine {
        self.arguments.extend(arguments.iter().map(|a| a.to_string()));
        self
    }

    /// Let QEMU load kernel and initramfs. The kernel itself says nothing short of a panic: its messages would land in
    /// the middle of a program's lines.
    pub fn direct(&mut self, kernel: &Path, initramfs: &Path, cmdline: &str) -> &mut Machine {
        let (kernel, initramfs) = (kernel.to_string_lossy(), initramfs.to_string_lossy());
        let cmdline = format!("console=ttyS0 loglevel=1 panic=-1 {cmdline}");
        self.add(&["-kernel", &kernel, "-initrd", &initramfs, "-append", &cmdline])
    }

    /// Firmware and a disk file; `vars` is the firmware's own writable memory.
    pub fn firmware(&mut self, code: &Path, vars: &Path, disk: &Path) -> &mut Machine {
        let code = format!("if=pflash,format=raw,readonly=on,file={}", code.display());
        let vars = format!("if=pflash,format=raw,file={}", vars.display());
        let disk = format!("file={},format=raw,if=virtio", disk.display());
        self.add(&["-machine", "q35", "-drive", &code, "-drive", &vars, "-drive", &disk])
    }

    /// A disk served on the Unix socket `path`; it appears as `/dev/vda`.
    pub fn nbd(&mut self, path: &Path) -> &mut Machine {
        let node = format!("driver=nbd,node-name=cut,server.type=unix,server.path={}", path.display());
        self.add(&["-blockdev", &node, "-device", "virtio-blk-pci,drive=cut"])
    }

    /// Start it.
    pub fn start(&self) -> Result<Guest> {
        // The guest ends with the thread that started it, whatever ends that.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nice", "-n", "10", QEMU])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {QEMU}; it is in the package qemu-system-x86"))?;
        let (sender, lines) = channel();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
            child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = Vec::new();
                while reader.by_ref().take(LINE).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    // A line that was cut off was never said.
                    let whole = line.ends_with(b"\n") || line.len() as u64 == LINE;
                    let text = String::from_utf8_lossy(&line).trim_end().to_string();
                    line.clear();
                    if whole && sender.send(text).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Guest { child, lines, log: Vec::new(), started: Instant::now() })
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    lines: Receiver<String>,
    log: Vec<String>,
    started: Instant,
}

impl Guest {
    /// The next line of the console, or none when the guest is gone or `patience` is over.
    pub fn line(&mut self, patience: Duration) -> Option<String> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                self.log.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Read until a line holds `marker`; returns it. An error shows the end of the console.
    pub fn wait_for(&mut self, marker: &str, patience: Duration) -> Result<String> {
        let end = Instant::now() + patience;
        while let Some(line) = self.line(end.saturating_duration_since(Instant::now())) {
            if line.contains(marker) {
                return Ok(line);
            }
        }
        let tail = self.log.iter().rev().take(30).rev().cloned().collect::<Vec<_>>().join("\n");
        bail!("no \"{marker}\" on the console within {patience:?}; it ends with:\n{tail}");
    }

    /// Time since the start.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Kill it at once, and return the lines not yet read that it had written.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().ok();
        self.child.wait().ok();
        // The readers end with the pipes, so this ends too.
        self.lines.iter().collect()
    }

    /// Every line read so far.
    pub fn log(&self) -> &[String] {
        &self.log
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
