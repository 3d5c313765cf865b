//! A password on its way through memory, and the preparation both sides must agree on.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

/// A password as received. Never printed; overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a password.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password, for whoever checks it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        // Without this the stores are dead and may be left out.
        std::hint::black_box(&bytes);
    }
}

/// Prepares a password as RFC 5802 section 2.2 asks (SASLprep, RFC 4013): other blanks become a blank, invisible
/// marks vanish, compatibility forms are composed. None when control characters are in it.
#[must_use]
pub fn prepare(password: &str) -> Option<String> {
    if password.is_ascii() {
        let printable = password.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        return printable.then(|| password.to_owned());
    }
    let mapped =
        password.chars().filter(|c| !vanishes(*c)).map(|c| if c.is_whitespace() && !c.is_control() { ' ' } else { c });
    let prepared: String = mapped.nfkc().collect();
    (!prepared.chars().any(char::is_control)).then_some(prepared)
}

/// RFC 3454 table B.1: mapped to nothing.
fn vanishes(c: char) -> bool {
    const SINGLE: [char; 6] = ['\u{ad}', '\u{34f}', '\u{1806}', '\u{2060}', '\u{feff}', '\u{200d}'];
    SINGLE.contains(&c) || matches!(c, '\u{180b}'..='\u{180d}' | '\u{200b}'..='\u{200c}' | '\u{fe00}'..='\u{fe0f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r09_preparation_of_rfc_4013_section_3() {
        assert_eq!(prepare("I\u{ad}X").as_deref(), Some("IX"));
        assert_eq!(prepare("user").as_deref(), Some("user"));
        assert_eq!(prepare("USER").as_deref(), Some("USER"));
        assert_eq!(prepare("\u{aa}").as_deref(), Some("a"));
        assert_eq!(prepare("\u{2168}").as_deref(), Some("IX"));
        assert_eq!(prepare("\u{7}"), None);
        assert_eq!(prepare("a\u{a0}b").as_deref(), Some("a b"));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(..)");
    }
}
