//! A listening socket of one shard. Every shard binds its own to the same address; the kernel spreads connections.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::stream::{Connected, Stream};
use super::{driver, sys, Driver, LocalFuture};

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 4096;

/// How to listen.
#[derive(Debug, Default)]
pub struct ListenOptions {
    /// A socket that listens already (see `net::inherited_listener`); the address is ignored then.
    pub inherited: Option<OwnedFd>,
    /// Prefer connections whose packets arrive on this core.
    pub incoming_cpu: Option<usize>,
}

/// A listening socket. Dropping it stops listening; connections the kernel had queued on it are reset.
pub struct Listener {
    socket: Listening,
    /// The one accept under way. It outlives the future that waits for it: an accept dropped in flight would swallow
    /// the next connection.
    pending: RefCell<Option<LocalFuture<'static, io::Result<Stream>>>>,
}

enum Listening {
    Uring(Rc<tokio_uring::net::TcpListener>),
    Epoll(Rc<tokio::net::TcpListener>),
}

impl Listener {
    /// Listens on `address` with SO_REUSEPORT, so that each shard can.
    ///
    /// Errors: the address is not ours, or taken by a process that does not share it (operator).
    pub fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        let inherited = options.inherited.is_some();
        let socket = match options.inherited {
            Some(fd) => Socket::from(fd),
            None => open(address)
                .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?,
        };
        // Inherited by every accepted socket; a reply must not wait for an acknowledgement.
        socket.set_tcp_nodelay(true)?;
        if let Some(cpu) = options.incoming_cpu {
            // A preference only: a kernel without it spreads by hash.
            let _ = socket.set_cpu_affinity(cpu);
        }
        let socket = match driver() {
            Driver::IoUring => {
                socket.set_nonblocking(false)?;
                listen_unless(inherited, &socket)?;
                Listening::Uring(Rc::new(tokio_uring::net::TcpListener::from_std(socket.into())))
            }
            Driver::Epoll => {
                socket.set_nonblocking(true)?;
                listen_unless(inherited, &socket)?;
                Listening::Epoll(Rc::new(tokio::net::TcpListener::from_std(socket.into())?))
            }
        };
        Ok(Self { socket, pending: RefCell::new(None) })
    }

    /// The next connection; [`Stream::peer_addr`] says from whom. May be dropped and called again: none is lost.
    ///
    /// Errors: out of descriptors or memory (us; wait a little and go on), or the connection was gone already (peer).
    pub async fn accept(&self) -> io::Result<Stream> {
        poll_fn(|cx| {
            let mut pending = self.pending.borrow_mut();
            let future = pending.get_or_insert_with(|| self.accept_one());
            let result = future.as_mut().poll(cx);
            if result.is_ready() {
                *pending = None;
            }
            result
        })
        .await
    }

    fn accept_one(&self) -> LocalFuture<'static, io::Result<Stream>> {
        match &self.socket {
            Listening::Uring(listener) => {
                let listener = Rc::clone(listener);
                Box::pin(async move {
                    let (stream, peer) = listener.accept().await?;
                    Ok(Stream::new(Connected::Uring(Rc::new(stream)), peer))
                })
            }
            Listening::Epoll(listener) => {
                let listener = Rc::clone(listener);
                Box::pin(async move {
                    let (stream, peer) = listener.accept().await?;
                    Ok(Stream::new(Connected::Epoll(stream), peer))
                })
            }
        }
    }

    /// Where it listens; tells the port when 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Listening::Uring(listener) => listener.local_addr(),
            Listening::Epoll(listener) => listener.local_addr(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Completes the accept under way, which otherwise keeps the socket listening with nobody behind it.
        let how = std::net::Shutdown::Both;
        let _ = match &self.socket {
            Listening::Uring(listener) => sys::with_socket(&**listener, |socket| socket.shutdown(how)),
            Listening::Epoll(listener) => SockRef::from(&**listener).shutdown(how),
        };
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // Each family has its own listener, so that peers keep their own form of address.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen_unless(inherited: bool, socket: &Socket) -> io::Result<()> {
    if inherited {
        return Ok(());
    }
    socket.listen(BACKLOG)
}
