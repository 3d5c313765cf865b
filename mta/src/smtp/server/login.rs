//! AUTH: RFC 4954. Mechanisms are pure values in `sasl`; here is the conversation around them.
//!
//! Whatever is wrong (name, password, network, expiry), the client hears the same 535 after the same work.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;

use super::policy::Credential;
use super::session::{Context, Mode, Now, Session, Step};
use crate::config::Network;
use crate::smtp::codes::{reply, Reply};
use crate::smtp::limits::SECRET_MAX;
use crate::smtp::sasl::{self, CacheKey, ClientFirst, Exchange, Mechanism, ScramVerifier, Secret, Verifier};

/// What the next line of an AUTH exchange is.
pub(super) enum Login {
    /// The one message of PLAIN.
    Plain,
    /// The user name of LOGIN.
    Name,
    /// The password of LOGIN.
    Password(String),
    /// The client's first text of SCRAM.
    First(Mechanism),
    /// The client's final text of SCRAM.
    Final(Box<Exchange>, Option<Arc<Credential>>),
    /// The empty line behind the server's final text.
    Done(Arc<Credential>),
}

/// Who waits for an answer of the pool.
pub(super) struct PendingLogin {
    name: String,
    credential: Option<Arc<Credential>>,
}

/// A password to be checked off this core.
#[derive(Clone, Debug)]
pub struct AuthQuestion {
    /// Who the client says it is.
    pub name: String,
    /// What it gave.
    pub password: Secret,
    /// What it is checked against; a decoy when the name is unknown, so that the answer takes as long.
    pub verifier: Verifier,
}

/// What the check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthAnswer {
    /// It is the password.
    Right,
    /// It is not.
    Wrong,
    /// No answer for now: the pool is overloaded.
    Unavailable,
}

impl AuthQuestion {
    /// The check itself: milliseconds, never on an IO core.
    #[must_use]
    pub fn answer(&self) -> AuthAnswer {
        if self.verifier.check(self.password.reveal()) {
            AuthAnswer::Right
        } else {
            AuthAnswer::Wrong
        }
    }

    /// Its key among recent successes.
    #[must_use]
    pub fn cache_key(&self, process_key: &[u8; 32]) -> CacheKey {
        CacheKey::new(process_key, &self.name, &self.password, &self.verifier)
    }
}

impl Session {
    /// RFC 4954 section 4: `AUTH mechanism [initial-response]`.
    pub(super) fn auth(&mut self, argument: &str, context: &mut Context<'_>) -> Result<Step, Reply> {
        if !self.policy.role.is_submission() {
            return Err(reply::NOT_HERE);
        }
        if self.helo.is_none() {
            return Err(reply::HELO_FIRST);
        }
        if self.logged_in {
            return Err(reply::AUTH_TWICE);
        }
        if self.transaction.is_some() {
            return Err(reply::NESTED);
        }
        let mut words = argument.split_ascii_whitespace();
        let (name, initial, more) = (words.next(), words.next(), words.next());
        let (Some(name), None) = (name, more) else {
            return Err(reply::AUTH_SYNTAX);
        };
        let mechanism = Mechanism::by_name(name).ok_or(reply::AUTH_MECHANISM)?;
        if !self.may_auth() {
            return Err(reply::AUTH_NEEDS_TLS);
        }
        if mechanism == Mechanism::ScramSha256Plus && self.exporter().is_none() {
            return Err(reply::AUTH_MECHANISM);
        }
        context.gate.login(&self.asking(context.now), None)?;
        self.logins = self.logins.wrapping_add(1);
        let login = match mechanism {
            Mechanism::Plain => Login::Plain,
            Mechanism::Login => Login::Name,
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => Login::First(mechanism),
        };
        match initial {
            // RFC 4954 section 4: a lone equals sign is an empty response.
            Some("=") => self.respond(login, b"", context),
            Some(text) => self.respond(login, &decode(text.as_bytes())?, context),
            None => {
                let prompt: &[u8] = if mechanism == Mechanism::Login { b"Username:" } else { b"" };
                Ok(self.challenge(prompt, login, context))
            }
        }
    }

    /// A line of the exchange.
    pub(super) fn login_line(&mut self, login: Login, line: &[u8], context: &mut Context<'_>) -> Result<Step, Reply> {
        if line == b"*" {
            return Err(reply::AUTH_CANCELLED);
        }
        self.respond(login, &decode(line)?, context)
    }

    fn respond(&mut self, login: Login, response: &[u8], context: &mut Context<'_>) -> Result<Step, Reply> {
        match login {
            Login::Plain => {
                let login = sasl::plain(response).ok_or(reply::AUTH_SYNTAX)?;
                // Nobody acts as another here.
                let authzid = login.authzid;
                let itself = authzid.is_empty() || authzid == login.name;
                self.ask(login.name, login.password, itself, context)
            }
            Login::Name => {
                let name = word(response)?;
                Ok(self.challenge(b"Password:", Login::Password(name), context))
            }
            Login::Password(name) => {
                let password = Secret::new(word(response)?);
                self.ask(name, password, true, context)
            }
            Login::First(mechanism) => self.scram_first(mechanism, response, context),
            Login::Final(exchange, credential) => self.scram_final(&exchange, credential, response, context),
            Login::Done(credential) if response.is_empty() => Ok(self.log_in(credential, context)),
            Login::Done(_) => Err(reply::AUTH_SYNTAX),
        }
    }

