//! A connected TCP stream: read, write, wait, deadline.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use queue::Body;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio_uring::buf::BoundedBuf;

use super::sys::Part;
use super::{deadline, driver, sys, Driver, LocalFuture};

/// What `read` makes room for when the buffer it is given is full.
const READ_ROOM: usize = 4096;

/// A connected stream; copies are the same connection. One read and one write at a time.
#[derive(Clone)]
pub struct Stream {
    inner: Rc<Inner>,
}

pub(super) enum Connected {
    Uring(Rc<tokio_uring::net::TcpStream>),
    Epoll(tokio::net::TcpStream),
}

pub(super) struct Inner {
    socket: Connected,
    peer: SocketAddr,
    place: u32,
    timed_out: Cell<bool>,
    /// The poll under way; it outlives the future that waits for it, like an accept.
    polling: RefCell<Option<LocalFuture<'static, io::Result<()>>>>,
}

impl Stream {
    pub(super) fn new(socket: Connected, peer: SocketAddr) -> Self {
        let inner = Rc::new_cyclic(|stream| Inner {
            socket,
            peer,
            place: deadline::register(stream.clone()),
            timed_out: Cell::new(false),
            polling: RefCell::new(None),
        });
        Self { inner }
    }

    /// Connects to `dest`, from the address `source` when one is given.
    ///
    /// Errors: `AddrNotAvailable` when this host does not have `source` (operator), `TimedOut` after `timeout`,
    /// otherwise what the network says (peer).
    pub async fn connect(source: Option<IpAddr>, dest: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let socket = open(source, dest)?;
        match driver() {
            Driver::IoUring => {
                let socket = connect_uring(socket, dest, timeout).await?;
                Ok(Self::new(Connected::Uring(Rc::new(socket)), dest))
            }
            Driver::Epoll => {
                socket.set_nonblocking(true)?;
                let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
                let stream = tokio::time::timeout(timeout, socket.connect(dest)).await.map_err(|_| no_answer())??;
                Ok(Self::new(Connected::Epoll(stream), dest))
            }
        }
    }

    /// Reads what is there into the spare capacity of `buf` (4 KiB are added when it has none) and appends it.
    /// 0 is the end. Do not drop the future: the connection is shut down when that happens.
    ///
    /// Errors: `TimedOut` when the deadline passed, otherwise the network's.
    pub async fn read(&self, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        if buf.capacity() == buf.len() {
            buf.reserve_exact(READ_ROOM);
        }
        let (result, buf) = match &self.inner.socket {
            Connected::Uring(stream) => {
                let guard = Guard(Some(&self.inner));
                let start = buf.len();
                let (result, slice) = stream.read(buf.slice(start..)).await;
                guard.done();
                (result, slice.into_inner())
            }
            Connected::Epoll(stream) => {
                let result = loop {
                    match stream.try_read_buf(&mut buf) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        result => break result,
                    }
                    if let Err(error) = stream.readable().await {
                        break Err(error);
                    }
                };
                (result, buf)
            }
        };
        (self.judge(result, |n| *n == 0), buf)
    }

    /// Writes all of `bytes`, and gives the buffer back. Do not drop the future: the connection is shut down then.
    pub async fn write_all(&self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        if bytes.is_empty() {
            return (Ok(()), bytes);
        }
        let (result, bytes) = match &self.inner.socket {
            Connected::Uring(stream) => {
                let guard = Guard(Some(&self.inner));
                let (result, bytes) = stream.write_all(bytes).await;
                guard.done();
                (result, bytes)
            }
            Connected::Epoll(stream) => (write_epoll(stream, &bytes).await, bytes),
        };
        (self.judge(result, |_| false), bytes)
    }

    /// Writes a message straight from the memory it lies in.
    pub async fn write_body(&self, body: Body) -> io::Result<()> {
        if body.is_empty() {
            return Ok(());
        }
        let result = match &self.inner.socket {
            Connected::Uring(stream) => {
                let guard = Guard(Some(&self.inner));
                let (result, _) = stream.write_all(Part::Body(body)).await;
                guard.done();
                result
            }
            Connected::Epoll(stream) => write_epoll(stream, &body).await,
        };
        self.judge(result, |_| false)
    }

    /// Writes `head` and then `body`, in one system call when the socket takes it. Gives the head's buffer back.
    pub async fn write_parts(&self, head: Vec<u8>, body: Body) -> (io::Result<()>, Vec<u8>) {
        let Connected::Uring(stream) = &self.inner.socket else {
            let (result, head) = self.write_all(head).await;
            return match result {
                Ok(()) => (self.write_body(body).await, head),
                error => (error, head),
            };
        };
        if head.is_empty() || body.is_empty() {
            let (result, head) = self.write_all(head).await;
            return match result {
                Ok(()) => (self.write_body(body).await, head),
                error => (error, head),
            };
        }
        let guard = Guard(Some(&self.inner));
        let (result, parts) = stream.writev(vec![Part::Bytes(head), Part::Body(body)]).await;
        guard.done();
        let mut parts = parts.into_iter();
        let (Some(Part::Bytes(head)), Some(Part::Body(body))) = (parts.next(), parts.next()) else {
            return (Err(io::Error::other("the ring lost a buffer")), Vec::new());
        };
        match result {
            Ok(sent) if sent < head.len() => {
                let (result, _) = self.write_all(head.get(sent..).unwrap_or_default().to_vec()).await;
                match result {
                    Ok(()) => (self.write_body(body).await, head),
                    error => (error, head),
                }
            }
            Ok(sent) => {
                let rest = sent - head.len();
                (self.write_body(body.slice(rest.min(body.len())..body.len())).await, head)
            }
            Err(error) => (self.judge(Err(error), |()| false), head),
        }
    }

    /// Waits until there is something to read, or the end; takes no buffer, so idle connections cost none. May be
    /// dropped and called again.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.inner.socket {
            Connected::Uring(stream) => loop {
                if self.inner.has_bytes()? {
                    return Ok(());
                }
                poll_fn(|cx| {
                    let mut polling = self.inner.polling.borrow_mut();
                    let future = polling.get_or_insert_with(|| Box::pin(sys::readable(Rc::clone(stream))));
                    let result = future.as_mut().poll(cx);
                    if result.is_ready() {
                        *polling = None;
                    }
                    result
                })
                .await?;
            },
            Connected::Epoll(stream) => stream.peek(&mut [0]).await.map(|_| ()),
        }
    }

    /// Reads what is there without waiting; 0 is the end, `WouldBlock` nothing yet. Only while no `read` is under way.
    pub fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
        let fd = self.inner.with_socket(|socket| socket.as_raw_fd());
        Ok(nix::sys::socket::recv(fd, bytes, flags)?)
    }

    /// Ends both directions; operations under way complete at once.
    pub fn shutdown(&self) {
        self.inner.shutdown(Shutdown::Both);
    }

    /// Tells the peer that no more bytes come.
    pub fn shutdown_write(&self) {
        self.inner.shutdown(Shutdown::Write);
    }

    /// The connection is shut down `seconds` from now (up to two seconds later), or never.
    pub fn set_deadline(&self, seconds: Option<u32>) {
        deadline::set(self.inner.place, seconds);
    }

    /// The deadline passed and ended the connection.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.inner.timed_out.get()
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.inner.peer
    }

    /// Our end; asks the kernel.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.inner.with_socket(|socket| socket.local_addr())?;
        address.as_socket().ok_or_else(|| io::Error::other("the socket has no internet address"))
    }

    /// An end that our own deadline made is a timeout, whatever the operation says.
    fn judge<T>(&self, result: io::Result<T>, is_end: impl Fn(&T) -> bool) -> io::Result<T> {
        match result {
            Ok(value) if !self.timed_out() || !is_end(&value) => Ok(value),
            Err(error) if !self.timed_out() => Err(error),
            _ => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer was silent for too long")),
        }
    }
}

