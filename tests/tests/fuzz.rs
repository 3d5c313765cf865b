//! Row j, its quick part: every kept finding stays found out, and each target plays a few fresh cases.

use std::path::Path;
use std::time::Duration;

use harness::fuzz::{campaign, replay, TARGETS};

#[test]
fn kept_cases_pass_and_fresh_ones_too() {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz-corpus"));
    let mut findings = Vec::new();
    for target in TARGETS {
        let (replayed, found) = replay(target, corpus);
        let outcome = campaign(target, 1, Duration::from_millis(300));
        println!("{:16} {replayed} kept, {} fresh", target.name, outcome.cases);
        findings.extend(found);
        findings.extend(outcome.finding);
    }
    let list: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "\n{}", list.join("\n"));
}

#[test]
fn every_folder_of_the_corpus_has_a_target() {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz-corpus"));
    for folder in std::fs::read_dir(corpus).into_iter().flatten().flatten() {
        let name = folder.file_name();
        assert!(TARGETS.iter().any(|target| name == target.name), "{name:?} is no target");
    }
}
