//! Real clients, each the way it may come in; what they send is looked at behind Ringpost.

use std::process::Command;

use anyhow::{ensure, Context, Result};

use super::letters::{arrived, exact, letters, Keeps, Letter};
use super::place::{finish, Place};
use super::ringpost::{Ringpost, PASSWORD, USER};
use super::servers::Server;
use super::{verdict, Options, Row, Tls, Verdict};

const FROM: &str = "hello@sender.test";

/// Every client, every way; the receiver is the one on the Python standard library.
pub(super) fn play(
    place: &Place,
    options: &Options,
    ringpost: &Ringpost,
    servers: &[Server],
    tell: &mut dyn FnMut(Row),
) {
    let Some(receiver) = servers.iter().find(|server| server.name == "python" && server.tls == Tls::Clear) else {
        let verdict = Verdict::Failed("the receiver is not running".to_owned());
        tell(Row { pair: "clients -> ringpost".to_owned(), tls: Tls::Clear, verdict });
        return;
    };
    for tls in Tls::ALL {
        for (name, send) in [("swaks", swaks as Send), ("smtplib", smtplib as Send)] {
            let pair = format!("{name} -> ringpost");
            if options.wants(&pair) {
                let result = each_letter(place, ringpost, receiver, name, tls, send);
                tell(Row { pair, tls, verdict: verdict(result) });
            }
        }
    }
    let pair = "smtp-source -> ringpost".to_owned();
    if options.wants(&pair) {
        let verdict = match super::servers::postfix_package(place) {
            Ok(_) => verdict(smtp_source(place, ringpost, receiver)),
            Err(error) => Verdict::Missing(format!("{error:#}")),
        };
        tell(Row { pair, tls: Tls::Clear, verdict });
    }
}

type Send = fn(&Place, &Ringpost, Tls, &Letter, &str) -> Result<()>;

fn each_letter(
    place: &Place,
    ringpost: &Ringpost,
    receiver: &Server,
    client: &str,
    tls: Tls,
    send: Send,
) -> Result<String> {
    let to = format!("{client}@{}", receiver.domain);
    let all = letters(&format!("{client}.{}", tls.word()));
    for letter in &all {
        send(place, ringpost, tls, letter, &to).with_context(|| letter.name)?;
        let got = arrived(&receiver.folder, &letter.id, receiver.keeps)
            .with_context(|| format!("{}; ringpost: {}", letter.name, ringpost.said()))?;
        exact(&letter.bytes, &got, true).with_context(|| letter.name)?;
        let with = format!("with {}", keyword(tls));
        ensure!(String::from_utf8_lossy(&got).contains(&with), "{}: Received does not say {with:?}", letter.name);
    }
    Ok(format!("{} messages", all.len()))
}

/// RFC 3848.
fn keyword(tls: Tls) -> &'static str {
    match tls {
        Tls::Clear => "ESMTP",
        _ => "ESMTPSA",
    }
}

fn file(place: &Place, letter: &Letter) -> Result<String> {
    let path = place.path(&format!("{}.eml", letter.id));
    std::fs::write(&path, &letter.bytes)?;
    Ok(path.display().to_string())
}

fn swaks(place: &Place, ringpost: &Ringpost, tls: Tls, letter: &Letter, to: &str) -> Result<()> {
    let mut command = Command::new("swaks");
    let server = format!("127.0.0.1:{}", ringpost.port(tls));
    command.args(["--server", &server, "--ehlo", "client.test", "--from", FROM, "--to", to, "--hide-all"]);
    // swaks takes lines as the file has them and ends them with CRLF itself.
    let path = place.path(&format!("{}.lines", letter.id));
    std::fs::write(&path, String::from_utf8_lossy(&letter.bytes).replace("\r\n", "\n").trim_end_matches('\n'))?;
    command.arg("--data").arg(format!("@{}", path.display()));
    match tls {
        Tls::Clear => {}
        Tls::Starttls => drop(command.args(["--tls", "--auth", "PLAIN"])),
        Tls::Implicit => drop(command.args(["--tls-on-connect", "--auth", "LOGIN"])),
    }
    if tls != Tls::Clear {
        command.args(["--auth-user", USER, "--auth-password", PASSWORD]);
    }
    finish(command, "swaks").map(drop)
}

fn smtplib(place: &Place, ringpost: &Ringpost, tls: Tls, letter: &Letter, to: &str) -> Result<()> {
    let (user, password) = if tls == Tls::Clear { ("", "") } else { (USER, PASSWORD) };
    let mut command = Command::new("python3");
    command.arg(place.path("smtplib_client.py")).arg(ringpost.port(tls).to_string());
    command.args([tls.word(), user, password, FROM, to, &file(place, letter)?]);
    finish(command, "smtplib").map(drop)
}

/// Feeds one letter in by smtplib, in clear: for the pairs where the receiver is what matters.
pub(super) fn feed(place: &Place, ringpost: &Ringpost, letter: &Letter, to: &str) -> Result<()> {
    smtplib(place, ringpost, Tls::Clear, letter, to)
}

/// It makes its own messages: the body is compared with one that it sent straight to the receiver.
fn smtp_source(place: &Place, ringpost: &Ringpost, receiver: &Server) -> Result<String> {
    const COUNT: usize = 40;
    let package = super::servers::postfix_package(place)?;
    let run = |port: u16, count: usize, to: &str| {
        let mut command = Command::new(package.join("usr/sbin/smtp-source"));
        command.env("LD_LIBRARY_PATH", package.join("usr/lib/postfix"));
        command.args(["-c", "-s", "4", "-l", "5000", "-m", &count.to_string(), "-f", FROM, "-t", to]);
        command.args(["-M", "client.test"]).arg(format!("inet:127.0.0.1:{port}"));
        finish(command, "smtp-source")
    };
    let straight = format!("straight@{}", receiver.domain);
    let through = format!("through@{}", receiver.domain);
    run(receiver.port, 1, &straight)?;
    run(ringpost.relay, COUNT, &through)?;
    let wanted = sent_to(receiver, &straight, 1)?;
    let got = sent_to(receiver, &through, COUNT)?;
    let body = |bytes: &[u8]| bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| bytes[at..].to_vec());
    let first = wanted.first().and_then(|bytes| body(bytes)).context("smtp-source sent nothing")?;
    for bytes in &got {
        ensure!(body(bytes).as_ref() == Some(&first), "the body differs from the one sent straight");
    }
    Ok(format!("{COUNT} messages, 4 sessions"))
}

/// What the receiver keeps for a recipient, when it is all there.
fn sent_to(receiver: &Server, to: &str, count: usize) -> Result<Vec<Vec<u8>>> {
    ensure!(receiver.keeps == Keeps::Wire, "only the receiver of our own keeps envelopes");
    for _ in 0..600 {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&receiver.folder)?.flatten() {
            let path = entry.path();
            let envelope = path.with_extension("env");
            if path.extension().is_some_and(|extension| extension == "eml")
                && std::fs::read_to_string(envelope).is_ok_and(|text| text.contains(&format!("<{to}>")))
            {
                found.push(std::fs::read(path)?);
            }
        }
        if found.len() >= count {
            ensure!(found.len() == count, "{} messages for {to}, {count} were sent", found.len());
            return Ok(found);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    anyhow::bail!("not all {count} messages for {to} arrived within 30 s")
}
