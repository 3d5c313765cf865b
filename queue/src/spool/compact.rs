//! Which segments are worth compacting. Pure: sizes in, a choice out.
//!
//! A few messages that nobody accepts must not pin the segments they came in with. Segments with little life are
//! copied together into cold ones; the goal is that at least 40 % of the disk in use holds living records.

/// When to compact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A sealed segment below this many percent of life is a candidate.
    pub live_percent: u8,
    /// Milliseconds a segment is left alone after its use began: most mail leaves in that time by itself.
    pub min_age_ms: u64,
    /// Most segments taken at once.
    pub most: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { live_percent: 40, min_age_ms: 20 * 60 * 1000, most: 16 }
    }
}

/// A sealed segment as the plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Logical number.
    pub number: u32,
    /// Length of its file.
    pub bytes: u64,
    /// Bytes of living records.
    pub live: u64,
    /// When its use began, milliseconds since 1970.
    pub created: u64,
}

/// The segments to copy now, least life first; empty when copying would not give back a segment.
/// `pressed` means the disk is short of room: age does not matter then.
#[must_use]
pub fn plan(policy: &Policy, sealed: &[Candidate], segment_bytes: u64, now: u64, pressed: bool) -> Vec<u32> {
    let old = |candidate: &&Candidate| pressed || now.saturating_sub(candidate.created) >= policy.min_age_ms;
    let thin = |candidate: &&Candidate| candidate.live * 100 < candidate.bytes * u64::from(policy.live_percent);
    let mut chosen: Vec<&Candidate> = sealed.iter().filter(old).filter(thin).filter(|one| one.live > 0).collect();
    chosen.sort_by_key(|candidate| (candidate.live, candidate.number));
    chosen.truncate(policy.most);
    let freed: u64 = chosen.iter().map(|candidate| candidate.bytes).sum();
    let copied: u64 = chosen.iter().map(|candidate| candidate.live).sum();
    // What is copied takes whole segments too, at worst.
    let taken = copied.div_ceil(segment_bytes.max(1)) * segment_bytes;
    if freed < taken + segment_bytes {
        return Vec::new();
    }
    chosen.into_iter().map(|candidate| candidate.number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn candidate(number: u32, live: u64) -> Candidate {
        Candidate { number, bytes: 64 * MIB, live, created: 0 }
    }

    #[test]
    fn thin_old_segments_are_gathered() {
        let policy = Policy::default();
        let all: Vec<_> = (0..10).map(|number| candidate(number, u64::from(number + 1) * 4 * MIB)).collect();
        let now = policy.min_age_ms;
        // 4 .. 24 MiB of 64 are below 40 %.
        assert_eq!(plan(&policy, &all, 64 * MIB, now, false), [0, 1, 2, 3, 4, 5]);
        assert!(plan(&policy, &all, 64 * MIB, now - 1, false).is_empty(), "too young");
        assert_eq!(plan(&policy, &all, 64 * MIB, 0, true).len(), 6, "pressed");
    }

    #[test]
    fn nothing_is_copied_when_nothing_is_won() {
        let policy = Policy::default();
        assert!(plan(&policy, &[candidate(1, MIB)], 64 * MIB, u64::MAX, false).is_empty());
        assert!(plan(&policy, &[], 64 * MIB, u64::MAX, true).is_empty());
        assert!(plan(&policy, &[candidate(1, 0), candidate(2, 0)], 64 * MIB, u64::MAX, true).is_empty());
    }

    /// 1 % of mail that nobody accepts: after compaction at least 40 % of the disk in use is life.
    #[test]
    fn one_percent_undeliverable_leaves_forty_percent_life() {
        let policy = Policy { most: 1000, ..Policy::default() };
        let all: Vec<_> = (0..500).map(|number| candidate(number, 64 * MIB / 100)).collect();
        let chosen = plan(&policy, &all, 64 * MIB, u64::MAX, false);
        let live: u64 = all.iter().map(|one| one.live).sum();
        let used = (live.div_ceil(64 * MIB) + (all.len() - chosen.len()) as u64) * 64 * MIB;
        assert!(live * 100 >= used * 40, "{live} of {used}");
    }
}
