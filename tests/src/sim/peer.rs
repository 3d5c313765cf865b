//! Delivery connections and the peers at their other end: peers that accept, defer or refuse recipients, close before
//! any reply or after the last byte, are slow, or can't be reached. What the shard does with a connection follows its
//! feed: intents before the last byte, outcomes after the reply.

use std::sync::Arc;

use mta::message::render::BodyForm;
use mta::shard::events::{self, PeerInfo};
use mta::shard::item::{Item, PathKey};
use mta::shard::owner::{NextStep, PeerLimits};
use queue::{BounceClass, Outcome, OutcomeKind, SpoolId};
use rand::Rng;

use super::client::body_of;
use super::plan::Manner;
use super::world::{Event, World};

/// One connection of a path.
pub struct Connection {
    shard: usize,
    path: PathKey,
    /// What it carries now.
    pub item: Option<Box<Item>>,
    outcomes: Vec<Option<Outcome>>,
    messages: u32,
    idle_since: u64,
    idle: bool,
    /// Counts its waits, so that an old alarm is known.
    waits: u32,
    intents: bool,
}

/// What happens on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It stands, or failed.
    Made(bool),
    /// The replies to MAIL and RCPT were read.
    Replies,
    /// The peer has the last byte.
    LastByte,
    /// The final reply was read.
    Final(OutcomeKind),
    /// It closed before any reply.
    ClosedFirst,
    /// It closed after the last byte.
    ClosedLast,
    /// An idle connection looks for work; with the number of its wait.
    Look(u32),
}

/// The provider some sites belong to.
pub const PROVIDER: &str = "google";

/// A peer that wants nothing but mail.
const GOOD: Manner = Manner {
    no_connection: 0,
    close_first: 0,
    defer_rcpt: 0,
    refuse_rcpt: 0,
    defer_data: 0,
    refuse_data: 0,
    close_last: 0,
    taken_at_close: 0,
    slow: 0,
    dsn: false,
    eight_bit: true,
    rcpt_max: 100,
    provider: false,
};

fn outcome(kind: OutcomeKind, code: u16, text: &str, class: BounceClass) -> Outcome {
    let enhanced = [code / 100, 0, 0];
    Outcome { kind, code, enhanced, text: text.to_owned(), class }
}

impl World {
    fn manner(&self, path: &PathKey) -> Manner {
        let site = self.plan.sites[path_site(path)];
        if self.is_good() {
            Manner {
                dsn: site.dsn,
                eight_bit: site.eight_bit,
                rcpt_max: site.rcpt_max,
                provider: site.provider,
                ..GOOD
            }
        } else {
            site
        }
    }

    fn travel(&mut self, manner: &Manner) -> u64 {
        if self.chance(manner.slow) {
            self.random.random_range(1000..200_000)
        } else {
            self.random.random_range(1..80)
        }
    }

    /// A path wants one more connection.
    pub fn connect(&mut self, shard: usize, path: PathKey) {
        let manner = self.manner(&path);
        let stands = !self.chance(manner.no_connection);
        let wait = self.travel(&manner);
        let now = self.now;
        let Some(life) = &mut self.life else { return };
        let conn = life.next_connection;
        life.next_connection += 1;
        let connection = Connection {
            shard,
            path,
            item: None,
            outcomes: Vec::new(),
            messages: 0,
            idle_since: now,
            idle: false,
            waits: 0,
            intents: false,
        };
        life.connections.insert(conn, connection);
        self.inside(wait, Event::Connection(conn, Step::Made(stands)));
        self.check_provider();
    }

    /// From one source to all sites of the provider there are never more connections than its row allows.
    fn check_provider(&mut self) {
        let most = mta::shaping::Limits::for_provider(Some(PROVIDER)).provider_connections.unwrap_or(u32::MAX);
        let Some(life) = &self.life else { return };
        for source in 0..self.plan.sources {
            let counts =
                |c: &&Connection| usize::from(c.path.source) == source && self.plan.sites[path_site(&c.path)].provider;
            let open = life.connections.values().filter(counts).count();
            if open > most as usize {
                return self
                    .model
                    .breaks(format!("{open} connections of source {source} to a provider that takes {most}"));
            }
        }
    }

