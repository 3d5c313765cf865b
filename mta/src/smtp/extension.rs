//! Parameters of MAIL and RCPT that extensions add: RFC 1870, 3030, 3461, 2852, 4865, 4954, 6152, 6531, 6710.
//!
//! The error of each function is the reply to give. Which parameters exist depends on what EHLO offered.

use queue::{DsnRet, Notify, UnixSecs};

use super::codes::{reply, Reply};
use super::limits::{ENVID_MAX, ORCPT_MAX};
use super::{timestamp, xtext};

/// BODY of RFC 6152 and RFC 3030.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyKind {
    /// `7BIT`, or not said.
    #[default]
    SevenBit,
    /// `8BITMIME`.
    EightBit,
    /// `BINARYMIME`: comes in chunks only.
    Binary,
}

/// RFC 2852 BY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverBy {
    /// When the time is over.
    pub at: UnixSecs,
    /// Mode `N`: notify and go on. Otherwise `R`: return.
    pub notify: bool,
    /// `T`: the client asks for reports of relaying.
    pub trace: bool,
}

/// Everything MAIL promised about a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParams {
    /// SIZE in bytes, 0 when not said.
    pub size: u64,
    /// BODY.
    pub body: BodyKind,
    /// SMTPUTF8 was given.
    pub smtputf8: bool,
    /// RET.
    pub ret: DsnRet,
    /// ENVID as given, still xtext; empty when absent.
    pub envid: String,
    /// From HOLDFOR or HOLDUNTIL.
    pub not_before: Option<UnixSecs>,
    /// BY.
    pub by: Option<DeliverBy>,
    /// MT-PRIORITY, -9 to 9.
    pub priority: i8,
}

/// Which parameters were offered, and their bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// FUTURERELEASE, DELIVERBY and MT-PRIORITY are offered: submission only.
    pub submission: bool,
    /// Largest message in bytes.
    pub size_max: u64,
    /// Longest hold in seconds.
    pub hold_max: u32,
    /// Shortest BY time in seconds.
    pub by_min: u32,
}

/// Parameters of RCPT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParams {
    /// NOTIFY.
    pub notify: Notify,
    /// ORCPT as given; empty when absent.
    pub orcpt: String,
}

/// One bit per parameter, to see a repeat.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    fn once(&mut self, bit: u32) -> Result<(), Reply> {
        if self.0 & (1 << bit) != 0 {
            return Err(reply::REPEATED_PARAMETER);
        }
        self.0 |= 1 << bit;
        Ok(())
    }
}

/// Reads what follows the path of MAIL. `now` turns relative times into absolute ones.
pub fn mail_params(text: &str, offer: &Offer, now: UnixSecs) -> Result<MailParams, Reply> {
    let mut params = MailParams::default();
    if text.is_empty() {
        return Ok(params);
    }
    let mut seen = Seen::default();
    for (name, value) in words(text)? {
        mail_param(name, value, &mut params, &mut seen, offer, now)?;
    }
    Ok(params)
}

fn mail_param(
    name: &str,
    value: Option<&str>,
    params: &mut MailParams,
    seen: &mut Seen,
    offer: &Offer,
    now: UnixSecs,
) -> Result<(), Reply> {
    let is = |keyword: &str| name.eq_ignore_ascii_case(keyword);
    let given = value.ok_or(reply::BAD_PARAMETER);
    if is("SIZE") {
        seen.once(0)?;
        params.size = size(given?, offer.size_max)?;
    } else if is("BODY") {
        seen.once(1)?;
        params.body = body(given?)?;
    } else if is("SMTPUTF8") {
        seen.once(2)?;
        // RFC 6531 section 3.4: no value.
        params.smtputf8 = value.is_none();
        value.map_or(Ok(()), |_| Err(reply::BAD_PARAMETER))?;
    } else if is("RET") {
        seen.once(3)?;
        params.ret = ret(given?)?;
    } else if is("ENVID") {
        seen.once(4)?;
        params.envid = envid(given?)?;
    } else if is("AUTH") {
        seen.once(5)?;
        // RFC 4954 section 5: taken and not trusted.
        xtext::is_xtext(given?.as_bytes()).then_some(()).ok_or(reply::BAD_PARAMETER)?;
    } else if offer.submission && is("HOLDFOR") {
        // RFC 4865 section 4: one of the two, once.
        seen.once(6)?;
        let seconds = hold_for(given?, offer.hold_max)?;
        params.not_before = Some(UnixSecs(now.0.saturating_add(seconds)));
    } else if offer.submission && is("HOLDUNTIL") {
        seen.once(6)?;
        params.not_before = Some(hold_until(given?, offer.hold_max, now)?);
    } else if offer.submission && is("BY") {
        seen.once(7)?;
        params.by = Some(deliver_by(given?, offer.by_min, now)?);
    } else if offer.submission && is("MT-PRIORITY") {
        seen.once(8)?;
        params.priority = priority(given?)?;
    } else {
        return Err(reply::UNKNOWN_PARAMETER);
    }
    Ok(())
}

