//! One transaction as the queue hands it over, and the commands it becomes. Pure.

use std::fmt::Write as _;

use queue::limits::ADDRESS_MAX;
use queue::{Body, BodyFlags, DsnRet, Notify, SpoolId, UnixSecs};

use super::capabilities::{PeerLimits, Unfit};

/// One message for some recipients at one site.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The message.
    pub id: SpoolId,
    /// Reverse path without brackets; empty is the null reverse path.
    pub reverse_path: String,
    /// Who gets it, at least one.
    pub recipients: Vec<TxRecipient>,
    /// Header fields made for this attempt (DKIM-Signature and the like), in wire form, before the body.
    pub prefix: Vec<u8>,
    /// The stored message, or a converted form of it.
    pub body: Body,
    /// Facts about `body`.
    pub flags: BodyFlags,
    /// RFC 3461 ENVID, still encoded; empty when absent.
    pub envid: String,
    /// RFC 3461 RET.
    pub ret: DsnRet,
    /// RFC 2852, when the client asked for it.
    pub deliver_by: Option<DeliverBy>,
    /// The last byte leaves only after the replies to the recipients were read.
    pub hold_last: bool,
}

/// One recipient of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxRecipient {
    /// Its number in the envelope.
    pub index: u16,
    /// Forward path without brackets.
    pub address: String,
    /// RFC 3461 ORCPT as given, still encoded; empty when absent.
    pub orcpt: String,
    /// RFC 3461 NOTIFY.
    pub notify: Notify,
}

/// RFC 2852: when a message must have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverBy {
    /// The end of the time.
    pub until: UnixSecs,
    /// `N`: notify and go on; otherwise `R`: return.
    pub notify: bool,
}

impl Default for Transaction {
    fn default() -> Self {
        Self {
            id: SpoolId::default(),
            reverse_path: String::new(),
            recipients: Vec::new(),
            prefix: Vec::new(),
            body: Body::from(Vec::new()),
            flags: BodyFlags::default(),
            envid: String::new(),
            ret: DsnRet::default(),
            deliver_by: None,
            hold_last: false,
        }
    }
}

