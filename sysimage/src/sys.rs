#![allow(unsafe_code)]
//! The system calls that no safe wrapper offers; the only unsafe file of this crate.
//!
//! Each function checks what it is given, makes one call and turns its answer into a value. Never keeps a pointer.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `MPOL_F_NODE | MPOL_F_ADDR` of `linux/mempolicy.h`: answer with the node of the page at an address.
const NODE_OF_ADDRESS: libc::c_ulong = 0b11;

/// The memory node that holds the page at `address` of this process. The page must have been touched; asking for
/// an untouched one makes the kernel allocate it.
pub fn node_of_page(address: usize) -> io::Result<u32> {
    let mut node: libc::c_int = -1;
    // SAFETY: get_mempolicy writes one int through the first pointer, which is a live local; the null mask is allowed
    // with a length of zero; the address is only looked up, and one that is not mapped gives EFAULT.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &mut node as *mut libc::c_int,
            std::ptr::null_mut::<libc::c_ulong>(),
            0 as libc::c_ulong,
            address,
            NODE_OF_ADDRESS,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(node).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Fresh anonymous pages, untouched until somebody writes; given back when dropped.
#[derive(Debug)]
pub struct Pages {
    start: std::ptr::NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone and is reached only through borrows of it, so moving the value to
// another thread moves all access with it.
unsafe impl Send for Pages {}

impl Pages {
    /// Reserve `length` bytes (not zero). No allocator is involved, so no page was touched before.
    pub fn reserve(length: usize) -> io::Result<Pages> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a null hint without MAP_FIXED lets the kernel choose a free range, so nothing existing is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = std::ptr::NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { start, length })
    }

    /// The bytes; zero until written.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `start` and `length` are those of a live readable and writable mapping, anonymous pages are
        // initialised to zero by the kernel, and the exclusive borrow of self keeps every other access away.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly the range that mmap returned is unmapped, once, and no borrow of it can outlive self.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Bring the interface `name` up (at most 15 bytes).
pub fn interface_up(name: &str) -> io::Result<()> {
    // SAFETY: socket takes numbers only and returns a new descriptor or -1.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just returned by socket, is open, and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: ifreq is plain data (a byte array and a union of plain data), for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq through the pointer, which is a live local with a zero-ended name.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