/// Reads what follows the path of RCPT.
pub fn rcpt_params(text: &str, smtputf8: bool) -> Result<RcptParams, Reply> {
    let mut params = RcptParams::default();
    if text.is_empty() {
        return Ok(params);
    }
    let mut seen = Seen::default();
    for (name, value) in words(text)? {
        let given = value.ok_or(reply::BAD_PARAMETER);
        if name.eq_ignore_ascii_case("NOTIFY") {
            seen.once(0)?;
            params.notify = notify(given?)?;
        } else if name.eq_ignore_ascii_case("ORCPT") {
            seen.once(1)?;
            params.orcpt = orcpt(given?, smtputf8)?;
        } else {
            return Err(reply::UNKNOWN_PARAMETER);
        }
    }
    Ok(params)
}

/// RFC 5321 section 4.1.2: `esmtp-param` words behind the path, each `keyword[=value]`.
fn words(text: &str) -> Result<impl Iterator<Item = (&str, Option<&str>)>, Reply> {
    if !text.starts_with(' ') {
        return Err(reply::BAD_PARAMETER);
    }
    let words = text.split_ascii_whitespace().map(|word| match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    });
    Ok(words)
}

/// Digits only: `parse` alone would take a sign.
fn digits<T: std::str::FromStr>(text: &str, most: usize) -> Option<T> {
    let fits = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok())?
}

/// RFC 1870 section 6: up to 20 digits.
fn size(text: &str, max: u64) -> Result<u64, Reply> {
    let fits = (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        _ if !fits => Err(reply::BAD_PARAMETER),
        Ok(size) if size <= max => Ok(size),
        _ => Err(reply::TOO_BIG),
    }
}

fn body(text: &str) -> Result<BodyKind, Reply> {
    match text {
        _ if text.eq_ignore_ascii_case("7BIT") => Ok(BodyKind::SevenBit),
        _ if text.eq_ignore_ascii_case("8BITMIME") => Ok(BodyKind::EightBit),
        _ if text.eq_ignore_ascii_case("BINARYMIME") => Ok(BodyKind::Binary),
        _ => Err(reply::BAD_PARAMETER),
    }
}

/// RFC 3461 section 4.3.
fn ret(text: &str) -> Result<DsnRet, Reply> {
    match text {
        _ if text.eq_ignore_ascii_case("FULL") => Ok(DsnRet::Full),
        _ if text.eq_ignore_ascii_case("HDRS") => Ok(DsnRet::Hdrs),
        _ => Err(reply::BAD_PARAMETER),
    }
}

/// RFC 3461 section 4.4.
fn envid(text: &str) -> Result<String, Reply> {
    let fits = (1..=ENVID_MAX).contains(&text.len()) && xtext::is_xtext(text.as_bytes());
    fits.then(|| text.to_owned()).ok_or(reply::BAD_PARAMETER)
}

/// RFC 3461 section 4.1: NEVER stands alone.
fn notify(text: &str) -> Result<Notify, Reply> {
    let mut bits = 0;
    for word in text.split(',') {
        let bit = match word {
            _ if word.eq_ignore_ascii_case("NEVER") => Notify::NEVER,
            _ if word.eq_ignore_ascii_case("SUCCESS") => Notify::SUCCESS,
            _ if word.eq_ignore_ascii_case("FAILURE") => Notify::FAILURE,
            _ if word.eq_ignore_ascii_case("DELAY") => Notify::DELAY,
            _ => return Err(reply::BAD_PARAMETER),
        };
        if bits & bit != 0 {
            return Err(reply::BAD_PARAMETER);
        }
        bits |= bit;
    }
    if bits & Notify::NEVER != 0 && bits != Notify::NEVER {
        return Err(reply::BAD_PARAMETER);
    }
    Ok(Notify(bits))
}

