//! The index of duties claims only what the tree keeps, and each of its checks proves that it can fail.

use harness::tidy::duties::{advertised, check, read, Status, DUTIES, INDEX};
use harness::tidy::{Finding, Tree};
use std::path::Path;

fn list(found: &[Finding]) -> String {
    found.iter().map(|f| format!("{}: {}\n", f.place, f.what)).collect()
}

#[test]
fn index_claims_only_what_the_tree_keeps() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let tree = Tree::read(root).expect("the tree is readable");
    let found = check(&tree);
    let (rows, _) = read(&tree.file(INDEX).expect("the index is there").text);
    let count = |status| rows.iter().filter(|d| d.status == status).count();
    let (done, partial, open) = (count(Status::Done), count(Status::Partial), count(Status::NotYet));
    println!("duties: {done} done, {partial} partial, {open} not yet");
    println!("advertised: {:?}", advertised(&tree).iter().map(|a| a.2).collect::<Vec<_>>());
    assert!(found.is_empty(), "\n{}", list(&found));
}

/// An index in which `changed` replaces the row of its own duty.
fn index(changed: &str) -> String {
    let name = changed.split('\t').next().unwrap_or_default();
    let rows = (1..=DUTIES).map(|n| format!("R-{n:02}")).map(|duty| {
        if duty == name {
            format!("{changed}\n")
        } else {
            format!("{duty}\t-\tS\tnot-yet\t-\tx\n")
        }
    });
    rows.collect()
}

fn found(index: &str, files: &[(&str, &str)]) -> Vec<Finding> {
    let mut all = vec![(INDEX, index)];
    all.extend_from_slice(files);
    check(&Tree::of(&all))
}

fn fails(what: &str, index: &str, files: &[(&str, &str)]) {
    let found = found(index, files);
    assert_eq!(found.len(), 1, "wanted \"{what}\", got\n{}", list(&found));
    assert!(found[0].what.contains(what), "wanted \"{what}\", got\n{}", list(&found));
}

const DONE: &str = "R-12\t2920\tS\tdone\tmta/src/smtp/a.rs\tPIPELINING";
const TEST: &str = "//! page\n#[test]\nfn r12_replies_in_order() {}\n";

#[test]
fn a_done_row_needs_a_test_or_a_dialog() {
    let good = found(&index(DONE), &[("mta/src/smtp/a.rs", TEST)]);
    assert!(good.is_empty(), "{}", list(&good));
    let dialog = ("tests/dialogs/a.smtp", "# R-12\nC: NOOP\n");
    let good = found(&index(DONE), &[("mta/src/smtp/a.rs", "//! page\n"), dialog]);
    assert!(good.is_empty(), "{}", list(&good));
    fails("no test names r12", &index(DONE), &[("mta/src/smtp/a.rs", "//! page\n")]);
    let no_test = "//! page\n#[test]\nfn other() {}\nfn r12_is_no_test() {}\n";
    fails("no test names r12", &index(DONE), &[("mta/src/smtp/a.rs", no_test)]);
    let other = "//! page\n#[test]\nfn r121_is_another() {}\n";
    fails("no test names r12", &index(DONE), &[("mta/src/smtp/a.rs", other)]);
}

#[test]
fn a_row_names_places_that_exist() {
    fails("does not exist", &index(DONE), &[("mta/src/smtp/b.rs", TEST)]);
    fails("say where", &index("R-12\t2920\tS\tpartial\t-\tPIPELINING"), &[]);
}

#[test]
fn every_duty_has_one_row() {
    let all = index("");
    fails("R-48 has no row", all.trim_end().rsplit_once('\n').expect("rows").0, &[]);
    fails("R-01 twice", &format!("{all}R-01\t-\tS\tnot-yet\t-\tx\n"), &[]);
    fails("not a row", &format!("{all}R-01 done\n"), &[]);
}

#[test]
fn what_is_advertised_is_not_open() {
    let server = "//! page\nfn offers() { format!(\"{}\\nPIPELINING\\nSIZE {}\", 1, 2) }\n";
    let files = [("mta/src/smtp/server/a.rs", server)];
    let names: Vec<_> = found(&index(""), &files).into_iter().map(|f| f.what).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let partial = index("R-12\t2920\tS\tpartial\tmta/src/smtp/server/a.rs\tPIPELINING");
    fails("SIZE is advertised", &partial, &files);
    let other = "//! page\n// \"PIPELINING\"\nfn parse() { eat(\"PIPELINING\") }\n";
    assert!(found(&index(""), &[("mta/src/smtp/server/a.rs", other)]).is_empty());
    let silent = ["a.rs", "b.rs", "c.rs"].map(|n| format!("mta/src/smtp/server/{n}"));
    let silent: Vec<_> = silent.iter().map(|p| (p.as_str(), "//! page\n")).collect();
    fails("no function offers", &index(""), &silent);
}
