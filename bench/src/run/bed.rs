//! The test bed of one run: a sink, a server under test in its own control group, and the loads against it.
//!
//! Server on its own core(s), injector and sink on others, all of them child processes, so that no figure depends on
//! what this process does. Everything started here is ended here, by process group or control group.

use super::adapter::{fill, Adapter};
use super::meter::{Meter, Reading};
use super::Options;
use crate::inject::Report;
use crate::sink::Stats;
use anyhow::{bail, Context, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child process that ends with its owner, together with its process group.
#[derive(Debug)]
pub struct Guarded(pub Child);

impl Guarded {
    /// Asks the process group to end, waits a little, then kills it.
    pub fn stop(&mut self, patience: Duration) {
        use nix::sys::signal::{killpg, Signal};
        let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = killpg(group, Signal::SIGTERM);
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(3));
    }
}

/// What receives.
#[derive(Debug)]
enum Receiver {
    /// Our sink, counted over its page.
    Ours(SocketAddr),
    /// Postfix's smtp-sink, counted by the last number it printed.
    Theirs(PathBuf),
}

/// The bed.
#[derive(Debug)]
pub struct Bed {
    /// How the server is started.
    pub adapter: Adapter,
    /// Placeholders of this run.
    pub values: BTreeMap<String, String>,
    /// Private folder of this run.
    pub dir: PathBuf,
    options: Options,
    meter: Meter,
    server: Option<Guarded>,
    receiver: Receiver,
    sink: Option<Guarded>,
}

