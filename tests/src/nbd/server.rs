//! Serves one [`Volatile`] disk on a Unix socket, one thread per connection.
//!
//! A write is taken into the disk before it is answered, and a flush covers the writes answered before it came.
//! [`Server::cut`] cuts the power: connections opened before it are dead from then on. Never trusts a length from the
//! wire.

use super::volatile::{CutReport, Ticket, Volatile};
use super::wire::{self, option, reply, Command, Fields, Request};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

const EIO: u32 = 5;
const EINVAL: u32 = 22;
/// How long the answering thread sleeps when nothing waits.
const IDLE: Duration = Duration::from_secs(3600);

/// What the guest did to the disk.
#[derive(Debug, Default)]
pub struct Counters {
    /// Writes taken.
    pub writes: AtomicU64,
    /// Of those, with forced unit access.
    pub forced: AtomicU64,
    /// Flushes.
    pub flushes: AtomicU64,
}

struct Power {
    disk: Volatile,
    /// Rises at every cut; a connection of an older life may not touch the disk.
    life: u64,
    /// No connection is taken: an emulator that lost its disk would connect again at once.
    off: bool,
    /// Requests that are still served, and who wants to know when they are used up.
    trip: Option<(u64, Sender<()>)>,
}

struct Shared {
    power: Mutex<Power>,
    lag: Duration,
    counters: Counters,
}

/// A running server; its socket goes when it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    path: PathBuf,
}

impl Server {
    /// Serve `disk` at the socket `path`, which must not exist yet. Each answer waits for a random part of `lag`, so
    /// that answers come out of order and many writes are under way when the power goes.
    pub fn start(disk: Volatile, path: &Path, lag: Duration) -> io::Result<Server> {
        let listener = UnixListener::bind(path)?;
        let power = Mutex::new(Power { disk, life: 0, off: false, trip: None });
        let shared = Arc::new(Shared { power, lag, counters: Counters::default() });
        let served = Arc::clone(&shared);
        std::thread::Builder::new().name("nbd accept".into()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let shared = Arc::clone(&served);
                let (life, off) = {
                    let power = lock(&shared.power);
                    (power.life, power.off)
                };
                if life == u64::MAX {
                    return;
                }
                if off {
                    continue;
                }
                // A peer that breaks the protocol loses its connection and nothing else.
                std::thread::spawn(move || serve(stream, &shared, life).ok());
            }
        })?;
        Ok(Server { shared, path: path.to_path_buf() })
    }

    /// Cut the power: what was volatile is decided by `seed`; open connections never touch the disk
    /// again, and new ones are refused until [`Server::power_on`].
    pub fn cut(&self, seed: u64) -> CutReport {
        let mut power = lock(&self.shared.power);
        power.life += 1;
        power.off = true;
        power.trip = None;
        power.disk.cut(seed)
    }

    /// Take connections again.
    pub fn power_on(&self) {
        lock(&self.shared.power).off = false;
    }

    /// Let the disk fall silent in the middle of the `requests`-th write or flush from now: it is taken, and neither it
    /// nor anything after it is answered. The receiver hears of it; [`Server::cut`] comes next.
    pub fn trip_after(&self, requests: u64) -> Receiver<()> {
        let (sender, receiver) = channel();
        lock(&self.shared.power).trip = Some((requests, sender));
        receiver
    }

    /// What the guest did so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// A copy of the disk as readers see it.
    pub fn image(&self) -> Vec<u8> {
        lock(&self.shared.power).disk.image().to_vec()
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        lock(&self.shared.power).life = u64::MAX;
        // Wake the accepting thread so that it sees the end.
        UnixStream::connect(&self.path).ok();
        std::fs::remove_file(&self.path).ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn serve(mut stream: UnixStream, shared: &Arc<Shared>, life: u64) -> io::Result<()> {
    let size = lock(&shared.power).disk.len() as u64;
    if !handshake(&mut stream, size)? {
        return Ok(());
    }
    let (replies, due) = channel();
    let mut out = stream.try_clone()?;
    let answering = Arc::clone(shared);
    // Ends when `replies` goes or the peer is gone.
    std::thread::spawn(move || answer_all(&mut out, &answering, life, &due));
    let mut random = StdRng::seed_from_u64(life);
    let mut header = [0; wire::REQUEST_LEN];
    loop {
        stream.read_exact(&mut header)?;
        let Some(request) = wire::parse_request(&header) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if request.command == Command::Disconnect {
            return Ok(());
        }
        let data = payload(&mut stream, &request)?;
        let Some((bytes, ticket)) = carry_out(shared, life, &request, &data) else {
            // The power is gone: no answer, not even an end of the connection, which would be an error to the guest.
            io::copy(&mut stream, &mut io::sink())?;
            return Ok(());
        };
        let at = Instant::now() + shared.lag.mul_f64(random.random::<f64>());
        let reply = Reply { at, bytes, ticket, fua: request.fua };
        if replies.send(reply).is_err() {
            return Ok(());
        }
    }
}

/// An answer that waits for its time.
struct Reply {
    at: Instant,
    bytes: Vec<u8>,
    ticket: Option<Ticket>,
    fua: bool,
}

/// Send answers when they are due, the earliest first.
fn answer_all(stream: &mut UnixStream, shared: &Shared, life: u64, due: &Receiver<Reply>) {
    let mut waiting: Vec<Reply> = Vec::new();
    loop {
        let first = waiting.iter().enumerate().min_by_key(|(_, reply)| reply.at).map(|(n, reply)| (n, reply.at));
        let patience = first.map_or(IDLE, |(_, at)| at.saturating_duration_since(Instant::now()));
        match due.recv_timeout(patience) {
            Ok(reply) => waiting.push(reply),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let Some((number, _)) = first else { continue };
                let reply = waiting.swap_remove(number);
                let mut power = lock(&shared.power);
                if power.life != life {
                    return;
                }
                if let Some(ticket) = reply.ticket {
                    power.disk.answered(ticket, reply.fua);
                }
                drop(power);
                if stream.write_all(&reply.bytes).is_err() {
                    return;
                }
            }
        }
    }
}

