//! The maintenance thread: spare segments, recycling, the room on the disk.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::cold::Cold;
use super::segment::Segment;
use super::shared::Shared;
use crate::disk::Space;

/// How often the thread looks around without being nudged.
const ROUND: Duration = Duration::from_millis(250);

/// Works until the spool closes.
pub(super) fn run(shared: &Arc<Shared>, mut cold: Cold) {
    while !shared.closing.load(Ordering::Acquire) {
        round(shared, &mut cold);
        shared.wait_for_nudge(ROUND);
    }
    cold.close(shared);
}

/// Looks around once: recycles, keeps spares ready, compacts.
pub(super) fn round(shared: &Shared, cold: &mut Cold) {
    for segment in shared.table.all() {
        if segment.is_spent() && recycle(shared, &segment) {
            cold.forget_cut_off(segment.number);
        }
    }
    remove_spoiled(shared);
    keep_spares(shared);
    cold.round(shared);
}

/// Files that failed when they were to be opened would fill the disk until the next start.
fn remove_spoiled(shared: &Shared) {
    for slot in shared.take_spoiled() {
        if let Err(error) = shared.disk.remove(slot) {
            // Left alone: the next start looks at it again.
            shared.report(&format!("seg-{slot:04} can't be removed: {error}"));
        }
    }
}

fn keep_spares(shared: &Shared) {
    let room = shared.look_at_room();
    let reserve = shared.reserve_of(room);
    while shared.spares() < shared.settings.spares && !shared.closing.load(Ordering::Acquire) {
        if shared.look_at_room().free < shared.settings.segment_bytes + reserve {
            return;
        }
        match shared.create_spare(Space::Written) {
            Ok(spare) => shared.put_spare(spare),
            Err(error) => {
                shared.report(&format!("no spare segment: {error}"));
                return;
            }
        }
    }
}

/// Gives the file of a segment without life back. Its pages must be out of memory first: one that stays would turn a
/// later O_DIRECT write into slow work of the kernel.
fn recycle(shared: &Shared, segment: &Segment) -> bool {
    if !segment.unmap() {
        return false;
    }
    let done = if segment.bytes != shared.settings.segment_bytes || shared.spares() > shared.settings.spares + 1 {
        shared.disk.remove(segment.slot).map(|()| None)
    } else {
        match shared.disk.forget_cache(segment.slot) {
            Ok(true) => shared.write_spare(segment.slot, segment.generation).map(Some),
            // Pages still there, or unknown: the next round asks again.
            Ok(false) => return false,
            Err(error) => Err(error),
        }
    };
    match done {
        Ok(spare) => {
            shared.note_recycled(segment.number);
            spare.into_iter().for_each(|spare| shared.put_spare(spare));
            true
        }
        Err(error) => {
            shared.report(&format!("seg-{:04} can't be recycled: {error}", segment.slot));
            false
        }
    }
}
