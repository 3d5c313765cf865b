//! The spool at work: commits go in, writes end in any order, answers come out, maintenance looks around, and a start
//! reads what is there.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use mta::shard::core::Fresh;
use mta::shard::effect::Effect;
use mta::shard::events::Fact;
use mta::shard::jobs;
use mta::shard::mail::{Composed, ShardMail};
use mta::shard::recovery::RecoveredMessage;
use mta::shard::reported::Reported;
use queue::error::Refusal;
use queue::spool::{Answer as SpoolAnswer, RecordRef};
use queue::{Envelope, MoveReason};
use rand::Rng;

use super::client;
use super::life::{Waiting, SEGMENT};
use super::model::{Answer, Message, Rcpt};
use super::world::{Event, World};

impl World {
    /// A client hands in a message.
    pub fn submit(&mut self, number: u32) {
        self.active_at = self.now;
        let mail = self.plan.mail[number as usize].clone();
        let shard = self.random.random_range(0..self.plan.shards);
        let Some(life) = &self.life else {
            // Nobody listens: the client comes again.
            let wait = self.random.random_range(1000..20_000);
            return self.outside(wait, Event::Submit(number));
        };
        if life.stopped || life.draining || life.stepped.spool().admits(mail.class).is_err() {
            self.say(format_args!("submission {number} is not taken now"));
            if !self.is_good() {
                let wait = self.random.random_range(1000..60_000);
                self.outside(wait, Event::Submit(number));
            }
            return;
        }
        let (envelope, body) = client::message_of(number, &mail, self.clock.wall(self.now));
        let id = life.stepped.spool().next_id();
        self.model.submitted(id, known(&envelope, Some(number)));
        let envelope = Arc::new(envelope);
        self.say(format_args!("submission {number} is {id} on shard {shard}"));
        let commit = match jobs::commit(id, &envelope, body.clone()) {
            Ok(commit) => commit,
            Err(error) => return self.model.breaks(format!("{id} can't be archived: {error}")),
        };
        self.commit(shard, commit, Waiting::Client(shard, id, envelope, body));
    }

    /// A report is composed.
    pub fn commit_report(&mut self, shard: usize, job: Box<mta::shard::effect::ReportJob>, composed: Composed) {
        let Composed { commit, envelope } = composed;
        let (id, body) = (commit.id, commit.body.clone());
        let about = job.recipients.iter().map(|r| (r.index, r.action)).collect();
        let about = Some((job.id, about));
        self.model.submitted(id, Message { about, ..known(&envelope, None) });
        self.say(format_args!("report {id} about {}", job.id));
        self.commit(shard, commit, Waiting::Report(shard, job, id, envelope, body));
    }

    fn commit(&mut self, shard: usize, commit: queue::spool::Commit, waiting: Waiting) {
        let Some(life) = &mut self.life else { return };
        let token = life.token;
        life.token += 1;
        match life.stepped.spool().submit(&life.ports[shard], token, commit) {
            Ok(()) => {
                life.waiting.insert(token, waiting);
                life.idle_feeds = 0;
                let wait = self.random.random_range(0..3);
                self.inside(wait, Event::Feed);
            }
            Err((refusal, _)) => self.refused(waiting, &refusal),
        }
    }

    /// The writer looks around: new writes begin, answers are passed on.
    pub fn feed(&mut self) {
        let slow = self.slow_ms;
        let now = self.now;
        let Some(life) = &mut self.life else { return };
        life.steady.store(now - life.began, Ordering::Relaxed);
        let mut begun = Vec::new();
        while let Some(op) = life.stepped.next_op() {
            let most = if slow > 0 && self.random.random_bool(0.3) { slow } else { 12 };
            begun.push((op.id, self.random.random_range(0..=most)));
            life.writes.insert(op.id, op);
        }
        if self.storage.tripped() {
            return;
        }
        if let Some(life) = &mut self.life {
            life.stepped.tell();
            life.idle_feeds = if begun.is_empty() { life.idle_feeds + 1 } else { 0 };
            // Idle writers add an empty batch; after that nothing happens by itself.
            if life.idle_feeds < 6 && begun.is_empty() {
                let wait = life.stepped.idle_ms();
                self.inside(wait, Event::Feed);
            }
        }
        for (op, wait) in begun {
            self.inside(wait, Event::Written(op));
        }
        self.answers();
    }

    /// A write ends.
    pub fn written(&mut self, id: u64) {
        let Some(op) = self.life.as_mut().and_then(|life| life.writes.remove(&id)) else { return };
        let bytes = op.buffer.bytes()[..op.len].to_vec();
        let result = self.storage.finish_write(op.slot, op.offset, &bytes, op.sync);
        if self.storage.tripped() {
            return;
        }
        self.say(format_args!("write {} of {} at {} in slot {}: {}", id, op.len, op.offset, op.slot, result.is_ok()));
        if let Some(life) = &mut self.life {
            life.stepped.complete(op.id, result, op.buffer);
        }
        self.feed();
    }

    /// Writes what was submitted, seals the segments.
    pub fn close_spool(&mut self) {
        let Some(life) = &mut self.life else { return };
        life.stepped.close();
        // Bounded: a disk that fails every write would keep it from ending.
        for _ in 0..200 {
            let Some(life) = &mut self.life else { return };
            let mut ops: Vec<_> = std::mem::take(&mut life.writes).into_values().collect();
            while let Some(op) = life.stepped.next_op() {
                ops.push(op);
            }
            if ops.is_empty() && life.stepped.is_done() {
                break;
            }
            for op in ops {
                let bytes = &op.buffer.bytes()[..op.len];
                let result = self.storage.finish_write(op.slot, op.offset, bytes, op.sync);
                life.stepped.complete(op.id, result, op.buffer);
            }
            if self.storage.tripped() {
                return;
            }
            life.stepped.tell();
            self.answers();
        }
        if let Some(life) = &mut self.life {
            life.stepped.close_cold();
        }
    }

