//! The bounce class of a reply: table driven, texts first, then enhanced codes, then the code.
//!
//! Providers give the same enhanced code for different things and reuse registered codes with their own meaning
//! (x.7.30 for a failed DKIM check), so words that a provider is known to use decide before the registry does.

use queue::BounceClass;

/// One row: all `words` (lower case) stand in the reply text, and the reply class fits.
struct Row {
    /// First digit of the code this row is for; 0 for both.
    class: u16,
    words: &'static [&'static str],
    means: BounceClass,
}

const fn row(class: u16, words: &'static [&'static str], means: BounceClass) -> Row {
    Row { class, words, means }
}

/// In order; the first that fits wins. Narrow phrases of one provider stand before general ones.
static TEXTS: &[Row] = {
    use BounceClass as B;
    &[
        // Rates and reputation: they often quote a recipient or the word "policy" as well.
        row(0, &["unusual rate of unsolicited"], B::SpamBlock),
        row(0, &["unusual rate"], B::SpamBlock),
        row(0, &["has detected that this message"], B::SpamBlock),
        row(0, &["likely unsolicited"], B::SpamBlock),
        row(0, &["likely suspicious"], B::SpamBlock),
        row(0, &["low reputation"], B::SpamBlock),
        row(0, &["due to ip reputation"], B::SpamBlock),
        row(0, &["poor reputation"], B::SpamBlock),
        row(0, &["user complaints"], B::SpamBlock),
        row(0, &["[tss04]"], B::SpamBlock),
        row(0, &["[ts0"], B::SpamBlock),
        row(0, &["[ipts0"], B::SpamBlock),
        row(0, &["part of their network is on our block list"], B::SpamBlock),
        row(0, &["on our block list"], B::SpamBlock),
        row(0, &["spamhaus"], B::SpamBlock),
        row(0, &["barracudacentral"], B::SpamBlock),
        row(0, &["spamcop"], B::SpamBlock),
        row(0, &["blacklist"], B::SpamBlock),
        row(0, &["blocklist"], B::SpamBlock),
        row(0, &["block list"], B::SpamBlock),
        row(0, &["blocked using"], B::SpamBlock),
        row(0, &["listed at"], B::SpamBlock),
        row(0, &["listed by"], B::SpamBlock),
        row(0, &["considered spam"], B::SpamBlock),
        row(0, &["looks like spam"], B::SpamBlock),
        row(0, &["spam message"], B::SpamBlock),
        row(0, &["identified as spam"], B::SpamBlock),
        row(0, &["classified as spam"], B::SpamBlock),
        row(0, &["spam content"], B::SpamBlock),
        row(0, &["message content rejected"], B::SpamBlock),
        row(0, &["virus"], B::PolicyRelated),
        row(0, &["malware"], B::PolicyRelated),
        // Authentication of the sender.
        row(0, &["dmarc"], B::AuthenticationFailed),
        row(0, &["spf"], B::AuthenticationFailed),
        row(0, &["dkim"], B::AuthenticationFailed),
        row(0, &["not authenticated"], B::AuthenticationFailed),
        row(0, &["unauthenticated"], B::AuthenticationFailed),
        row(0, &["ptr record"], B::AuthenticationFailed),
        row(0, &["reverse dns"], B::AuthenticationFailed),
        row(0, &["reverse hostname"], B::AuthenticationFailed),
        row(0, &["rdns"], B::AuthenticationFailed),
        row(0, &["authentication required"], B::AuthenticationFailed),
        // Mailboxes: full, disabled, unknown.
        row(0, &["out of storage"], B::QuotaIssues),
        row(0, &["over quota"], B::QuotaIssues),
        row(0, &["overquota"], B::QuotaIssues),
        row(0, &["quota exceeded"], B::QuotaIssues),
        row(0, &["exceeded storage"], B::QuotaIssues),
        row(0, &["mailbox", "full"], B::QuotaIssues),
        row(0, &["mailbox size limit"], B::QuotaIssues),
        row(0, &["insufficient storage"], B::QuotaIssues),
        row(0, &["is disabled"], B::InactiveMailbox),
        row(0, &["mailbox disabled"], B::InactiveMailbox),
        row(0, &["account disabled"], B::InactiveMailbox),
        row(0, &["has been disabled"], B::InactiveMailbox),
        row(0, &["has been suspended"], B::InactiveMailbox),
        row(0, &["inactive"], B::InactiveMailbox),
        row(0, &["no longer active"], B::InactiveMailbox),
        row(0, &["not accepting"], B::InactiveMailbox),
        row(5, &["does not exist"], B::InvalidRecipient),
        row(5, &["doesn't exist"], B::InvalidRecipient),
        row(5, &["user unknown"], B::InvalidRecipient),
        row(5, &["unknown user"], B::InvalidRecipient),
        row(5, &["unknown recipient"], B::InvalidRecipient),
        row(5, &["recipient unknown"], B::InvalidRecipient),
        row(5, &["no such user"], B::InvalidRecipient),
        row(5, &["no such recipient"], B::InvalidRecipient),
        row(5, &["no mailbox here"], B::InvalidRecipient),
        row(5, &["mailbox unavailable"], B::InvalidRecipient),
        row(5, &["mailbox not found"], B::InvalidRecipient),
        row(5, &["invalid recipient"], B::InvalidRecipient),
        row(5, &["invalid mailbox"], B::InvalidRecipient),
        row(5, &["recipientnotfound"], B::InvalidRecipient),
        row(5, &["recipient not found"], B::InvalidRecipient),
        row(5, &["address rejected", "undeliverable"], B::InvalidRecipient),
        row(5, &["recipient address rejected: access denied"], B::InvalidRecipient),
        row(5, &["user doesn't have"], B::InvalidRecipient),
        row(5, &["unrouteable address"], B::BadDomain),
        row(5, &["relay access denied"], B::RoutingErrors),
        row(5, &["relaying denied"], B::RoutingErrors),
        row(5, &["unable to relay"], B::RoutingErrors),
        row(5, &["not permitted to relay"], B::RoutingErrors),
        row(5, &["mail loop"], B::RoutingErrors),
        row(5, &["too many hops"], B::RoutingErrors),
        row(5, &["domain not found"], B::BadDomain),
        row(5, &["host unknown"], B::BadDomain),
        row(5, &["sender address rejected"], B::InvalidSender),
        row(5, &["sender", "not exist"], B::InvalidSender),
        row(5, &["sender denied"], B::InvalidSender),
        // Waiting and limits.
        row(4, &["greylist"], B::TransientFailure),
        row(4, &["graylist"], B::TransientFailure),
        row(0, &["too many recipients"], B::TooManyRecipients),
        row(0, &["max message size"], B::SizeLimit),
        row(0, &["message size exceeds"], B::SizeLimit),
        row(0, &["message too large"], B::SizeLimit),
        row(0, &["too big"], B::SizeLimit),
        row(4, &["temporarily deferred"], B::SpamBlock),
        row(4, &["rate limited"], B::TransientFailure),
        row(4, &["rate that"], B::TransientFailure),
        row(4, &["too many connections"], B::TransientFailure),
        row(4, &["server busy"], B::TransientFailure),
        row(4, &["try again later"], B::TransientFailure),
        row(5, &["access denied"], B::PolicyRelated),
        row(5, &["not authorized"], B::PolicyRelated),
        row(5, &["policy"], B::PolicyRelated),
    ]
};

