//! A name server for tests: real UDP and TCP on loopback, zones from a few lines of text, faults on demand.
//!
//! It runs on a thread of its own, so that a test may drive processes as well as tasks. A question with recursion
//! desired is answered as a forwarder would (from all its zones, CNAMEs chased), any other as an authoritative
//! server would (referrals, glue). It never asks anyone.
//!
//! ```
//! use harness::dns::{DnsServer, Zone};
//! let zone = Zone::parse("a.test.", "@ MX 10 mx\nmx A 192.0.2.1").unwrap();
//! let server = DnsServer::start("127.0.0.1:0", vec![zone]).unwrap();
//! assert_ne!(server.address().port(), 0);
//! ```

mod answer;
mod key;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

pub use key::{anchors, Key};
pub use zone::Zone;

/// How the server misbehaves for some questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// It does not know the zone it is asked about (a lame delegation).
    Lame,
    /// It answers SERVFAIL.
    ServFail,
    /// It leaves the SOA record (and every proof) out of negative answers.
    NoSoa,
    /// Over UDP it answers "truncated" and nothing else.
    Truncate,
    /// Its referrals carry no addresses.
    NoGlue,
    /// It takes its time.
    Delay(Duration),
    /// It never answers.
    Silent,
    /// It leaves signatures and proofs out.
    Unsigned,
    /// Its signatures are wrong.
    BadSignature,
    /// Its answers come with the name in another case than the question's (R-34).
    WrongCase,
}

/// A quirk and the questions it is for.
#[derive(Clone, Debug)]
struct Rule {
    under: Name,
    kind: Option<RecordType>,
    quirk: Quirk,
}

/// A question the server was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The name, lower case, with its final dot.
    pub name: String,
    /// The type.
    pub kind: RecordType,
    /// Over TCP.
    pub tcp: bool,
}

/// Most questions remembered.
const ASKED_MAX: usize = 10_000;

struct Shared {
    zones: Mutex<Vec<Zone>>,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<Asked>>,
}

/// A running server; dropped, it stops.
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Starts a server at `address` (port 0: any that is free for UDP and TCP).
    pub fn start(address: &str, zones: Vec<Zone>) -> io::Result<Self> {
        let wanted: SocketAddr = address.parse().map_err(io::Error::other)?;
        let (tcp, udp) = bind_both(wanted)?;
        let address = tcp.local_addr()?;
        let shared = Arc::new(Shared { zones: Mutex::new(zones), rules: Mutex::default(), asked: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let on_thread = shared.clone();
        let thread = std::thread::Builder::new().name("test-dns".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    result = serve(tcp, udp, on_thread) => result.unwrap_or_else(|error| eprintln!("dns: {error}")),
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it misbehaves for questions at and under a name, of one type or of all.
    pub fn quirk(&self, under: &str, kind: Option<RecordType>, quirk: Quirk) {
        let under = Name::from_ascii(under).expect("a test writes a name");
        lock(&self.shared.rules).push(Rule { under, kind, quirk });
    }

    /// It behaves again.
    pub fn behave(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Replaces all zones.
    pub fn set_zones(&self, zones: Vec<Zone>) {
        *lock(&self.shared.zones) = zones;
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// How often it was asked for a name and type.
    #[must_use]
    pub fn count(&self, name: &str, kind: RecordType) -> usize {
        lock(&self.shared.asked).iter().filter(|asked| asked.name == name && asked.kind == kind).count()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic on that thread has been printed already.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One port for both: any free TCP port may be taken for UDP, so try a few.
fn bind_both(address: SocketAddr) -> io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
    let mut last = io::Error::other("no port");
    for _ in 0..20 {
        let tcp = std::net::TcpListener::bind(address)?;
        match std::net::UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => {
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                return Ok((tcp, udp));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn serve(tcp: std::net::TcpListener, udp: std::net::UdpSocket, shared: Arc<Shared>) -> io::Result<()> {
    let tcp = TcpListener::from_std(tcp)?;
    let udp = Arc::new(UdpSocket::from_std(udp)?);
    let mut buffer = vec![0_u8; 4096];
    loop {
        tokio::select! {
            datagram = udp.recv_from(&mut buffer) => {
                let (length, peer) = datagram?;
                let (question, udp, shared) = (buffer[..length].to_vec(), udp.clone(), shared.clone());
                tokio::spawn(async move {
                    if let Some(answer) = respond(&question, false, &shared).await {
                        let _ = udp.send_to(&answer, peer).await;
                    }
                });
            }
            stream = tcp.accept() => {
                let (stream, shared) = (stream?.0, shared.clone());
                tokio::spawn(async move {
                    // The peer may go when it likes.
                    let _ = serve_stream(stream, &shared).await;
                });
            }
        }
    }
}

async fn serve_stream(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut question = vec![0_u8; usize::from(length)];
        stream.read_exact(&mut question).await?;
        if let Some(answer) = respond(&question, true, shared).await {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&length.to_be_bytes()).await?;
            stream.write_all(&answer).await?;
        }
    }
}

/// The bytes to answer with; `None` for silence.
async fn respond(question: &[u8], tcp: bool, shared: &Shared) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let name = query.name().to_lowercase();
    {
        let mut asked = lock(&shared.asked);
        if asked.len() < ASKED_MAX {
            asked.push(Asked { name: name.to_ascii(), kind: query.query_type(), tcp });
        }
    }
    let quirks: Vec<Quirk> = lock(&shared.rules)
        .iter()
        .filter(|rule| rule.under.zone_of(&name) && rule.kind.is_none_or(|kind| kind == query.query_type()))
        .map(|rule| rule.quirk)
        .collect();
    for quirk in &quirks {
        match quirk {
            Quirk::Silent => return None,
            Quirk::Delay(time) => tokio::time::sleep(*time).await,
            _ => {}
        }
    }
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = question.metadata.recursion_desired;
    let mut echoed = query.clone();
    if quirks.contains(&Quirk::WrongCase) && !tcp {
        echoed.name = other_case(&echoed.name);
    }
    answer.add_query(echoed);
    let dnssec = question.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    if let Some(edns) = &question.edns {
        let mut ours = hickory_proto::op::Edns::new();
        ours.set_max_payload(1232);
        ours.set_dnssec_ok(edns.flags().dnssec_ok);
        answer.set_edns(ours);
    }
    if quirks.contains(&Quirk::ServFail) {
        answer.metadata.response_code = ResponseCode::ServFail;
    } else if quirks.contains(&Quirk::Lame) {
        answer.metadata.response_code = ResponseCode::Refused;
    } else if quirks.contains(&Quirk::Truncate) && !tcp {
        answer.metadata.truncation = true;
        answer.metadata.authoritative = true;
    } else {
        let zones = lock(&shared.zones);
        answer::fill(&mut answer, &zones, &name, query.query_type(), dnssec, &quirks);
    }
    let bytes = answer.to_vec().ok()?;
    let most = question.edns.as_ref().map_or(512, |edns| usize::from(edns.max_payload().clamp(512, 1232)));
    if !tcp && bytes.len() > most {
        answer.answers.clear();
        answer.authorities.clear();
        answer.additionals.clear();
        answer.metadata.truncation = true;
        return answer.to_vec().ok();
    }
    Some(bytes)
}

fn other_case(name: &Name) -> Name {
    let flipped: String = name
        .to_ascii()
        .chars()
        .map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    Name::from_ascii(flipped).unwrap_or_else(|_| name.clone())
}
