//! Layers inside `mta`: the order is read from `ARCHITECTURE.md`, the uses from the code.
//!
//! A module uses only lower layers; inside a layer it may use a neighbour as long as no circle arises.
//! `ingress` and `delivery` never see each other. `net` stands beside: what it sees and who sees it is read from the
//! sentence that says so. Test modules are free.

use super::source::{is_word, line_of, words};
use super::{Finding, SourceFile, Tree};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = "ARCHITECTURE.md";
const APART: [(&str, &str); 2] = [("ingress", "delivery"), ("delivery", "ingress")];

/// The layers, low to high, as the page writes them: backticked groups between bars, up to "`net` stands".
pub fn read_layers(page: &str) -> Vec<Vec<String>> {
    let Some(start) = page.find("Layers inside `mta`") else {
        return Vec::new();
    };
    let rest = &page[start..];
    let end = rest.find("`net` stands").unwrap_or(rest.len());
    let mut groups = Vec::new();
    for piece in rest[..end].split('|') {
        // The last backticked item of a piece is the group; earlier ones are prose.
        let items: Vec<&str> = piece.split('`').skip(1).step_by(2).collect();
        let Some(group) = items.last() else { continue };
        groups.push(group.split_whitespace().map(str::to_string).collect());
    }
    groups
}

/// What the page says of `net`: "it sees `a` and `b` and is seen by `c`, `d`."
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Modules that `net` may use.
    pub sees: Vec<String>,
    /// Modules that may use `net`.
    pub seen_by: Vec<String>,
}

/// Read that sentence; empty where it is missing, so that every use is a finding.
pub fn read_beside(page: &str) -> Beside {
    let ticked = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_string).collect();
    let rest = page.split_once("`net` stands").map_or("", |(_, rest)| rest);
    let sentence = rest.split('.').next().unwrap_or_default();
    let Some((sees, seen_by)) = sentence.split_once("seen by") else { return Beside::default() };
    Beside { sees: ticked(sees), seen_by: ticked(seen_by) }
}

/// Every use that climbs, every circle, every module the page does not know.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let sources: Vec<&SourceFile> = tree.files.iter().filter(|f| module_of(&f.path).is_some()).collect();
    if sources.is_empty() {
        return Vec::new();
    }
    let groups = tree.file(PAGE).map(|f| read_layers(&f.text)).unwrap_or_default();
    if groups.len() < 3 {
        return vec![Finding::at(PAGE, 0, "no layer order found (\"Layers inside `mta`\")")];
    }
    let beside = tree.file(PAGE).map(|f| read_beside(&f.text)).unwrap_or_default();
    let mut rank = BTreeMap::new();
    for (level, group) in groups.iter().enumerate() {
        for module in group {
            rank.insert(module.as_str(), level);
        }
    }
    let mut found = Vec::new();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in sources {
        let Some(from) = module_of(&file.path) else {
            continue;
        };
        if from != "net" && !rank.contains_key(from) {
            found.push(Finding::at(&file.path, 0, format!("module {from} has no layer in {PAGE}")));
            continue;
        }
        for (at, to) in uses(&file.shipped) {
            if from == to || !(rank.contains_key(to) || to == "net") {
                continue;
            }
            edges.entry(from).or_default().insert(to);
            if let Some(why) = climbs(&rank, &beside, from, to) {
                found.push(Finding::at(&file.path, line_of(&file.shipped, at), why));
            }
        }
    }
    found.extend(circles(&edges));
    found
}

fn climbs(rank: &BTreeMap<&str, usize>, beside: &Beside, from: &str, to: &str) -> Option<String> {
    if from == "net" && !beside.sees.iter().any(|m| m == to) {
        return Some(format!("net sees {}, not {to}", beside.sees.join(" and ")));
    }
    if to == "net" && !beside.seen_by.iter().any(|m| m == from) {
        return Some(format!("net is seen by {}, not by {from}", beside.seen_by.join(", ")));
    }
    if APART.contains(&(from, to)) {
        return Some(format!("{from} and {to} meet only in the queue"));
    }
    (rank.get(to) > rank.get(from) && to != "net" && from != "net").then(|| format!("{from} climbs to {to}"))
}

/// Top module of a file of `mta`; none for its roots, which see everything.
fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("mta/src/")?;
    let first = rest.split('/').next()?;
    match first {
        "lib.rs" | "main.rs" | "bin" => None,
        _ => Some(first.trim_end_matches(".rs")),
    }
}

/// Offsets and top modules of every `crate::x` in blanked code, grouped uses included.
fn uses(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        let Some(rest) = code[at + 5..].strip_prefix("::") else {
            continue;
        };
        let from = at + 7;
        if rest.starts_with('{') {
            let end = super::source::closing(code, from);
            found.extend(group_heads(&code[from + 1..end.saturating_sub(1)]).into_iter().map(|m| (at, m)));
        } else {
            found.push((at, leading_word(rest)));
        }
    }
    found
}

/// First words of the items of `{a::b, c::{d, e}}`, at depth zero only.
fn group_heads(inside: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0usize, 0);
    let mut heads = Vec::new();
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                heads.push(leading_word(inside[start..at].trim_start()));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads.push(leading_word(inside[start..].trim_start()));
    heads.retain(|h| !h.is_empty());
    heads
}

fn leading_word(text: &str) -> &str {
    let end = text.bytes().position(|b| !is_word(b)).unwrap_or(text.len());
    &text[..end]
}

/// Modules that reach themselves again.
fn circles(edges: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Finding> {
    let mut found = Vec::new();
    for start in edges.keys() {
        let mut open = vec![*start];
        let mut seen = BTreeSet::new();
        while let Some(at) = open.pop() {
            for next in edges.get(at).into_iter().flatten() {
                if next == start {
                    let what = format!("modules {start} and {at} use each other in a circle");
                    found.push(Finding::at("mta/src", 0, what));
                }
                if seen.insert(*next) {
                    open.push(next);
                }
            }
        }
    }
    found
}