    /// A password is in clear (inside TLS): have it checked.
    fn ask(&mut self, name: String, password: Secret, itself: bool, context: &mut Context<'_>) -> Result<Step, Reply> {
        context.gate.login(&self.asking(context.now), Some(&name))?;
        let credential = self.usable(&name, context.now).filter(|_| itself);
        let verifier = match &credential {
            Some(credential) => credential.verifier.clone(),
            None => Verifier::Scram(ScramVerifier::decoy(&self.policy.process_key, &name)),
        };
        self.mode = Mode::Paused(Some(PendingLogin { name: name.clone(), credential }));
        Ok(Step::Verify(Box::new(AuthQuestion { name, password, verifier })))
    }

    /// The answer to [`Step::Verify`].
    pub fn resume_auth(&mut self, answer: AuthAnswer, now: Now, gate: &mut dyn super::Gate, out: &mut Vec<u8>) -> Step {
        let Mode::Paused(Some(pending)) = std::mem::replace(&mut self.mode, Mode::Command) else {
            return Step::More;
        };
        let mut context = Context { now, gate, out };
        match (answer, pending.credential) {
            (AuthAnswer::Right, Some(credential)) => self.log_in(credential, &mut context),
            (AuthAnswer::Unavailable, _) => self.refuse(reply::AUTH_NOT_NOW, context.out),
            (AuthAnswer::Right | AuthAnswer::Wrong, _) => {
                let refusal = self.failed(&pending.name, &mut context);
                self.refuse(refusal, context.out)
            }
        }
    }

    fn scram_first(&mut self, mechanism: Mechanism, response: &[u8], context: &mut Context<'_>) -> Result<Step, Reply> {
        let plus = mechanism == Mechanism::ScramSha256Plus;
        let first = match ClientFirst::parse(response, plus, self.exporter().is_some()) {
            Ok(first) => first,
            Err(sasl::ScramError::Syntax) => return Err(reply::AUTH_SYNTAX),
            Err(_) => return Err(self.failed("", context)),
        };
        context.gate.login(&self.asking(context.now), Some(&first.name))?;
        let itself = first.authzid.is_empty() || first.authzid == first.name;
        let credential = self.usable(&first.name, context.now).filter(|_| itself);
        let own = credential.as_ref().and_then(|credential| match &credential.verifier {
            Verifier::Scram(own) => Some(own.clone()),
            _ => None,
        });
        let credential = credential.filter(|_| own.is_some());
        let verifier = own.unwrap_or_else(|| ScramVerifier::decoy(&self.policy.process_key, &first.name));
        let exchange = Exchange::new(first, verifier, &self.nonce(context.now));
        let text = exchange.server_first().to_owned();
        Ok(self.challenge(text.as_bytes(), Login::Final(Box::new(exchange), credential), context))
    }

    fn scram_final(
        &mut self,
        exchange: &Exchange,
        credential: Option<Arc<Credential>>,
        response: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Step, Reply> {
        match (exchange.finish(response, self.exporter().as_ref()), credential) {
            // RFC 4954 section 4: SMTP's success reply carries no data, so the server's proof goes as a challenge.
            (Ok(text), Some(credential)) => Ok(self.challenge(text.as_bytes(), Login::Done(credential), context)),
            (Err(sasl::ScramError::Syntax), _) => Err(reply::AUTH_SYNTAX),
            _ => Err(self.failed(exchange.name(), context)),
        }
    }

    fn challenge(&mut self, text: &[u8], next: Login, context: &mut Context<'_>) -> Step {
        self.mode = Mode::Login(next);
        context.out.extend_from_slice(b"334 ");
        context.out.extend_from_slice(BASE64.encode(text).as_bytes());
        context.out.extend_from_slice(b"\r\n");
        Step::More
    }

    fn log_in(&mut self, credential: Arc<Credential>, context: &mut Context<'_>) -> Step {
        context.gate.login_result(&self.asking(context.now), &credential.name, true);
        self.logged_in = true;
        self.credential = Some(credential);
        reply::AUTH_OK.write(context.out);
        Step::More
    }

    fn failed(&mut self, name: &str, context: &mut Context<'_>) -> Reply {
        context.gate.login_result(&self.asking(context.now), name, false);
        reply::AUTH_FAILED
    }

    /// The credential of that name, if it may be used from here and now.
    fn usable(&self, name: &str, now: Now) -> Option<Arc<Credential>> {
        let credential = self.policy.credentials.get(name)?;
        let here = credential.networks.is_empty() || Network::any(&credential.networks, self.peer.ip());
        (here && !credential.is_expired(now.unix.secs())).then(|| Arc::clone(credential))
    }

    fn exporter(&self) -> Option<[u8; 32]> {
        self.peer.tls.as_ref().and_then(|tls| tls.exporter)
    }

    /// RFC 5802 section 5.1 asks for unique and unguessable: a keyed hash of the session, the count of exchanges in
    /// it and the time. No random number is drawn.
    fn nonce(&self, now: Now) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.policy.process_key);
        let mut text = b"scram nonce".to_vec();
        for number in [self.id, u64::from(self.logins), now.unix.0, now.mono_ms] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        BASE64.encode(&hmac::sign(&key, &text).as_ref()[..18])
    }
}

/// RFC 4954 section 4: base64 and nothing else.
fn decode(text: &[u8]) -> Result<Vec<u8>, Reply> {
    BASE64.decode(text).map_err(|_| reply::AUTH_SYNTAX)
}

fn word(response: &[u8]) -> Result<String, Reply> {
    let text = std::str::from_utf8(response).map_err(|_| reply::AUTH_SYNTAX)?;
    let fits = (1..=SECRET_MAX).contains(&text.len()) && !text.contains('\0');
    fits.then(|| text.to_owned()).ok_or(reply::AUTH_SYNTAX)
}
