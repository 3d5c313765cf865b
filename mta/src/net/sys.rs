//! The only unsafe code of this crate: what must be promised to the kernel about memory and descriptors.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring_06::{cqueue, opcode, types};
use queue::Body;
use socket2::{SockAddr, SockRef, Socket};
use tokio_uring::buf::IoBuf;
use tokio_uring::net::TcpStream;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// One piece of a gathered write: bytes of our own, or a message in its owner's memory.
pub(super) enum Part {
    Bytes(Vec<u8>),
    Body(Body),
}

impl Part {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Body(body) => body,
        }
    }
}

// SAFETY: the kernel may read `bytes_init` bytes from `stable_ptr` while the operation owns this value. A `Vec`'s heap
// block does not move with the `Vec`, and nobody can touch it meanwhile. A `Body` holds an `Arc` to its owner, whose
// bytes are promised (`BodyOwner`) to keep address and content for the owner's life. Neither pointer depends on where
// the `Part` itself lies, so it is fine to be `Unpin`.
unsafe impl IoBuf for Part {
    fn stable_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }
    fn bytes_init(&self) -> usize {
        self.as_slice().len()
    }
    fn bytes_total(&self) -> usize {
        self.as_slice().len()
    }
}

/// Runs `f` on the socket under a tokio-uring object, which lends no `BorrowedFd` itself.
pub(super) fn with_socket<S: AsRawFd, T>(owner: &S, f: impl FnOnce(SockRef<'_>) -> T) -> T {
    // SAFETY: `owner` is borrowed for the whole call and closes its descriptor only when dropped, so the descriptor
    // stays open, and the same one, until `f` has returned; `SockRef` cannot leave `f` because of its lifetime.
    let fd = unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) };
    f(SockRef::from(&fd))
}

/// Takes over a listening socket that was handed to this process (socket activation, or the appliance's PID 1).
///
/// Errors: the number is not an open, listening TCP socket (operator).
pub fn inherited_listener(fd: RawFd) -> io::Result<OwnedFd> {
    nix::fcntl::fcntl(
        // SAFETY: borrowed only to ask the kernel about it; a number that is not open gives EBADF and nothing else.
        unsafe { BorrowedFd::borrow_raw(fd) },
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    // SAFETY: the number is open (just asked), and by the convention of inherited descriptors nobody else in this
    // process owns it; from here on the `OwnedFd` alone closes it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let listening = nix::sys::socket::getsockopt(&owned, nix::sys::socket::sockopt::AcceptConn)?;
    if !listening {
        let what = format!("descriptor {fd} is not a listening socket");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(owned)
}

/// Gives back the stored value and the result of an operation with one completion.
pub(super) struct Completed<D>(std::marker::PhantomData<D>);

impl<D> OneshotOutputTransform for Completed<D> {
    type Output = (io::Result<u32>, D);
    type StoredData = D;
    fn transform_oneshot_output(self, data: D, entry: cqueue::Entry) -> Self::Output {
        let result = match u32::try_from(entry.result()) {
            Ok(value) => Ok(value),
            Err(_) => Err(io::Error::from_raw_os_error(-entry.result())),
        };
        (result, data)
    }
}

impl<D> Unpin for Completed<D> {}

/// Connects a socket that is bound already; tokio-uring's own connect cannot bind. The kernel reads the address
/// through a pointer until completion: it lies in the box, which the operation owns (also when it is dropped).
pub(super) async fn connect(socket: Rc<Socket>, address: SockAddr) -> io::Result<()> {
    let address = Box::new(address);
    let entry = opcode::Connect::new(types::Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len()).build();
    let (result, _) =
        UnsubmittedOneshot::new((socket, address), Completed(std::marker::PhantomData), entry).submit().await;
    result.map(|_| ())
}

/// Asks the kernel to cancel whatever it still does on `socket`; the operations then complete by themselves.
pub(super) async fn cancel(socket: Rc<Socket>) {
    let entry = opcode::AsyncCancel2::new(types::CancelBuilder::fd(types::Fd(socket.as_raw_fd())).all()).build();
    let _ = UnsubmittedOneshot::new(socket, Completed(std::marker::PhantomData), entry).submit().await;
}

/// Waits until `stream` has bytes or an end to read, without a buffer.
pub(super) async fn readable(stream: Rc<TcpStream>) -> io::Result<()> {
    let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
    let entry = opcode::PollAdd::new(types::Fd(stream.as_raw_fd()), events).build();
    let (result, _) = UnsubmittedOneshot::new(stream, Completed(std::marker::PhantomData), entry).submit().await;
    result.map(|_| ())
}

/// True when the kernel says that something keeps its clock right (adjtimex(2)).
#[must_use]
pub fn clock_synchronised() -> bool {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all-zero bytes are a valid `timex`, and with `modes` zero the call only fills it in.
    let answer = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    answer >= 0 && answer != libc::TIME_ERROR
}
