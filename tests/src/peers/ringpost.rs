//! The server under test: a listener for each way in, a route for each receiver.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::place::{finish, free_port, Place, Process};
use super::servers::Server;
use super::{Options, Tls};

pub(super) const USER: &str = "app";
pub(super) const PASSWORD: &str = "correct horse";

pub(super) struct Ringpost {
    /// No AUTH, no TLS, for this machine.
    pub relay: u16,
    /// STARTTLS and AUTH.
    pub submission: u16,
    /// TLS from the first byte, and AUTH.
    pub submissions: u16,
    /// Names and records of the signing key, for a verifier.
    pub records: PathBuf,
    process: Process,
}

impl Ringpost {
    pub(super) fn start(place: &Place, options: &Options, servers: &[Server]) -> Result<Self> {
        let (relay, submission, submissions) = (free_port()?, free_port()?, free_port()?);
        let verifier = verifier(place, options)?;
        place.folder("ringpost")?;
        let mut config = format!(
            r#"[server]
hostname = "mta.sender.test"
lab = true
[spool]
dir = "{dir}/spool"
segment_mib = 16
reserve_mib = 16
reserve_percent = 0
[events]
dir = "{dir}/events"
[tls]
certificate = "{dir}/tls/cert.pem"
key = "{dir}/tls/key.pem"
memory = "{dir}/tls/hosts.txt"
[control]
listen = ""
[[listener]]
address = "127.0.0.1:{relay}"
role = "relay"
[[listener]]
address = "127.0.0.1:{submission}"
role = "submission"
[[listener]]
address = "127.0.0.1:{submissions}"
role = "submissions"
[[domain]]
name = "sender.test"
[[credential]]
name = "{USER}"
verifier = "{verifier}"
trusted_networks = ["127.0.0.0/8"]
from_domains = ["sender.test"]
[[source]]
name = "loopback"
address = "127.0.0.1"
ehlo = "mta.sender.test"
[[pool]]
name = "default"
sources = ["loopback"]
[[dkim]]
domain = "sender.test"
selector = "lab"
key = "{dir}/dkim.pem"
"#,
            dir = place.text("ringpost"),
        );
        for server in servers {
            let tls = match server.tls {
                Tls::Clear => "none",
                Tls::Starttls => "required",
                Tls::Implicit => "implicit",
            };
            let ca = if server.tls == Tls::Clear { String::new() } else { place.text("cert.pem") };
            let (domain, port) = (&server.domain, server.port);
            config.push_str(&format!(
                "[[route]]\ndomain = \"{domain}\"\nto = [\"127.0.0.1:{port}\"]\nlab = true\n\
                 tls = \"{tls}\"\ntls_ca = \"{ca}\"\n"
            ));
        }
        let path = place.write("ringpost/ringpost.toml", &config)?;
        let mut command = Command::new(&options.ringpost);
        command.arg("mta").arg("--config").arg(path);
        let process = place.start("ringpost", command, relay)?;
        Ok(Self { relay, submission, submissions, records: place.path("ringpost/dkim.dns.txt"), process })
    }

    /// Where a client comes in this way.
    pub(super) fn port(&self, tls: Tls) -> u16 {
        match tls {
            Tls::Clear => self.relay,
            Tls::Starttls => self.submission,
            Tls::Implicit => self.submissions,
        }
    }

    pub(super) fn said(&self) -> String {
        self.process.said()
    }
}

/// As an operator would make it.
fn verifier(place: &Place, options: &Options) -> Result<String> {
    let password = place.write("password", PASSWORD)?;
    let command = format!("{} hash-password < {}", options.ringpost.display(), password.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]);
    let said = finish(shell, "ringpost hash-password")?;
    let line = said.lines().find_map(|line| line.find("SCRAM-SHA-256$").map(|at| line[at..].to_owned()));
    line.context("ringpost hash-password printed no verifier")
}
