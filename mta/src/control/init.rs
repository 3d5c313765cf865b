//! `ringpost init`: a directory with a commented configuration, ready for a first start on loopback.

use std::io;
use std::path::Path;

use super::durable;

/// What `init` found or made.
#[derive(Debug, PartialEq, Eq)]
pub enum Made {
    /// The directory had a configuration already; nothing was touched.
    Found,
    /// A new configuration was written.
    New,
}

/// Ports of the first configuration: unprivileged, on loopback.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Submission without TLS from loopback.
    pub relay: u16,
    /// Submission with STARTTLS.
    pub submission: u16,
    /// Submission with TLS from the start.
    pub submissions: u16,
    /// Reports and mail to the operator.
    pub mx: u16,
    /// Status page.
    pub status: u16,
    /// The receiving server of the lab.
    pub sink: u16,
    /// Its page.
    pub sink_page: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { relay: 2525, submission: 2587, submissions: 2465, mx: 2526, status: 8025, sink: 2626, sink_page: 8026 }
    }
}

/// Name and selector of the DKIM key of the first configuration.
pub const LAB_DOMAIN: &str = "sender.test";
/// See [`LAB_DOMAIN`].
pub const LAB_SELECTOR: &str = "lab";

/// Writes `ringpost.toml` into `dir` unless there is one.
pub fn write_config(dir: &Path, ports: Ports) -> io::Result<Made> {
    let path = dir.join("ringpost.toml");
    if path.exists() {
        return Ok(Made::Found);
    }
    durable::write(&path, text(dir, ports).as_bytes(), 0o644)?;
    Ok(Made::New)
}

fn text(dir: &Path, ports: Ports) -> String {
    let dir = dir.display();
    format!(
        r#"# Ringpost, first configuration: everything on loopback, mail for *.test to a receiver beside it.
# Every setting left out has its default. A wrong one is refused at start, with its line and what would be right.

[server]
hostname = "mta.sender.test"         # greeting, Received, reports
operator = "operator@inbox.test"     # gets the mail to postmaster@ and abuse@ of our domains
lab = true                           # lab: names of sources are believed, lab routes are allowed. Off on the internet!

[spool]
dir = "{dir}/spool"                  # on its own disk, where there is one
segment_mib = 16

[events]
dir = "{dir}/events"

[tls]
certificate = "{dir}/tls/cert.pem"   # made at first start when absent
key = "{dir}/tls/key.pem"
memory = "{dir}/tls/hosts.txt"

[control]
listen = "127.0.0.1:{status}"        # status page, loopback only

# Ports. On a server: 0.0.0.0:25 mx, 587 submission, 465 submissions.
[[listener]]
address = "127.0.0.1:{relay}"
role = "relay"

[[listener]]
address = "127.0.0.1:{submission}"
role = "submission"

[[listener]]
address = "127.0.0.1:{submissions}"
role = "submissions"

[[listener]]
address = "127.0.0.1:{mx}"
role = "mx"

[[domain]]
name = "{LAB_DOMAIN}"

# Who may send. This one needs no password, because it must come from this machine.
[[credential]]
name = "local"
trusted_networks = ["127.0.0.0/8", "::1"]
from_domains = ["{LAB_DOMAIN}"]
streams = ["transactional", "otp", "news"]

# With a password: put what `ringpost hash-password` prints into verifier.
# [[credential]]
# name = "app"
# verifier = "SCRAM-SHA-256$..."
# from_domains = ["{LAB_DOMAIN}"]

[[stream]]
name = "otp"                         # one-time passwords: first in line, useless after ten minutes
class = "critical"
ttl_s = 600

[[stream]]
name = "transactional"
class = "transactional"

[[stream]]
name = "news"
class = "bulk"

# Addresses mail leaves from. On the internet the name is the address's confirmed PTR record, not a setting.
[[source]]
name = "loopback"
address = "127.0.0.1"
ehlo = "mta.sender.test"

[[pool]]
name = "default"
sources = ["loopback"]

# Mail for *.test goes to the receiver beside us; without limits, because it is a lab.
[[route]]
domain = "*.test"
to = ["127.0.0.1:{sink}"]
lab = true

[[dkim]]
domain = "{LAB_DOMAIN}"
selector = "{LAB_SELECTOR}"
key = "{dir}/dkim/{LAB_DOMAIN}.{LAB_SELECTOR}.pem"
"#,
        status = ports.status,
        relay = ports.relay,
        submission = ports.submission,
        submissions = ports.submissions,
        mx = ports.mx,
        sink = ports.sink,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_is_valid() {
        let config = crate::config::parse(&text(Path::new("var"), Ports::default()), "ringpost.toml");
        let config = config.expect("the text we ship");
        assert_eq!(config.listeners.len(), 4);
        assert_eq!(config.routes[0].to, vec![("127.0.0.1".to_owned(), 2626)]);
    }
}
