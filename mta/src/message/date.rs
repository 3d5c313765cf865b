//! Dates: RFC 5322 text out, and the forms clients write into a schedule field in.
//!
//! Time comes in as a value; nothing here reads a clock. We always write UTC as `+0000`.

use queue::{UnixMillis, UnixSecs};

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment as calendar fields, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year, four digits.
    pub year: u64,
    /// Month, 1 to 12.
    pub month: u64,
    /// Day of the month, 1 to 31.
    pub day: u64,
    /// Day of the week, Sunday is 0.
    pub weekday: u64,
    /// Hour, minute, second.
    pub time: (u64, u64, u64),
}

/// The calendar fields of a number of seconds since 1970, by counting days from 1 March of year 0 so that the
/// leap day is the last of its year.
#[must_use]
pub fn civil(secs: u64) -> Civil {
    let days = secs / 86_400;
    let rest = secs % 86_400;
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    Civil {
        year: year_of_era + era * 400 + u64::from(month <= 2),
        month,
        day: day_of_year - (153 * march_month + 2) / 5 + 1,
        weekday: (days + 4) % 7,
        time: (rest / 3600, rest / 60 % 60, rest % 60),
    }
}

/// Seconds since 1970 of calendar fields; `None` when a field is out of its range or before 1970.
fn seconds(year: i64, month: i64, day: i64, time: (i64, i64, i64)) -> Option<i64> {
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&time.0)
        && (0..60).contains(&time.1)
        && (0..=60).contains(&time.2);
    if !in_range {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year / 400;
    let year_of_era = shifted_year - era * 400;
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * 86_400 + time.0 * 3600 + time.1 * 60 + time.2)
}

/// Appends a time of RFC 5322 section 3.3, in UTC: `Fri, 20 Nov 2026 22:58:09 +0000`.
pub fn push_rfc5322(out: &mut Vec<u8>, now: UnixMillis) {
    let c = civil(now.0 / 1000);
    out.extend_from_slice(DAYS[(c.weekday % 7) as usize].as_bytes());
    out.extend_from_slice(b", ");
    push_number(out, c.day, 1);
    out.push(b' ');
    out.extend_from_slice(MONTHS[((c.month - 1) % 12) as usize].as_bytes());
    out.push(b' ');
    push_number(out, c.year, 4);
    for (separator, value) in [(b' ', c.time.0), (b':', c.time.1), (b':', c.time.2)] {
        out.push(separator);
        push_number(out, value, 2);
    }
    out.extend_from_slice(b" +0000");
}

/// The same as text.
#[must_use]
pub fn rfc5322(now: UnixMillis) -> String {
    let mut out = Vec::with_capacity(32);
    push_rfc5322(&mut out, now);
    String::from_utf8(out).unwrap_or_default()
}

/// RFC 3339 with milliseconds, UTC: `2026-11-20T22:58:09.123Z`.
#[must_use]
pub fn rfc3339(now: UnixMillis) -> String {
    let c = civil(now.0 / 1000);
    let (hour, minute, second) = c.time;
    format!("{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", c.year, c.month, c.day, now.0 % 1000)
}

/// Appends a decimal number with at least `width` digits.
pub fn push_number(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while value > 0 {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    let start = at.min(digits.len() - width.min(digits.len()));
    out.extend_from_slice(&digits[start..]);
}

/// Reads a time as clients write it: seconds since 1970, RFC 3339, `YYYY-MM-DD hh:mm[:ss]` (UTC), or RFC 5322.
#[must_use]
pub fn parse(text: &str) -> Option<UnixSecs> {
    let text = text.trim();
    if text.is_empty() || text.len() > 64 || !text.is_ascii() {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<u32>().ok().map(UnixSecs);
    }
    let secs = parse_iso(text).or_else(|| parse_5322(text))?;
    u32::try_from(secs).ok().map(UnixSecs)
}

/// RFC 3339 section 5.6, with a blank allowed for the T and a missing zone read as UTC.
fn parse_iso(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut parts = date.split('-').map(|p| p.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    let zone_at = rest.find(['Z', 'z', '+', '-', ' ']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let clock = clock.split_once('.').map_or(clock, |(whole, _)| whole);
    Some(seconds(year, month, day, parse_clock(clock)?)? - parse_zone(zone.trim())?)
}

/// RFC 5322 section 3.3, the day of the week optional.
fn parse_5322(text: &str) -> Option<i64> {
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = text.split_ascii_whitespace();
    let day = words.next()?.parse::<i64>().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(name))? as i64 + 1;
    let year = words.next()?.parse::<i64>().ok()?;
    let clock = parse_clock(words.next()?)?;
    Some(seconds(year, month, day, clock)? - parse_zone(words.next().unwrap_or(""))?)
}

fn parse_clock(text: &str) -> Option<(i64, i64, i64)> {
    let mut parts = text.split(':').map(|p| (p.len() == 2).then(|| p.parse::<i64>().ok()).flatten());
    let hour = parts.next()??;
    let minute = parts.next()??;
    let second = match parts.next() {
        Some(second) => second?,
        None => 0,
    };
    parts.next().is_none().then_some((hour, minute, second))
}

/// Seconds east of Greenwich.
fn parse_zone(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first() {
        None => return Some(0),
        Some(b'+') => (1, text.get(1..)?),
        Some(b'-') => (-1, text.get(1..)?),
        _ => {
            let utc = ["Z", "UT", "UTC", "GMT"];
            return utc.iter().any(|z| z.eq_ignore_ascii_case(text)).then_some(0);
        }
    };
    let digits = digits.replace(':', "");
    if digits.len() != 4 {
        return None;
    }
    let value = digits.parse::<i64>().ok()?;
    Some(sign * (value / 100 * 3600 + value % 100 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r04_date_is_rfc5322() {
        assert_eq!(rfc5322(UnixMillis(0)), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(rfc5322(UnixMillis(1_795_215_489_123)), "Fri, 20 Nov 2026 22:58:09 +0000");
        assert_eq!(rfc5322(UnixMillis(951_782_400_000)), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(rfc3339(UnixMillis(1_795_215_489_123)), "2026-11-20T22:58:09.123Z");
    }

    #[test]
    fn every_form_of_a_client_is_read() {
        let want = Some(UnixSecs(1_795_215_489));
        for text in [
            "1795215489",
            "2026-11-20T22:58:09Z",
            "2026-11-20 22:58:09",
            "2026-11-20T23:58:09.5+01:00",
            "Fri, 20 Nov 2026 22:58:09 +0000",
            "20 Nov 2026 17:58:09 -0500",
            "Fri, 20 Nov 2026 22:58:09 GMT",
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        for text in
            ["", "tomorrow", "2026-13-01T00:00:00Z", "2026-11-20T25:00:00Z", "1 Foo 2026 00:00", "2026-11-20T2:1Z"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_a_century_round_trips() {
        for day in 0..36_525u64 {
            let secs = day * 86_400 + 43_261;
            assert_eq!(parse(&rfc5322(UnixMillis(secs * 1000))), Some(UnixSecs(secs as u32)));
        }
    }
}