/// RFC 3461 section 4.2: `addr-type;xtext`; RFC 6533 section 3 lets `utf-8` hold UTF-8 under SMTPUTF8.
fn orcpt(text: &str, smtputf8: bool) -> Result<String, Reply> {
    let (kind, address) = text.split_once(';').ok_or(reply::BAD_PARAMETER)?;
    let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let raw = smtputf8 && kind.eq_ignore_ascii_case("utf-8") && !address.is_ascii();
    let is_address = !address.is_empty() && (raw || xtext::is_xtext(address.as_bytes()));
    (is_kind && is_address && text.len() <= ORCPT_MAX).then(|| text.to_owned()).ok_or(reply::BAD_PARAMETER)
}

/// RFC 4865 section 4: above the advertised maximum is refused.
fn hold_for(text: &str, max: u32) -> Result<u32, Reply> {
    let seconds: u32 = digits(text, 9).ok_or(reply::BAD_PARAMETER)?;
    (seconds <= max).then_some(seconds).ok_or(HOLD_TOO_LONG)
}

fn hold_until(text: &str, max: u32, now: UnixSecs) -> Result<UnixSecs, Reply> {
    let until = timestamp::parse(text).ok_or(reply::BAD_PARAMETER)?;
    (until.since(now) <= max).then_some(until).ok_or(HOLD_TOO_LONG)
}

/// RFC 4865 section 4.
pub const HOLD_TOO_LONG: Reply = Reply::new(501, 5, 4, "hold longer than offered");

/// RFC 2852 section 4: `[-]seconds;R|N[T]`; in mode R the time is positive and not below what EHLO said.
fn deliver_by(text: &str, min: u32, now: UnixSecs) -> Result<DeliverBy, Reply> {
    let (time, mode) = text.split_once(';').ok_or(reply::BAD_PARAMETER)?;
    let (negative, number) = match time.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, time.strip_prefix('+').unwrap_or(time)),
    };
    let seconds: u32 = digits(number, 9).ok_or(reply::BAD_PARAMETER)?;
    let (letter, trace) = match mode.as_bytes() {
        [letter] => (letter, false),
        [letter, b't' | b'T'] => (letter, true),
        _ => return Err(reply::BAD_PARAMETER),
    };
    let notify = match letter.to_ascii_uppercase() {
        b'N' => true,
        b'R' => false,
        _ => return Err(reply::BAD_PARAMETER),
    };
    if !notify && (negative || seconds == 0) {
        return Err(reply::BAD_PARAMETER);
    }
    if !notify && seconds < min {
        return Err(BY_TOO_SHORT);
    }
    let at = if negative { now.0.saturating_sub(seconds) } else { now.0.saturating_add(seconds) };
    Ok(DeliverBy { at: UnixSecs(at), notify, trace })
}

/// RFC 2852 section 4.
pub const BY_TOO_SHORT: Reply = Reply::new(501, 5, 4, "delivery time shorter than offered");

