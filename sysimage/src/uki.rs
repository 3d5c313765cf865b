//! A unified kernel image: an EFI stub with kernel, initramfs and command line as sections of one PE file.
//!
//! The firmware (or systemd-boot) starts the file; the stub finds its sections by name (the "Boot Loader
//! Specification", type 2). Sections are appended behind the stub's own, in memory and in the file. Pure: bytes in,
//! bytes out. Never signs; a stub without room for the section headers is refused.

/// Why no image can be made. The stub is the operator's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UkiError {
    /// Not a PE file for 64 bits.
    #[error("the EFI stub is not a 64-bit PE file ({0}); use linuxx64.efi.stub of systemd-boot-efi")]
    NotAStub(&'static str),
    /// No room for another section header.
    #[error("the EFI stub has room for {room} more sections, {wanted} are needed")]
    NoRoom {
        /// Section headers that still fit.
        room: usize,
        /// Section headers wanted.
        wanted: usize,
    },
    /// More than a PE file can hold.
    #[error("section {0} is too large")]
    TooLarge(String),
}

const SECTION_HEADER: usize = 40;
/// Initialised data, readable (`IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`).
const READ_DATA: u32 = 0x4000_0040;

/// Offsets of the header fields that change, from the PE/COFF specification.
struct Layout {
    coff: usize,
    optional: usize,
    table: usize,
    sections: usize,
    memory_align: usize,
    file_align: usize,
    headers: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_le_bytes(field.try_into().ok()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 4)?;
    usize::try_from(u32::from_le_bytes(field.try_into().ok()?)).ok()
}

fn layout(stub: &[u8]) -> Result<Layout, UkiError> {
    let lacks = UkiError::NotAStub;
    if !stub.starts_with(b"MZ") {
        return Err(lacks("no MZ"));
    }
    let pe = u32_at(stub, 0x3c).ok_or(lacks("cut off"))?;
    if stub.get(pe..pe.saturating_add(4)) != Some(b"PE\0\0") {
        return Err(lacks("no PE signature"));
    }
    let coff = pe + 4;
    let optional = coff + 20;
    if u16_at(stub, optional) != Some(0x20b) {
        return Err(lacks("not PE32+"));
    }
    let field = |at| u32_at(stub, at).ok_or(lacks("cut off"));
    let layout = Layout {
        coff,
        optional,
        table: optional + u16_at(stub, coff + 16).ok_or(lacks("cut off"))?,
        sections: u16_at(stub, coff + 2).ok_or(lacks("cut off"))?,
        memory_align: field(optional + 32)?,
        file_align: field(optional + 36)?,
        headers: field(optional + 60)?,
    };
    let aligned = layout.memory_align.is_power_of_two() && layout.file_align.is_power_of_two();
    if !aligned || layout.headers > stub.len() {
        return Err(lacks("impossible sizes"));
    }
    Ok(layout)
}

