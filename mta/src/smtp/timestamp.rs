//! RFC 3339 times in UTC, as FUTURERELEASE (RFC 4865) writes them. Years 1970 to 2105: what [`UnixSecs`] holds.

use queue::UnixSecs;

const DAY: i64 = 86_400;

/// `2026-11-20T22:58:10Z`.
#[must_use]
pub fn format(time: UnixSecs) -> String {
    let seconds = i64::from(time.0);
    let (year, month, day) = civil(seconds / DAY);
    let rest = seconds % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Reads an RFC 3339 date-time: `Z` or a numeric offset, a fraction of seconds is dropped.
#[must_use]
pub fn parse(text: &str) -> Option<UnixSecs> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || bytes[4] != b'-' || bytes[7] != b'-' || bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    if !matches!(bytes[10], b'T' | b't') {
        return None;
    }
    let field = |from: usize, to: usize| number(bytes.get(from..to)?);
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    let in_range = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone = bytes.get(19..)?;
    if let [b'.', fraction @ ..] = zone {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        zone = fraction.get(digits..)?;
    }
    let offset = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'+' {
                seconds
            } else {
                -seconds
            }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    u32::try_from(seconds).ok().map(UnixSecs)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let to_year = 365 * before + before / 4 - before / 100 + before / 400;
    let to_month: i64 = (1..month).map(|m| days_in(year, m)).sum();
    to_year + to_month + day - 1 - 719_162
}

/// The date of a day counted from 1970-01-01.
fn civil(day: i64) -> (i64, i64, i64) {
    let mut year = 1970 + day / 366;
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let mut rest = day - days(year, 1, 1);
    let mut month = 1;
    while rest >= days_in(year, month) {
        rest -= days_in(year, month);
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r21_times_round_trip() {
        assert_eq!(format(UnixSecs(0)), "1970-01-01T00:00:00Z");
        assert_eq!(format(UnixSecs(951_782_400)), "2000-02-29T00:00:00Z");
        for seconds in (0..u32::MAX - 100_000_000).step_by(9_999_991) {
            assert_eq!(parse(&format(UnixSecs(seconds))), Some(UnixSecs(seconds)));
        }
    }

    #[test]
    fn r21_offsets_and_fractions() {
        assert_eq!(parse("1970-01-01T01:00:00.25+01:00"), Some(UnixSecs(0)));
        assert_eq!(parse("1969-12-31T23:00:00-01:00"), Some(UnixSecs(0)));
    }

    #[test]
    fn r21_what_is_no_time() {
        for text in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T25:00:00Z",
            "1960-01-01T00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
            "９026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
