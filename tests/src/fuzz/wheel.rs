//! The backlog (timer wheel, queues, holds) against a plain list that does the same the slow way.

use std::collections::BTreeMap;

use queue::scheduled::{Backlog, Classes, ClockState, Finished, NewMessage, NewRecipient, RcptKey, Taken};
use queue::{Class, HoldReason, MoveReason, SpoolId, UnixSecs};

use super::source::Source;
use super::{must, Verdict};

const START: u32 = 1_800_000_000;
const QUEUES: [&str; 4] = ["a.test", "b.test", "t@c.test", "camp:t@d.test!r.test"];

/// Where a recipient of the list stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waiting(u32),
    Due,
    Taken,
    Held,
}

#[derive(Clone, Copy, Debug)]
struct One {
    state: State,
    queue: usize,
    class: Class,
    attempts: u16,
    key: Option<RcptKey>,
}

struct Play {
    backlog: Backlog,
    now: u32,
    /// By spool id and number in the envelope.
    list: BTreeMap<(u64, u16), One>,
    places: BTreeMap<u64, (u32, u32)>,
    next: u64,
}

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let mut play = Play {
        backlog: Backlog::new(UnixSecs(START), u32::MAX),
        now: START,
        list: BTreeMap::new(),
        places: BTreeMap::new(),
        next: 1,
    };
    play.pass(0)?;
    while !source.is_empty() {
        match source.byte() % 10 {
            0 | 1 => play.insert(source)?,
            2..=4 => play.take(source)?,
            5 => play.put_back(source)?,
            6 => play.finish(source)?,
            7 => play.hold_or_release(source)?,
            _ => {
                let seconds = match source.byte() % 5 {
                    0 => 1,
                    1 => u32::from(source.byte()),
                    2 => source.u32() % 5000,
                    3 => source.u32() % 100_000,
                    _ => source.u32() % 40_000_000,
                };
                play.pass(seconds)?;
            }
        }
        play.compare()?;
    }
    play.drain()
}

impl Play {
    fn insert(&mut self, source: &mut Source<'_>) -> Verdict {
        let id = self.next;
        self.next += 1 + u64::from(source.byte() % 3);
        let class = [Class::Critical, Class::Transactional, Class::Bulk][source.below(3)];
        let count = 1 + source.below(5) as u16;
        let mut rows = Vec::new();
        for rcpt in 0..count {
            let due = match source.byte() % 4 {
                0 => self.now,
                1 => self.now + u32::from(source.byte()),
                2 => self.now + source.u32() % 1_000_000,
                _ => self.now.saturating_sub(source.u32() % 1000),
            };
            let held = source.one_in(10);
            let queue = source.below(QUEUES.len());
            rows.push((rcpt, queue, due, held));
        }
        let place = (source.u32(), source.u32());
        let new = NewMessage {
            id: SpoolId(id),
            place,
            received: UnixSecs(self.now),
            not_after: None,
            class,
            priority: (source.byte() % 19) as i8 - 9,
            pool: 1,
            tenant: 2,
            size: 3,
        };
        let recipients = rows.iter().map(|(rcpt, queue, due, held)| NewRecipient {
            rcpt: *rcpt,
            queue: QUEUES[*queue],
            attempts: 0,
            unknowns: 0,
            due: UnixSecs(*due),
            hold: held.then_some(HoldReason::Operator),
        });
        let inserted = self.backlog.insert(&new, recipients, MoveReason::Received);
        must(inserted.is_ok(), || format!("{inserted:?}"))?;
        self.places.insert(id, place);
        for (rcpt, queue, due, held) in rows {
            let state = match (held, due <= self.now) {
                (true, _) => State::Held,
                (_, true) => State::Due,
                _ => State::Waiting(due),
            };
            self.list.insert((id, rcpt), One { state, queue, class, attempts: 0, key: None });
        }
        Ok(())
    }

    fn take(&mut self, source: &mut Source<'_>) -> Verdict {
        let classes = [Classes::ALL, Classes::CRITICAL, Classes::NOT_BULK][source.below(3)];
        let wanted = |one: &One| one.state == State::Due && classes.has(one.class);
        let Some((queue, class)) = self.backlog.next_active(classes) else {
            let left = self.list.iter().find(|(_, one)| wanted(one));
            return must(left.is_none(), || format!("nothing is due, and yet {left:?}"));
        };
        must(classes.has(class), || format!("{class:?} was not asked for"))?;
        let higher = self.list.values().find(|one| wanted(one) && one.class < class);
        must(higher.is_none(), || format!("{class:?} before {higher:?}"))?;
        let mut out = Vec::new();
        let most = 1 + source.below(6);
        let count = self.backlog.take(queue, class, most, &mut out);
        must(count == out.len() && (1..=most).contains(&count), || format!("{count} taken of {most}"))?;
        let name = self.backlog.queue_name(queue).unwrap_or_default().to_owned();
        for taken in out {
            self.taken(&taken, State::Due)?;
            let one = self.list[&(taken.id.0, taken.index)];
            must(QUEUES[one.queue] == name && one.class == class, || format!("{taken:?} out of {name}"))?;
        }
        Ok(())
    }

    fn taken(&mut self, taken: &Taken, from: State) -> Verdict {
        let place = self.places.get(&taken.id.0);
        must(place == Some(&taken.place), || format!("{taken:?} is at {place:?}"))?;
        let one = self.list.get_mut(&(taken.id.0, taken.index)).ok_or_else(|| format!("{taken:?} is unknown"))?;
        must(one.state == from, || format!("{taken:?} is {one:?}"))?;
        must(one.attempts == taken.attempts, || format!("{taken:?} is {one:?}"))?;
        one.state = State::Taken;
        one.key = Some(taken.rcpt);
        Ok(())
    }

