//! Row h, first half, in the size for every day: kill -9 under load, twenty times. `crash --kills 500` is the campaign.

use std::process::Command;

#[test]
fn twenty_kills_lose_nothing_and_double_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_crash")).args(["--kills", "20"]).output().expect("crash runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("20 kills: 0 lost, 0 duplicates"), "{text}");
}