impl Inner {
    /// The deadline passed.
    pub(super) fn expire(&self) {
        self.timed_out.set(true);
        self.shutdown(Shutdown::Both);
    }

    fn shutdown(&self, how: Shutdown) {
        // Fails when the peer has reset the connection, which is as good.
        let _ = self.with_socket(|socket| socket.shutdown(how));
    }

    fn with_socket<T>(&self, f: impl FnOnce(SockRef<'_>) -> T) -> T {
        match &self.socket {
            Connected::Uring(stream) => sys::with_socket(&**stream, f),
            Connected::Epoll(stream) => f(SockRef::from(stream)),
        }
    }

    /// Bytes or the end can be read now.
    fn has_bytes(&self) -> io::Result<bool> {
        let mut byte = [MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match self.with_socket(|socket| socket.recv_with_flags(&mut byte, flags)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        deadline::release(self.place);
        if self.polling.borrow().is_some() {
            // The poll under way holds the descriptor; this completes it.
            self.shutdown(Shutdown::Both);
        }
    }
}

/// Shuts the connection down when an operation is abandoned: the kernel then completes it and lets go of socket and
/// buffer, which it would otherwise keep until the peer closes.
struct Guard<'a>(Option<&'a Inner>);

impl Guard<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(inner) = self.0 {
            inner.shutdown(Shutdown::Both);
        }
    }
}

async fn write_epoll(stream: &tokio::net::TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A socket bound to `source`, ready to connect.
fn open(source: Option<IpAddr>, dest: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(dest), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // The port is chosen at connect, so that the ports of a source are per destination and do not run out.
        let option = nix::sys::socket::sockopt::IpBindAddressNoPort;
        let _ = nix::sys::socket::setsockopt(&socket, option, &true);
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot send from {source}: {error}; is it configured on this host?"))
        })?;
    }
    Ok(socket)
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer to the connection request")
}

/// Connects through the ring; on a timeout the kernel is asked to cancel, and the operation is awaited all the same.
async fn connect_uring(socket: Socket, dest: SocketAddr, timeout: Duration) -> io::Result<tokio_uring::net::TcpStream> {
    let socket = Rc::new(socket);
    let mut connecting = pin!(sys::connect(Rc::clone(&socket), dest.into()));
    let mut timer = pin!(tokio::time::sleep(timeout));
    let first = poll_fn(|cx| {
        if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await;
    let result = match first {
        Some(result) => result,
        None => {
            sys::cancel(Rc::clone(&socket)).await;
            connecting.await.map_err(|_| no_answer())
        }
    };
    result?;
    let socket = Rc::try_unwrap(socket).map_err(|_| io::Error::other("the ring still holds the socket"))?;
    Ok(tokio_uring::net::TcpStream::from_std(socket.into()))
}
