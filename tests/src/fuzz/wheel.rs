//! To come.

use super::source::Source;
use super::Verdict;

pub(super) fn run(_: &mut Source<'_>) -> Verdict {
    Ok(())
}