/// A port nobody uses now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Bed {
    /// Starts a sink with these arguments and the server in this variant, and waits until it greets.
    pub fn new(options: &Options, variant: &str, sink: &[&str]) -> Result<Self> {
        let adapter = Adapter::load(&options.adapter)?;
        anyhow::ensure!(
            adapter.start.is_empty() || adapter.has_variant(variant),
            "adapter {} has no [variant.{variant}]: pending",
            adapter.name
        );
        let repo = std::env::current_dir()?;
        let dir = repo.join(format!("target/bench/{}-{variant}-{}", adapter.name, std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let mut base = BTreeMap::new();
        let mut set = |key: &str, value: String| base.insert(key.to_owned(), value);
        let sink_port = free_port()?;
        set("repo", repo.display().to_string());
        set("dir", dir.display().to_string());
        set("port", free_port()?.to_string());
        set("status_port", free_port()?.to_string());
        set("sink_host", "127.0.0.1".to_owned());
        set("sink_port", sink_port.to_string());
        set("sink", format!("127.0.0.1:{sink_port}"));
        set("cores", options.mta_cores.clone());
        super::key::write(&dir, &mut base)?;
        let values = adapter.values(variant, &base);
        let meter = Meter::new(&format!("ringbench-{}", std::process::id()));
        super::interrupt::remember(&meter.doors());
        let page: SocketAddr = format!("127.0.0.1:{}", free_port()?).parse()?;
        let mut bed = Self {
            adapter,
            values,
            receiver: Receiver::Ours(page),
            dir,
            options: options.clone(),
            meter,
            server: None,
            sink: None,
        };
        bed.start_sink(sink_port, page, sink)?;
        bed.write_files()?;
        bed.start_server()?;
        Ok(bed)
    }

    fn start_sink(&mut self, port: u16, page: SocketAddr, arguments: &[&str]) -> Result<()> {
        let log = File::create(self.dir.join("sink.log"))?;
        let address = format!("127.0.0.1:{port}");
        let mut command = if self.options.smtp_sink {
            self.receiver = Receiver::Theirs(self.dir.join("sink.log"));
            let mut command = self.peer_tool("smtp-sink")?;
            command.args(["-u", "root", "-c", &address, "1000"]);
            command
        } else {
            let mut command = self.launch()?;
            command.arg(std::env::current_exe()?).args(["sink", "-L", &address, "--http", &page.to_string()]);
            command.args(arguments.iter().map(|argument| fill(argument, &self.values)));
            command
        };
        command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null()).process_group(0);
        self.sink = Some(Guarded(command.spawn().context("starting the sink")?));
        wait_for(Duration::from_secs(5), || TcpStream::connect(&address).is_ok()).context("the sink does not listen")
    }

    /// One of Postfix's tools from the unpacked package, pinned like our own.
    fn peer_tool(&self, name: &str) -> Result<Command> {
        let prefix = Path::new("target/peers/postfix");
        let mut command = self.launch()?;
        command.arg(prefix.join("usr/sbin").join(name)).env("LD_LIBRARY_PATH", prefix.join("usr/lib/postfix"));
        Ok(command)
    }

    /// A command that will run on the cores of the load and end with this process; the program is to follow.
    fn launch(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["launch", "--cores", &self.options.load_cores, "--"]);
        Ok(command)
    }

    fn write_files(&self) -> Result<()> {
        for file in &self.adapter.file {
            let path = self.dir.join(&file.path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, fill(&file.text, &self.values)).with_context(|| format!("writing {}", path.display()))?;
        }
        if !self.adapter.prepare.is_empty() {
            let done = self.shell(&self.adapter.prepare).status()?;
            anyhow::ensure!(done.success(), "adapter {}: prepare failed", self.adapter.name);
        }
        Ok(())
    }

    fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(fill(text, &self.values));
        command
    }

    /// Starts the server and waits for its greeting. Returns the seconds that took.
    pub fn start_server(&mut self) -> Result<f64> {
        let began = Instant::now();
        if !self.adapter.start.is_empty() {
            let log = File::options().append(true).create(true).open(self.dir.join("server.log"))?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["launch", "--cores", &self.options.mta_cores]);
            for door in self.meter.doors() {
                command.arg("--join").arg(door);
            }
            command.arg("--").arg("sh").arg("-c").arg(fill(&self.adapter.start, &self.values));
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
            let child = command.spawn().context("starting the server")?;
            self.meter.root(child.id() as i32);
            self.server = Some(Guarded(child));
        }
        let address = self.smtp();
        let greeted = wait_for(Duration::from_secs(120), || greets(&address));
        if greeted.is_err() {
            bail!("the server does not greet on {address}; its words:\n{}", tail(&self.dir.join("server.log")));
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Ends the server; it has half a minute to do it well.
    pub fn stop_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.stop(Duration::from_secs(30));
        }
        self.meter.kill_all();
    }

    /// Where the server listens.
    pub fn smtp(&self) -> String {
        fill(&self.adapter.smtp, &self.values)
    }

    /// What the server says its version is.
    pub fn version(&self) -> String {
        if self.adapter.version.is_empty() {
            return String::new();
        }
        let output = self.shell(&self.adapter.version).output();
        output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Recipients queued, as the adapter's command tells.
    pub fn queued(&self) -> Option<u64> {
        if self.adapter.queued.is_empty() {
            return None;
        }
        let output = self.shell(&self.adapter.queued).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    }

    /// How often the server's log has the words for "all scheduled"; `None` when the adapter names none.
    pub fn scheduled_words(&self) -> Option<usize> {
        if self.adapter.scheduled_words.is_empty() {
            return None;
        }
        let log = fs::read(self.dir.join("server.log")).unwrap_or_default();
        Some(memchr::memmem::find_iter(&log, self.adapter.scheduled_words.as_bytes()).count())
    }

    /// Reads the meter.
    pub fn read(&self) -> Result<Reading> {
        self.meter.read()
    }

    /// Processes of the server.
    pub fn processes(&self) -> Vec<i32> {
        self.meter.processes()
    }

    /// CPU of the sink so far, nanoseconds.
    pub fn sink_cpu_ns(&self) -> u64 {
        let pid = self.sink.as_ref().map_or(0, |sink| sink.0.id());
        let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
    }

    /// Counters of our sink.
    pub fn sink_stats(&self) -> Result<Stats> {
        let Receiver::Ours(page) = &self.receiver else { bail!("smtp-sink tells no counters") };
        Ok(serde_json::from_str(&http_get(page, "/stats.json")?)?)
    }

    /// Messages the sink has taken.
    pub fn sink_messages(&self) -> Result<u64> {
        match &self.receiver {
            Receiver::Ours(_) => Ok(self.sink_stats()?.messages),
            Receiver::Theirs(log) => {
                let text = fs::read_to_string(log).unwrap_or_default();
                let last = text.rsplit("mesg=").next().unwrap_or_default();
                let digits: String = last.chars().take_while(char::is_ascii_digit).collect();
                Ok(digits.parse().unwrap_or(0))
            }
        }
    }

    /// Waits until the sink has taken `count` messages in all; returns false after `patience` without progress.
    pub fn wait_sink(&self, count: u64, patience: Duration) -> Result<bool> {
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let now = self.sink_messages()?;
            if now >= count {
                return Ok(true);
            }
            if now > last {
                (last, moved) = (now, Instant::now());
            } else if moved.elapsed() > patience {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts our injector with these arguments; it writes its report to a file named after `label`.
    pub fn start_inject(&self, label: &str, arguments: &[&str]) -> Result<Injection> {
        let json = self.dir.join(format!("inject-{label}.json"));
        let _ = fs::remove_file(&json);
        let mut command = self.launch()?;
        command.arg(std::env::current_exe()?).args(["inject", "--to", &self.smtp(), "--json"]).arg(&json);
        command.args(arguments).stdin(Stdio::null()).process_group(0);
        let log = File::create(self.dir.join(format!("inject-{label}.log")))?;
        command.stdout(log.try_clone()?).stderr(log);
        Ok(Injection { child: Guarded(command.spawn().context("starting the injector")?), json })
    }

    /// Runs our injector to its end.
    pub fn inject(&self, label: &str, arguments: &[&str]) -> Result<Report> {
        self.start_inject(label, arguments)?.wait()
    }

    /// Runs Postfix's smtp-source: 50 kept connections, unique recipients. Returns seconds.
    pub fn smtp_source(&self, messages: u64, size: usize) -> Result<f64> {
        let mut command = self.peer_tool("smtp-source")?;
        command.args(["-s", "50", "-d", "-N", "-l", &size.to_string(), "-m", &messages.to_string()]);
        command.args(["-f", "sender@bench.test", "-t", "u@example.test", &self.smtp()]);
        let began = Instant::now();
        let output =
            command.stdin(Stdio::null()).output().context("smtp-source; bench/adapters/fetch-postfix.sh gets it")?;
        anyhow::ensure!(output.status.success(), "smtp-source: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(began.elapsed().as_secs_f64())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop_server();
        if !self.options.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// An injector at work.
#[derive(Debug)]
pub struct Injection {
    child: Guarded,
    json: PathBuf,
}

impl Injection {
    /// Waits for its end and reads its report.
    pub fn wait(mut self) -> Result<Report> {
        self.child.0.wait()?;
        self.report()
    }

    fn report(&self) -> Result<Report> {
        let text = fs::read_to_string(&self.json).context("the injector left no report")?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// Asks until true; an error after `patience`.
pub fn wait_for(patience: Duration, mut ask: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + patience;
    while !ask() {
        if Instant::now() > end {
            bail!("nothing within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn greets(address: &str) -> bool {
    let Some(address) = address.to_socket_addrs().ok().and_then(|mut all| all.next()) else { return false };
    let Ok(mut socket) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) else { return false };
    let _ = socket.set_read_timeout(Some(Duration::from_secs(2)));
    let mut greeting = [0u8; 3];
    let good = socket.read_exact(&mut greeting).is_ok() && &greeting == b"220";
    let _ = socket.write_all(b"QUIT\r\n");
    good
}

fn http_get(page: &SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(page)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(socket, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer from the sink's page")?;
    Ok(body.to_owned())
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let from = text.len().saturating_sub(2000);
    text.get(from..).unwrap_or(&text).to_owned()
}
