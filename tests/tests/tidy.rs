//! The tree keeps its habits, and every check proves on a tiny bad tree that it can fail.
//!
//! `cargo test -p ringpost-tests --test tidy -- --nocapture` also lists what is longer than it aims to be.

use harness::tidy::{check, layers, warnings, Finding, Tree};
use std::path::Path;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn list(found: &[Finding]) -> String {
    found.iter().map(|f| format!("{}: {}\n", f.place, f.what)).collect()
}

#[test]
fn tree_is_tidy() {
    let tree = Tree::read(root()).expect("the tree is readable");
    assert!(tree.files.len() > 30, "only {} files read: wrong root?", tree.files.len());
    print!("{}", list(&warnings(&tree)));
    let found = check(&tree);
    assert!(found.is_empty(), "\n{}", list(&found));
}

#[test]
fn layer_order_is_the_one_of_the_page() {
    let tree = Tree::read(root()).expect("the tree is readable");
    let page = tree.file("ARCHITECTURE.md").expect("the page is there");
    let groups = layers::read_layers(&page.text);
    let place = |name: &str| groups.iter().position(|g| g.iter().any(|m| m == name));
    assert!(place("limits") < place("smtp") && place("smtp") < place("bounce"), "{groups:?}");
    assert!(place("bounce") < place("ingress") && place("ingress") == place("delivery"), "{groups:?}");
    let beside = layers::read_beside(&page.text);
    assert!(!beside.sees.is_empty() && beside.seen_by.len() > 2, "{beside:?}");
    assert!(place("delivery") < place("shard") && place("shard") < place("control"), "{groups:?}");
}

const PAGE: &str = "Layers inside `mta`, low to high; `tests/tests/tidy.rs` fails:\n\
    `limits error` | `smtp dns` | `ingress delivery` | `shard` | `control` | `main`. `net` stands beside: it sees\n\
    `limits` and `error` and is seen by `ingress`, `delivery`, `shard`, `control`.\n";

/// Exactly one finding that says `what` must come from the tree of `files`.
fn fails(what: &str, files: &[(&str, &str)]) {
    let mut all = vec![("ARCHITECTURE.md", PAGE)];
    all.extend_from_slice(files);
    let found = check(&Tree::of(&all));
    assert_eq!(found.len(), 1, "wanted one \"{what}\", got\n{}", list(&found));
    assert!(found[0].what.contains(what), "wanted \"{what}\", got\n{}", list(&found));
}

fn passes(files: &[(&str, &str)]) {
    let mut all = vec![("ARCHITECTURE.md", PAGE)];
    all.extend_from_slice(files);
    let found = check(&Tree::of(&all));
    assert!(found.is_empty(), "\n{}", list(&found));
}

#[test]
fn long_files_lines_and_functions_are_found() {
    let lines = |n: usize| format!("//! page\n{}", "// x\n".repeat(n));
    fails("at most 800", &[("queue/src/a.rs", &lines(800))]);
    passes(&[("queue/src/a.rs", &lines(799))]);
    let tested = format!("//! page\n#[cfg(test)]\nmod tests {{\n{}}}\n", "const A: u8 = 1;\n".repeat(900));
    passes(&[("queue/src/a.rs", &tested)]);
    let body = |n: usize| format!("//! page\nfn long() {{\n{}}}\n", "f();\n".repeat(n));
    fails("fn long has 151 lines", &[("queue/src/a.rs", &body(149))]);
    passes(&[("queue/src/a.rs", &body(148))]);
    fails("columns", &[("queue/src/a.rs", &format!("//! {}", "x".repeat(117)))]);
    passes(&[("queue/src/a.rs", &format!("//! {}", "x".repeat(116)))]);
    let long = Tree::of(&[("queue/src/a.rs", &lines(500)), ("queue/src/b.rs", &body(80))]);
    assert_eq!(warnings(&long).len(), 2, "{:?}", warnings(&long));
}

#[test]
fn names_without_a_duty_are_found() {
    fails("says nothing", &[("queue/src/util.rs", "//! page\n")]);
    fails("says nothing", &[("queue/src/common/mod.rs", "//! page\n")]);
    fails("module named helper", &[("queue/src/a.rs", "//! page\nmod helper { }\n")]);
    passes(&[("queue/src/a.rs", "//! page\nfn f() { let misc = 1; }\n")]);
}

#[test]
fn a_file_without_its_manual_page_is_found() {
    fails("manual page", &[("queue/src/a.rs", "fn f() {}\n")]);
    passes(&[("queue/src/sys.rs", "#![allow(unsafe_code)]\n//! page\n")]);
}