    /// One of those in our hands.
    fn in_hand(&self, source: &mut Source<'_>) -> Option<((u64, u16), RcptKey)> {
        let mine = |one: &One| one.state == State::Taken;
        let all: Vec<_> =
            self.list.iter().filter_map(|(at, one)| Some((*at, one.key.filter(|_| mine(one))?))).collect();
        all.get(source.below(all.len())).copied()
    }

    fn put_back(&mut self, source: &mut Source<'_>) -> Verdict {
        let Some((at, key)) = self.in_hand(source) else { return Ok(()) };
        let due = self.now.wrapping_add(source.u32() % 50_000).saturating_sub(100);
        let reason = [MoveReason::Retry, MoveReason::NoRoom, MoveReason::Throttled][source.below(3)];
        let Some(one) = self.list.get_mut(&at) else { return Ok(()) };
        one.attempts = one.attempts.wrapping_add(1);
        must(self.backlog.put_back(key, UnixSecs(due), one.attempts, 0, reason), || format!("{at:?} is not ours"))?;
        one.state = if due <= self.now { State::Due } else { State::Waiting(due) };
        must(!self.backlog.put_back(key, UnixSecs(due), 1, 0, reason), || format!("{at:?} put back twice"))
    }

    fn finish(&mut self, source: &mut Source<'_>) -> Verdict {
        let Some((at, key)) = self.in_hand(source) else { return Ok(()) };
        let finished = self.backlog.finish(key);
        self.list.remove(&at);
        let last = !self.list.keys().any(|(id, _)| *id == at.0);
        let wanted = last.then(|| Finished { id: SpoolId(at.0), place: self.places[&at.0] });
        must(finished == wanted, || format!("{at:?}: {finished:?}, not {wanted:?}"))
    }

    fn hold_or_release(&mut self, source: &mut Source<'_>) -> Verdict {
        if source.flip() {
            let Some((at, key)) = self.in_hand(source) else { return Ok(()) };
            must(self.backlog.hold(key, HoldReason::Operator), || format!("{at:?} can't be held"))?;
            self.list.entry(at).and_modify(|one| one.state = State::Held);
            return Ok(());
        }
        let mut out = Vec::new();
        let most = source.below(4);
        let count = self.backlog.take_held(HoldReason::Operator, most, &mut out);
        let held = self.list.values().filter(|one| one.state == State::Held).count();
        must(count == most.min(held) && out.len() == count, || format!("{count} of {held} held"))?;
        out.iter().try_for_each(|taken| self.taken(taken, State::Held))
    }

    fn pass(&mut self, seconds: u32) -> Verdict {
        self.now = self.now.saturating_add(seconds).min(u32::MAX - 10_000_000);
        for _ in 0..100_000 {
            let advanced = self.backlog.advance(UnixSecs(self.now), ClockState::Trusted, 50);
            if !advanced.more {
                for one in self.list.values_mut() {
                    if matches!(one.state, State::Waiting(due) if due <= self.now) {
                        one.state = State::Due;
                    }
                }
                return Ok(());
            }
        }
        Err("time does not pass".to_owned())
    }

    fn compare(&self) -> Verdict {
        let totals = self.backlog.totals();
        let count = |wanted: fn(&State) -> bool| self.list.values().filter(|one| wanted(&one.state)).count();
        let counted = (
            self.list.len(),
            count(|state| matches!(state, State::Waiting(_))),
            count(|state| *state == State::Due),
            count(|state| *state == State::Taken),
            count(|state| *state == State::Held),
        );
        let told = (totals.recipients, totals.scheduled, totals.due, totals.taken, totals.held);
        must(counted == told, || format!("counted {counted:?}, told {told:?} at {}", self.now))?;
        let messages: std::collections::BTreeSet<u64> = self.list.keys().map(|(id, _)| *id).collect();
        let queues: std::collections::BTreeSet<usize> = self.list.values().map(|one| one.queue).collect();
        let same = totals.messages == messages.len() && totals.queues >= queues.len() && totals.queues <= QUEUES.len();
        must(same, || format!("{totals:?}, {} messages, {} queues", messages.len(), queues.len()))
    }

    /// In the end everything comes out, once.
    fn drain(&mut self) -> Verdict {
        let mut out = Vec::new();
        while self.backlog.take_held(HoldReason::Operator, 100, &mut out) > 0 {}
        for taken in std::mem::take(&mut out) {
            self.taken(&taken, State::Held)?;
        }
        self.pass(100_000_000)?;
        while let Some((queue, class)) = self.backlog.next_active(Classes::ALL) {
            must(self.backlog.take(queue, class, 100, &mut out) > 0, || "an active queue without mail".to_owned())?;
        }
        for taken in out {
            self.taken(&taken, State::Due)?;
        }
        let keys: Vec<RcptKey> = self.list.values().filter_map(|one| one.key).collect();
        must(keys.len() == self.list.len(), || format!("left behind: {:?}", self.list))?;
        for key in keys {
            let _ = self.backlog.finish(key);
        }
        let totals = self.backlog.totals();
        must((totals.messages, totals.recipients, totals.queues) == (0, 0, 0), || format!("{totals:?}"))
    }
}
