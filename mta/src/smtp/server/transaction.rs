//! MAIL and RCPT: may this peer send from there, and to there. Not an open relay by construction: on port 25 the only
//! way to a 250 behind RCPT leads through the list of our own addresses; everywhere else through a credential.

use std::sync::Arc;

use queue::{EnvRecipient, Notify};

use super::content::Content;
use super::policy::{Credential, InboundKind};
use super::session::{Context, Session, Step};
use crate::smtp::address::{self, AddressError, Mailbox, Path};
use crate::smtp::codes::{reply, Reply};
use crate::smtp::extension::{self, MailParams};
use crate::smtp::xtext;

/// One MAIL and what followed.
pub(super) struct Transaction {
    pub reverse_path: String,
    pub params: MailParams,
    pub recipients: Vec<EnvRecipient>,
    pub inbound: Vec<InboundKind>,
    /// Some address is outside ASCII.
    pub non_ascii: bool,
    /// From DATA or the first BDAT on.
    pub content: Option<Content>,
}

impl Session {
    /// RFC 5321 section 4.1.1.2.
    pub(super) fn mail(&mut self, argument: &str, context: &mut Context<'_>) -> Result<Step, Reply> {
        if self.helo.is_none() {
            return Err(reply::HELO_FIRST);
        }
        if self.transaction.is_some() {
            return Err(reply::NESTED);
        }
        let now = context.now.unix.secs();
        // RFC 6409 section 4.3.
        let credential = self.credential.as_ref().filter(|credential| !credential.is_expired(now));
        if self.policy.role.is_submission() && credential.is_none() {
            return Err(reply::AUTH_REQUIRED);
        }
        if self.transactions >= self.policy.transactions_max {
            return Err(reply::TOO_MANY_MAILS);
        }
        let (path, rest) = address::path(argument).map_err(|error| blame(error, reply::BAD_MAIL, reply::BAD_SENDER))?;
        let params = extension::mail_params(rest, &self.offer(), now)?;
        let (reverse_path, non_ascii) = match path {
            Path::Null => (String::new(), false),
            Path::Postmaster => return Err(reply::BAD_SENDER),
            Path::Mailbox(mailbox) => {
                needs_utf8(&mailbox, &params)?;
                may_send_from(credential, &mailbox.domain)?;
                (mailbox.address(), mailbox.non_ascii)
            }
        };
        let domain = reverse_path.rsplit_once('@').map_or("", |(_, domain)| domain);
        if let Err(refusal) = context.gate.mail(&self.asking(context.now), domain, params.size) {
            return self.answer(&refusal, context);
        }
        self.transactions += 1;
        self.transaction = Some(Box::new(Transaction {
            reverse_path,
            params,
            recipients: Vec::new(),
            inbound: Vec::new(),
            non_ascii,
            content: None,
        }));
        self.answer(&reply::SENDER_OK, context)
    }

    /// RFC 5321 section 4.1.1.3.
    pub(super) fn rcpt(&mut self, argument: &str, context: &mut Context<'_>) -> Result<Step, Reply> {
        let Some(transaction) = self.transaction.as_deref() else {
            return Err(reply::MAIL_FIRST);
        };
        if transaction.content.is_some() {
            return Err(reply::BDAT_UNDER_WAY);
        }
        let verdict = self.recipient(argument, transaction);
        match verdict {
            Ok(found) => self.admit(found, context),
            // Bad addresses of a credential's list are its business; on port 25 they are probing.
            Err(refusal) if self.policy.role.is_submission() && refusal.code >= 550 => self.answer(&refusal, context),
            Err(refusal) if refusal.code < 500 => self.answer(&refusal, context),
            Err(refusal) => Err(refusal),
        }
    }

    fn recipient(&self, argument: &str, transaction: &Transaction) -> Result<Found, Reply> {
        let (path, rest) =
            address::path(argument).map_err(|error| blame(error, reply::BAD_RCPT, reply::BAD_RECIPIENT))?;
        let utf8 = transaction.params.smtputf8;
        let params = extension::rcpt_params(rest, utf8)?;
        if transaction.recipients.len() as u64 >= u64::from(self.recipients_max()) {
            return Err(reply::TOO_MANY_RECIPIENTS);
        }
        let mut found = match path {
            Path::Null => return Err(reply::BAD_RECIPIENT),
            Path::Postmaster => self.to_operator("postmaster".to_owned())?,
            Path::Mailbox(mailbox) => {
                needs_utf8(&mailbox, &transaction.params)?;
                self.route(&mailbox)?
            }
        };
        found.recipient.notify = params.notify;
        if !params.orcpt.is_empty() {
            found.recipient.orcpt = params.orcpt;
        }
        Ok(found)
    }

