//! Row l: real clients and servers on both sides, STARTTLS and implicit TLS, byte for byte.

use std::path::{Path, PathBuf};

use harness::peers::{run, Options, Verdict};

#[test]
fn real_clients_and_servers_agree_with_us_on_every_byte() {
    let Some(ringpost) = binary() else {
        panic!("no ringpost binary beside the tests: cargo build -p ringpost-mta (make test builds it first)");
    };
    let packages = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers")).to_owned();
    let options = Options { ringpost, packages, only: None, keep: false };
    let rows = run(&options, &mut |row| println!("{row}")).expect("the matrix can be played");
    let bad: Vec<String> =
        rows.iter().filter(|row| !matches!(row.verdict, Verdict::Exact(_))).map(ToString::to_string).collect();
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
    assert!(rows.len() >= 19, "only {} pairs", rows.len());
}

/// `target/<profile>/ringpost`, beside the folder this test lies in.
fn binary() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors().skip(1).take(2).map(|folder| folder.join("ringpost")).find(|path| path.exists())
}