/// What a reply (or our own words for what went wrong) means. `code` 0 stands for no reply at all.
#[must_use]
pub fn classify(code: u16, enhanced: [u16; 3], text: &str) -> BounceClass {
    if code == 0 {
        return without_reply(text);
    }
    if (200..400).contains(&code) {
        return BounceClass::None;
    }
    if let Some(class) = from_text(code, text) {
        return class;
    }
    let meant = if enhanced[0] == 0 { None } else { from_enhanced(code, enhanced) };
    meant.unwrap_or_else(|| from_code(code))
}

fn from_text(code: u16, text: &str) -> Option<BounceClass> {
    // Replies are bounded by `limits::REPLY_TEXT_MAX`: a copy in lower case is cheaper than matching in any case.
    let text = text.to_ascii_lowercase();
    TEXTS
        .iter()
        .find(|row| (row.class == 0 || row.class == code / 100) && row.words.iter().all(|word| has_word(&text, word)))
        .map(|row| row.means)
}

/// A short word must stand alone ("spf" not inside a host name like "transpf.example").
fn has_word(text: &str, word: &str) -> bool {
    if word.len() > 4 {
        return text.contains(word);
    }
    text.match_indices(word).any(|(at, _)| {
        let edge = |c: Option<char>| !c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-');
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        // In brackets as "[ts04]" the opening bracket is part of the word and digits may follow.
        word.starts_with('[') || (edge(before) && edge(after))
    })
}