/// RFC 6710 section 3: -9 to 9, at most one digit.
fn priority(text: &str) -> Result<i8, Reply> {
    let value = match text.as_bytes() {
        [digit @ b'0'..=b'9'] => (digit - b'0') as i8,
        [b'-', digit @ b'1'..=b'9'] => -((digit - b'0') as i8),
        [b'+', digit @ b'1'..=b'9'] => (digit - b'0') as i8,
        _ => return Err(reply::BAD_PARAMETER),
    };
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { submission: true, size_max: 1000, hold_max: 3600, by_min: 60 };
    const NOW: UnixSecs = UnixSecs(1_700_000_000);

    fn mail(text: &str) -> Result<MailParams, Reply> {
        mail_params(text, &OFFER, NOW)
    }

    #[test]
    fn r11_r14_r15_r17_all_parameters_together() {
        let params =
            mail(" SIZE=1000 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<> HOLDFOR=60 BY=120;NT MT-PRIORITY=-9")
                .unwrap();
        assert_eq!(params.size, 1000);
        assert_eq!(params.body, BodyKind::EightBit);
        assert!(params.smtputf8);
        assert_eq!(params.ret, DsnRet::Hdrs);
        assert_eq!(params.envid, "a+2Bb");
        assert_eq!(params.not_before, Some(UnixSecs(NOW.0 + 60)));
        let by = params.by.unwrap();
        assert_eq!((by.at, by.notify, by.trace), (UnixSecs(NOW.0 + 120), true, true));
        assert_eq!(params.priority, -9);
    }

    #[test]
    fn r01_r11_r21_r22_r23_what_is_refused() {
        for (text, code) in [
            (" SIZE=1001", 552),
            (" SIZE=99999999999999999999", 552),
            (" SIZE=x", 501),
            (" SIZE", 501),
            (" SIZE=1 SIZE=1", 501),
            (" BODY=9BIT", 501),
            (" SMTPUTF8=1", 501),
            (" RET=ALL", 501),
            (" ENVID=", 501),
            (" ENVID=a+", 501),
            (" FOO=1", 555),
            (" FOO", 555),
            ("SIZE=1", 501),
            (" HOLDFOR=3601", 501),
            (" HOLDFOR=1 HOLDUNTIL=2023-11-14T22:14:00Z", 501),
            (" HOLDUNTIL=2023-11-15T22:14:00Z", 501),
            (" HOLDUNTIL=soon", 501),
            (" BY=59;R", 501),
            (" BY=0;R", 501),
            (" BY=-1;R", 501),
            (" BY=60", 501),
            (" BY=60;X", 501),
            (" BY=60;RR", 501),
            (" MT-PRIORITY=10", 501),
            (" MT-PRIORITY=-0", 501),
            (" MT-PRIORITY=", 501),
            (" AUTH=a=b", 501),
        ] {
            assert_eq!(mail(text).map_err(|reply| reply.code), Err(code), "{text}");
        }
        let long = format!(" ENVID={}", "e".repeat(ENVID_MAX + 1));
        assert_eq!(mail(&long), Err(reply::BAD_PARAMETER));
    }

    #[test]
    fn r21_r22_r23_offered_on_submission_only() {
        let offer = Offer { submission: false, ..OFFER };
        for text in [" HOLDFOR=1", " BY=120;R", " MT-PRIORITY=1"] {
            assert_eq!(mail_params(text, &offer, NOW), Err(reply::UNKNOWN_PARAMETER));
        }
    }

    #[test]
    fn r22_late_is_fine_in_mode_n() {
        assert_eq!(mail(" BY=-5;N").unwrap().by.unwrap().at, UnixSecs(NOW.0 - 5));
    }

    #[test]
    fn r17_notify_and_orcpt() {
        let params = rcpt_params(" NOTIFY=SUCCESS,failure,DELAY ORCPT=rfc822;a+2Bb@c.test", false).unwrap();
        assert_eq!(params.notify, Notify(Notify::SUCCESS | Notify::FAILURE | Notify::DELAY));
        assert_eq!(params.orcpt, "rfc822;a+2Bb@c.test");
        assert_eq!(rcpt_params(" NOTIFY=NEVER", false).unwrap().notify, Notify(Notify::NEVER));
        for text in [
            " NOTIFY=NEVER,SUCCESS",
            " NOTIFY=",
            " NOTIFY=SUCCESS,",
            " NOTIFY=SUCCESS,SUCCESS",
            " ORCPT=a@b",
            " ORCPT=;a@b",
            " ORCPT=rfc822;a=b",
            " ORCPT=rfc822;",
            " NOTIFY=NEVER NOTIFY=NEVER",
            " ORCPT=utf-8;\u{fc}@b",
        ] {
            assert_eq!(rcpt_params(text, false).map_err(|reply| reply.code), Err(501), "{text}");
        }
        assert_eq!(rcpt_params(" X=1", false), Err(reply::UNKNOWN_PARAMETER));
        assert!(rcpt_params(" ORCPT=utf-8;\u{fc}@b", true).is_ok());
    }
}
