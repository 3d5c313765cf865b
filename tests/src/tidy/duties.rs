//! The index of duties towards the standards (`tests/rfc/index.tsv`), and what it may claim.
//!
//! A row says done, partial or not-yet. Done needs a test that names the duty; an extension the server offers needs
//! a row that is not "not-yet"; every place a row names must exist. Never judges whether a test is a good one.

use super::source::{functions, line_of};
use super::{Finding, SourceFile, Tree};
use std::collections::BTreeMap;

/// Where the index lives.
pub const INDEX: &str = "tests/rfc/index.tsv";
/// Rows there must be.
pub const DUTIES: usize = 48;

/// Keywords of EHLO (the IANA registry "SMTP Service Extensions") and the duty that each one is.
pub const EXTENSIONS: [(&str, usize); 15] = [
    ("STARTTLS", 7),
    ("AUTH", 8),
    ("SIZE", 11),
    ("PIPELINING", 12),
    ("CHUNKING", 13),
    ("BINARYMIME", 13),
    ("8BITMIME", 14),
    ("SMTPUTF8", 15),
    ("DSN", 17),
    ("ENHANCEDSTATUSCODES", 19),
    ("FUTURERELEASE", 21),
    ("DELIVERBY", 22),
    ("MT-PRIORITY", 23),
    ("REQUIRETLS", 24),
    ("LIMITS", 25),
];

/// Where the server writes its answers.
const SERVER: &str = "mta/src/smtp/server/";

/// How far a duty is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Every point of the row, each with a test.
    Done,
    /// Some points.
    Partial,
    /// Nothing yet.
    NotYet,
}

/// One row.
#[derive(Debug, Clone)]
pub struct Duty {
    /// 12 for R-12.
    pub number: usize,
    /// How far it is kept.
    pub status: Status,
    /// Files that keep it.
    pub places: Vec<String>,
    /// Line in the index.
    pub line: usize,
}

/// Rows of the index, and the lines that are none.
pub fn read(text: &str) -> (Vec<Duty>, Vec<Finding>) {
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        match row(line, number + 1) {
            Some(duty) => rows.push(duty),
            None => bad.push(Finding::at(INDEX, number + 1, "not a row: duty, rfc, side, status, where, subject")),
        }
    }
    (rows, bad)
}

fn row(line: &str, at: usize) -> Option<Duty> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [duty, _rfc, _side, status, places, subject] = columns[..] else {
        return None;
    };
    let number = duty.strip_prefix("R-")?.parse().ok()?;
    let status = match status {
        "done" => Status::Done,
        "partial" => Status::Partial,
        "not-yet" => Status::NotYet,
        _ => return None,
    };
    let places = places.split_whitespace().filter(|p| *p != "-").map(str::to_string).collect();
    (!subject.trim().is_empty()).then_some(Duty { number, status, places, line: at })
}

/// Everything the index claims and the tree does not keep.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(index) = tree.file(INDEX) else {
        return vec![Finding::at(INDEX, 0, "missing")];
    };
    let (rows, mut found) = read(&index.text);
    let mut by_number = BTreeMap::new();
    for duty in &rows {
        if by_number.insert(duty.number, duty).is_some() {
            found.push(Finding::at(INDEX, duty.line, format!("R-{:02} twice", duty.number)));
        }
        found.extend(claims(tree, duty));
    }
    for number in (1..=DUTIES).filter(|n| !by_number.contains_key(n)) {
        found.push(Finding::at(INDEX, 0, format!("R-{number:02} has no row")));
    }
    let offered = advertised(tree);
    if offered.is_empty() && tree.files.iter().filter(|f| f.path.starts_with(SERVER)).count() > 2 {
        let what = "no function offers an extension: name it so that the check finds it (offers, ehlo_...)";
        found.push(Finding::at(SERVER, 0, what));
    }
    for (file, line, keyword, number) in offered {
        let kept = by_number.get(&number).is_some_and(|d| d.status != Status::NotYet);
        if !kept {
            let what = format!("{keyword} is advertised, but R-{number:02} is not-yet");
            found.push(Finding::at(file, line, what));
        }
    }
    found
}

fn claims(tree: &Tree, duty: &Duty) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in &duty.places {
        let known = tree.files.iter().any(|f| f.path == *place || f.path.starts_with(&format!("{place}/")));
        if !known {
            found.push(Finding::at(INDEX, duty.line, format!("{place} does not exist")));
        }
    }
    if duty.status != Status::NotYet && duty.places.is_empty() {
        found.push(Finding::at(INDEX, duty.line, "say where it is kept"));
    }
    if duty.status == Status::Done && !is_tested(tree, duty.number) {
        let what = format!("R-{0:02} is done, but no test names r{0:02} and no dialog says # R-{0:02}", duty.number);
        found.push(Finding::at(INDEX, duty.line, what));
    }
    found
}

/// A `#[test]` function with the word `rNN` in its name, or a dialog file with the comment `# R-NN`.
fn is_tested(tree: &Tree, number: usize) -> bool {
    let word = format!("r{number:02}");
    let remark = format!("# R-{number:02}");
    tree.files.iter().any(|file| {
        if file.path.ends_with(".smtp") {
            return file.text.lines().any(|l| l.trim_end() == remark || l.starts_with(&format!("{remark} ")));
        }
        file.code.contains("test]")
            && functions(&file.code).iter().any(|f| {
                let marked = file.code[..f.at].rsplit(['}', ';', '{']).next().unwrap_or_default();
                f.name.split('_').any(|part| part == word) && marked.contains("test")
            })
    })
}

/// EHLO keywords that stand as literals where the server writes its answer: the functions of `mta/src/smtp/server`
/// whose name speaks of ehlo, extensions, offers or advertising. Each keyword once.
pub fn advertised(tree: &Tree) -> Vec<(&str, usize, &'static str, usize)> {
    const NAMES: [&str; 4] = ["ehlo", "extension", "offer", "advert"];
    let mut found: Vec<(&str, usize, &'static str, usize)> = Vec::new();
    for file in tree.files.iter().filter(|f| f.path.starts_with(SERVER)) {
        let ranges: Vec<(usize, usize)> = functions(&file.shipped)
            .iter()
            .filter(|f| NAMES.iter().any(|w| f.name.contains(w)))
            .map(|f| (f.line, f.line + f.lines))
            .collect();
        for (keyword, number) in EXTENSIONS {
            for (at, _) in file.text.match_indices(keyword) {
                let line = line_of(&file.text, at);
                let inside = ranges.iter().any(|(from, to)| (*from..*to).contains(&line));
                let known = found.iter().any(|(path, _, word, _)| *path == file.path && *word == keyword);
                if inside && !known && is_literal(file, at, keyword) {
                    found.push((file.path.as_str(), line, keyword, number));
                }
            }
        }
    }
    found
}

/// A keyword inside a literal that ships, standing at its beginning or after a line's "250-".
fn is_literal(file: &SourceFile, at: usize, keyword: &str) -> bool {
    let before = file.text.as_bytes()[..at].last().copied();
    let after = file.text.as_bytes().get(at + keyword.len()).copied();
    let line = file.text[..at].rsplit('\n').next().unwrap_or_default();
    let comment = line.trim_start().starts_with("//");
    let blanked = file.code.get(at..at + keyword.len()).is_some_and(|s| s.trim().is_empty());
    let starts = matches!(before, Some(b'"' | b'-' | b' ' | b'n'));
    let ends = matches!(after, Some(b'"' | b' ' | b'\\' | b'{' | b'=' | b',') | None);
    blanked && !comment && starts && ends
}
