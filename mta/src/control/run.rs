//! `ringpost run`: the first minute. A configuration where there is none, a server, a receiver beside it, one message
//! through, and what to do next, to be pasted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::sys::signal::Signal;

use super::init::{self, Made, Ports, LAB_DOMAIN, LAB_SELECTOR};
use super::{durable, serve, start};
use crate::config;
use crate::message::key;
use crate::smtp::sasl::{ScramVerifier, Verifier};

/// Writes a first configuration.
pub fn init(dir: &Path) -> Result<()> {
    let path = dir.join("ringpost.toml");
    match init::write_config(dir, Ports::default()).with_context(|| format!("writing {}", path.display()))? {
        Made::New => {
            println!("wrote {}; look through it, then: ringpost mta --config {}", path.display(), path.display())
        }
        Made::Found => println!("{} is there already; nothing was changed", path.display()),
    }
    Ok(())
}

/// Reads a password from standard input and prints a verifier.
pub fn hash_password(kind: &str) -> Result<()> {
    eprint!("password: ");
    let mut password = String::new();
    std::io::stdin().lock().read_line(&mut password).context("reading the password")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("the password is empty");
    }
    let verifier = match kind {
        "scram" => {
            let salt: [u8; 16] = rand::random();
            let scram = ScramVerifier::derive(password, &salt, 10_000);
            Verifier::Scram(scram.context("this password has characters that SASL does not allow (RFC 4013)")?)
        }
        "argon2id" => Verifier::argon2(password, &rand::random::<[u8; 16]>()).context("hashing")?,
        other => bail!("--kind {other}: scram or argon2id"),
    };
    println!("{verifier}");
    Ok(())
}

/// Makes a signing key and prints its record. An existing file is never overwritten: its record may be published.
pub fn dkim_key(out: &Path, domain: &str, selector: &str, kind: &str) -> Result<()> {
    if out.exists() {
        bail!("{} exists; its record may be published, so it is not overwritten", out.display());
    }
    let made = match kind {
        "rsa" => key::generate_rsa()?,
        "ed25519" => key::generate_ed25519()?,
        other => bail!("--kind {other}: rsa or ed25519"),
    };
    // Reading it back checks the names, before anything is written.
    key::DkimKey::from_pem(domain, selector, &made.pem)?;
    durable::write(out, made.pem.as_bytes(), 0o600).with_context(|| format!("writing {}", out.display()))?;
    println!("{selector}._domainkey.{domain}. TXT \"{}\"", made.record);
    Ok(())
}

/// The receiving server beside us; it ends with us.
struct Sink(Child);

