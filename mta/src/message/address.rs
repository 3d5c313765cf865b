//! Address lists of header fields, as far as policy needs them: how many, and which.
//!
//! Reads RFC 5322 section 3.4 with quoted strings, comments, angle brackets and groups. Never decodes names.

/// The addresses of a field value, without names and comments, in order. At most `max` of them.
#[must_use]
pub fn list(value: &str, max: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut state = Element::default();
    let mut chars = value.chars();
    let mut comments = 0usize;
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted || comments > 0 => {
                let escaped = chars.next();
                if quoted && comments == 0 {
                    state.push('\\');
                    state.push(escaped.unwrap_or_default());
                }
            }
            '"' if comments == 0 => {
                quoted = !quoted;
                state.push(c);
            }
            _ if quoted => state.push(c),
            '(' => comments += 1,
            ')' if comments > 0 => comments -= 1,
            _ if comments > 0 => {}
            '<' => state.angle = Some(String::new()),
            '>' => state.closed = true,
            // A group's name ends at its colon (never inside brackets, where it is an old source route).
            ':' if state.angle.is_none() => state = Element::default(),
            ',' | ';' if state.angle.is_none() || state.closed => state.finish(&mut found),
            _ => state.push(c),
        }
        if found.len() >= max {
            return found;
        }
    }
    state.finish(&mut found);
    found
}

/// What has been read of one element of the list.
#[derive(Default)]
struct Element {
    plain: String,
    angle: Option<String>,
    closed: bool,
}

impl Element {
    fn push(&mut self, c: char) {
        match &mut self.angle {
            Some(angle) if !self.closed => angle.push(c),
            Some(_) => {}
            None => self.plain.push(c),
        }
    }

    fn finish(&mut self, found: &mut Vec<String>) {
        let element = std::mem::take(self);
        let text = element.angle.unwrap_or(element.plain);
        let text = text.trim();
        if !text.is_empty() {
            found.push(text.to_owned());
        }
    }
}

/// The domain of an address in lower case; empty when there is none.
#[must_use]
pub fn domain(address: &str) -> String {
    address.rsplit_once('@').map_or_else(String::new, |(_, domain)| domain.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_one_address_count_as_one() {
        for text in [
            "a@b.test",
            "<a@b.test>",
            "Name <a@b.test>",
            "\"Doe, John\" <a@b.test>",
            "a@b.test (one, two (nested, too))",
            "\"quo\\\"te, x\" <a@b.test>",
        ] {
            assert_eq!(list(text, 9), ["a@b.test"], "{text}");
        }
    }

    #[test]
    fn lists_and_groups_are_counted() {
        assert_eq!(list("a@b, c@d", 9).len(), 2);
        assert_eq!(list("Group: a@b, c@d;", 9).len(), 2);
        assert_eq!(list("undisclosed-recipients:;", 9).len(), 0);
        assert_eq!(list("a@b <c@d>, e@f", 9), ["c@d", "e@f"]);
        assert_eq!(list("a,b,c,d", 2).len(), 2);
        assert_eq!(list("<<>>,((,\"", 9).len(), 0);
        assert_eq!(domain("x@B.Test"), "b.test");
    }
}
