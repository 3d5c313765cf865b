//! Acceptance: from a received mail to "250": hygiene, envelope, commit, and only then the reply. Also where the
//! shard's listeners are opened.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::error::Refusal as SpoolRefusal;
use queue::spool::Spool;
use queue::{Class, Envelope, MessageKind, MoveReason, SpoolId};
use tokio::sync::oneshot;

use super::core::Fresh;
use super::driver::{wall, Shard};
use super::events::Fact;
use super::jobs;
use super::work::Live;
use crate::ingress::{self, Acceptor, Door, Guard, GuardLimits, Sessions};
use crate::message::accept::{self, Finished, Incoming};
use crate::message::facts::Facts;
use crate::message::hygiene::{Refusal, Role};
use crate::message::steer::{Allowed, Presets, Scope};
use crate::net::{self, ListenOptions, Listener};
use crate::smtp::codes::{reply, Reply};
use crate::smtp::extension::BodyKind;
use crate::smtp::sasl::RecentSuccesses;
use crate::smtp::server::{
    AuthAnswer, AuthQuestion, Credential, DomainRule, InboundKind, ListenerRole, Now as SessionNow, ReceivedMail,
};

/// One port, as configured.
pub struct ListenerPlan {
    /// Where.
    pub address: SocketAddr,
    /// Sessions at once, over all shards.
    pub max_sessions: usize,
    /// Sessions from one address, over all shards.
    pub max_sessions_per_address: usize,
    /// What its sessions decide by, and the certificate it shows.
    pub door: Arc<Door>,
}

/// What all shards let in, and how.
pub struct IngressPlan {
    /// The ports.
    pub listeners: Vec<ListenerPlan>,
    /// Our name.
    pub host: String,
    /// Someone signs: body hashes are taken while receiving.
    pub signs: bool,
    /// Streams by name.
    pub streams: HashMap<String, (Class, Option<Duration>)>,
    /// The spool.
    pub spool: Arc<Spool>,
    /// Shards that share the sessions.
    pub shards: usize,
}

/// Successes of logins remembered by a shard.
const RECENT_LOGINS: usize = 10_000;
/// For this long a right password is not computed again.
const RECENT_LIFE_MS: u64 = 300_000;

/// The acceptor of one shard.
pub struct Acceptance {
    shard: Rc<Shard>,
    plan: Arc<IngressPlan>,
    live: Arc<Live>,
    guard: RefCell<Guard>,
    recent: RefCell<RecentSuccesses>,
    started: Instant,
}

impl Acceptance {
    /// For a shard.
    #[must_use]
    pub fn new(shard: &Rc<Shard>, plan: Arc<IngressPlan>, live: Arc<Live>) -> Rc<Self> {
        let limits = GuardLimits { shards: u32::try_from(plan.shards).unwrap_or(1).max(1), ..GuardLimits::default() };
        Rc::new(Self {
            shard: Rc::clone(shard),
            plan,
            live,
            guard: RefCell::new(Guard::new(limits)),
            recent: RefCell::new(RecentSuccesses::new(RECENT_LOGINS, RECENT_LIFE_MS)),
            started: Instant::now(),
        })
    }

