//! Carrying out what the cores decide, as the driver of a shard does it: letters, jobs for the pool, notes, acks.

use std::sync::Arc;

use mta::dns::route::MxHost;
use mta::dns::{Route, RouteError, SiteName};
use mta::shard::effect::Effect;
use mta::shard::events::Fact;
use mta::shard::ledger::Note;
use mta::shard::mail::{Composition, LoadedEnvelope, ShardMail};
use mta::shard::router::Question;
use queue::ack::{AckEntry, AckKind};
use queue::{BounceClass, SpoolId};
use rand::Rng;

use super::world::{Event, World};

impl World {
    /// A shard looks at the clock.
    pub fn tick(&mut self, shard: usize) {
        let now = self.times();
        let (synced, sources) = (self.clock.synced, Arc::clone(&self.sources));
        let Some(life) = &mut self.life else { return };
        let steady = (self.now - life.began) / 1000;
        let clock = life.guards[shard].observe(now.wall, steady, synced);
        self.retry_held_back(shard);
        let Some(life) = &mut self.life else { return };
        let core = &mut life.cores[shard];
        core.set_sources(&sources);
        core.set_stopped(life.stopped || life.draining);
        let more = core.step(now, clock);
        self.carry_out(shard);
        // The one tick that is always foreseen; others only hurry.
        let blocked = self.life.as_ref().is_some_and(|life| !life.held_back[shard].is_empty());
        let wait = if more { 1 } else { self.patience(200).min(if blocked { 200 } else { u64::MAX }) };
        if let Some(life) = &mut self.life {
            let next = self.now + wait;
            if life.ticks[shard] <= self.now || next < life.ticks[shard] {
                life.ticks[shard] = next;
                self.inside(wait, Event::Tick(shard));
            }
        }
    }

    fn retry_held_back(&mut self, shard: usize) {
        let Some(life) = &mut self.life else { return };
        for effect in life.held_back[shard].take() {
            self.carry_out_one(shard, effect);
        }
        self.flush_notes(shard);
    }

