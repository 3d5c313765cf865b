//! EHLO and HELO: who the client says it is, and what we offer it.

use std::fmt::Write as _;

use queue::UnixSecs;

use super::session::{Context, Session, Step};
use crate::smtp::codes::{reply, Reply};
use crate::smtp::extension::Offer;
use crate::smtp::limits::DOMAIN_MAX;
use crate::smtp::timestamp;

impl Session {
    /// RFC 5321 section 4.1.1.1: as RSET, and the list of what we offer.
    pub(super) fn ehlo(&mut self, name: &str, context: &mut Context<'_>) -> Result<Step, Reply> {
        self.introduce(name)?;
        self.extended = true;
        let lines = self.offers(context.now.unix.secs());
        Reply::plain(250, "").with_text(lines).write(context.out);
        Ok(Step::More)
    }

    /// RFC 5321 section 4.1.1.1: no extensions.
    pub(super) fn helo(&mut self, name: &str, context: &mut Context<'_>) -> Result<Step, Reply> {
        self.introduce(name)?;
        self.extended = false;
        let name = self.policy.hostname.clone();
        Reply::plain(250, "").with_text(name).write(context.out);
        Ok(Step::More)
    }

    fn introduce(&mut self, name: &str) -> Result<(), Reply> {
        // RFC 5321 section 4.1.4: mail is not refused for a name that is merely wrong, so any single word will do.
        let printable = |byte: u8| byte > b' ' && !b"<>()\"\\;,".contains(&byte);
        if name.is_empty() || name.len() > DOMAIN_MAX || !name.bytes().all(printable) {
            return Err(reply::BAD_HELO);
        }
        self.transaction = None;
        if self.helo.as_deref() != Some(name) {
            self.helo = Some(name.into());
        }
        Ok(())
    }

    /// Which parameters MAIL takes now.
    pub(super) fn offer(&self) -> Offer {
        Offer {
            submission: self.policy.role.is_submission(),
            size_max: self.size_max(),
            hold_max: self.policy.hold_max,
            by_min: self.policy.by_min,
        }
    }

    /// Largest message of this peer.
    pub(super) fn size_max(&self) -> u64 {
        let own = self.credential.as_ref().and_then(|credential| credential.size_max);
        own.unwrap_or(u64::MAX).min(self.policy.size_max)
    }

    /// Most recipients of one transaction of this peer.
    pub(super) fn recipients_max(&self) -> u32 {
        let own = self.credential.as_ref().and_then(|credential| credential.recipients_max);
        own.unwrap_or(u32::MAX).min(self.policy.recipients_max)
    }

    /// True when AUTH may be used now: RFC 8314, never in clear.
    pub(super) fn may_auth(&self) -> bool {
        self.policy.role.is_submission() && (self.peer.tls.is_some() || self.policy.lab_auth_in_clear)
    }

    /// The lines of the EHLO reply. An extension is listed only where every duty of it is done.
    fn offers(&self, now: UnixSecs) -> String {
        let policy = &self.policy;
        let mut text = format!(
            "{}\nPIPELINING\nSIZE {}\n8BITMIME\nSMTPUTF8\nDSN\nCHUNKING\nBINARYMIME\nENHANCEDSTATUSCODES",
            policy.hostname,
            self.size_max()
        );
        // RFC 3207 section 4.2: not inside TLS.
        if policy.tls && self.peer.tls.is_none() {
            text.push_str("\nSTARTTLS");
        }
        // RFC 4954 section 4: not after success.
        if self.may_auth() && !self.logged_in {
            let plus = self.peer.tls.as_ref().is_some_and(|tls| tls.exporter.is_some());
            text.push_str("\nAUTH ");
            text.push_str(if plus { "SCRAM-SHA-256-PLUS " } else { "" });
            text.push_str("SCRAM-SHA-256 PLAIN LOGIN");
        }
        // RFC 9422 section 4. Writing to a String can't fail.
        let _ = write!(text, "\nLIMITS MAILMAX={} RCPTMAX={}", policy.transactions_max, self.recipients_max());
        if let Some(domains) = policy.recipient_domains_max {
            let _ = write!(text, " RCPTDOMAINMAX={domains}");
        }
        if policy.role.is_submission() {
            let latest = UnixSecs(now.0.saturating_add(policy.hold_max));
            let _ = write!(
                text,
                "\nFUTURERELEASE {} {}\nDELIVERBY {}\nMT-PRIORITY MIXER",
                policy.hold_max,
                timestamp::format(latest),
                policy.by_min
            );
        }
        if self.may_xclient {
            text.push_str("\nXCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT");
        }
        text
    }
}
