//! Moves bytes between one socket and its session, and settles each message that is complete.

use super::dkim::Signed;
use super::recent::Arrived;
use super::rules::{Mode, Stage};
use super::session::{domain, obey, refuse, reply, Session, Step};
use super::world::World;
use crate::limits::SINK_READ_BUFFER;
use crate::message::{check, find_id, Content};
use crate::stream::Stream;
use anyhow::Result;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Accepts connections for ever.
pub async fn accept(listener: TcpListener, world: Rc<World>) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                tokio::task::spawn_local(serve(socket, peer, world.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: let some sessions end.
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, peer: SocketAddr, world: Rc<World>) {
    let number = {
        let mut stats = world.stats.borrow_mut();
        stats.connections += 1;
        stats.open += 1;
        stats.open_max = stats.open_max.max(stats.open);
        *world.open_by_peer.borrow_mut().entry(peer.ip()).or_default() += 1;
        stats.connections
    };
    // How a peer leaves is its own affair.
    let _ = converse(socket, peer, number, &world).await;
    world.stats.borrow_mut().open -= 1;
    let mut open = world.open_by_peer.borrow_mut();
    match open.get_mut(&peer.ip()) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            open.remove(&peer.ip());
        }
    }
}

async fn converse(socket: TcpStream, peer: SocketAddr, number: u64, world: &World) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut session = Session::new(peer, number);
    let mut stream = Stream::Plain(socket);
    if world.options.tls {
        stream = encrypt(stream, &mut session, world).await?;
    }
    let mut out = Vec::with_capacity(1024);
    let greeted = session.greet(&mut out, world, Instant::now());
    send(&mut stream, &mut out, world, true).await?;
    if greeted == Step::Close {
        return Ok(());
    }
    let mut buffer = vec![0u8; SINK_READ_BUFFER];
    let (mut start, mut end) = (0, 0);
    let clocked = world.has_ledger() || world.recent.borrow().wanted();
    loop {
        if start > 0 {
            buffer.copy_within(start..end, 0);
            end -= start;
            start = 0;
        }
        let read = stream.read(buffer.get_mut(end..).unwrap_or_default()).await?;
        if read == 0 {
            return Ok(());
        }
        end += read;
        let now = Instant::now();
        let us = if clocked { crate::clock::wall_us() } else { 0 };
        loop {
            let input = buffer.get(start..end).unwrap_or_default();
            let (used, step) = session.feed(input, &mut out, world, now, us);
            start += used;
            let step = match step {
                Step::Message => settle(&mut session, &mut out, world, now).await,
                step => step,
            };
            match step {
                Step::Message => {}
                Step::NeedMore => break,
                Step::Wait(delay) => {
                    tokio::time::sleep(delay).await;
                }
                Step::StartTls => {
                    send(&mut stream, &mut out, world, false).await?;
                    stream = encrypt(stream, &mut session, world).await?;
                    (start, end) = (0, 0);
                    break;
                }
                Step::Close => {
                    send(&mut stream, &mut out, world, false).await?;
                    let _ = stream.shutdown().await;
                    return Ok(());
                }
            }
        }
        send(&mut stream, &mut out, world, false).await?;
    }
}

async fn send(stream: &mut Stream, out: &mut Vec<u8>, world: &World, greeting: bool) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let delay = Duration::from_millis(world.options.delay);
    match world.mode {
        Mode::Slow => tokio::time::sleep(delay).await,
        Mode::Tarpit if greeting => {
            for byte in out.iter() {
                stream.write_both(std::slice::from_ref(byte), b"").await?;
                tokio::time::sleep(delay).await;
            }
            out.clear();
            return Ok(());
        }
        Mode::Tarpit => tokio::time::sleep(delay).await,
        _ => {}
    }
    stream.write_both(out, b"").await?;
    out.clear();
    Ok(())
}

async fn encrypt(stream: Stream, session: &mut Session, world: &World) -> Result<Stream> {
    let (Stream::Plain(socket), Some(config)) = (stream, world.tls.clone()) else {
        anyhow::bail!("already encrypted");
    };
    match tokio_rustls::TlsAcceptor::from(config).accept(socket).await {
        Ok(stream) => {
            world.stats.borrow_mut().tls += 1;
            let stream = Stream::Server(Box::new(stream));
            session.tls = stream.tls_name();
            Ok(stream)
        }
        Err(error) => {
            world.stats.borrow_mut().tls_failed += 1;
            Err(error.into())
        }
    }
}

