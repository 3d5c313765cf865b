//! What a site says it can do (its EHLO reply) and what that means for a message. Pure.

use std::collections::HashSet;

use queue::BodyFlags;

use super::transaction::Transaction;
use crate::smtp::reply::Reply;

/// Recipients of one transaction when the site names no number: RFC 5321 section 4.5.3.1.8 makes it take 100.
pub const RCPT_MAX_DEFAULT: u32 = 100;

/// Most we name at once, whatever the site takes: replies to a longer group might not fit the socket's buffers, and
/// both sides would wait for each other (RFC 2920 section 3.1).
const RCPT_MAX_OURS: u32 = 1000;

/// What the site offers and allows on this connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerLimits {
    /// The name in the greeting of EHLO or HELO.
    pub name: String,
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030: BDAT.
    pub chunking: bool,
    /// RFC 3030: BODY=BINARYMIME.
    pub binary: bool,
    /// RFC 6152: BODY=8BITMIME.
    pub eight_bit: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870; the largest message in bytes, `Some(0)` when none is named.
    pub size: Option<u64>,
    /// RFC 2852; the smallest by-time in seconds, `Some(0)` when none is named.
    pub deliver_by: Option<u32>,
    /// RFC 4954: the mechanisms, in upper case.
    pub auth: Vec<String>,
    /// RFC 9422 RCPTMAX, or what the site showed by refusing more.
    pub rcpt_max: Option<u32>,
    /// RFC 9422 RCPTDOMAINMAX.
    pub rcpt_domain_max: Option<u32>,
    /// RFC 9422 MAILMAX.
    pub mail_max: Option<u32>,
    /// The LIMITS extension was offered.
    pub limits: bool,
    /// The connection is encrypted.
    pub tls: bool,
}

/// Why a message cannot go to this site as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is larger than the site takes.
    TooLarge {
        /// The site's limit in bytes.
        limit: u64,
    },
    /// It has 8-bit bytes and the site takes 7-bit text: convert.
    EightBit,
    /// It is binary and the site takes lines of text: convert.
    Binary,
    /// It needs SMTPUTF8 (RFC 6531 section 3.2: never relayed without).
    Utf8,
    /// It must arrive sooner than the site promises (RFC 2852 section 4.1).
    TooLate,
    /// An address cannot be said in a command; ours to have refused earlier.
    BadAddress,
}

impl PeerLimits {
    /// Reads an EHLO reply. What it does not understand it passes over.
    #[must_use]
    pub fn from_ehlo(reply: &Reply, tls: bool) -> Self {
        let mut lines = reply.lines.iter();
        let name = lines.next().and_then(|line| line.split_whitespace().next());
        let mut limits = Self { name: name.unwrap_or_default().to_owned(), tls, ..Self::default() };
        for line in lines {
            limits.extension(line);
        }
        limits
    }

