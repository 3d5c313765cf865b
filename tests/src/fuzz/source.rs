//! Where a case's choices come from: its bytes, one after another, and zeros when they are used up.

use std::ops::Range;

/// Bytes read as choices.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Source<'a> {
    /// Choices from these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// All bytes are used: what is drawn now is zero. Loops end here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        match end {
            0 | 1 => 0,
            2..=256 => usize::from(self.byte()) % end,
            _ => (self.u32() as usize) % end,
        }
    }

    /// A number in the range.
    pub fn range(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u8) -> bool {
        self.byte() % n.max(1) == n.max(1) - 1
    }

    /// True half of the time; false when the bytes are used up.
    pub fn flip(&mut self) -> bool {
        self.one_in(2)
    }

    /// Four bytes as a number.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// Eight bytes as a number.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A number of any magnitude: limits and their neighbours come often.
    pub fn number(&mut self) -> u64 {
        const EDGES: [u64; 12] =
            [0, 1, 127, 255, 256, 65_535, 65_536, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 0x7fff_ffff_ffff_ffff, u64::MAX];
        match self.byte() % 4 {
            0 => u64::from(self.byte()),
            1 => u64::from(self.u32()),
            2 => EDGES[self.below(EDGES.len())].wrapping_add(self.below(3) as u64).wrapping_sub(1),
            _ => self.u64() >> self.below(64),
        }
    }

    /// One of these.
    pub fn pick<'b, T: ?Sized>(&mut self, from: &'b [&'b T]) -> &'b T {
        from[self.below(from.len())]
    }

    /// Up to `most` raw bytes.
    pub fn raw(&mut self, most: usize) -> Vec<u8> {
        let len = self.below(most + 1);
        (0..len).map(|_| self.byte()).collect()
    }

    /// Up to `most` bytes, most of them ones that mean something to a mail server.
    pub fn spicy(&mut self, most: usize) -> Vec<u8> {
        const SPICE: &[u8] = b"\r\n\r\n.. \t<>@:;=,\"\\()[]+-%&/aZ09\0\x7f\x80\xc3\xbc\xff";
        let len = self.below(most + 1);
        (0..len).map(|_| if self.one_in(8) { self.byte() } else { SPICE[self.below(SPICE.len())] }).collect()
    }

    /// The same as text.
    pub fn text(&mut self, most: usize) -> String {
        String::from_utf8_lossy(&self.spicy(most)).into_owned()
    }

    /// Damages bytes in up to `times` places: flips, overwrites, cuts, doubles, inserts.
    pub fn damage(&mut self, bytes: &mut Vec<u8>, times: usize) {
        for _ in 0..self.range(1..times.max(1) + 1) {
            let at = self.below(bytes.len().max(1)).min(bytes.len());
            match self.byte() % 8 {
                0..=2 => {
                    let bit = self.byte() % 8;
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << bit;
                    }
                }
                3 => {
                    let new = self.byte();
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = new;
                    }
                }
                4 => {
                    let end = (at + self.below(16)).min(bytes.len());
                    bytes.drain(at..end);
                }
                5 => {
                    let new = self.spicy(8);
                    bytes.splice(at..at, new);
                }
                6 => {
                    let end = (at + self.below(64)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => bytes.truncate(at),
            }
        }
    }

    /// Cuts bytes into pieces of any length, none empty.
    pub fn pieces<'b>(&mut self, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let most = if self.flip() { 4 } else { 600 };
            let (piece, rest) = bytes.split_at((1 + self.below(most)).min(bytes.len()));
            // Without choices left the rest comes at once.
            let (piece, rest) = if self.is_empty() { (bytes, &[][..]) } else { (piece, rest) };
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// Numbers from a seed (splitmix64): the same on every machine and with every release of every library.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Numbers that belong to a seed; neighbouring seeds have nothing in common.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed);
        dice.0 = dice.next();
        dice
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)] // endless: an Option would only be in the way
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}