    /// Work has come to a path: one idle connection looks.
    pub fn wake(&mut self, shard: usize, path: &PathKey) {
        let Some(life) = &self.life else { return };
        let idle = life.connections.iter().find(|(_, c)| c.idle && c.shard == shard && c.path == *path);
        if let Some((conn, waits)) = idle.map(|(conn, c)| (*conn, c.waits)) {
            self.inside(0, Event::Connection(conn, Step::Look(waits)));
        }
    }

    /// Something happens on a connection.
    pub fn connection(&mut self, conn: u64, step: Step) {
        let times = self.times();
        let Some(life) = &mut self.life else { return };
        let Some(connection) = life.connections.get_mut(&conn) else { return };
        let (shard, path) = (connection.shard, connection.path.clone());
        let (owner, effects) = life.cores[shard].owner();
        if !matches!(step, Step::Look(_)) {
            self.active_at = self.now;
        }
        match step {
            Step::Made(true) => {
                if self.sources.usable(usize::from(path.source)) {
                    owner.connected(&path);
                    self.look(conn);
                } else {
                    owner.source_gone(&path, times, effects);
                    life.connections.remove(&conn);
                }
            }
            Step::Made(false) => {
                owner.connected(&path);
                let why = outcome(OutcomeKind::Deferred, 0, "no connection", BounceClass::NoAnswerFromHost);
                owner.connect_failed(&path, &why, "mx", times, effects);
                life.connections.remove(&conn);
            }
            Step::Replies => self.replies(conn),
            Step::LastByte => self.last_byte(conn),
            Step::Final(kind) => self.final_reply(conn, kind),
            Step::ClosedFirst => {
                let why = outcome(OutcomeKind::Deferred, 0, "closed without a reply", BounceClass::BadConnection);
                self.resolve(conn, &why);
                self.finished(conn);
                self.closed(conn, true);
            }
            Step::ClosedLast => {
                let why =
                    outcome(OutcomeKind::Unknown, 0, "closed after the last byte", BounceClass::PossibleDuplicate);
                self.resolve(conn, &why);
                self.finished(conn);
                self.closed(conn, true);
            }
            Step::Look(waits) => {
                if connection.idle && connection.waits == waits {
                    connection.idle = false;
                    owner.waiting(&path, false);
                    self.look(conn);
                }
            }
        }
        self.carry_out(shard);
        if !matches!(step, Step::Look(_)) {
            self.hurry(shard);
        }
    }

    /// Asks for work.
    fn look(&mut self, conn: u64) {
        let times = self.times();
        let now = self.now;
        let Some(life) = &mut self.life else { return };
        let draining = life.draining;
        let Some((shard, path, messages)) = life.connections.get(&conn).map(|c| (c.shard, c.path.clone(), c.messages))
        else {
            return;
        };
        let site = self.plan.sites[path_site(&path)];
        let limits = PeerLimits {
            recipients: site.rcpt_max,
            domains: usize::MAX,
            messages_left: 50u32.saturating_sub(messages),
            binary: false,
            eight_bit: site.eight_bit,
            dsn: site.dsn,
        };
        let (owner, effects) = life.cores[shard].owner();
        let next = owner.next(&path, &limits, times, effects);
        let idle_time = owner.path(&path).map_or(60_000, |p| p.idle_time().as_millis() as u64);
        match next {
            NextStep::Send(item) => self.begin(conn, item),
            NextStep::Close => self.closed(conn, false),
            NextStep::Wait if draining => self.closed(conn, false),
            NextStep::Wait => {
                let waiting = owner.path(&path).is_some_and(|p| p.waiting() > 0);
                owner.waiting(&path, true);
                let Some(connection) = life.connections.get_mut(&conn) else { return };
                if connection.idle_since == 0 {
                    connection.idle_since = now;
                }
                if now - connection.idle_since >= idle_time {
                    owner_waiting_ends(life, shard, &path);
                    return self.closed(conn, false);
                }
                connection.idle = true;
                connection.waits += 1;
                let waits = connection.waits;
                let wait = if waiting { 500 } else { idle_time };
                self.inside(wait, Event::Connection(conn, Step::Look(waits)));
            }
        }
    }

