//! Records of the NBD protocol (the "doc/proto.md" of the NBD project): fixed newstyle handshake and simple replies.
//!
//! All numbers are big-endian. Pure: bytes in, values out. Structured replies, TLS and metadata are not offered.

/// First eight bytes of a server.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": starts an option, and follows [`MAGIC`] in the greeting.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Starts a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts a simple reply.
pub const REPLY_MAGIC: u32 = 0x6744_6698;

/// Greeting flags: fixed newstyle, and the client may leave out the 124 zeroes.
pub const GREETING_FLAGS: u16 = 0b11;
/// Export flags: has flags, flush, forced unit access.
pub const EXPORT_FLAGS: u16 = 0b1101;
/// Request flag: forced unit access.
pub const FUA: u16 = 1;

/// Most bytes of one read or write.
pub const MAX_TRANSFER: u32 = 32 << 20;
/// Most bytes of one option.
pub const MAX_OPTION: u32 = 4096;

/// Options a client may send.
pub mod option {
    /// Start at once, without a reply header.
    pub const EXPORT_NAME: u32 = 1;
    /// Leave.
    pub const ABORT: u32 = 2;
    /// Name the exports.
    pub const LIST: u32 = 3;
    /// Tell about an export.
    pub const INFO: u32 = 6;
    /// Tell and start.
    pub const GO: u32 = 7;
}

/// Kinds of option replies.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export's name.
    pub const SERVER: u32 = 2;
    /// One piece of information.
    pub const INFO: u32 = 3;
    /// The option is not known.
    pub const UNSUPPORTED: u32 = 0x8000_0001;
}

/// What a client wants of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Bytes from the disk.
    Read,
    /// Bytes to the disk, which follow the request.
    Write,
    /// The client leaves.
    Disconnect,
    /// Make durable what was written.
    Flush,
    /// Anything else: answered with EINVAL.
    Other(u16),
}

/// A request header: 28 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// True when the write must be durable before the reply.
    pub fua: bool,
    /// Returned as it came.
    pub cookie: u64,
    /// Byte offset.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// Bytes of a request header.
pub const REQUEST_LEN: usize = 28;

/// Reads numbers off a byte slice; past the end they are none.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

/// A request from its header; none when the magic is wrong or bytes are missing.
pub fn parse_request(header: &[u8]) -> Option<Request> {
    let mut fields = Fields(header);
    if fields.u32()? != REQUEST_MAGIC {
        return None;
    }
    let flags = fields.u16()?;
    let command = match fields.u16()? {
        0 => Command::Read,
        1 => Command::Write,
        2 => Command::Disconnect,
        3 => Command::Flush,
        other => Command::Other(other),
    };
    Some(Request {
        command,
        fua: flags & FUA != 0,
        cookie: fields.u64()?,
        offset: fields.u64()?,
        length: fields.u32()?,
    })
}

/// A simple reply header; `error` is an errno, 0 for success.
pub fn simple_reply(cookie: u64, error: u32) -> Vec<u8> {
    [&REPLY_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

/// A reply to an option.
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length.to_be_bytes(), data]
        .concat()
}

/// Size and flags of the export, as information and as the old answer carry them.
pub fn export_info(size: u64) -> Vec<u8> {
    [&size.to_be_bytes()[..], &EXPORT_FLAGS.to_be_bytes()].concat()
}

/// Information 0: the export.
pub fn info_export(size: u64) -> Vec<u8> {
    [&0u16.to_be_bytes()[..], &export_info(size)].concat()
}

/// Information 3: smallest, preferred and largest block.
pub fn info_block_size() -> Vec<u8> {
    [&3u16.to_be_bytes()[..], &512u32.to_be_bytes(), &4096u32.to_be_bytes(), &MAX_TRANSFER.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_field_by_field() {
        let mut header = REQUEST_MAGIC.to_be_bytes().to_vec();
        header.extend_from_slice(&[0, 1, 0, 1]);
        header.extend_from_slice(&7u64.to_be_bytes());
        header.extend_from_slice(&4096u64.to_be_bytes());
        header.extend_from_slice(&512u32.to_be_bytes());
        assert_eq!(header.len(), REQUEST_LEN);
        let wanted = Request { command: Command::Write, fua: true, cookie: 7, offset: 4096, length: 512 };
        assert_eq!(parse_request(&header), Some(wanted));
        assert_eq!(parse_request(&header[..27]), None);
        header[0] = 0;
        assert_eq!(parse_request(&header), None);
    }

    #[test]
    fn replies_have_their_lengths() {
        assert_eq!(simple_reply(1, 0).len(), 16);
        assert_eq!(option_reply(option::GO, reply::ACK, &[]).len(), 20);
        assert_eq!((info_export(1).len(), info_block_size().len()), (12, 14));
    }
}
