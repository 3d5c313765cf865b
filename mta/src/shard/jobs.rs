//! Jobs for the render pool: load, sign, convert, compose. Each brings its result back as a letter to the shard. What
//! the pool has no room for comes back as the effect it was, to be posted again.

use std::sync::Arc;

use arc_swap::ArcSwap;
use queue::envelope::EnvelopeError;
use queue::error::ReadError;
use queue::spool::{Commit, Labels, RecordRef, Spool, Stored};
use queue::{Body, Envelope, SpoolId};

use super::driver::Links;
use super::effect::{Effect, ReportJob};
use super::item::{Item, PathKey, Settlement};
use super::mail::{Composed, Composition, LoadedEnvelope, ShardMail};
use super::owner::RenderResult;
use crate::bounce::dsn;
use crate::message::key::Keyring;
use crate::message::render::{self, BodyForm};

/// What render jobs need besides the message.
pub struct RenderContext {
    /// The spool.
    pub spool: Arc<Spool>,
    /// Signing keys.
    pub keys: ArcSwap<Keyring>,
    /// Our name.
    pub host: String,
}

impl RenderContext {
    /// With these keys.
    #[must_use]
    pub fn new(spool: Arc<Spool>, keys: Keyring, host: String) -> Self {
        Self { spool, keys: ArcSwap::from_pointee(keys), host }
    }

    fn stored(&self, item: &Item) -> Result<(Arc<Envelope>, Body), ReadError> {
        if let (Some(envelope), Some(body)) = (&item.envelope, &item.body) {
            if item.form == BodyForm::AsStored {
                return Ok((Arc::clone(envelope), body.clone()));
            }
        }
        let Stored { envelope, body } = self.spool.load(item.id, place(item.place))?;
        Ok((Arc::new(envelope), body))
    }

    /// Loads and signs an item.
    #[must_use]
    pub fn render(&self, item: &Item, form: BodyForm) -> RenderResult {
        let (envelope, body) = match self.stored(item) {
            Ok(stored) => stored,
            Err(ReadError::Io { source, .. }) => return RenderResult::ReadFailed(source.to_string()),
            Err(error) => return RenderResult::Damaged(error.to_string()),
        };
        let ring = self.keys.load();
        let author = if ring.is_empty() { None } else { render::author_domain(&body) };
        let keys = author.as_deref().map_or(&[][..], |domain| ring.for_author(domain));
        match render::render(&body, &envelope, keys, form) {
            Ok(rendered) => RenderResult::Done {
                prefix: Arc::new(rendered.prefix),
                body: rendered.body,
                flags: rendered.flags,
                envelope,
            },
            Err(outcome) => RenderResult::Unconvertible(Box::new(outcome), envelope),
        }
    }

    /// Loads the envelope of a settlement made without an attempt.
    #[must_use]
    pub fn envelope_of(&self, settlement: &Settlement) -> LoadedEnvelope {
        match self.spool.load_envelope(settlement.id, place(settlement.place)) {
            Ok(envelope) => LoadedEnvelope::Here(Arc::new(envelope)),
            Err(error @ ReadError::Io { .. }) => {
                tracing::error!(id = %settlement.id, %error, "the spool disk failed a read; it is tried again");
                LoadedEnvelope::Later
            }
            Err(error) => {
                tracing::error!(id = %settlement.id, %error, "no event and no report about a damaged message");
                LoadedEnvelope::Damaged
            }
        }
    }