/// RFC 3463 with the registry of RFC 5248, and what Gmail adds in x.7.2n to x.7.4n.
fn from_enhanced(code: u16, enhanced: [u16; 3]) -> Option<BounceClass> {
    use BounceClass as B;
    let permanent = code >= 500;
    Some(match (enhanced[1], enhanced[2]) {
        (1, 2) => B::BadDomain,
        (1, 7 | 8) => B::InvalidSender,
        (1, 10) => B::BadDomain,
        (1, _) if permanent => B::InvalidRecipient,
        (1, _) => B::TransientFailure,
        (2, 1) if permanent => B::InactiveMailbox,
        (2, 2) => B::QuotaIssues,
        (2, 3) => B::SizeLimit,
        (2, _) if permanent => B::InactiveMailbox,
        (2, _) => B::TransientFailure,
        (3, 4) => B::SizeLimit,
        (3, 1) => B::QuotaIssues,
        (3, _) => B::TransientFailure,
        (4, 1) => B::NoAnswerFromHost,
        (4, 2) => B::BadConnection,
        (4, 3) => B::DnsFailure,
        (4, 4) => B::DnsFailure,
        (4, 6) => B::RoutingErrors,
        (4, 7) => B::MessageExpired,
        (4, _) => B::RoutingErrors,
        (5, 3) => B::TooManyRecipients,
        (5, _) => B::ProtocolErrors,
        (6, _) => B::ProtocolErrors,
        (7, 20..=27 | 30..=32 | 40) => B::AuthenticationFailed,
        (7, 28) => B::SpamBlock,
        (7, 29) => B::PolicyRelated,
        (7, 8 | 9 | 13) => B::AuthenticationFailed,
        (7, 0) if !permanent => B::SpamBlock,
        (7, _) => B::PolicyRelated,
        _ => return None,
    })
}

/// RFC 5321 section 4.2.3, where nothing else is said.
fn from_code(code: u16) -> BounceClass {
    use BounceClass as B;
    match code {
        421 | 450 | 451 => B::TransientFailure,
        452 => B::TransientFailure,
        454 => B::TransientFailure,
        500..=504 | 521 | 523 | 555 => B::ProtocolErrors,
        530 | 535 => B::AuthenticationFailed,
        550 | 551 | 553 => B::InvalidRecipient,
        552 => B::QuotaIssues,
        556 => B::BadDomain,
        400..=499 => B::TransientFailure,
        _ => B::PolicyRelated,
    }
}

