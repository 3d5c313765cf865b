//! Numbers in little-endian order at fixed places of a block.
//!
//! Reading outside of the bytes gives zeros rather than a panic: what comes from a disk may be cut anywhere, and
//! the checksum over a header says afterwards whether its numbers mean anything.

macro_rules! reader {
    ($name:ident, $type:ty) => {
        /// The number at `at`; zero when the bytes end before it does.
        #[must_use]
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            bytes
                .get(at..at + size_of::<$type>())
                .and_then(|part| part.try_into().ok())
                .map_or(0, <$type>::from_le_bytes)
        }
    };
}

reader!(u8_at, u8);
reader!(u16_at, u16);
reader!(u32_at, u32);
reader!(u64_at, u64);
reader!(u128_at, u128);

/// Writes `value` at `at`. The caller owns the block and its size: a place outside of it is a bug.
pub(crate) fn put(block: &mut [u8], at: usize, value: &[u8]) {
    block[at..at + value.len()].copy_from_slice(value);
}

/// `value` rounded up to a multiple of `unit`, which is a power of two.
#[must_use]
pub(crate) const fn align_up(value: u64, unit: u64) -> u64 {
    (value + unit - 1) & !(unit - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_past_the_end_gives_zero() {
        assert_eq!(u32_at(&[1, 2, 3], 0), 0);
        assert_eq!(u32_at(&[1, 0, 0, 0], 0), 1);
        assert_eq!(u64_at(&[], 4096), 0);
        assert_eq!(align_up(4097, 4096), 8192);
        assert_eq!(align_up(0, 16), 0);
    }
}