    fn begin(&mut self, conn: u64, item: Box<Item>) {
        let manner = self.manner(&item.path);
        self.check_content(&item);
        let id = item.id;
        let count = item.recipients.len();
        let Some(life) = &mut self.life else { return };
        let Some(connection) = life.connections.get_mut(&conn) else { return };
        connection.item = Some(item);
        connection.outcomes = vec![None; count];
        connection.messages += 1;
        connection.idle_since = 0;
        connection.intents = false;
        let (shard, path) = (connection.shard, connection.path.clone());
        let hold_last = life.cores[shard].owner().0.path(&path).is_none_or(mta::shard::path::Path::hold_last);
        self.say(format_args!("{id} goes to {} on {conn}, {count} recipients", path.site.as_str()));
        let wait = self.travel(&manner);
        if self.chance(manner.close_first) {
            return self.inside(wait, Event::Connection(conn, Step::ClosedFirst));
        }
        if hold_last {
            return self.inside(wait, Event::Connection(conn, Step::Replies));
        }
        // Everything goes at once, the last byte with it: intents for all.
        if self.intents(conn) {
            self.judge_recipients(conn, &manner);
            self.inside(wait, Event::Connection(conn, Step::LastByte));
        }
    }

    /// The bytes that leave are those that were submitted.
    fn check_content(&mut self, item: &Item) {
        let Some(message) = self.model.message(item.id) else { return };
        let (Some(number), Some(body)) = (message.number, &item.body) else { return };
        let eight_bit = self.plan.mail[number as usize].eight_bit;
        let planned = self.plan.mail[number as usize].len;
        if item.form == BodyForm::AsStored && body[..] != body_of(number, planned, eight_bit)[..] {
            self.model.breaks(format!("{}: other bytes leave than were submitted", item.id));
        }
    }

    /// Decides for each recipient what the peer replies to RCPT.
    fn judge_recipients(&mut self, conn: u64, manner: &Manner) {
        let Some(life) = &mut self.life else { return };
        let Some(connection) = life.connections.get_mut(&conn) else { return };
        let Some(item) = &connection.item else { return };
        let envelope = item.envelope.clone();
        let indexes: Vec<u16> = item.recipients.iter().map(|r| r.index).collect();
        let mut outcomes = Vec::with_capacity(indexes.len());
        for index in indexes {
            let address = envelope.as_ref().and_then(|e| e.recipients.get(usize::from(index)));
            let nobody = address.is_some_and(|r| r.address.starts_with("no"));
            outcomes.push(if nobody || self.chance(manner.refuse_rcpt) {
                Some(outcome(OutcomeKind::Failed, 550, "5.1.1 nobody here", BounceClass::InvalidRecipient))
            } else if self.chance(manner.defer_rcpt) {
                Some(outcome(OutcomeKind::Deferred, 450, "4.2.1 later", BounceClass::TransientFailure))
            } else {
                None
            });
        }
        if let Some(connection) = self.life.as_mut().and_then(|life| life.connections.get_mut(&conn)) {
            connection.outcomes = outcomes;
        }
    }

    fn replies(&mut self, conn: u64) {
        let Some(path) = self.path_of(conn) else { return };
        let manner = self.manner(&path);
        self.judge_recipients(conn, &manner);
        let Some(connection) = self.life.as_ref().and_then(|life| life.connections.get(&conn)) else { return };
        if connection.outcomes.iter().all(Option::is_some) {
            self.finished(conn);
            return self.look(conn);
        }
        if self.intents(conn) {
            let wait = self.travel(&manner);
            self.inside(wait, Event::Connection(conn, Step::LastByte));
        }
    }

    fn path_of(&self, conn: u64) -> Option<PathKey> {
        self.life.as_ref()?.connections.get(&conn).map(|c| c.path.clone())
    }

    /// Records the intents of all recipients that are still open; then the last byte leaves. False when the ack log
    /// takes none: nothing leaves.
    fn intents(&mut self, conn: u64) -> bool {
        let times = self.times();
        let Some(life) = &mut self.life else { return false };
        let Some(connection) = life.connections.get_mut(&conn) else { return false };
        let Some(item) = &connection.item else { return false };
        let shard = connection.shard;
        let open: Vec<_> =
            item.recipients.iter().zip(&connection.outcomes).filter(|(_, o)| o.is_none()).map(|(r, _)| r).collect();
        let id = item.id;
        let mut taken = !life.stopped;
        let mut indexes = Vec::new();
        for recipient in open {
            taken = taken && life.acks[shard].append(&events::intent(id, recipient, times.wall)).is_ok();
            indexes.push(recipient.index);
        }
        connection.intents = taken;
        self.foresee_round();
        if taken {
            for index in indexes {
                self.model.last_byte(id, index, self.now, times.wall);
            }
            return true;
        }
        self.say(format_args!("{id} is withheld"));
        let why = outcome(OutcomeKind::Deferred, 0, "the ack log takes nothing", BounceClass::TransientFailure);
        self.resolve(conn, &why);
        self.finished(conn);
        self.closed(conn, false);
        false
    }