impl Drop for Sink {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs everything until Ctrl-C.
pub fn run(dir: &Path, sink: Option<&Path>) -> Result<()> {
    let ports = Ports::default();
    let made = init::write_config(dir, ports).with_context(|| format!("writing into {}", dir.display()))?;
    let path = dir.join("ringpost.toml");
    let mut config = config::load(&path)?;
    let signals = serve::block_signals()?;
    let running = start::start(&config)?;
    // After us: the signing key, made at the first start, is what it verifies with.
    let sink = sink.map(|binary| start_sink(binary, dir, ports)).transpose()?;
    println!("Ringpost {} is running.\n", env!("CARGO_PKG_VERSION"));
    match made {
        Made::New => println!("  configuration   {} (new)", path.display()),
        Made::Found => println!("  configuration   {} (found, with its state)", path.display()),
    }
    for line in &running.listening {
        println!("  listens on      {line}");
    }
    for remark in &running.remarks {
        println!("  note            {remark}");
    }
    let status = running.spool.status();
    if status.messages > 0 {
        println!("  found on disk   {} messages, being scheduled", status.messages);
    }
    if sink.is_some() {
        println!(
            "  receiver        127.0.0.1:{} for *.test; its page: http://127.0.0.1:{}/",
            ports.sink, ports.sink_page
        );
    }
    let first = first_message(ports.relay).context("sending a first message through")?;
    println!("\nA first message was accepted: {first}");
    if sink.is_some() {
        let seen = wait_for_arrival(ports.sink_page, Duration::from_secs(15));
        println!(
            "{}",
            if seen {
                "It arrived at the receiver; look at its page."
            } else {
                "It has not arrived yet; see the receiver's page."
            }
        );
    }
    hints(ports);
    while signals.wait().context("waiting for a signal")? == Signal::SIGHUP {
        match config::load(&path) {
            Ok(new) => {
                if running.reload(&config, &new) {
                    config = new;
                }
            }
            Err(error) => println!("the configuration is refused, nothing changed: {error}"),
        }
    }
    println!("\nStopping: transactions under way end first.");
    running.stop();
    drop(sink);
    Ok(())
}

fn start_sink(binary: &Path, dir: &Path, ports: Ports) -> Result<Sink> {
    let record = dir.join(format!("dkim/{LAB_DOMAIN}.{LAB_SELECTOR}.dns.txt"));
    let child = Command::new(binary)
        .arg("sink")
        .args(["--listen", &format!("127.0.0.1:{}", ports.sink)])
        .args(["--http", &format!("127.0.0.1:{}", ports.sink_page)])
        .arg("--dkim-keys")
        .arg(&record)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}; build it with `make build`", binary.display()))?;
    let sink = Sink(child);
    let until = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(("127.0.0.1", ports.sink)).is_err() {
        if Instant::now() > until {
            bail!("the receiver did not start listening on 127.0.0.1:{}; is that port taken?", ports.sink);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(sink)
}

/// Sends one message as any client would.
fn first_message(port: u16) -> Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("connecting to 127.0.0.1:{port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut say = |text: &str, expect: &str| -> Result<String> {
        if !text.is_empty() {
            stream.write_all(text.as_bytes())?;
        }
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                bail!("the server closed the connection");
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                break;
            }
        }
        if !line.starts_with(expect) {
            bail!("the server answered {}", line.trim_end());
        }
        Ok(line.trim_end().to_owned())
    };
    say("", "220")?;
    say("EHLO localhost\r\n", "250")?;
    say(&format!("MAIL FROM:<hello@{LAB_DOMAIN}>\r\n"), "250")?;
    say("RCPT TO:<you@inbox.test>\r\n", "250")?;
    say("DATA\r\n", "354")?;
    let text = format!(
        "From: Ringpost <hello@{LAB_DOMAIN}>\r\nTo: <you@inbox.test>\r\nSubject: The first message\r\n\r\n\
         This message was accepted, made durable, signed and delivered.\r\n.\r\n"
    );
    let accepted = say(&text, "250")?;
    say("QUIT\r\n", "221")?;
    Ok(accepted)
}

/// Asks the receiver's page until it counts a message.
fn wait_for_arrival(port: u16, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if arrived(port).unwrap_or(0) > 0 {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

fn arrived(port: u16) -> Result<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /stats.json HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(body)?;
    Ok(value.get("messages").and_then(serde_json::Value::as_u64).unwrap_or(0))
}

fn hints(ports: Ports) {
    let (relay, from) = (ports.relay, format!("hello@{LAB_DOMAIN}"));
    println!(
        "\nSend another (any of these):\n\n\
         \x20 swaks --server 127.0.0.1:{relay} --from {from} --to you@inbox.test\n\n\
         \x20 printf 'From: {from}\\r\\nTo: you@inbox.test\\r\\nSubject: hi\\r\\n\\r\\nhello\\r\\n' | curl -s -T - \\\n\
         \x20   --url smtp://127.0.0.1:{relay} --mail-from {from} --mail-rcpt you@inbox.test\n\n\
         \x20 python3 -c \"import smtplib; smtplib.SMTP('127.0.0.1', {relay}).sendmail('{from}', ['you@inbox.test'], \
         'From: {from}\\r\\nTo: you@inbox.test\\r\\nSubject: hi\\r\\n\\r\\nhello')\"\n\n\
         Ctrl-C stops it cleanly; the next start finds its state."
    );
}