    /// Writes under way when the process dies.
    pub fn abandon_writes(&mut self, power: bool) {
        let Some(life) = &mut self.life else { return };
        for op in std::mem::take(&mut life.writes).into_values() {
            self.storage.abandon_write(op.slot, op.offset, &op.buffer.bytes()[..op.len], power);
        }
    }

    fn answers(&mut self) {
        let Some(life) = &mut self.life else { return };
        let mut all: Vec<(Waiting, SpoolAnswer)> = Vec::new();
        let mut answers = Vec::new();
        for port in &life.ports {
            port.drain(&mut answers);
            let known = answers.drain(..).filter_map(|(token, answer)| Some((life.waiting.remove(&token)?, answer)));
            all.extend(known);
        }
        for (waiting, answer) in all {
            match answer {
                Ok(at) => self.accepted(waiting, at),
                Err(refusal) => self.refused(waiting, &refusal),
            }
        }
    }

    fn accepted(&mut self, waiting: Waiting, at: RecordRef) {
        self.active_at = self.now;
        let now = self.times();
        let (Waiting::Client(shard, id, ..) | Waiting::Report(shard, _, id, ..)) = &waiting;
        let (shard, id) = (*shard, *id);
        self.say(format_args!("{id} is durable at {}/{}", at.segment, at.offset16));
        self.model.answered(id, Answer::Accepted);
        let Some(life) = &mut self.life else { return };
        let core = &mut life.cores[shard];
        let place = (at.segment, at.offset16);
        match waiting {
            Waiting::Client(_, id, envelope, body) => {
                core.report_fact(Box::new(Fact::Reception { id, envelope: Arc::clone(&envelope) }));
                core.accepted(id, place, Fresh { envelope, body }, now, MoveReason::Received);
            }
            Waiting::Report(_, job, id, envelope, body) => {
                core.accepted(id, place, Fresh { envelope, body }, now, MoveReason::Dsn);
                core.reported(&job);
                for recipient in &job.recipients {
                    self.model.reported(job.id, recipient.index, recipient.action);
                }
            }
        }
        self.carry_out(shard);
        self.inside(0, Event::Tick(shard));
    }

    fn refused(&mut self, waiting: Waiting, refusal: &Refusal) {
        let (Waiting::Client(_, id, ..) | Waiting::Report(_, _, id, ..)) = &waiting;
        self.say(format_args!("{id} is refused: {refusal}"));
        // Without room for a segment the cut-off can't be written, and the 4xx leaves all the same.
        let unsure = matches!(refusal, Refusal::WriteFailed(_)) && !self.storage.state().has_room(2 * SEGMENT);
        self.model.answered(*id, if unsure { Answer::RefusedUnrecorded } else { Answer::Refused });
        match waiting {
            Waiting::Client(..) => {}
            Waiting::Report(shard, job, ..) => self.inside(5000, Event::Again(shard, Box::new(Effect::Report(job)))),
        }
    }

    /// The maintenance thread looks around.
    pub fn maintain(&mut self) {
        let now = self.now;
        let Some(life) = &mut self.life else { return };
        life.steady.store(now - life.began, Ordering::Relaxed);
        life.wall.store(self.clock.wall(now).0, Ordering::Relaxed);
        life.stepped.maintain();
        if self.storage.tripped() {
            return;
        }
        let status = life.stepped.spool().status();
        let counts = (status.recycled, status.compacted, status.segments, status.spares);
        self.say(format_args!("maintained: {counts:?}"));
        let wait = self.patience(250);
        self.inside(wait, Event::Maintain);
        self.feed();
    }

    /// Recovery tells what is on the disk; mail comes in meanwhile.
    pub fn recover(&mut self) {
        let shards = self.plan.shards;
        let Some((recovery, replay)) = self.life.as_mut().and_then(|life| life.recovery.take()) else { return };
        // Reads of a start do not fail in this world.
        let faults = std::mem::take(&mut self.storage.state().faults);
        let mut told = BTreeSet::new();
        let mut letters = Vec::new();
        let mut reported = Reported::default();
        let report = recovery.run(&mut |found| {
            told.insert(found.id.0);
            let message = RecoveredMessage::new(&found, |rcpt| replay.state(found.id, rcpt));
            letters.extend(reported.note(&found, message));
        });
        if let Some(life) = &self.life {
            letters.extend(reported.settle(life.stepped.spool()));
        }
        self.storage.state().faults = faults;
        self.say(format_args!("recovered {} messages, damage {:?}", report.messages, replay.report().damage));
        self.model.recovered(&told);
        for message in letters {
            let shard = (message.id.0 as usize) % shards;
            self.say(format_args!("{} stands at {:?}", message.id, message.states));
            self.send(shards, shard, ShardMail::Recovered(Box::new(message)));
        }
        for shard in 0..shards {
            self.send(shards, shard, ShardMail::RecoveryDone);
        }
    }
}

fn known(envelope: &Envelope, number: Option<u32>) -> Message {
    let rcpts = envelope.recipients.iter().map(|r| Rcpt::new(r.notify)).collect();
    let silent = envelope.reverse_path.is_empty() || number.is_none();
    Message { number, about: None, silent, answer: Answer::None, life: 0, rcpts }
}
