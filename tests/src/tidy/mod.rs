//! Tidy: the habits of the tree as checks over its text.
//!
//! Pure: a [`Tree`] of paths and texts in, [`Finding`]s out. `tests/tests/tidy.rs` reads the real tree and
//! proves on tiny bad trees that every check can fail. Never formats and never fixes anything.

pub mod architecture;
pub mod duties;
pub mod layers;
pub mod source;

use source::{blank, functions, line_of, without_tests, words};
use std::path::Path;

/// Longest file, tests apart.
pub const FILE_HARD: usize = 800;
/// What a file aims at.
pub const FILE_AIM: usize = 400;
/// Longest function, tests apart.
pub const FUNCTION_HARD: usize = 150;
/// What a function aims at; longer ones are listed.
pub const FUNCTION_AIM: usize = 70;
/// Longest line, in characters.
pub const LINE_HARD: usize = 120;
/// Names that say nothing about what is inside.
pub const BANNED: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "misc"];
/// The one file of each crate that may say `unsafe`.
pub const UNSAFE_FILES: [&str; 3] = ["queue/src/sys.rs", "mta/src/net/sys.rs", "sysimage/src/sys.rs"];

/// One file of the tree.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path from the top of the tree, with forward slashes.
    pub path: String,
    /// As written.
    pub text: String,
    /// Comments and literals blanked; empty unless Rust.
    pub code: String,
    /// `code` without its test modules; empty for files that are tests as a whole.
    pub shipped: String,
}

impl SourceFile {
    /// Prepare one file for the checks.
    pub fn new(path: &str, text: &str) -> SourceFile {
        let code = if path.ends_with(".rs") { blank(text) } else { String::new() };
        let shipped = if is_test_path(path) { String::new() } else { without_tests(&code) };
        SourceFile { path: path.into(), text: text.into(), code, shipped }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

fn is_test_path(path: &str) -> bool {
    path.starts_with("tests/tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The files the checks read.
#[derive(Debug, Default, Clone)]
pub struct Tree {
    /// In path order.
    pub files: Vec<SourceFile>,
}

impl Tree {
    /// A tree made of literals, for proofs.
    pub fn of(files: &[(&str, &str)]) -> Tree {
        Tree { files: files.iter().map(|(p, t)| SourceFile::new(p, t)).collect() }
    }

    /// Read what is under `root`: sources, manifests and pages; build output and foreign trees are skipped.
    pub fn read(root: &Path) -> std::io::Result<Tree> {
        let mut tree = Tree::default();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() {
                    let skipped = ["target", "node_modules", "dist", "out", "var"].contains(&name.as_str());
                    if !skipped && !name.starts_with('.') {
                        folders.push(path);
                    }
                } else if is_text(&name) {
                    let Ok(text) = std::fs::read_to_string(&path) else {
                        continue;
                    };
                    let short = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                    tree.files.push(SourceFile::new(&short, &text));
                }
            }
        }
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|f| f.path == path)
    }
}

fn is_text(name: &str) -> bool {
    let kinds = ["rs", "md", "toml", "tsv", "mk", "sh", "yml", "smtp", "in", "desc", "conf"];
    name == "Makefile" || name.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind))
}

/// One place that breaks a habit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path, and line when there is one.
    pub place: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl Finding {
    /// A finding at a line; line 0 means the file as a whole.
    pub fn at(path: &str, line: usize, what: impl Into<String>) -> Finding {
        let place = if line == 0 { path.to_string() } else { format!("{path}:{line}") };
        Finding { place, what: what.into() }
    }
}

/// Every check over the tree; empty means tidy.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.files {
        found.extend(names(file));
        found.extend(machine_paths(file));
        if file.is_rust() {
            found.extend(sizes(file));
            found.extend(manual_page(file));
            found.extend(unsafe_places(file));
            found.extend(leftovers(file));
        }
    }
    found.extend(layers::check(tree));
    found.extend(architecture::check(tree));
    found
}

