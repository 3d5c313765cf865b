//! PLAIN: RFC 4616. `[authzid] NUL authcid NUL passwd`, UTF-8.

use super::secret::Secret;
use crate::smtp::limits::SECRET_MAX;

/// What a client claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainLogin {
    /// As whom it wants to act; empty means as itself.
    pub authzid: String,
    /// Who it says it is.
    pub name: String,
    /// Its password.
    pub password: Secret,
}

/// Splits a decoded PLAIN message; none when malformed.
#[must_use]
pub fn plain(message: &[u8]) -> Option<PlainLogin> {
    let text = std::str::from_utf8(message).ok()?;
    let mut parts = text.split('\0');
    let (authzid, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = parts.next().is_none()
        && [name, password].iter().all(|part| (1..=SECRET_MAX).contains(&part.len()))
        && authzid.len() <= SECRET_MAX;
    fits.then(|| PlainLogin { authzid: authzid.to_owned(), name: name.to_owned(), password: Secret::new(password) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r08_plain_needs_utf8_and_two_separators() {
        let login = plain(b"Ursel\0Kurt\0xipj3plmq").unwrap();
        assert_eq!((login.authzid.as_str(), login.name.as_str()), ("Ursel", "Kurt"));
        assert_eq!(login.password.reveal(), "xipj3plmq");
        assert_eq!(plain(b"\0tim\0tanstaaftanstaaf").unwrap().authzid, "");
        for message in [&b""[..], b"tim", b"\0tim", b"\0tim\0", b"\0\0pw", b"a\0b\0c\0d", b"\0t\xff\0pw"] {
            assert_eq!(plain(message), None, "{message:?}");
        }
        let long = [b"\0tim\0".as_slice(), &vec![b'x'; SECRET_MAX + 1]].concat();
        assert_eq!(plain(&long), None);
    }
}