/// Bytes that follow a write. More than the limit can't be skipped safely, so the connection ends.
fn payload(stream: &mut UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    if request.length > wire::MAX_TRANSFER {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if request.command != Command::Write {
        return Ok(Vec::new());
    }
    let mut data = vec![0; request.length as usize];
    stream.read_exact(&mut data)?;
    Ok(data)
}

/// The answer, and the write it answers; none when the disk is silent from now on.
fn carry_out(shared: &Shared, life: u64, request: &Request, data: &[u8]) -> Option<(Vec<u8>, Option<Ticket>)> {
    let mut power = lock(&shared.power);
    if power.life != life {
        return None;
    }
    let changes = matches!(request.command, Command::Write | Command::Flush);
    let silent = changes && trips(&mut power);
    if silent && request.command == Command::Flush {
        return None; // power went before the flush did anything
    }
    let counters = &shared.counters;
    let mut ticket = None;
    let error = match request.command {
        Command::Read => match power.disk.read(request.offset, request.length as usize) {
            Ok(bytes) => return Some(([&wire::simple_reply(request.cookie, 0)[..], bytes].concat(), None)),
            Err(_) => EINVAL,
        },
        Command::Write => {
            counters.writes.fetch_add(1, Ordering::Relaxed);
            counters.forced.fetch_add(u64::from(request.fua), Ordering::Relaxed);
            ticket = power.disk.take(request.offset, data).ok();
            if ticket.is_some() {
                0
            } else {
                EIO
            }
        }
        Command::Flush => {
            counters.flushes.fetch_add(1, Ordering::Relaxed);
            power.disk.flush();
            0
        }
        Command::Disconnect => 0,
        Command::Other(_) => EINVAL,
    };
    (!silent).then(|| (wire::simple_reply(request.cookie, error), ticket))
}

/// Count one request; true when the disk falls silent with it.
fn trips(power: &mut Power) -> bool {
    let Some((left, heard)) = &mut power.trip else { return false };
    *left = left.saturating_sub(1);
    if *left > 0 {
        return false;
    }
    // Nobody listens when the test is over already.
    heard.send(()).ok();
    power.trip = None;
    power.life += 1;
    power.off = true;
    true
}

/// True when the transmission phase begins.
fn handshake(stream: &mut UnixStream, size: u64) -> io::Result<bool> {
    let mut greeting = wire::MAGIC.to_be_bytes().to_vec();
    greeting.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
    greeting.extend_from_slice(&wire::GREETING_FLAGS.to_be_bytes());
    stream.write_all(&greeting)?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags)?;
    let no_zeroes = u32::from_be_bytes(flags) & 0b10 != 0;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let mut fields = Fields(&header);
        let (magic, kind, length) = (fields.u64(), fields.u32(), fields.u32());
        let (Some(wire::OPTION_MAGIC), Some(kind), Some(length @ ..=wire::MAX_OPTION)) = (magic, kind, length) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        match kind {
            option::EXPORT_NAME => {
                let mut answer = wire::export_info(size);
                answer.resize(answer.len() + if no_zeroes { 0 } else { 124 }, 0);
                stream.write_all(&answer)?;
                return Ok(true);
            }
            option::GO | option::INFO => {
                stream.write_all(&wire::option_reply(kind, reply::INFO, &wire::info_export(size)))?;
                stream.write_all(&wire::option_reply(kind, reply::INFO, &wire::info_block_size()))?;
                stream.write_all(&wire::option_reply(kind, reply::ACK, &[]))?;
                if kind == option::GO {
                    return Ok(true);
                }
            }
            option::LIST => {
                stream.write_all(&wire::option_reply(kind, reply::SERVER, &0u32.to_be_bytes()))?;
                stream.write_all(&wire::option_reply(kind, reply::ACK, &[]))?;
            }
            option::ABORT => {
                stream.write_all(&wire::option_reply(kind, reply::ACK, &[]))?;
                return Ok(false);
            }
            _ => stream.write_all(&wire::option_reply(kind, reply::UNSUPPORTED, &[]))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::volatile::{Honesty, SECTOR};
    use super::*;

    fn socket(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("nbd-{}-{name}", std::process::id()))
    }

    fn start(name: &str) -> Server {
        let path = socket(name);
        std::fs::remove_file(&path).ok();
        Server::start(Volatile::new(vec![0; 1 << 20], Honesty::Honest), &path, Duration::ZERO).unwrap()
    }

    fn connect(server: &Server) -> UnixStream {
        let mut stream = UnixStream::connect(server.path()).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream.write_all(&wire::OPTION_MAGIC.to_be_bytes()).unwrap();
        stream.write_all(&option::EXPORT_NAME.to_be_bytes()).unwrap();
        stream.write_all(&0u32.to_be_bytes()).unwrap();
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        assert_eq!(export[..8], (1u64 << 20).to_be_bytes());
        stream
    }

    fn ask(
        stream: &mut UnixStream,
        command: u16,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> io::Result<u32> {
        let mut request = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend_from_slice(&flags.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&9u64.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&length.to_be_bytes());
        request.extend_from_slice(data);
        stream.write_all(&request)?;
        let mut answer = [0; 16];
        stream.read_exact(&mut answer)?;
        assert_eq!(answer[8..], 9u64.to_be_bytes());
        Ok(u32::from_be_bytes([answer[4], answer[5], answer[6], answer[7]]))
    }

    /// No answer within a moment counts as none.
    fn silent(stream: &mut UnixStream) {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    }

    #[test]
    fn a_flushed_write_is_there_after_the_cut() {
        let server = start("flushed");
        let mut stream = connect(&server);
        let data = vec![7; SECTOR];
        assert_eq!(ask(&mut stream, 1, 0, 0, 512, &data).unwrap(), 0);
        assert_eq!(ask(&mut stream, 3, 0, 0, 0, &[]).unwrap(), 0);
        assert_eq!(ask(&mut stream, 1, wire::FUA, 1024, 512, &data).unwrap(), 0);
        server.cut(1);
        silent(&mut stream);
        assert!(ask(&mut stream, 1, 0, 0, 512, &[1; SECTOR]).is_err(), "an old connection is dead");
        server.power_on();
        let mut again = connect(&server);
        assert_eq!(ask(&mut again, 0, 0, 0, 512, &[]).unwrap(), 0);
        let mut read = vec![0; SECTOR];
        again.read_exact(&mut read).unwrap();
        assert_eq!(read, data);
        assert_eq!(server.image()[1024..1536], data[..]);
        assert_eq!(server.counters().flushes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_tripped_disk_takes_the_last_write_and_says_nothing() {
        let server = start("tripped");
        let mut stream = connect(&server);
        let heard = server.trip_after(2);
        assert_eq!(ask(&mut stream, 1, 0, 0, 512, &[1; SECTOR]).unwrap(), 0);
        assert!(heard.try_recv().is_err());
        silent(&mut stream);
        assert!(ask(&mut stream, 1, 0, 512, 512, &[2; SECTOR]).is_err());
        assert!(heard.try_recv().is_ok());
        assert_eq!(server.cut(1).volatile, 2);
    }

    #[test]
    fn what_is_not_known_or_not_there_is_refused() {
        let server = start("refused");
        let mut stream = connect(&server);
        assert_eq!(ask(&mut stream, 6, 0, 0, 512, &[]).unwrap(), EINVAL);
        assert_eq!(ask(&mut stream, 0, 0, 1 << 20, 512, &[]).unwrap(), EINVAL);
        assert_eq!(ask(&mut stream, 1, 0, 1 << 20, 512, &[0; SECTOR]).unwrap(), EIO);
        assert!(ask(&mut stream, 0, 0, 0, u32::MAX, &[]).is_err(), "too long ends the connection");
    }

    #[test]
    fn broken_greetings_end_the_connection() {
        let server = start("greeting");
        let mut stream = UnixStream::connect(server.path()).unwrap();
        stream.write_all(&[0; 64]).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).ok();
        assert!(all.len() <= 18);
    }
}
