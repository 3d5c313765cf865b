//! The bytes of a message, shared without copying.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What can own message bytes: a receive buffer, a mapped segment, a buffer read back from disk.
pub trait BodyOwner: Send + Sync {
    /// All bytes of the owner; stable in address and content for the owner's life.
    fn bytes(&self) -> &[u8];
}

impl BodyOwner for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A range of shared, immutable bytes in wire form (CRLF line ends, not dot-stuffed).
#[derive(Clone)]
pub struct Body {
    owner: Arc<dyn BodyOwner>,
    range: Range<usize>,
}

impl Body {
    /// The part `range` of what `owner` holds. Panics when the range is outside of it, which is a bug.
    #[must_use]
    pub fn new(owner: Arc<dyn BodyOwner>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= owner.bytes().len(), "a body lies within its owner");
        Self { owner, range }
    }

    /// A smaller part of this body; `range` counts from its start.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let start = self.range.start + range.start;
        Self::new(Arc::clone(&self.owner), start..self.range.start + range.end)
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// True when there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Arc::new(bytes), range }
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }
}

impl std::ops::Deref for Body {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len())
    }
}
