//! Deadlines of streams: one table per shard, looked through once a second.
//!
//! A timer per read would cost more than the read. A stream holds a place in the table; when its time has come the
//! socket is shut down in both directions, which completes whatever operation the kernel holds on it, and the stream
//! says `timed_out`. It never drops an operation.

use std::cell::{OnceCell, RefCell};
use std::rc::Weak;
use std::time::Duration;

use tokio::time::Instant;

use super::stream::Inner;

#[derive(Default)]
struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    now: u32,
}

struct Place {
    /// Second of this shard's life; 0 means no deadline.
    at: u32,
    stream: Weak<Inner>,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table::default());
    static START: OnceCell<Instant> = const { OnceCell::new() };
}

/// Takes a place for a stream; it has no deadline yet.
pub(super) fn register(stream: Weak<Inner>) -> u32 {
    TABLE.with_borrow_mut(|table| {
        let place = Place { at: 0, stream };
        if let Some(index) = table.free.pop() {
            if let Some(old) = table.places.get_mut(index as usize) {
                *old = place;
            }
            return index;
        }
        table.places.push(place);
        table.places.len() as u32 - 1
    })
}

/// Gives the place back.
pub(super) fn release(index: u32) {
    // The table may be gone already when the thread ends.
    let _ = TABLE.try_with(|table| {
        let Ok(mut table) = table.try_borrow_mut() else {
            return;
        };
        if let Some(place) = table.places.get_mut(index as usize) {
            place.at = 0;
            place.stream = Weak::new();
            table.free.push(index);
        }
    });
}

/// Sets or clears the deadline. It fires up to two seconds late, never early.
pub(super) fn set(index: u32, seconds: Option<u32>) {
    TABLE.with_borrow_mut(|table| {
        // Rounded up: the current second may be almost over.
        let at = seconds.map_or(0, |s| table.now.saturating_add(s).saturating_add(1));
        if let Some(place) = table.places.get_mut(index as usize) {
            place.at = at;
        }
    });
}

/// The task of a shard that looks through the table every second.
pub(super) async fn tick() {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = START.with(|start| start.get_or_init(Instant::now).elapsed().as_secs());
        for stream in due(u32::try_from(now).unwrap_or(u32::MAX)) {
            if let Some(stream) = stream.upgrade() {
                stream.expire();
            }
        }
    }
}

/// Moves the clock and takes out whose time has come.
fn due(now: u32) -> Vec<Weak<Inner>> {
    TABLE.with_borrow_mut(|table| {
        table.now = now;
        let mut due = Vec::new();
        for place in &mut table.places {
            if place.at != 0 && place.at <= now {
                place.at = 0;
                due.push(place.stream.clone());
            }
        }
        due
    })
}