    /// Binds the shard's listeners and starts their accept loops. Gives a line per listener.
    ///
    /// Errors: an address is taken or not ours; says which and what to do.
    pub fn open(self: &Rc<Self>) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        let shards = self.plan.shards.max(1);
        for plan in &self.plan.listeners {
            let listener =
                Listener::bind(plan.address, ListenOptions::default()).map_err(|e| bind_error(plan.address, &e))?;
            lines.push(format!("{} {}", plan.address, role_text(plan.door.policy.load().role)));
            let per_address = u32::try_from(plan.max_sessions_per_address).unwrap_or(u32::MAX);
            let sessions = Sessions::new(self.shard.links.id, plan.max_sessions.div_ceil(shards), per_address);
            net::spawn_local(ingress::listen(listener, Arc::clone(&plan.door), Rc::clone(self), sessions));
        }
        Ok(lines)
    }

    async fn accept(&self, mail: ReceivedMail) -> Result<String, Reply> {
        let id = self.shard.links.spool.next_id();
        let ReceivedMail { buffer, headroom, .. } = mail;
        let scope = ScopeLists::of(mail.auth.as_deref());
        let single = match mail.recipients.as_slice() {
            [only] => Some(only.address.clone()),
            _ => None,
        };
        let utf8 = !mail.reverse_path.is_ascii() || mail.recipients.iter().any(|r| !r.address.is_ascii());
        let finished = accept::finish(Incoming {
            buffer,
            headroom,
            facts: Some(Facts {
                dot_line: mail.facts.dot_line,
                eight_bit: mail.facts.eight_bit,
                longest_line: mail.facts.longest_line,
                ..Facts::default()
            }),
            role: role_of(mail.role),
            binary: mail.params.body == BodyKind::Binary,
            smtputf8: mail.params.smtputf8,
            utf8_addresses: utf8,
            peer: Some(mail.peer.ip()),
            helo: &mail.helo,
            protocol: mail.protocol.keyword(),
            host: &self.plan.host,
            single_recipient: single.as_deref(),
            scope: scope.view(),
            presets: Presets::default(),
            spool_id: id,
            now: mail.received,
            want_hash: self.plan.signs,
            want_simple: false,
        })
        .map_err(|refusal| refused(&refusal))?;
        let facts = Received {
            reverse_path: mail.reverse_path,
            recipients: mail.recipients,
            inbound: mail.inbound,
            params: mail.params,
            auth: mail.auth,
            peer: mail.peer.ip().to_string(),
            protocol: mail.protocol.keyword(),
            session: mail.session,
            received: mail.received,
        };
        let (envelope, body) = self.envelope(facts, finished)?;
        self.commit(id, envelope, body).await
    }

    /// The envelope of a finished message.
    fn envelope(&self, facts: Received, finished: Finished) -> Result<(Envelope, queue::Body), Reply> {
        let Finished { body, flags, body_hash, size, steering } = finished;
        let credential = facts.auth.as_deref();
        let stream =
            steering.stream.or_else(|| credential.and_then(|c| c.streams.first().map(|(name, _)| name.clone())));
        let (class, ttl) = match stream.as_deref() {
            Some(name) => self.plan.streams.get(name).copied().unwrap_or_default(),
            None => (Class::default(), None),
        };
        let now = facts.received.secs();
        let by = facts.params.by;
        let not_after = match (ttl.map(|ttl| now.plus(ttl)), by.map(|by| by.at)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let kind =
            if facts.inbound.contains(&InboundKind::Operator) { MessageKind::Forward } else { MessageKind::Mail };
        let envelope = Envelope {
            received: facts.received,
            kind,
            reverse_path: facts.reverse_path,
            tenant: steering.tenant.or_else(|| credential.map(|c| c.tenant.clone())).unwrap_or_default(),
            campaign: steering.campaign.unwrap_or_default(),
            stream: stream.unwrap_or_default(),
            class: if kind == MessageKind::Forward { Class::Transactional } else { class },
            pool: steering.pool.or_else(|| credential.and_then(|c| c.pools.first().cloned())).unwrap_or_default(),
            credential: credential.map(|c| c.name.clone()).unwrap_or_default(),
            priority: facts.params.priority,
            not_before: steering.schedule.or(facts.params.not_before),
            not_after,
            deliver_by_notify: by.is_some_and(|by| by.notify),
            ret: facts.params.ret,
            envid: if facts.params.envid.is_empty() { steering.envid.unwrap_or_default() } else { facts.params.envid },
            idempotency_key: steering.idempotency_key.unwrap_or_default(),
            routing_domain: String::new(),
            recipients: facts.recipients,
            flags,
            body_hash,
            size,
            peer: facts.peer,
            protocol: facts.protocol.to_owned(),
            session: facts.session,
            report_of: None,
        };
        Ok((envelope, body))
    }

    async fn commit(&self, id: SpoolId, envelope: Envelope, body: queue::Body) -> Result<String, Reply> {
        let commit = jobs::commit(id, &envelope, body.clone()).map_err(|error| {
            tracing::error!(%id, %error, "an envelope could not be written; this is a defect of ours");
            reply::NO_ROOM
        })?;
        let at = self.shard.commit(commit).await.map_err(|refusal| storage_refusal(&refusal))?;
        let envelope = Arc::new(envelope);
        let fact = Fact::Reception { id, envelope: Arc::clone(&envelope) };
        self.shard.with_core(|core, _| core.report_fact(Box::new(fact)));
        self.shard.enqueue(id, at, Fresh { envelope, body }, MoveReason::Received);
        Ok(format!("queued as {id}"))
    }
}

/// What is left of a received mail once its buffer has gone into the message.
struct Received {
    reverse_path: String,
    recipients: Vec<queue::EnvRecipient>,
    inbound: Vec<InboundKind>,
    params: crate::smtp::extension::MailParams,
    auth: Option<Arc<Credential>>,
    peer: String,
    protocol: &'static str,
    session: u64,
    received: queue::UnixMillis,
}

impl Acceptor for Acceptance {
    async fn finish_and_commit(&self, mail: Box<ReceivedMail>) -> Result<String, Reply> {
        if mail.inbound.first().is_some_and(|kind| *kind != InboundKind::Operator) {
            // Reports to our own addresses are kept for the process that reads them.
            tracing::debug!(kind = ?mail.inbound.first(), "a report came in");
        }
        self.accept(*mail).await
    }