/// `stub` with `sections` (name of at most 8 bytes, content) added.
pub fn assemble(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, UkiError> {
    let at = layout(stub)?;
    let used = at.table + at.sections * SECTION_HEADER;
    let room = at.headers.saturating_sub(used) / SECTION_HEADER;
    if room < sections.len() {
        return Err(UkiError::NoRoom { room, wanted: sections.len() });
    }
    let mut image = stub.to_vec();
    // Symbols and line numbers behind the sections are of no use here and would be found in the wrong place.
    image[at.coff + 8..at.coff + 16].fill(0);
    image.truncate(end_in_file(stub, &at).ok_or(UkiError::NotAStub("section table"))?);
    let mut address = end_in_memory(stub, &at).ok_or(UkiError::NotAStub("section table"))?;
    for (number, (name, content)) in sections.iter().enumerate() {
        let too_large = || UkiError::TooLarge((*name).to_string());
        address = address.next_multiple_of(at.memory_align.max(4096));
        image.resize(image.len().next_multiple_of(at.file_align), 0);
        let raw = content.len().next_multiple_of(at.file_align);
        let fields = [content.len(), address, raw, image.len(), 0, 0, 0];
        let mut header = [0u8; SECTION_HEADER];
        let short = name.as_bytes().get(..8).unwrap_or(name.as_bytes());
        header[..short.len()].copy_from_slice(short);
        for (n, field) in fields.iter().enumerate() {
            let value = u32::try_from(*field).map_err(|_| too_large())?;
            header[8 + n * 4..12 + n * 4].copy_from_slice(&value.to_le_bytes());
        }
        header[36..40].copy_from_slice(&READ_DATA.to_le_bytes());
        let place = used + number * SECTION_HEADER;
        image[place..place + SECTION_HEADER].copy_from_slice(&header);
        image.extend_from_slice(content);
        image.resize(image.len().next_multiple_of(at.file_align), 0);
        address += content.len();
    }
    let count = (at.sections + sections.len()) as u16;
    image[at.coff + 2..at.coff + 4].copy_from_slice(&count.to_le_bytes());
    let size = u32::try_from(address.next_multiple_of(at.memory_align.max(4096)));
    let size = size.map_err(|_| UkiError::TooLarge("image".into()))?;
    image[at.optional + 56..at.optional + 60].copy_from_slice(&size.to_le_bytes());
    // No checksum: firmware does not look at it outside of signatures.
    image[at.optional + 64..at.optional + 68].fill(0);
    Ok(image)
}

/// Offset behind the last section's bytes in the file.
fn end_in_file(stub: &[u8], at: &Layout) -> Option<usize> {
    let mut end = at.headers;
    for header in (0..at.sections).map(|n| at.table + n * SECTION_HEADER) {
        let (size, place) = (u32_at(stub, header + 16)?, u32_at(stub, header + 20)?);
        end = end.max(place.checked_add(size)?);
    }
    (end <= stub.len()).then_some(end)
}

/// Address behind the last section in memory.
fn end_in_memory(stub: &[u8], at: &Layout) -> Option<usize> {
    let mut end = at.headers;
    for header in (0..at.sections).map(|n| at.table + n * SECTION_HEADER) {
        let (size, address) = (u32_at(stub, header + 8)?, u32_at(stub, header + 12)?);
        end = end.max(address.checked_add(size)?);
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest file the parser takes: headers of 0x400 bytes and one section.
    fn stub() -> Vec<u8> {
        let mut stub = vec![0; 0x600];
        stub[..2].copy_from_slice(b"MZ");
        stub[0x3c] = 0x80;
        stub[0x80..0x84].copy_from_slice(b"PE\0\0");
        let mut put = |at: usize, value: u32| stub[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0x86, 1); // one section
        put(0x94, 240); // size of the optional header
        put(0x98, 0x20b);
        put(0x98 + 32, 0x200);
        put(0x98 + 36, 0x200);
        put(0x98 + 60, 0x400);
        let table = 0x98 + 240;
        put(table + 8, 0x123);
        put(table + 12, 0x4000);
        put(table + 16, 0x200);
        put(table + 20, 0x400);
        stub
    }

    #[test]
    fn sections_follow_in_file_and_memory() {
        let content = vec![7u8; 5000];
        let image = assemble(&stub(), &[(".cmdline", b"quiet"), (".linux", &content)]).unwrap();
        let table = 0x98 + 240 + 40;
        assert_eq!(u16_at(&image, 0x86), Some(3));
        assert_eq!(&image[table..table + 8], b".cmdline");
        assert_eq!((u32_at(&image, table + 8), u32_at(&image, table + 12)), (Some(5), Some(0x5000)));
        assert_eq!(u32_at(&image, table + 20), Some(0x600));
        let second = table + 40;
        assert_eq!((u32_at(&image, second + 8), u32_at(&image, second + 12)), (Some(5000), Some(0x6000)));
        let place = u32_at(&image, second + 20).unwrap();
        assert_eq!(image[place..place + 5000], content[..]);
        assert_eq!(u32_at(&image, 0x98 + 56), Some(0x8000));
        assert_eq!(image.len() % 0x200, 0);
    }

    #[test]
    fn foreign_bytes_and_full_headers_are_refused() {
        assert_eq!(assemble(b"", &[]), Err(UkiError::NotAStub("no MZ")));
        for cut in 0..stub().len() {
            assert!(assemble(&stub()[..cut], &[(".a", b"")]).is_err(), "{cut}");
        }
        let many = vec![(".a", &b""[..]); 20];
        assert!(matches!(assemble(&stub(), &many), Err(UkiError::NoRoom { wanted: 20, .. })));
    }
}
