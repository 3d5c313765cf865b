//! A scripted receiving server, in the process of the test: it answers as told, recipient by recipient, and remembers
//! what it was given and by whom. It knows nothing of the sender; a test reads what it saw.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::prelude::{Engine, BASE64_STANDARD};

use crate::wait_for;
use crate::wire::Wire;

/// When a script is asked.
#[derive(Debug)]
pub enum Moment<'a> {
    /// A connection was made; the greeting is next.
    Connected,
    /// EHLO or HELO, with the name.
    Hello(&'a str),
    /// MAIL, everything behind `FROM:`.
    Mail(&'a str),
    /// RCPT, the address alone.
    Rcpt(&'a str),
    /// DATA, before the content.
    Data,
    /// The whole content is here; the final reply is next.
    Content(&'a Transaction),
}

/// What a script wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// What a well-behaved server says.
    Usual,
    /// This reply (lines parted by `\n`, without the final CRLF). After 421 the connection is closed.
    Say(String),
    /// The usual reply, later.
    After(Duration),
    /// No reply; the connection is closed.
    Close,
}

/// A script: asked at every [`Moment`], from many threads.
pub type Script = Arc<dyn Fn(&Moment<'_>) -> Act + Send + Sync>;

/// How a receiver behaves.
#[derive(Clone)]
pub struct Manners {
    /// EHLO keywords.
    pub extensions: Vec<String>,
    /// False: EHLO is not known here.
    pub ehlo: bool,
    /// STARTTLS is offered.
    pub tls: bool,
    /// AUTH PLAIN and LOGIN are offered under TLS, and this user and password are right.
    pub login: Option<(String, String)>,
    /// The handshake after STARTTLS fails.
    pub broken_tls: bool,
    /// What it was given is remembered.
    pub remembers: bool,
    /// Exceptions.
    pub script: Script,
}

impl Default for Manners {
    fn default() -> Self {
        let extensions = ["PIPELINING", "SIZE 60000000", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME"];
        let extensions = extensions.iter().chain(&["ENHANCEDSTATUSCODES"]).map(|e| (*e).to_owned()).collect();
        Self {
            extensions,
            ehlo: true,
            tls: false,
            login: None,
            broken_tls: false,
            remembers: true,
            script: Arc::new(|_| Act::Usual),
        }
    }
}

impl Manners {
    /// These EHLO keywords and no others.
    #[must_use]
    pub fn offering(mut self, extensions: &[&str]) -> Self {
        self.extensions = extensions.iter().map(|e| (*e).to_owned()).collect();
        self
    }

    /// This EHLO keyword besides.
    #[must_use]
    pub fn and(mut self, extension: &str) -> Self {
        self.extensions.push(extension.to_owned());
        self
    }

    /// With STARTTLS.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With a login under TLS, without which no mail is taken.
    #[must_use]
    pub fn with_login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// STARTTLS is offered, and what follows is no TLS.
    #[must_use]
    pub fn with_broken_tls(mut self) -> Self {
        (self.tls, self.broken_tls) = (true, true);
        self
    }

    /// EHLO is refused.
    #[must_use]
    pub fn helo_only(mut self) -> Self {
        self.ehlo = false;
        self
    }

    /// Remembers nothing: for runs whose script keeps its own books.
    #[must_use]
    pub fn forgetting(mut self) -> Self {
        self.remembers = false;
        self
    }

    /// With this script.
    #[must_use]
    pub fn script(mut self, script: impl Fn(&Moment<'_>) -> Act + Send + Sync + 'static) -> Self {
        self.script = Arc::new(script);
        self
    }
}

/// One message that was given to a receiver, whatever came of it.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Which connection, from 1.
    pub connection: usize,
    /// Address of the sender.
    pub peer: Option<IpAddr>,
    /// The name it gave.
    pub hello: String,
    /// `EHLO` or `HELO`.
    pub verb: String,
    /// Everything behind `MAIL FROM:`.
    pub mail: String,
    /// Everything behind `RCPT TO:`, with our reply code.
    pub rcpts: Vec<(String, u16)>,
    /// The content as it was before dot-stuffing.
    pub content: Vec<u8>,
    /// By BDAT.
    pub bdat: bool,
    /// Under TLS.
    pub tls: bool,
    /// After a login.
    pub logged_in: bool,
    /// Something came in before the reply that had to come first.
    pub pipelined: bool,
    /// Our final reply; empty when there was none.
    pub reply: String,
    /// The final reply was handed to the kernel.
    pub replied: bool,
    /// When the content was complete.
    pub at: Option<Instant>,
}

impl Transaction {
    /// Addresses that were taken.
    #[must_use]
    pub fn recipients(&self) -> Vec<String> {
        self.rcpts.iter().filter(|(_, code)| *code / 100 == 2).map(|(text, _)| path(text).to_owned()).collect()
    }

    /// True when the final reply was 2yz.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.reply.starts_with('2')
    }

    /// The content as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    /// The first header field of this name, unfolded.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let text = self.text();
        let head = text.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ").replace("\r\n\t", " ");
        head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    /// What follows the header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        let at = self.content.windows(4).position(|w| w == b"\r\n\r\n");
        at.map_or(&[], |at| &self.content[at + 4..])
    }
}

#[derive(Default)]
struct Seen {
    transactions: Vec<Transaction>,
    sockets: HashMap<usize, TcpStream>,
    hellos: Vec<(Option<IpAddr>, String)>,
}

struct Shared {
    manners: Mutex<Manners>,
    seen: Mutex<Seen>,
    connections: AtomicUsize,
    open: AtomicUsize,
    open_max: AtomicUsize,
    stopped: AtomicBool,
}

/// A running receiver; dropped, it stops and closes every connection.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receiver {
    /// On any free port of 127.0.0.1.
    #[must_use]
    pub fn start(manners: Manners) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), manners)
    }

    /// At an address of the test's own.
    #[must_use]
    pub fn at(address: SocketAddr, manners: Manners) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("a receiver at {address}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            manners: Mutex::new(manners),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            open_max: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let on_thread = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &on_thread));
        Self { address, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Behaves like this from the next connection on; scripts take effect at once.
    pub fn set_manners(&self, manners: Manners) {
        *lock(&self.shared.manners) = manners;
    }

    /// Everything it was given so far, in the order the contents were complete.
    #[must_use]
    pub fn transactions(&self) -> Vec<Transaction> {
        lock(&self.shared.seen).transactions.clone()
    }

    /// What it took with 2yz.
    #[must_use]
    pub fn messages(&self) -> Vec<Transaction> {
        self.transactions().into_iter().filter(Transaction::accepted).collect()
    }

    /// Waits until it took so many messages; gives them.
    #[must_use]
    pub fn wait_messages(&self, count: usize) -> Vec<Transaction> {
        wait_for(Duration::from_secs(20), &format!("{count} messages at the receiver"), || {
            let messages = self.messages();
            (messages.len() >= count).then_some(messages)
        })
    }

    /// Every EHLO or HELO: who said which name.
    #[must_use]
    pub fn hellos(&self) -> Vec<(Option<IpAddr>, String)> {
        lock(&self.shared.seen).hellos.clone()
    }

    /// Connections made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Most connections open at once.
    #[must_use]
    pub fn open_max(&self) -> usize {
        self.shared.open_max.load(Ordering::Acquire)
    }

    /// Forgets what it saw.
    pub fn forget(&self) {
        lock(&self.shared.seen).transactions.clear();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // The accept loop wakes up and sees that it is over; a peer that is gone needs no goodbye.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        for socket in lock(&self.shared.seen).sockets.values() {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((socket, peer)) = listener.accept() {
        if shared.stopped.load(Ordering::Acquire) {
            return;
        }
        let number = shared.connections.fetch_add(1, Ordering::AcqRel) + 1;
        if let Ok(copy) = socket.try_clone() {
            lock(&shared.seen).sockets.insert(number, copy);
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let open = shared.open.fetch_add(1, Ordering::AcqRel) + 1;
            shared.open_max.fetch_max(open, Ordering::AcqRel);
            let manners = lock(&shared.manners).clone();
            if let Ok(wire) = Wire::new(socket) {
                // How a peer leaves is its own affair.
                let _ = Session::new(wire, number, peer, manners, &shared).run();
            }
            // The copy would keep the connection open.
            if let Some(copy) = lock(&shared.seen).sockets.remove(&number) {
                let _ = copy.shutdown(std::net::Shutdown::Both);
            }
            shared.open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

struct Session<'a> {
    wire: Wire,
    manners: Manners,
    shared: &'a Shared,
    now: Transaction,
    pipelining: bool,
}

fn closed() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl<'a> Session<'a> {
    fn new(wire: Wire, number: usize, peer: SocketAddr, manners: Manners, shared: &'a Shared) -> Self {
        let now = Transaction { connection: number, peer: Some(peer.ip()), ..Transaction::default() };
        let pipelining = manners.extensions.iter().any(|e| e == "PIPELINING");
        Self { wire, manners, shared, now, pipelining }
    }

    fn run(mut self) -> io::Result<()> {
        self.answer(&Moment::Connected, "220 mx.inbox.test ESMTP")?;
        loop {
            let line = self.wire.line()?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" if self.manners.ehlo => self.hello("EHLO", rest)?,
                "HELO" => self.hello("HELO", rest)?,
                "STARTTLS" if self.manners.tls => {
                    self.say("220 go ahead")?;
                    if self.manners.broken_tls {
                        // Behind the client's first words: before them it would be an injection.
                        self.wire.exact(1)?;
                        return self.say("this is no handshake");
                    }
                    self.wire.tls_server()?;
                    self.now.tls = true;
                }
                "AUTH" if self.wire.is_tls() => self.auth(rest)?,
                "MAIL" if self.manners.login.is_some() && !self.now.logged_in => self.say("530 5.7.0 log in")?,
                "MAIL" => self.mail(rest)?,
                "RCPT" => self.rcpt(rest)?,
                "DATA" => self.data()?,
                "BDAT" => self.bdat(rest)?,
                "RSET" => {
                    self.reset();
                    self.say("250 2.0.0 ok")?;
                }
                "NOOP" => self.say("250 2.0.0 ok")?,
                "QUIT" => {
                    self.say("221 2.0.0 bye")?;
                    return Ok(());
                }
                _ => self.say("500 5.5.1 what")?,
            }
        }
    }

    fn reset(&mut self) {
        let Transaction { connection, peer, hello, verb, tls, logged_in, .. } = std::mem::take(&mut self.now);
        self.now = Transaction { connection, peer, hello, verb, tls, logged_in, ..Transaction::default() };
    }

    fn say(&mut self, reply: &str) -> io::Result<()> {
        if self.wire.pending() > 0 && !self.pipelining {
            self.now.pipelined = true;
        }
        let lines: Vec<&str> = reply.split('\n').collect();
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            let last = at + 1 == lines.len();
            match (last, line.get(..4), line.get(4..)) {
                (false, Some(code), Some(words)) => text.push_str(&format!("{}-{words}\r\n", &code[..3])),
                _ => text.push_str(&format!("{line}\r\n")),
            }
        }
        self.wire.send(text.as_bytes())?;
        if reply.starts_with("421") {
            return Err(closed());
        }
        Ok(())
    }

    /// The reply to use at a moment; `Err` when the script closes.
    fn decide(&self, moment: &Moment<'_>, usual: &str) -> io::Result<String> {
        match (self.manners.script)(moment) {
            Act::Usual => Ok(usual.to_owned()),
            Act::Say(text) => Ok(text),
            Act::After(time) => {
                std::thread::sleep(time);
                Ok(usual.to_owned())
            }
            Act::Close => Err(closed()),
        }
    }

    fn answer(&mut self, moment: &Moment<'_>, usual: &str) -> io::Result<u16> {
        let reply = self.decide(moment, usual)?;
        self.say(&reply)?;
        Ok(reply.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0))
    }

    fn hello(&mut self, verb: &str, name: &str) -> io::Result<()> {
        self.reset();
        name.clone_into(&mut self.now.hello);
        verb.clone_into(&mut self.now.verb);
        if self.manners.remembers {
            lock(&self.shared.seen).hellos.push((self.now.peer, name.to_owned()));
        }
        let mut reply = "250 mx.inbox.test".to_owned();
        if verb == "EHLO" {
            for extension in &self.manners.extensions {
                reply.push_str(&format!("\n250 {extension}"));
            }
            if self.manners.login.is_some() && self.wire.is_tls() {
                reply.push_str("\n250 AUTH PLAIN");
            }
            if self.manners.tls && !self.wire.is_tls() {
                reply.push_str("\n250 STARTTLS");
            }
        }
        self.answer(&Moment::Hello(name), &reply)?;
        Ok(())
    }

    /// AUTH PLAIN with an initial response (RFC 4954).
    fn auth(&mut self, rest: &str) -> io::Result<()> {
        let token = rest.strip_prefix("PLAIN ").and_then(|token| BASE64_STANDARD.decode(token).ok());
        let right = self.manners.login.as_ref().map(|(user, password)| format!("\0{user}\0{password}").into_bytes());
        self.now.logged_in = token.is_some() && token == right;
        self.say(if self.now.logged_in { "235 2.7.0 welcome" } else { "535 5.7.8 wrong" })
    }

    fn mail(&mut self, rest: &str) -> io::Result<()> {
        self.reset();
        let argument = rest.get(5..).unwrap_or_default();
        argument.clone_into(&mut self.now.mail);
        self.answer(&Moment::Mail(argument), "250 2.1.0 ok")?;
        Ok(())
    }

    fn rcpt(&mut self, rest: &str) -> io::Result<()> {
        let argument = rest.get(3..).unwrap_or_default();
        let code = self.answer(&Moment::Rcpt(path(argument)), "250 2.1.5 ok")?;
        self.now.rcpts.push((argument.to_owned(), code));
        Ok(())
    }

    fn data(&mut self) -> io::Result<()> {
        if self.now.recipients().is_empty() {
            return self.say("554 5.5.1 no valid recipients");
        }
        if self.answer(&Moment::Data, "354 go on")? != 354 {
            return Ok(());
        }
        loop {
            let line = self.wire.line()?;
            if line == b".\r\n" {
                return self.end();
            }
            let from = usize::from(line.starts_with(b"."));
            self.now.content.extend_from_slice(&line[from..]);
        }
    }

    fn bdat(&mut self, rest: &str) -> io::Result<()> {
        let mut words = rest.split_whitespace();
        let size = words.next().and_then(|n| n.parse().ok()).ok_or_else(closed)?;
        let last = words.next().is_some_and(|w| w.eq_ignore_ascii_case("LAST"));
        let chunk = self.wire.exact(size)?;
        self.now.content.extend_from_slice(&chunk);
        self.now.bdat = true;
        if self.now.recipients().is_empty() {
            return self.say("554 5.5.1 no valid recipients");
        }
        if last {
            self.end()
        } else {
            self.say("250 2.0.0 go on")
        }
    }

    /// The content is complete. What it came to is remembered even when the reply is never sent.
    fn end(&mut self) -> io::Result<()> {
        self.now.at = Some(Instant::now());
        let decided = self.decide(&Moment::Content(&self.now), "250 2.0.0 taken");
        if !self.manners.remembers {
            let sent = self.say(&decided?);
            self.reset();
            return sent;
        }
        let reply = decided.as_deref().unwrap_or_default().to_owned();
        let done = Transaction { reply: reply.clone(), replied: false, ..self.now.clone() };
        let place = {
            let mut seen = lock(&self.shared.seen);
            seen.transactions.push(done);
            seen.transactions.len() - 1
        };
        decided?;
        let sent = self.say(&reply);
        if sent.is_ok() || reply.starts_with("421") {
            if let Some(done) = lock(&self.shared.seen).transactions.get_mut(place) {
                done.replied = true;
                done.pipelined |= self.now.pipelined;
            }
        }
        self.reset();
        sent
    }
}

/// The address in `<address> PARAMETERS`.
#[must_use]
pub fn path(argument: &str) -> &str {
    argument.trim_start().strip_prefix('<').and_then(|rest| rest.split('>').next()).unwrap_or(argument)
}