    async fn verify(&self, question: Box<AuthQuestion>) -> AuthAnswer {
        let now_ms = self.now().mono_ms;
        let key = question.cache_key(&self.process_key());
        if self.recent.borrow().holds(&key, now_ms) {
            return AuthAnswer::Right;
        }
        let (done, answer) = oneshot::channel();
        let job = Box::new(move || {
            // The session may be gone: nobody wants the answer then.
            let _ = done.send(question.answer());
        });
        if self.shard.links.pool.submit(job).is_err() {
            return AuthAnswer::Unavailable;
        }
        let answer = answer.await.unwrap_or(AuthAnswer::Unavailable);
        if answer == AuthAnswer::Right {
            self.recent.borrow_mut().remember(key, now_ms);
        }
        answer
    }

    fn refuses_now(&self, class: Class, _size: u64) -> Option<Reply> {
        if self.shard.is_stopped() {
            return Some(reply::NO_ROOM);
        }
        self.plan.spool.admits(class).err().map(|refusal| storage_refusal(&refusal))
    }

    fn guard(&self) -> &RefCell<Guard> {
        &self.guard
    }

    fn now(&self) -> SessionNow {
        let mono_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        SessionNow { unix: wall(), mono_ms }
    }

    fn is_closing(&self) -> bool {
        self.live.is_closed()
    }
}

impl Acceptance {
    fn process_key(&self) -> [u8; 32] {
        self.plan.listeners.first().map_or([0; 32], |l| l.door.policy.load().process_key)
    }
}

/// Names a credential may steer to, held as long as a message is finished.
struct ScopeLists {
    pools: Vec<String>,
    streams: Vec<String>,
    domains: Vec<String>,
    any_domain: bool,
    schedule: bool,
    campaign: bool,
    known: bool,
}

impl ScopeLists {
    fn of(credential: Option<&Credential>) -> Self {
        let Some(c) = credential else {
            return Self {
                pools: Vec::new(),
                streams: Vec::new(),
                domains: Vec::new(),
                any_domain: true,
                schedule: false,
                campaign: false,
                known: false,
            };
        };
        let domain = |rule: &DomainRule| match rule {
            DomainRule::Any => None,
            DomainRule::Exact(name) => Some(name.clone()),
            DomainRule::Below(parent) => Some(format!("*.{parent}")),
        };
        Self {
            pools: if c.steer.pool { c.pools.clone() } else { Vec::new() },
            streams: if c.steer.stream { c.streams.iter().map(|(name, _)| name.clone()).collect() } else { Vec::new() },
            domains: c.from_domains.iter().filter_map(domain).collect(),
            any_domain: c.from_domains.contains(&DomainRule::Any),
            schedule: c.steer.schedule,
            campaign: c.steer.campaign,
            known: true,
        }
    }

    fn view(&self) -> Scope<'_> {
        if !self.known {
            return Scope { from_domains: Allowed::Any, ..Scope::default() };
        }
        Scope {
            pools: Allowed::Only(&self.pools),
            tenants: Allowed::Nothing,
            campaigns: if self.campaign { Allowed::Any } else { Allowed::Nothing },
            streams: Allowed::Only(&self.streams),
            schedule: self.schedule,
            from_domains: if self.any_domain { Allowed::Any } else { Allowed::Only(&self.domains) },
        }
    }
}

fn role_of(role: ListenerRole) -> Role {
    match role {
        ListenerRole::Mx => Role::Inbound,
        ListenerRole::Submission | ListenerRole::SubmissionTls | ListenerRole::Relay => Role::Submission,
    }
}

fn role_text(role: ListenerRole) -> &'static str {
    match role {
        ListenerRole::Mx => "mail to this machine's own addresses (reports, postmaster, abuse)",
        ListenerRole::Submission => "submission, STARTTLS",
        ListenerRole::SubmissionTls => "submission, TLS from the first byte",
        ListenerRole::Relay => "submission, STARTTLS (the port for networks that block 587)",
    }
}

/// A refusal of hygiene as a reply: the text says what is wrong, which is the client's business.
fn refused(refusal: &Refusal) -> Reply {
    let [_, subject, detail] = refusal.enhanced;
    Reply::new(refusal.code, subject, detail, "").with_text(refusal.text.clone())
}

/// A refusal of the spool as a reply: bland on the wire, exact in the log.
fn storage_refusal(refusal: &SpoolRefusal) -> Reply {
    tracing::warn!(%refusal, "mail is not taken now");
    match refusal {
        SpoolRefusal::TooLarge { .. } => reply::TOO_BIG,
        _ => reply::NO_ROOM,
    }
}

fn bind_error(address: SocketAddr, error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program listens there; stop it or choose another port",
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address; see `ip address`",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "see listener.address in the configuration",
    };
    format!("{address}: {error}: {remedy}")
}