    /// Carries out everything a core has decided.
    pub fn carry_out(&mut self, shard: usize) {
        loop {
            let mut effects = Vec::new();
            let Some(life) = &mut self.life else { return };
            life.cores[shard].take_effects(&mut effects);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out_one(shard, effect);
            }
        }
    }

    fn carry_out_one(&mut self, shard: usize, effect: Effect) {
        let Some(life) = &mut self.life else { return };
        let Some(effect) = life.held_back[shard].pass(effect) else { return };
        match effect {
            Effect::Ack(entry) => self.ack(shard, entry),
            Effect::Note(note) => {
                self.check_note(shard, &note);
                if let Some(life) = &mut self.life {
                    life.notes[shard].push_back(note);
                }
                self.flush_notes(shard);
            }
            Effect::Retire(id, place) => {
                life.stepped.spool().retire(id, mta::shard::driver::record_ref(place));
                self.say(format_args!("{id} is retired"));
            }
            Effect::Wake(path) => self.wake(shard, &path),
            Effect::Connect(path) => self.connect(shard, path),
            Effect::Ask(question) => {
                let wait = self.random.random_range(1..2000);
                self.inside(wait, Event::Answer(shard, question));
            }
            other => self.post(shard, other),
        }
    }

    /// Effects that are letters, or jobs for the pool.
    pub fn post(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Hand(to, item) => self.send(shard, to.into(), ShardMail::Item(item)),
            Effect::Settle(to, settlement) => self.send(shard, to.into(), ShardMail::Settled(settlement)),
            Effect::Return(to, item, how) => self.send(shard, to.into(), ShardMail::Returned(item, how)),
            // Letters about leases may be lost: they are written again.
            Effect::LeaseAsk(..) | Effect::LeaseGrant(..) if self.chance(30) => {}
            Effect::LeaseAsk(to, ask) => self.send(shard, to.into(), ShardMail::LeaseAsk(shard as u16, ask)),
            Effect::LeaseGrant(to, key, grant) => self.send(shard, to.into(), ShardMail::LeaseGrant(key, grant)),
            effect => {
                if let Effect::Report(job) = &effect {
                    self.check_report(job);
                }
                let wait = self.random.random_range(0..30);
                self.inside(wait, Event::Job(shard, Box::new(effect)));
            }
        }
    }

    /// A letter to a shard: at once to oneself, later to others, never overtaking.
    pub fn send(&mut self, from: usize, to: usize, letter: ShardMail) {
        if from == to {
            return self.read(to, letter);
        }
        let wait = self.random.random_range(0..20);
        let Some(life) = &mut self.life else { return };
        let arrival = life.arrivals.entry((from, to)).or_default();
        *arrival = (*arrival).max(self.now + wait);
        let wait = *arrival - self.now;
        self.inside(wait, Event::Letter(to, Box::new(letter)));
    }

    /// A shard reads a letter.
    pub fn read(&mut self, shard: usize, letter: ShardMail) {
        let of_leases = matches!(letter, ShardMail::LeaseAsk(..) | ShardMail::LeaseGrant(..));
        self.active_at = if of_leases { self.active_at } else { self.now };
        let now = self.times();
        let Some(life) = &mut self.life else { return };
        let core = &mut life.cores[shard];
        match letter {
            ShardMail::Item(item) => core.arrived(item),
            ShardMail::Settled(settlement) => core.settled(*settlement, now),
            ShardMail::Returned(item, how) => core.returned(*item, &how, now),
            ShardMail::Synced(notes) => core.synced(notes),
            ShardMail::Recovered(message) => core.recovered(*message, now),
            ShardMail::RecoveryDone => core.recovery_done(),
            ShardMail::LeaseAsk(from, ask) => core.lease_asked(from, &ask, now),
            ShardMail::LeaseGrant(key, grant) => core.owner().0.leases().granted(&key, grant, now.steady),
            _ => return self.model.breaks("a letter nobody sends".to_owned()),
        }
        self.carry_out(shard);
        self.hurry(shard);
    }

    /// The shard's pump is woken.
    pub fn hurry(&mut self, shard: usize) {
        let now = self.now;
        let Some(life) = &mut self.life else { return };
        if life.ticks[shard] > now + 1 || life.ticks[shard] < now {
            life.ticks[shard] = now + 1;
            self.inside(1, Event::Tick(shard));
        }
    }

    /// The pool gets to a job.
    pub fn job(&mut self, shard: usize, job: Effect) {
        self.active_at = self.now;
        let now = self.times();
        let Some(life) = &mut self.life else { return };
        match job {
            Effect::Render(path, item, form) => {
                let result = life.render.render(&item, form);
                life.cores[shard].rendered(&path, item.id, form, result, now);
            }
            Effect::Load(mut settlement) => match life.render.envelope_of(&settlement) {
                LoadedEnvelope::Here(envelope) => {
                    settlement.envelope = Some(envelope);
                    life.cores[shard].loaded(*settlement, now);
                }
                LoadedEnvelope::Damaged => life.cores[shard].loaded(*settlement, now),
                LoadedEnvelope::Later => self.inside(5000, Event::Again(shard, Box::new(Effect::Load(settlement)))),
            },
            Effect::Report(job) => match life.render.compose(&job) {
                Composition::Made(composed) => self.commit_report(shard, job, *composed),
                Composition::Later => self.inside(5000, Event::Again(shard, Box::new(Effect::Report(job)))),
                Composition::Impossible => life.cores[shard].reported(&job),
            },
            _ => {}
        }
        self.carry_out(shard);
        self.hurry(shard);
    }

    fn ack(&mut self, shard: usize, entry: AckEntry) {
        let Some(life) = &mut self.life else { return };
        match life.acks[shard].append(&entry) {
            Ok(sequence) => {
                if let AckKind::Verdict(kind) = entry.kind {
                    life.verdicts.insert((entry.id, entry.rcpt), (shard, sequence.0));
                    self.say(format_args!("{} {} verdict {kind:?} {:?}", entry.id, entry.rcpt, entry.due));
                }
                if entry.kind == AckKind::Done {
                    self.check_done(entry.id, entry.rcpt);
                }
                self.foresee_round();
            }
            Err(stop) => {
                life.stopped = true;
                life.held_back[shard].refused(entry);
                self.say(format_args!("shard {shard}: {stop}"));
            }
        }
    }

    fn flush_notes(&mut self, shard: usize) {
        let Some(life) = &mut self.life else { return };
        if life.notes[shard].is_empty() {
            return;
        }
        while let Some(note) = life.notes[shard].pop_front() {
            if let Err(note) = life.queues[shard].push(note) {
                life.notes[shard].push_front(note);
                break;
            }
        }
        self.foresee_round();
    }

    fn check_done(&mut self, id: SpoolId, index: u16) {
        self.say(format_args!("{id} {index} is done"));
        self.learn_ends();
        self.model.done(id, index, &self.ends);
    }

    /// A report is about to be composed: the verdicts it is about must be durable.
    fn check_report(&mut self, job: &mta::shard::effect::ReportJob) {
        let Some(life) = &self.life else { return };
        for recipient in &job.recipients {
            // Verdicts of an earlier life were durable when this one began.
            let Some((port, sequence)) = life.verdicts.get(&(job.id, recipient.index)) else { continue };
            if life.acks[*port].durable().0 < *sequence {
                let what = format!("a report about {} {} before its verdict is durable", job.id, recipient.index);
                return self.model.breaks(what);
            }
        }
    }

    /// Nothing ends by its age while the clock is not to be trusted.
    fn check_note(&mut self, shard: usize, note: &Note) {
        let Some(Fact::Attempt { id, outcome, index, .. }) = note.as_deref() else { return };
        let Some(life) = &self.life else { return };
        let expired = outcome.class == BounceClass::MessageExpired;
        if expired && !life.guards.iter().any(|guard| guard.state().may_expire()) {
            let state = life.guards[shard].state();
            self.model.breaks(format!("{id} {index} expired while the clock was {state:?}"));
        }
    }

    /// The DNS answers.
    pub fn answer(&mut self, shard: usize, question: Question) {
        self.active_at = self.now;
        let Question::Domain(domain) = &question else { return };
        let number: usize = domain.trim_start_matches('d').trim_end_matches(".test").parse().unwrap_or(usize::MAX);
        let answer = if number >= self.plan.domains {
            Err(RouteError::no_domain(domain))
        } else if !self.is_good() && self.chance(60) {
            Err(RouteError::dns("no answer".to_owned(), std::time::Duration::from_secs(60)))
        } else {
            Ok(Arc::new(self.route(number % self.plan.sites.len())))
        };
        let now = self.times();
        let Some(life) = &mut self.life else { return };
        life.cores[shard].routed(question, answer, now);
        self.carry_out(shard);
        self.hurry(shard);
    }

    fn route(&self, site: usize) -> Route {
        let name = format!("mx.site{site}.test");
        let host = MxHost {
            preference: 10,
            name: name.clone(),
            canonical: name.clone(),
            addresses: vec![std::net::Ipv4Addr::new(198, 51, 100, site as u8 + 1).into()],
            port: 25,
            secure: false,
        };
        Route {
            site: SiteName::from_hosts([name.as_str()]),
            hosts: vec![host],
            provider: self.plan.sites[site].provider.then_some(super::peer::PROVIDER),
            expires: self.steady() + std::time::Duration::from_secs(600),
            stale: false,
        }
    }
}