    fn extension(&mut self, line: &str) {
        // Some old servers write `AUTH=LOGIN`.
        let end = line.find([' ', '=']).unwrap_or(line.len());
        let (keyword, rest) = line.split_at(end);
        let rest = rest.get(1..).unwrap_or_default();
        let mut words = rest.split_whitespace();
        match keyword.to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            "CHUNKING" => self.chunking = true,
            "BINARYMIME" => self.binary = true,
            "8BITMIME" => self.eight_bit = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "DSN" => self.dsn = true,
            "STARTTLS" => self.starttls = true,
            "SIZE" => self.size = Some(words.next().and_then(|word| word.parse().ok()).unwrap_or(0)),
            "DELIVERBY" => self.deliver_by = Some(words.next().and_then(|word| word.parse().ok()).unwrap_or(0)),
            "AUTH" => self.auth.extend(words.map(str::to_ascii_uppercase)),
            "LIMITS" => self.read_limits(rest),
            _ => {}
        }
    }

    /// RFC 9422 section 4: a syntax error anywhere ignores the whole extension, an unknown name is passed over.
    fn read_limits(&mut self, text: &str) {
        let mut found = (None, None, None);
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            let Some((name, value)) = word.split_once('=') else { return };
            let name_fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            let value_fits = value.bytes().all(|b| b.is_ascii_graphic() && b != b';');
            if name.is_empty() || value.is_empty() || !name_fits || !value_fits {
                return;
            }
            let slot = match name.to_ascii_uppercase().as_str() {
                "MAILMAX" => &mut found.0,
                "RCPTMAX" => &mut found.1,
                "RCPTDOMAINMAX" => &mut found.2,
                _ => continue,
            };
            // RFC 9422 section 5: one to six digits, not starting with zero.
            let number = value.bytes().all(|b| b.is_ascii_digit()) && value.len() <= 6 && !value.starts_with('0');
            let Some(number) = number.then(|| value.parse().ok()).flatten() else { return };
            *slot = Some(number);
        }
        self.limits = true;
        (self.mail_max, self.rcpt_max, self.rcpt_domain_max) = found;
    }

    /// The most recipients one transaction may have here.
    #[must_use]
    pub fn recipients(&self) -> usize {
        self.rcpt_max.unwrap_or(RCPT_MAX_DEFAULT).clamp(1, RCPT_MAX_OURS) as usize
    }

    /// BDAT can be used for a message with these flags: always when offered, and BINARYMIME knows nothing else.
    #[must_use]
    pub fn takes_binary(&self) -> bool {
        self.binary && self.chunking
    }

    /// Whether a message with these properties may go to this site; `utf8`: an address or header needs SMTPUTF8.
    pub fn fits(&self, flags: &BodyFlags, size: u64, utf8: bool) -> Result<(), Unfit> {
        match self.size {
            Some(limit) if limit > 0 && size > limit => return Err(Unfit::TooLarge { limit }),
            _ => {}
        }
        if utf8 && !self.smtputf8 {
            return Err(Unfit::Utf8);
        }
        if flags.binary && !self.takes_binary() {
            return Err(Unfit::Binary);
        }
        if flags.eight_bit && !flags.binary && !self.eight_bit && !self.takes_binary() {
            return Err(Unfit::EightBit);
        }
        Ok(())
    }

    /// Positions of the recipients that one transaction may name here, in order: RCPTMAX and RCPTDOMAINMAX obeyed.
    #[must_use]
    pub fn admitted(&self, transaction: &Transaction) -> Vec<usize> {
        let mut domains = HashSet::new();
        let most_domains = self.rcpt_domain_max.map_or(usize::MAX, |most| most as usize);
        let mut admitted = Vec::new();
        for (position, recipient) in transaction.recipients.iter().enumerate() {
            if admitted.len() == self.recipients() {
                break;
            }
            let domain = recipient.address.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase();
            if domains.len() == most_domains && !domains.contains(&domain) {
                continue;
            }
            if most_domains != usize::MAX {
                domains.insert(domain);
            }
            admitted.push(position);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::client::transaction::TxRecipient;

    fn peer(lines: &[&str]) -> PeerLimits {
        let mut all = vec!["mx.test at your service".to_owned()];
        all.extend(lines.iter().map(|line| (*line).to_owned()));
        PeerLimits::from_ehlo(&Reply { code: 250, enhanced: [0; 3], lines: all }, false)
    }

    #[test]
    fn extensions_are_read_tolerantly() {
        let got =
            peer(&["pipelining", "8BITMIME ", "SIZE 1000", "AUTH plain LOGIN", "AUTH=LOGIN", "X-ODD  ==", "", "DSN"]);
        assert_eq!(got.name, "mx.test");
        assert!(got.pipelining && got.eight_bit && got.dsn && !got.chunking);
        assert_eq!(got.size, Some(1000));
        assert_eq!(got.auth, ["PLAIN", "LOGIN", "LOGIN"]);
        assert_eq!(peer(&["SIZE"]).size, Some(0));
        assert_eq!(peer(&["SIZE many"]).size, Some(0));
        assert_eq!(peer(&["DELIVERBY 600"]).deliver_by, Some(600));
    }

    #[test]
    fn r25_limits_are_read_whole_or_not_at_all() {
        let got = peer(&["LIMITS MAILMAX=5 rcptmax=20 RCPTDOMAINMAX=1 FUTURE=a-b"]);
        assert_eq!((got.mail_max, got.rcpt_max, got.rcpt_domain_max), (Some(5), Some(20), Some(1)));
        for bad in
            ["RCPTMAX=20 MAILMAX", "RCPTMAX=20 MAILMAX=0", "RCPTMAX=20 MAILMAX=1234567", "RCPTMAX=2x", "=3", "A=;"]
        {
            let got = peer(&[&format!("LIMITS {bad}")]);
            assert_eq!((got.mail_max, got.rcpt_max, got.limits), (None, None, false), "{bad}");
        }
    }

    #[test]
    fn r25_recipients_and_domains_are_never_exceeded() {
        let recipients = ["a@x.test", "b@y.test", "c@X.test", "d@z.test", "e@x.test"];
        let recipients = recipients.iter().map(|a| TxRecipient { address: (*a).to_owned(), ..TxRecipient::default() });
        let transaction = Transaction { recipients: recipients.collect(), ..Transaction::default() };
        assert_eq!(peer(&["LIMITS RCPTMAX=2"]).admitted(&transaction), [0, 1]);
        assert_eq!(peer(&["LIMITS RCPTDOMAINMAX=1"]).admitted(&transaction), [0, 2, 4]);
        assert_eq!(peer(&["LIMITS RCPTDOMAINMAX=2 RCPTMAX=3"]).admitted(&transaction), [0, 1, 2]);
        let many = vec![TxRecipient::default(); 150];
        let many = Transaction { recipients: many, ..Transaction::default() };
        assert_eq!(peer(&[]).admitted(&many).len(), 100);
    }

    #[test]
    fn messages_go_only_where_they_fit() {
        let plain = BodyFlags::default();
        let eight = BodyFlags { eight_bit: true, ..plain };
        let binary = BodyFlags { eight_bit: true, binary: true, ..plain };
        assert_eq!(peer(&["SIZE 10"]).fits(&plain, 11, false), Err(Unfit::TooLarge { limit: 10 }));
        assert_eq!(peer(&["SIZE 0"]).fits(&plain, 11, false), Ok(()));
        assert_eq!(peer(&[]).fits(&eight, 1, false), Err(Unfit::EightBit));
        assert_eq!(peer(&["8BITMIME"]).fits(&eight, 1, false), Ok(()));
        assert_eq!(peer(&["8BITMIME", "BINARYMIME"]).fits(&binary, 1, false), Err(Unfit::Binary));
        assert_eq!(peer(&["CHUNKING", "BINARYMIME"]).fits(&binary, 1, false), Ok(()));
        assert_eq!(peer(&["8BITMIME"]).fits(&plain, 1, true), Err(Unfit::Utf8));
        assert_eq!(peer(&["SMTPUTF8"]).fits(&plain, 1, true), Ok(()));
    }
}
