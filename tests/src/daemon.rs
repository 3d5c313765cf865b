//! The real binary, started by a test: its configuration, its start, its end, its event log.
//!
//! [`Setup`] is a directory with a configuration and outlives any number of [`Daemon`]s, so that a test may kill one
//! and start the next on the same spool.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mta::record::{Cursor, EventReader};
use mta::smtp::sasl::{ScramVerifier, Verifier};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::Value;
use toml::Table;

use crate::client::Client;
use crate::place::{self, TempDir};
use crate::receiver::Receiver;
use crate::wait_for;

/// Password of the credential `app`.
pub const PASSWORD: &str = "correct horse";

/// Roles of the ports of a [`Setup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // as in the configuration
pub enum Port {
    Relay = 2525,
    Submission = 2587,
    Submissions = 2465,
    Mx = 2526,
}

/// All ports.
pub const PORTS: [Port; 4] = [Port::Relay, Port::Submission, Port::Submissions, Port::Mx];

/// Where a binary of the workspace is: beside the one that runs, or above its `deps`.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("RINGPOST_BIN_DIR") {
        return Path::new(&dir).join(name);
    }
    let own = std::env::current_exe().expect("a process knows its binary");
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.unwrap_or_else(|| panic!("there is no {name} beside {}: build the binaries first", own.display()))
}

/// A directory, an address and a configuration.
pub struct Setup {
    dir: TempDir,
    shm: TempDir,
    address: Ipv4Addr,
    table: Table,
    wrapper: Vec<String>,
}

/// A verifier for [`PASSWORD`], for further credentials.
#[must_use]
pub fn verifier() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let scram = ScramVerifier::derive(PASSWORD, b"0123456789abcdef", 4096).expect("an ASCII password");
        Verifier::Scram(scram).to_string()
    })
}

impl Setup {
    /// A lab on loopback, on one driver (`io_uring` or `epoll`): no route yet, retries after a second.
    #[must_use]
    pub fn new(driver: &str) -> Self {
        let dir = TempDir::under(&std::env::temp_dir()).expect("a directory for a test");
        let shm = TempDir::under(Path::new("/dev/shm")).expect("a directory on tmpfs");
        let address = place::address();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let core = usize::from(address.octets()[3]) % cores;
        let text = include_str!("daemon.toml")
            .replace("@dir@", &dir.path().display().to_string())
            .replace("@shm@", &shm.path().display().to_string())
            .replace("@address@", &address.to_string())
            .replace("@verifier@", verifier())
            .replace("@driver@", driver)
            .replace("@core@", &core.to_string());
        let table = text.parse().expect("our own configuration");
        Self { dir, shm, address, table, wrapper: Vec::new() }
    }

    /// With every domain routed to a receiver, without limits.
    #[must_use]
    pub fn to(driver: &str, receiver: &Receiver) -> Self {
        Self::new(driver).route("*", &[receiver.address()])
    }

    /// Lays TOML over the configuration: tables are merged, lists get longer, everything else is replaced.
    #[must_use]
    pub fn with(mut self, text: &str) -> Self {
        self.change(text);
        self
    }

    /// As [`Setup::with`], between two starts or before a reload.
    pub fn change(&mut self, text: &str) {
        let text = text.replace("@dir@", &self.dir.path().display().to_string());
        merge(&mut self.table, text.parse().unwrap_or_else(|error| panic!("{error}: {text}")));
    }

