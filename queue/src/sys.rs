//! The only unsafe code of this crate.

/// Maps the whole of `file` shared, to read and write.
///
/// # Errors
/// What the operating system said.
#[allow(unsafe_code)]
pub fn map_shared(file: &std::fs::File) -> std::io::Result<memmap2::MmapMut> {
    // SAFETY: the only callers map ack rings: files this process has created under its own epoch, filled with zeros by
    // write(2) so that every page is there, and never truncates. The bytes are plain data; whoever reads them checks them.
    unsafe { memmap2::MmapMut::map_mut(file) }
}