    /// The peer has every byte: it decides, whatever becomes of us.
    fn last_byte(&mut self, conn: u64) {
        let Some(path) = self.path_of(conn) else { return };
        let manner = self.manner(&path);
        let Some(connection) = self.life.as_ref().and_then(|life| life.connections.get(&conn)) else { return };
        let Some(item) = &connection.item else { return };
        let open: Vec<u16> = item
            .recipients
            .iter()
            .zip(&connection.outcomes)
            .filter(|(_, outcome)| outcome.is_none())
            .map(|(recipient, _)| recipient.index)
            .collect();
        let id: SpoolId = item.id;
        let wait = self.travel(&manner);
        if self.chance(manner.close_last) {
            if self.chance(manner.taken_at_close) {
                self.outside(0, Event::Taken(id, open));
            }
            return self.inside(wait, Event::Connection(conn, Step::ClosedLast));
        }
        let kind = if self.chance(manner.defer_data) {
            OutcomeKind::Deferred
        } else if self.chance(manner.refuse_data) {
            OutcomeKind::Failed
        } else {
            self.outside(0, Event::Taken(id, open));
            OutcomeKind::Delivered
        };
        self.inside(wait, Event::Connection(conn, Step::Final(kind)));
    }

    fn final_reply(&mut self, conn: u64, kind: OutcomeKind) {
        let said = match kind {
            OutcomeKind::Delivered => outcome(kind, 250, "2.0.0 taken", BounceClass::None),
            OutcomeKind::Deferred => outcome(kind, 451, "4.3.0 not now", BounceClass::TransientFailure),
            _ => outcome(kind, 554, "5.7.1 not here", BounceClass::PolicyRelated),
        };
        self.resolve(conn, &said);
        self.finished(conn);
        self.look(conn);
    }

    fn resolve(&mut self, conn: u64, with: &Outcome) {
        if let Some(connection) = self.life.as_mut().and_then(|life| life.connections.get_mut(&conn)) {
            for outcome in &mut connection.outcomes {
                outcome.get_or_insert_with(|| with.clone());
            }
        }
    }

    /// All outcomes of a transaction were read: the shard decides.
    fn finished(&mut self, conn: u64) {
        let times = self.times();
        let now = self.now;
        let Some(life) = &mut self.life else { return };
        let Some(connection) = life.connections.get_mut(&conn) else { return };
        let Some(item) = connection.item.take() else { return };
        let outcomes: Vec<Outcome> = connection.outcomes.drain(..).flatten().collect();
        let shard = connection.shard;
        let dsn = self.plan.sites[path_site(&item.path)].dsn;
        for (recipient, outcome) in item.recipients.iter().zip(&outcomes) {
            self.model.read(item.id, recipient.index, outcome.kind, now);
        }
        let text: Vec<_> = item.recipients.iter().zip(&outcomes).map(|(r, o)| (r.index, o.kind)).collect();
        let id = item.id;
        let peer = Arc::new(PeerInfo { name: "mx".to_owned(), ..PeerInfo::default() });
        let (owner, effects) = life.cores[shard].owner();
        owner.finished(item, outcomes, &peer, dsn, times, effects);
        self.say(format_args!("{id} came to {text:?}"));
    }

    fn closed(&mut self, conn: u64, unexplained: bool) {
        let Some(life) = &mut self.life else { return };
        let Some(connection) = life.connections.remove(&conn) else { return };
        life.cores[connection.shard].owner().0.closed(&connection.path, unexplained);
    }
}

fn path_site(path: &PathKey) -> usize {
    path.site.as_str().trim_start_matches("mx.site").trim_end_matches(".test").parse().unwrap_or(0)
}

fn owner_waiting_ends(life: &mut super::life::Life, shard: usize, path: &PathKey) {
    life.cores[shard].owner().0.waiting(path, false);
}