    /// Takes a table or list out of the configuration.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.table.remove(name);
        self
    }

    /// A lab route.
    #[must_use]
    pub fn route(self, domain: &str, to: &[SocketAddr]) -> Self {
        let to: Vec<String> = to.iter().map(ToString::to_string).collect();
        self.with(&format!("[[route]]\ndomain = \"{domain}\"\nto = {to:?}\nlab = true\n"))
    }

    /// Runs the binary under another program, like `sh -c ...`.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where its ack rings are.
    #[must_use]
    pub fn shm(&self) -> &Path {
        self.shm.path()
    }

    /// Where its listener of a role is.
    #[must_use]
    pub fn address(&self, port: Port) -> SocketAddr {
        SocketAddr::from((self.address, port as u16))
    }

    /// The configuration file, written.
    pub fn write(&self) -> PathBuf {
        let path = self.dir().join("ringpost.toml");
        std::fs::write(&path, toml::to_string(&self.table).expect("a table is TOML")).expect("writing a file");
        path
    }

    fn command(&self) -> Command {
        let binary = binary("ringpost");
        let mut command = match self.wrapper.split_first() {
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command.args(["mta", "--config"]).arg(self.write()).stdin(Stdio::null());
        command
    }

    /// Runs the binary where it is expected to refuse; gives what it said.
    #[must_use]
    pub fn refused(&self) -> Output {
        let mut child = self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let until = Instant::now() + Duration::from_secs(20);
        while child.try_wait().expect("a child can be waited for").is_none() {
            if Instant::now() > until {
                // It is about to be reported anyway.
                let _ = child.kill();
                panic!("ringpost started although it must refuse");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.wait_with_output().expect("a child that ended has its output")
    }

    /// Starts the binary and waits until it accepts connections.
    #[track_caller]
    #[must_use]
    pub fn start(&self) -> Daemon {
        self.launch().ready()
    }

    /// Starts the binary and does not wait.
    #[must_use]
    pub fn launch(&self) -> Daemon {
        let log = self.dir().join("log");
        let out = File::options().create(true).append(true).open(&log).expect("a log file");
        let err = out.try_clone().expect("a second handle");
        let child = self.command().stdout(out).stderr(err).spawn().expect("the binary runs; build it first");
        // They are opened in order: when the last one accepts, all do.
        let listener = self.table.get("listener").and_then(|l| l.as_array()?.last()?.get("address"));
        let probe = listener.and_then(|a| a.as_str()).and_then(|a| a.parse().ok());
        Daemon { child, log, address: self.address, probe, events: self.dir().join("events") }
    }

    /// Every event on disk.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        read_events(&self.dir().join("events"))
    }

    /// Everything it logged, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }
}

fn read_events(dir: &Path) -> Vec<Value> {
    let mut reader = EventReader::new(dir, Cursor::default());
    let mut events = Vec::new();
    while let Ok(Some(record)) = reader.next_record() {
        events.push(serde_json::from_slice(&record.line).expect("an event is JSON"));
    }
    events
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            // Lists of tables grow; a list of plain values is one setting.
            (Some(toml::Value::Array(old)), toml::Value::Array(new)) if new.iter().any(toml::Value::is_table) => {
                old.extend(new);
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A running server; dropped, it is killed.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    address: Ipv4Addr,
    probe: Option<SocketAddr>,
    events: PathBuf,
}

impl Daemon {
    /// Waits until the last listener accepts.
    #[track_caller]
    #[must_use]
    pub fn ready(mut self) -> Self {
        let probe = self.probe.expect("a listener to wait for");
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(probe).is_err() {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("ringpost ended at once, {status}:\n{}", self.tail());
            }
            assert!(Instant::now() < until, "ringpost does not listen:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }

    /// Where its listener of a role is.
    #[must_use]
    pub fn at(&self, port: Port) -> SocketAddr {
        SocketAddr::from((self.address, port as u16))
    }

    /// A client at the relay port, which trusts this machine.
    #[track_caller]
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.at(Port::Relay))
    }

    /// A client at the submission port, under TLS and logged in as `app`.
    #[track_caller]
    #[must_use]
    pub fn logged_in(&self) -> Client {
        let mut client = Client::connect_starttls(self.at(Port::Submission));
        client.auth_plain("app", PASSWORD).expect(235);
        client
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Every event on disk.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        read_events(&self.events)
    }

    /// Waits for an event.
    #[track_caller]
    pub fn wait_event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(Duration::from_secs(20), what, || self.events().into_iter().find(&wanted))
    }

    /// Waits for an event of this type about a message.
    #[track_caller]
    pub fn wait_for_type(&self, kind: &str, id: &str) -> Value {
        self.wait_event(&format!("{kind} of {id}"), |event| event["type"] == kind && event["id"] == id)
    }

    /// Waits until it logged this.
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        wait_for(Duration::from_secs(20), &format!("`{text}` in the log"), || {
            std::fs::read_to_string(&self.log).unwrap_or_default().contains(text).then_some(())
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process number");
        kill(Pid::from_raw(pid), signal).expect("our own child takes a signal");
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let until = Instant::now() + Duration::from_secs(40);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < until, "ringpost does not stop:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// kill -9, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of {}:\n{}\n---", self.log.display(), self.tail());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