impl Transaction {
    /// Bytes of the message as sent.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.prefix.len() + self.body.len()) as u64
    }

    /// An address or a header field needs SMTPUTF8.
    #[must_use]
    pub fn needs_utf8(&self) -> bool {
        self.flags.smtputf8 || !self.reverse_path.is_ascii() || self.recipients.iter().any(|r| !r.address.is_ascii())
    }

    /// Whether it may be started at this site; see [`PeerLimits::fits`].
    pub fn check(&self, peer: &PeerLimits, now: UnixSecs) -> Result<(), Unfit> {
        peer.fits(&self.flags, self.size(), self.needs_utf8())?;
        let texts = self.recipients.iter().flat_map(|r| [&r.address, &r.orcpt]);
        let mut all = texts.chain([&self.reverse_path, &self.envid]);
        if !all.all(|text| speakable(text)) || self.recipients.iter().any(|r| r.address.is_empty()) {
            return Err(Unfit::BadAddress);
        }
        match (self.deliver_by, peer.deliver_by) {
            (Some(by), Some(least)) if !by.notify && remaining(by, now) < i64::from(least.max(1)) => {
                Err(Unfit::TooLate)
            }
            _ => Ok(()),
        }
    }

    /// Appends the MAIL command.
    pub(super) fn mail(&self, peer: &PeerLimits, now: UnixSecs, out: &mut Vec<u8>) {
        let mut line = format!("MAIL FROM:<{}>", self.reverse_path);
        if peer.size.is_some() {
            let _ = write!(line, " SIZE={}", self.size());
        }
        if self.flags.binary && peer.takes_binary() {
            line.push_str(" BODY=BINARYMIME");
        } else if self.flags.eight_bit {
            // RFC 6152; `check` has seen that one of the two is offered.
            line.push_str(if peer.eight_bit { " BODY=8BITMIME" } else { " BODY=BINARYMIME" });
        }
        if self.needs_utf8() {
            line.push_str(" SMTPUTF8");
        }
        if peer.dsn {
            match self.ret {
                DsnRet::Unset => {}
                DsnRet::Full => line.push_str(" RET=FULL"),
                DsnRet::Hdrs => line.push_str(" RET=HDRS"),
            }
            if !self.envid.is_empty() {
                let _ = write!(line, " ENVID={}", self.envid);
            }
        }
        if let (Some(by), Some(least)) = (self.deliver_by, peer.deliver_by) {
            let left = remaining(by, now);
            // RFC 2852 section 4: the time that is left, nine digits at most; not asked of a site that promises less.
            if left >= i64::from(least) || !by.notify {
                let letter = if by.notify { 'N' } else { 'R' };
                let _ = write!(line, " BY={};{letter}", left.clamp(-999_999_999, 999_999_999));
            }
        }
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

impl TxRecipient {
    /// Appends the RCPT command.
    pub(super) fn rcpt(&self, peer: &PeerLimits, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<");
        out.extend_from_slice(self.address.as_bytes());
        out.push(b'>');
        if peer.dsn {
            if !self.notify.is_default() {
                out.extend_from_slice(b" NOTIFY=");
                out.extend_from_slice(notify(self.notify).as_bytes());
            }
            if !self.orcpt.is_empty() {
                out.extend_from_slice(b" ORCPT=");
                out.extend_from_slice(self.orcpt.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 3461 section 4.1 in its text form.
fn notify(notify: Notify) -> String {
    if notify.0 & Notify::NEVER != 0 {
        return "NEVER".to_owned();
    }
    let words = [(Notify::SUCCESS, "SUCCESS"), (Notify::FAILURE, "FAILURE"), (Notify::DELAY, "DELAY")];
    let words = words.iter().filter(|(bit, _)| notify.0 & bit != 0).map(|(_, word)| *word);
    words.collect::<Vec<_>>().join(",")
}

fn remaining(by: DeliverBy, now: UnixSecs) -> i64 {
    i64::from(by.until.0) - i64::from(now.0)
}

/// Nothing in it could end the command line or start another.
fn speakable(text: &str) -> bool {
    text.len() <= ADDRESS_MAX && !text.bytes().any(|b| b.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction() -> Transaction {
        Transaction {
            reverse_path: "s@a.test".into(),
            recipients: vec![TxRecipient {
                index: 0,
                address: "r@b.test".into(),
                orcpt: "rfc822;r+2Bx@b.test".into(),
                notify: Notify(Notify::SUCCESS | Notify::DELAY),
            }],
            body: Body::from(b"Subject: x\r\n\r\ny\r\n".to_vec()),
            envid: "id+3D1".into(),
            ret: DsnRet::Hdrs,
            ..Transaction::default()
        }
    }

    fn commands(transaction: &Transaction, peer: &PeerLimits) -> String {
        let mut out = Vec::new();
        transaction.mail(peer, UnixSecs(1000), &mut out);
        for recipient in &transaction.recipients {
            recipient.rcpt(peer, &mut out);
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn r17_dsn_parameters_only_where_offered() {
        let mut transaction = transaction();
        let peer = PeerLimits::default();
        assert_eq!(commands(&transaction, &peer), "MAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\n");
        let peer = PeerLimits { dsn: true, ..peer };
        assert_eq!(
            commands(&transaction, &peer),
            "MAIL FROM:<s@a.test> RET=HDRS ENVID=id+3D1\r\n\
             RCPT TO:<r@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;r+2Bx@b.test\r\n"
        );
        transaction.recipients[0].notify = Notify(Notify::NEVER);
        assert!(commands(&transaction, &peer).contains(" NOTIFY=NEVER ORCPT"));
    }

    #[test]
    fn r11_r14_r15_size_body_and_utf8() {
        let mut transaction = transaction();
        transaction.flags.eight_bit = true;
        transaction.recipients[0].address = "\u{fc}@b.test".into();
        let peer = PeerLimits { size: Some(0), eight_bit: true, smtputf8: true, ..PeerLimits::default() };
        assert_eq!(transaction.check(&peer, UnixSecs(0)), Ok(()));
        assert_eq!(
            commands(&transaction, &peer),
            "MAIL FROM:<s@a.test> SIZE=17 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<\u{fc}@b.test>\r\n"
        );
        assert_eq!(transaction.check(&PeerLimits::default(), UnixSecs(0)), Err(Unfit::Utf8));
        transaction.flags.binary = true;
        let peer = PeerLimits { chunking: true, binary: true, smtputf8: true, ..PeerLimits::default() };
        assert!(commands(&transaction, &peer).contains(" BODY=BINARYMIME SMTPUTF8"));
    }

    #[test]
    fn r22_deliver_by_is_decremented_and_bounded() {
        let mut transaction = transaction();
        transaction.deliver_by = Some(DeliverBy { until: UnixSecs(1600), notify: false });
        let peer = PeerLimits { deliver_by: Some(300), ..PeerLimits::default() };
        assert!(commands(&transaction, &peer).contains(" BY=600;R\r\n"));
        assert_eq!(transaction.check(&peer, UnixSecs(1400)), Err(Unfit::TooLate));
        transaction.deliver_by = Some(DeliverBy { until: UnixSecs(1100), notify: true });
        assert_eq!(transaction.check(&peer, UnixSecs(1400)), Ok(()));
        assert!(!commands(&transaction, &peer).contains(" BY="));
    }

    #[test]
    fn addresses_cannot_carry_commands() {
        for bad in ["a@b.test>\r\nRSET", "a@b\n", "", "a\0@b"] {
            let mut transaction = transaction();
            transaction.recipients[0].address = bad.into();
            assert_eq!(transaction.check(&PeerLimits::default(), UnixSecs(0)), Err(Unfit::BadAddress), "{bad:?}");
        }
        let mut transaction = transaction();
        transaction.envid = "x\r\n".into();
        assert_eq!(transaction.check(&PeerLimits::default(), UnixSecs(0)), Err(Unfit::BadAddress));
    }
}
