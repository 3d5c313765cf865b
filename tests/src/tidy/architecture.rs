//! What `ARCHITECTURE.md` names must exist: the backticked `module::item` words of its "way of one message".
//!
//! A path is read as modules (small letters), then maybe a type, then maybe a function. A leading `queue`,
//! `bench` or `sysimage` names the crate, anything else lives in `mta`. Never checks prose.

use super::source::words;
use super::{Finding, SourceFile, Tree};

const PAGE: &str = "ARCHITECTURE.md";
const SECTION: &str = "way of one message";
const CRATES: [&str; 4] = ["queue", "mta", "bench", "sysimage"];

/// The section's text, from its heading to the next heading of the same or a higher level.
pub fn section(page: &str) -> Option<&str> {
    let mut start = None;
    let mut level = 0;
    let mut at = 0;
    for line in page.split_inclusive('\n') {
        let hashes = line.bytes().take_while(|b| *b == b'#').count();
        match start {
            None if hashes > 0 && line.to_lowercase().contains(SECTION) => {
                start = Some(at + line.len());
                level = hashes;
            }
            Some(from) if hashes > 0 && hashes <= level => return Some(&page[from..at]),
            _ => {}
        }
        at += line.len();
    }
    start.map(|from| &page[from..])
}

/// Backticked paths of a text: words with `::` in them, arguments cut off.
pub fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for item in text.split('`').skip(1).step_by(2) {
        let path: String = item.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
        let whole = item.len() == path.len() || item[path.len()..].starts_with(['(', '<']);
        if path.contains("::") && whole {
            found.push(path);
        }
    }
    found
}

/// Every path of the section that the source does not hold.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(page) = tree.file(PAGE) else {
        return Vec::new();
    };
    let Some(text) = section(&page.text) else {
        return Vec::new();
    };
    let lost = paths(text).into_iter().filter(|path| !exists(tree, path));
    lost.map(|path| Finding::at(PAGE, 0, format!("`{path}` is named, but not in the source"))).collect()
}

/// Whether the source holds `path`.
pub fn exists(tree: &Tree, path: &str) -> bool {
    let mut parts: Vec<&str> = path.split("::").collect();
    let krate = match parts.first() {
        Some(first) if CRATES.contains(first) => parts.remove(0),
        _ => "mta",
    };
    let modules = parts.iter().take_while(|p| p.starts_with(|c: char| c.is_lowercase())).count();
    // A path of small letters only ends in a function, a module or a macro.
    let (modules, names) = parts.split_at(if modules == parts.len() { modules.saturating_sub(1) } else { modules });
    let inside: Vec<&SourceFile> = tree.files.iter().filter(|f| is_inside(&f.path, krate, modules)).collect();
    !inside.is_empty() && names.iter().all(|name| inside.iter().any(|f| defines(f, name)))
}

/// Whether a file belongs to the module path, or to a parent that may declare it inline.
fn is_inside(path: &str, krate: &str, modules: &[&str]) -> bool {
    let Some(rest) = path.strip_prefix(krate).and_then(|p| p.strip_prefix("/src/")) else {
        return false;
    };
    let mut own: Vec<&str> = rest.trim_end_matches(".rs").split('/').collect();
    if matches!(own.last(), Some(&"mod") | Some(&"lib") | Some(&"main")) {
        own.pop();
    }
    own.len() >= modules.len() && own[..modules.len()] == *modules
}

fn defines(file: &SourceFile, name: &str) -> bool {
    let kinds = ["fn", "struct", "enum", "trait", "type", "mod", "const", "static", "union"];
    let found = words(&file.code, name).any(|at| {
        let before = file.code[..at].trim_end();
        kinds.iter().any(|kind| before.ends_with(kind))
    });
    // Enum variants are named by the page too.
    let variant = || name.starts_with(|c: char| c.is_uppercase()) && words(&file.code, name).next().is_some();
    found || variant()
}