/// Decides the end of one message: rule, mode, verification, counts, ledger, reply. `Step::Message` means "go on".
async fn settle(session: &mut Session, out: &mut Vec<u8>, world: &World, now: Instant) -> Step {
    world.ended.set(world.ended.get() + 1);
    if let Mode::DropAfterData(each) = world.mode {
        if world.ended.get().is_multiple_of(each) {
            world.stats.borrow_mut().closed_on_purpose += 1;
            return Step::Close;
        }
    }
    if session.size > world.options.size {
        refuse(out, world, "552 5.3.4 too big");
        session.end_message(false);
        return Step::Message;
    }
    if !world.rules.borrow().is_empty() {
        let first = session.recipients.split(|&b| b == b'\n').next().unwrap_or_default();
        let recipient = String::from_utf8_lossy(first).into_owned();
        let domain = String::from_utf8_lossy(domain(first)).into_owned();
        if let Some(verdict) = session.ask(world, Stage::Data, &domain, &recipient, now) {
            let step = obey(&verdict, out, world);
            if verdict.reply.is_some() || verdict.close {
                session.end_message(false);
                return step.unwrap_or(Step::Message);
            }
            if let Some(Step::Wait(delay)) = step {
                tokio::time::sleep(delay).await;
            }
        }
    }
    let dkim = verify(session, world).await;
    let id = write_ledger(session, world);
    count(session, world);
    remember(session, world, dkim);
    match id {
        Some(id) => reply(out, &format!("250 2.0.0 taken {id}")),
        None => reply(out, "250 2.0.0 taken"),
    }
    session.end_message(true);
    if world.options.messages.is_some_and(|most| world.stats.borrow().messages >= most) {
        world.enough.notify_one();
    }
    if let Mode::CloseAfter(most) = world.mode {
        if session.messages >= most {
            world.stats.borrow_mut().closed_on_purpose += 1;
            reply(out, "421 4.7.0 enough for one connection");
            return Step::Close;
        }
    }
    Step::Message
}

fn count(session: &Session, world: &World) {
    let mut stats = world.stats.borrow_mut();
    let us = crate::clock::wall_us();
    stats.messages += 1;
    stats.recipients += session.recipient_count as u64;
    stats.bytes += session.size;
    if session.chunked {
        stats.by_bdat += 1;
    } else {
        stats.by_data += 1;
    }
    if stats.first_us == 0 {
        stats.first_us = us;
    }
    stats.last_us = us;
    let second = us.saturating_sub(stats.first_us) / 1_000_000;
    *stats.per_second.entry(second).or_default() += 1;
    if session.messages == 0 {
        // Once per connection is enough to name the peer; the address string is built only then.
        stats.by_peer.entry(session.peer.ip().to_string()).or_default();
    }
}

/// Content and signatures, as far as asked for.
async fn verify(session: &Session, world: &World) -> Option<Signed> {
    if world.options.verify {
        let content = check(&session.message);
        let bare = has_bare_line_end(&session.message);
        let mut stats = world.stats.borrow_mut();
        match content {
            Content::Exact => stats.content_exact += 1,
            Content::Damaged => stats.content_damaged += 1,
            Content::NoSum => stats.content_foreign += 1,
        }
        stats.bare_line_ends += u64::from(bare);
    }
    let signed = world.verifier.as_ref()?.verify(&session.message).await;
    let mut stats = world.stats.borrow_mut();
    match &signed {
        Signed::None => stats.dkim_none += 1,
        Signed::Pass(_) => stats.dkim_pass += 1,
        Signed::Fail(_) => stats.dkim_fail += 1,
    }
    Some(signed)
}

fn has_bare_line_end(message: &[u8]) -> bool {
    let lone_lf = memchr::memchr_iter(b'\n', message)
        .any(|at| at.checked_sub(1).and_then(|before| message.get(before)) != Some(&b'\r'));
    lone_lf || memchr::memchr_iter(b'\r', message).any(|at| message.get(at + 1) != Some(&b'\n'))
}

/// A line per recipient: `id rcpt peer helo transaction connection mail_us end_us`. Returns the id.
fn write_ledger(session: &Session, world: &World) -> Option<u64> {
    if !world.has_ledger() {
        return None;
    }
    let id = find_id(&session.message);
    let mut lines = String::with_capacity(160 * session.recipient_count);
    let end_us = crate::clock::wall_us();
    for recipient in session.recipients.split(|&b| b == b'\n').filter(|recipient| !recipient.is_empty()) {
        use std::fmt::Write;
        // Writing to a String cannot fail.
        let _ = writeln!(
            lines,
            "{} {} {} {} {} {} {} {end_us}",
            id.map_or(-1, |id| id as i64),
            String::from_utf8_lossy(recipient).replace(' ', "_"),
            session.peer,
            if session.helo.is_empty() { "-" } else { &session.helo },
            session.transaction,
            session.connection,
            session.mail_us
        );
    }
    world.write_ledger(lines.as_bytes());
    id
}

fn remember(session: &Session, world: &World, dkim: Option<Signed>) {
    let mut recent = world.recent.borrow_mut();
    if !recent.wanted() {
        return;
    }
    let recipients = session
        .recipients
        .split(|&b| b == b'\n')
        .filter(|recipient| !recipient.is_empty())
        .take(20)
        .map(|recipient| String::from_utf8_lossy(recipient).into_owned())
        .collect();
    let most = crate::limits::KEEP_PAGE.min(session.message.len());
    recent.push(Arrived {
        number: 0,
        at_us: crate::clock::wall_us(),
        peer: session.peer,
        helo: session.helo.clone(),
        tls: session.tls.clone(),
        from: String::from_utf8_lossy(&session.from).into_owned(),
        recipients,
        recipient_count: session.recipient_count,
        size: session.size,
        content: session.message.get(..most).unwrap_or_default().to_vec(),
        whole: most as u64 == session.size,
        dkim,
        place: (session.connection, session.transaction),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5322_2_3_bare_line_ends_are_seen() {
        assert!(!has_bare_line_end(b"a\r\nb\r\n"));
        assert!(has_bare_line_end(b"a\nb\r\n"));
        assert!(has_bare_line_end(b"a\rb\r\n"));
        assert!(has_bare_line_end(b"\n"));
    }
}