#[test]
fn unsafe_stays_in_its_file_with_its_own_reasons() {
    fails("`unsafe` outside", &[("queue/src/a.rs", "//! page\nfn f() { unsafe { g() } }\n")]);
    fails("`unsafe_code` outside", &[("mta/src/smtp/a.rs", "//! page\n#![allow(unsafe_code)]\n")]);
    passes(&[("queue/src/lib.rs", "//! unsafe\n#![deny(unsafe_code)]\nconst A: &str = \"unsafe\";\n")]);
    passes(&[("queue/src/sys.rs", "//! page\nfn f() { unsafe { g() } }\n")]);
    let stock = "//! page\n// SAFETY: it is fine\n// SAFETY: it is fine\n";
    fails("the same SAFETY reason", &[("queue/src/sys.rs", stock)]);
}

#[test]
fn leftovers_are_found() {
    fails("todo!", &[("queue/src/a.rs", "//! page\nfn f() { todo!() }\n")]);
    fails("unimplemented!", &[("queue/src/a.rs", "//! page\nfn f() { unimplemented!() }\n")]);
    fails("#[ignore", &[("tests/tests/a.rs", "//! page\n#[test]\n#[ignore]\nfn f() {}\n")]);
    passes(&[("queue/src/a.rs", "//! page\n// todo! \"unimplemented!\"\n")]);
}

#[test]
fn machine_paths_are_found() {
    let path = concat!("see /wo", "rk/x\n");
    fails("path of one machine", &[("README.md", path)]);
    passes(&[("README.md", "the network/ folder\n")]);
}

#[test]
fn climbs_between_layers_are_found() {
    fails("smtp climbs to ingress", &[("mta/src/smtp/a.rs", "//! page\nuse crate::ingress::listener;\n")]);
    fails("limits climbs to shard", &[("mta/src/limits.rs", "//! page\nfn f() { crate::shard::step() }\n")]);
    fails("smtp climbs to shard", &[("mta/src/smtp/a.rs", "//! page\nuse crate::{limits, shard::{a, b}};\n")]);
    fails("meet only in the queue", &[("mta/src/ingress/a.rs", "//! page\nuse crate::delivery::outcome;\n")]);
    fails("net is seen by", &[("mta/src/smtp/a.rs", "//! page\nuse crate::net::Stream;\n")]);
    fails("net sees limits and error", &[("mta/src/net/a.rs", "//! page\nuse crate::smtp::dot;\n")]);
    fails("has no layer", &[("mta/src/extra/mod.rs", "//! page\n")]);
    passes(&[
        ("mta/src/shard/mod.rs", "//! page\nuse crate::{delivery, ingress, net, smtp};\n"),
        ("mta/src/net/mod.rs", "//! page\nuse crate::limits;\n"),
        ("mta/src/dns/mod.rs", "//! page\n#[cfg(test)]\nmod tests {\n use crate::shard::x;\n}\n"),
    ]);
}

#[test]
fn circles_inside_a_layer_are_found() {
    let one = ("mta/src/smtp/mod.rs", "//! page\nuse crate::dns;\n");
    let other = ("mta/src/dns/mod.rs", "//! page\nuse crate::smtp;\n");
    passes(&[one]);
    let found = check(&Tree::of(&[("ARCHITECTURE.md", PAGE), one, other]));
    assert!(!found.is_empty() && found.iter().all(|f| f.what.contains("circle")), "{}", list(&found));
}

#[test]
fn names_of_the_page_must_exist() {
    let told = format!(
        "{PAGE}## The way of one message\n1. `ingress::listener::on_accept` calls\n\
         `queue::spool::Spool::submit(port)`\n## Next\n`not::read`\n"
    );
    let spool = ("queue/src/spool/mod.rs", "//! page\npub struct Spool;\nimpl Spool { pub fn submit(&self) {} }\n");
    let listener = ("mta/src/ingress/listener.rs", "//! page\npub fn on_accept() {}\n");
    let good = Tree::of(&[("ARCHITECTURE.md", &told), spool, listener]);
    assert!(check(&good).is_empty(), "{}", list(&check(&good)));
    let renamed = ("mta/src/ingress/listener.rs", "//! page\npub fn on_arrival() {}\n");
    let bad = check(&Tree::of(&[("ARCHITECTURE.md", &told), spool, renamed]));
    assert_eq!(bad.len(), 1, "{}", list(&bad));
    assert!(bad[0].what.contains("on_accept"), "{}", list(&bad));
}