    /// Where mail to an address with a domain may go.
    fn route(&self, mailbox: &Mailbox<'_>) -> Result<Found, Reply> {
        if self.policy.role.is_submission() {
            if mailbox.literal && !self.policy.relay_to_literals {
                return Err(reply::NO_LITERALS);
            }
            return Ok(Found::new(mailbox.address(), None, mailbox.non_ascii));
        }
        match self.policy.inbound_kind(mailbox.local, &mailbox.domain) {
            Some(InboundKind::Operator) => self.to_operator(mailbox.address()),
            Some(kind) => Ok(Found::new(mailbox.address(), Some(kind), mailbox.non_ascii)),
            None => Err(reply::RELAY_DENIED),
        }
    }

    /// RFC 5321 section 4.5.1, RFC 2142: a person reads postmaster@ and abuse@.
    fn to_operator(&self, original: String) -> Result<Found, Reply> {
        let operator = self.policy.operator.clone().ok_or(reply::NO_OPERATOR)?;
        let mut found = Found::new(operator, Some(InboundKind::Operator), false);
        found.recipient.orcpt = format!("rfc822;{}", xtext::encode(original.as_bytes()));
        Ok(found)
    }

    fn admit(&mut self, found: Found, context: &mut Context<'_>) -> Result<Step, Reply> {
        if let Some(most) = self.policy.recipient_domains_max {
            let domain = found.recipient.domain();
            if !self.domains.contains(domain) && self.domains.len() as u64 >= u64::from(most) {
                return self.answer(&reply::TOO_MANY_DOMAINS, context);
            }
            let domain = domain.to_owned();
            self.domains.insert(domain);
        }
        if let Err(refusal) = context.gate.recipient(&self.asking(context.now)) {
            return self.answer(&refusal, context);
        }
        let submission = self.policy.role.is_submission();
        if let Some(transaction) = self.transaction.as_deref_mut() {
            transaction.take(found, submission);
        }
        self.answer(&reply::RECIPIENT_OK, context)
    }

    /// Gives a reply that is no error of the peer.
    fn answer(&mut self, answer: &Reply, context: &mut Context<'_>) -> Result<Step, Reply> {
        if answer.code == 421 {
            self.close_with(answer, context.out);
            return Ok(Step::Close);
        }
        answer.write(context.out);
        Ok(Step::More)
    }
}

impl Transaction {
    fn take(&mut self, found: Found, submission: bool) {
        self.non_ascii |= found.non_ascii;
        // postmaster@ and abuse@ of all our domains are one mailbox: one copy will do.
        let operator = found.kind == Some(InboundKind::Operator);
        if operator && self.recipients.iter().any(|known| known.address == found.recipient.address) {
            return;
        }
        self.recipients.push(found.recipient);
        if !submission {
            self.inbound.extend(found.kind);
        }
    }
}

/// A recipient that may be taken.
struct Found {
    recipient: EnvRecipient,
    kind: Option<InboundKind>,
    non_ascii: bool,
}

impl Found {
    fn new(address: String, kind: Option<InboundKind>, non_ascii: bool) -> Self {
        Self { recipient: EnvRecipient { address, orcpt: String::new(), notify: Notify::default() }, kind, non_ascii }
    }
}

/// No brackets: the command is malformed. Brackets: the address in them is.
fn blame(error: AddressError, command: Reply, address: Reply) -> Reply {
    match error {
        AddressError::Brackets => command,
        _ => address,
    }
}

/// RFC 6531 section 3.5.
fn needs_utf8(mailbox: &Mailbox<'_>, params: &MailParams) -> Result<(), Reply> {
    if mailbox.non_ascii && !params.smtputf8 {
        return Err(reply::NEEDS_SMTPUTF8);
    }
    Ok(())
}

/// RFC 6409 section 6.1. Port 25 has no credential and takes every sender.
fn may_send_from(credential: Option<&Arc<Credential>>, domain: &str) -> Result<(), Reply> {
    match credential {
        Some(credential) if !credential.may_send_from(domain) => Err(reply::SENDER_NOT_YOURS),
        _ => Ok(()),
    }
}
