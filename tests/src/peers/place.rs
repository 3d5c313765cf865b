//! The private folder of a run: processes that end with it, ports nobody else has, one certificate for all.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::Options;

const RECEIVER: &str = include_str!("receiver.py");
const SMTPLIB: &str = include_str!("smtplib_client.py");

/// A folder that goes away with the run.
pub(super) struct Place {
    pub dir: PathBuf,
    pub packages: PathBuf,
    keep: bool,
}

impl Place {
    pub(super) fn new(options: &Options) -> Result<Self> {
        // Postfix and Exim give up their rights: what they read must lie where anyone may look.
        let dir = std::env::temp_dir().join(format!("ringpost-peers-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        open_to_all(&dir)?;
        let place = Self { dir, packages: options.packages.clone(), keep: options.keep };
        fs::write(place.path("receiver.py"), RECEIVER)?;
        fs::write(place.path("smtplib_client.py"), SMTPLIB)?;
        let names = ["localhost", "127.0.0.1", "python.test", "postfix.test", "exim.test"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names.to_vec()).context("making a certificate")?;
        fs::write(place.path("cert.pem"), made.cert.pem())?;
        fs::write(place.path("key.pem"), made.signing_key.serialize_pem())?;
        Ok(place)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The path as text for a configuration file.
    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path(name);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        open_to_all(&folder)?;
        Ok(folder)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Unpacks a Debian package (not: installs it) once; gives the folder it lies in.
    pub(super) fn package(&self, folder: &str, names: &[&str], proof: &str) -> Result<PathBuf> {
        fs::create_dir_all(&self.packages)?;
        let packages = fs::canonicalize(&self.packages)?;
        let unpacked = packages.join(folder);
        if unpacked.join(proof).exists() {
            return Ok(unpacked);
        }
        for name in names {
            let fetch = format!("apt-get download -qq {name} && dpkg-deb -x {name}_*.deb {folder}");
            let done = Command::new("sh").args(["-c", &fetch]).current_dir(&packages).output()?;
            if !done.status.success() {
                bail!("{name} can't be fetched: {}", String::from_utf8_lossy(&done.stderr).trim());
            }
        }
        if unpacked.join(proof).exists() {
            return Ok(unpacked);
        }
        bail!("{proof} is not in {names:?}")
    }

    /// Starts a process whose words go to a log, and waits until it listens on `port`.
    pub(super) fn start(&self, name: &str, mut command: Command, port: u16) -> Result<Process> {
        let log = self.path(&format!("{name}.log"));
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name} ({:?})", command.get_program()))?;
        let mut process = Process { child, log };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = process.child.try_wait()? {
                bail!("{name} ended at once ({status}): {}", process.said());
            }
            if Instant::now() > until {
                bail!("{name} does not listen on port {port}: {}", process.said());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(process)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.keep {
            println!("kept {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("opening a folder to all")
}

/// A process that ends with its owner: first asked, then made to.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// The last words of its log that are no mere information.
    pub(super) fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().filter(|line| !line.contains("\"INFO\"")).take(6).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Runs to its end within a minute; its words when it failed.
pub(super) fn finish(mut command: Command, what: &str) -> Result<String> {
    let limit = ["--kill-after=5", "60"];
    let mut limited = Command::new("timeout");
    limited.args(limit).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    command = limited;
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("running {what}"))?;
    let said = [&done.stdout[..], &done.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if !done.status.success() {
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        bail!("{what} ended with {}: {}", done.status, lines[lines.len().saturating_sub(8)..].join(" / "));
    }
    Ok(said)
}