/// Our own words, when no reply was involved.
fn without_reply(text: &str) -> BounceClass {
    use BounceClass as B;
    let text = text.to_ascii_lowercase();
    let rows: [(&str, BounceClass); 10] = [
        ("null mx", B::BadDomain),
        ("nxdomain", B::BadDomain),
        ("no such domain", B::BadDomain),
        ("dns", B::DnsFailure),
        ("expired", B::MessageExpired),
        ("possible duplicate", B::PossibleDuplicate),
        ("spool damage", B::SpoolDamage),
        ("timed out", B::NoAnswerFromHost),
        ("refused", B::NoAnswerFromHost),
        ("connection", B::BadConnection),
    ];
    rows.iter().find(|(words, _)| text.contains(words)).map_or(B::TransientFailure, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use BounceClass as B;

    #[test]
    fn replies_of_providers_mean_what_they_mean() {
        let rows: [(u16, [u16; 3], &str, BounceClass); 30] = [
            (
                550,
                [5, 1, 1],
                "The email account that you tried to reach does not exist. Please try",
                B::InvalidRecipient,
            ),
            (452, [4, 2, 2], "The recipient's inbox is out of storage space.", B::QuotaIssues),
            (552, [5, 2, 2], "The email account that you tried to reach is over quota.", B::QuotaIssues),
            (550, [5, 2, 1], "The email account that you tried to reach is disabled.", B::InactiveMailbox),
            (
                450,
                [4, 2, 1],
                "The user you are trying to contact is receiving mail at a rate that prevents",
                B::TransientFailure,
            ),
            (
                421,
                [4, 7, 28],
                "Gmail has detected an unusual rate of unsolicited mail originating from your IP",
                B::SpamBlock,
            ),
            (
                421,
                [4, 7, 0],
                "This message is suspicious due to the very low reputation of the sending IP",
                B::SpamBlock,
            ),
            (
                550,
                [5, 7, 26],
                "Your email has been blocked because the sender is unauthenticated.",
                B::AuthenticationFailed,
            ),
            (
                550,
                [5, 7, 25],
                "The IP address sending this message does not have a PTR record setup",
                B::AuthenticationFailed,
            ),
            (550, [5, 7, 30], "", B::AuthenticationFailed),
            (421, [4, 7, 29], "", B::PolicyRelated),
            (550, [5, 7, 40], "", B::AuthenticationFailed),
            (550, [5, 7, 1], "Our system has detected that this message is likely unsolicited mail", B::SpamBlock),
            (554, [5, 4, 6], "Message exceeded 50 hops, this may indicate a mail loop.", B::RoutingErrors),
            (
                421,
                [4, 7, 0],
                "[TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints",
                B::SpamBlock,
            ),
            (554, [0, 0, 0], "delivery error: dd This user doesn't have a yahoo.com account", B::InvalidRecipient),
            (
                553,
                [5, 7, 1],
                "[BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list",
                B::SpamBlock,
            ),
            (
                550,
                [5, 7, 1],
                "Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet \
              service provider since part of their network is on our block list (S3150).",
                B::SpamBlock,
            ),
            (550, [5, 4, 1], "Recipient address rejected: Access denied. [AS(201806281)]", B::InvalidRecipient),
            (
                451,
                [4, 7, 650],
                "The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.",
                B::SpamBlock,
            ),
            (550, [5, 5, 0], "Requested action not taken: mailbox unavailable (S2017062302).", B::InvalidRecipient),
            (554, [5, 7, 1], "[CS01] Message rejected due to local policy. Please visit", B::PolicyRelated),
            (421, [0, 0, 0], "Service not available - too many connections", B::TransientFailure),
            (451, [4, 7, 1], "Greylisting in action, please come back later", B::TransientFailure),
            (554, [5, 7, 1], "<a@b.test>: Relay access denied", B::RoutingErrors),
            (552, [5, 3, 4], "Message size exceeds fixed limit", B::SizeLimit),
            (550, [0, 0, 0], "No", B::InvalidRecipient),
            (451, [0, 0, 0], "", B::TransientFailure),
            (523, [5, 7, 10], "", B::PolicyRelated),
            (250, [2, 0, 0], "OK blacklist", B::None),
        ];
        for (code, enhanced, text, want) in rows {
            assert_eq!(classify(code, enhanced, text), want, "{code} {enhanced:?} {text}");
        }
    }

    #[test]
    fn short_words_stand_alone() {
        assert_eq!(classify(550, [5, 1, 1], "<a@transpf.test> rejected"), B::InvalidRecipient);
        assert_eq!(classify(550, [5, 7, 1], "SPF check failed"), B::AuthenticationFailed);
    }

    #[test]
    fn our_own_words_are_understood() {
        for (text, want) in [
            ("the domain has a null MX (RFC 7505)", B::BadDomain),
            ("DNS answered SERVFAIL", B::DnsFailure),
            ("connect timed out", B::NoAnswerFromHost),
            ("the connection was closed", B::BadConnection),
            ("expired after 4 days", B::MessageExpired),
            ("anything else", B::TransientFailure),
        ] {
            assert_eq!(classify(0, [0; 3], text), want, "{text}");
        }
    }
}