/// What is allowed but not aimed at: a list to read, not an error.
pub fn warnings(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    if tree.file("ARCHITECTURE.md").is_some_and(|page| architecture::section(&page.text).is_none()) {
        let what = "no heading \"The way of one message\": its names are not checked";
        found.push(Finding::at("ARCHITECTURE.md", 0, what));
    }
    for file in tree.files.iter().filter(|f| f.is_rust()) {
        let lines = shipped_lines(file);
        if lines > FILE_AIM {
            found.push(Finding::at(&file.path, 0, format!("{lines} lines, aim {FILE_AIM}")));
        }
        for function in functions(&file.shipped).iter().filter(|f| f.lines > FUNCTION_AIM) {
            let what = format!("fn {}: {} lines, aim {FUNCTION_AIM}", function.name, function.lines);
            found.push(Finding::at(&file.path, function.line, what));
        }
    }
    found
}

/// Lines that are not inside a test module; comment lines count.
fn shipped_lines(file: &SourceFile) -> usize {
    let ships = file.shipped.lines().zip(file.code.lines());
    ships.filter(|(shipped, code)| code.trim().is_empty() || !shipped.trim().is_empty()).count()
}

fn sizes(file: &SourceFile) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let width = line.chars().count();
        if width > LINE_HARD {
            found.push(Finding::at(&file.path, number + 1, format!("{width} columns, at most {LINE_HARD}")));
        }
    }
    let lines = shipped_lines(file);
    if lines > FILE_HARD {
        found.push(Finding::at(&file.path, 0, format!("{lines} lines, at most {FILE_HARD}")));
    }
    for function in functions(&file.shipped).iter().filter(|f| f.lines > FUNCTION_HARD) {
        let what = format!("fn {} has {} lines, at most {FUNCTION_HARD}", function.name, function.lines);
        found.push(Finding::at(&file.path, function.line, what));
    }
    found
}

fn names(file: &SourceFile) -> Vec<Finding> {
    let mut found = Vec::new();
    let stem = file.path.trim_end_matches(".rs");
    if file.is_rust() && stem.split('/').any(|part| BANNED.contains(&part)) {
        found.push(Finding::at(&file.path, 0, "a name that says nothing; name the duty"));
    }
    for name in BANNED {
        for at in words(&file.code, name) {
            if file.code[..at].trim_end().ends_with("mod") {
                found.push(Finding::at(&file.path, line_of(&file.code, at), format!("module named {name}")));
            }
        }
    }
    found
}

fn manual_page(file: &SourceFile) -> Option<Finding> {
    let first = file.text.lines().find(|l| !l.trim().is_empty() && !l.starts_with("#!["));
    let opens = first.is_some_and(|l| l.starts_with("//!"));
    (!opens).then(|| Finding::at(&file.path, 1, "a file opens with its manual page (//! ...)"))
}

fn unsafe_places(file: &SourceFile) -> Vec<Finding> {
    if UNSAFE_FILES.contains(&file.path.as_str()) {
        return repeated_reasons(file);
    }
    let mut found = Vec::new();
    for word in ["unsafe", "unsafe_code"] {
        for at in words(&file.code, word) {
            // `forbid` and `deny` tighten; only opening the door is a finding.
            let attribute = file.code[..at].rsplit('\n').next().unwrap_or_default();
            if word == "unsafe_code" && (attribute.contains("deny") || attribute.contains("forbid")) {
                continue;
            }
            let what = format!("`{word}` outside {}", UNSAFE_FILES.join(", "));
            found.push(Finding::at(&file.path, line_of(&file.code, at), what));
        }
    }
    found
}

/// Each unsafe block has its own reason: the same sentence twice is a stock sentence.
fn repeated_reasons(file: &SourceFile) -> Vec<Finding> {
    let mut seen = std::collections::HashSet::new();
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        if let Some((_, reason)) = line.split_once("SAFETY:") {
            if !seen.insert(reason.trim().to_string()) {
                found.push(Finding::at(&file.path, number + 1, "the same SAFETY reason twice; say why here"));
            }
        }
    }
    found
}

fn leftovers(file: &SourceFile) -> Vec<Finding> {
    let mut found = Vec::new();
    for word in ["todo!", "unimplemented!", "#[ignore"] {
        for (at, _) in file.code.match_indices(word) {
            found.push(Finding::at(&file.path, line_of(&file.code, at), format!("{word} left behind")));
        }
    }
    found
}

/// Paths that exist on one machine only; written in pieces so that this file does not find itself.
fn machine_paths(file: &SourceFile) -> Vec<Finding> {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/."), concat!("/ho", "me/user")];
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for path in paths.iter().filter(|p| line.contains(**p)) {
            found.push(Finding::at(&file.path, number + 1, format!("{path} is a path of one machine")));
        }
    }
    found
}