    /// Composes a report.
    #[must_use]
    pub fn compose(&self, job: &ReportJob) -> Composition {
        let id = job.id;
        let (envelope, body) = match (self.spool.load(id, place(job.place)), &job.envelope) {
            (Ok(Stored { envelope, body }), _) => (Arc::new(envelope), body),
            // The envelope suffices for a report without the original.
            (Err(error), Some(envelope)) => {
                tracing::error!(%id, %error, "a report goes out without the message it is about");
                (Arc::clone(envelope), Body::from(Vec::new()))
            }
            (Err(error @ ReadError::Io { .. }), None) => {
                tracing::error!(%id, %error, "the spool disk failed a read; the report is tried again");
                return Composition::Later;
            }
            (Err(error), None) => {
                tracing::error!(%id, %error, "no report about a damaged message");
                return Composition::Impossible;
            }
        };
        let when = job.when;
        let recipients: Vec<_> = job
            .recipients
            .iter()
            .map(|r| dsn::Reported {
                recipient: usize::from(r.index),
                action: r.action,
                outcome: &r.outcome,
                remote_mta: (!r.remote.is_empty()).then_some(r.remote.as_str()),
                last_attempt: when.secs(),
                will_retry_until: r.retry_until,
            })
            .collect();
        let attempt = job.recipients.first().map_or(0, |r| u32::from(r.attempts));
        let report = dsn::Report {
            envelope: &envelope,
            spool_id: id,
            attempt,
            host: &self.host,
            now: when,
            recipients: &recipients,
            original: &body,
        };
        let dsn::Dsn { envelope: about, body } = dsn::compose(&report);
        self.commit_of(about, body)
    }

    /// A message of our own as a commit.
    fn commit_of(&self, envelope: Envelope, body: Body) -> Composition {
        match commit(self.spool.next_id(), &envelope, body) {
            Ok(commit) => Composition::Made(Box::new(Composed { commit, envelope: Arc::new(envelope) })),
            Err(error) => {
                tracing::error!(%error, "a report could not be written; this is a defect of ours");
                Composition::Impossible
            }
        }
    }
}

/// The commit of a message.
pub fn commit(id: SpoolId, envelope: &Envelope, body: Body) -> Result<Commit, EnvelopeError> {
    let archived = envelope.encode()?;
    Ok(Commit { id, version: queue::envelope::ENVELOPE_V1, labels: Labels::of(envelope), envelope: archived, body })
}

fn place(at: (u32, u32)) -> RecordRef {
    super::driver::record_ref(at)
}

/// Loads and signs an item.
pub fn render(links: &Links, path: PathKey, item: Box<Item>, form: BodyForm) -> Option<Effect> {
    let context = Arc::clone(&links.render);
    let back = links.mailboxes.get(usize::from(links.id))?.clone();
    if links.pool.is_full() {
        return Some(Effect::Render(path, item, form));
    }
    let job = Box::new(move || {
        let result = Box::new(context.render(&item, form));
        deliver(&back, ShardMail::Rendered(path, item.id, form, result));
    });
    submit(links, job);
    None
}

/// Loads the envelope of a settlement made without an attempt.
pub fn load(links: &Links, settlement: Box<Settlement>) -> Option<Effect> {
    let context = Arc::clone(&links.render);
    let back = links.mailboxes.get(usize::from(links.id))?.clone();
    if links.pool.is_full() {
        return Some(Effect::Load(settlement));
    }
    let job = Box::new(move || {
        let envelope = context.envelope_of(&settlement);
        deliver(&back, ShardMail::Loaded(settlement, envelope));
    });
    submit(links, job);
    None
}

/// Composes a report.
pub fn compose(links: &Links, job: Box<ReportJob>) -> Option<Effect> {
    let context = Arc::clone(&links.render);
    let back = links.mailboxes.get(usize::from(links.id))?.clone();
    if links.pool.is_full() {
        return Some(Effect::Report(job));
    }
    let work = Box::new(move || {
        let composed = context.compose(&job);
        deliver(&back, ShardMail::Composed(job, composed));
    });
    submit(links, work);
    None
}

/// The pool was not full a moment ago, and only this shard's thread... or another's may have filled it: then the job
/// runs here, late but not lost.
fn submit(links: &Links, job: render::Job) {
    if let Err(render::Full(job)) = links.pool.submit(job) {
        job();
    }
}

/// A pool thread may wait for room in a mailbox: the shard never waits for the pool.
fn deliver(mailbox: &crate::net::Sender<ShardMail>, mut letter: ShardMail) {
    while let Err(back) = mailbox.send(letter) {
        letter = back;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
