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

/// Recycled segments kept as spares, though fewer were asked for: making one anew costs writing it.
const SPARES_KEPT: usize = 16;

/// Rounds in which a segment's pages may stay in memory before its file is removed instead.
const TRIES_MAX: u32 = 100;

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

/// Makes spares until there are as many as were asked for, or the room ends.
pub(super) fn keep_spares(shared: &Shared) {
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

/// True when mail is being turned away, or soon will be: then room counts for more than a file that is written already.
fn is_short(shared: &Shared) -> bool {
    let room = shared.room();
    room.free < 2 * shared.reserve_of(room) + shared.settings.segment_bytes
}

/// Gives the file of a segment without life back. Its pages must be out of memory first: one that stays would turn a
/// later O_DIRECT write into slow work of the kernel.
fn recycle(shared: &Shared, segment: &Segment) -> bool {
    if !segment.unmap() {
        return false;
    }
    let enough = shared.spares() >= SPARES_KEPT.max(2 * shared.settings.spares);
    let done = if segment.bytes != shared.settings.segment_bytes || enough {
        shared.disk.remove(segment.slot).map(|()| None)
    } else {
        match shared.disk.forget_cache(segment.slot) {
            Ok(true) => shared.write_spare(segment.slot, segment.generation).map(Some),
            // Somebody else looks at the file: the next rounds ask again, then it is given up for a new one.
            Ok(false) if segment.tries.fetch_add(1, Ordering::Relaxed) < TRIES_MAX && !is_short(shared) => {
                return false
            }
            Ok(false) => shared.disk.remove(segment.slot).map(|()| None),
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
