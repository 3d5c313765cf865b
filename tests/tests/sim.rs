//! The simulator with every `cargo test`: seeds replay exactly, seeds that once found something, and some more.

use harness::sim::{mutants, run, seeds, Protections, Show};

/// Unoptimised runs take several times as long.
const SEEDS: u64 = if cfg!(debug_assertions) { 25 } else { 200 };

fn kept(seed: u64) {
    let outcome = run(seed, Protections::default(), Show::Nothing);
    assert_eq!(outcome.broken, None, "seed {seed}; `sim --seed {seed}` prints its trace");
    assert!(outcome.accepted >= 150, "seed {seed} accepted {}", outcome.accepted);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 4, 7] {
        let one = run(seed, Protections::default(), Show::Nothing);
        let other = run(seed, Protections::default(), Show::Nothing);
        assert_eq!((one.hash, one.lines), (other.hash, other.lines), "seed {seed}");
        assert!(one.lines > 1000);
    }
}

#[test]
fn seeds_that_once_broke_a_promise_keep_them_all() {
    for (seed, _) in seeds::FOUND {
        kept(*seed);
    }
}

#[test]
fn seeds_keep_every_promise() {
    for seed in 10_000..10_000 + SEEDS {
        kept(seed);
    }
}

#[test]
fn missing_protections_are_noticed() {
    // Those that a few seeds notice; `mutants` looks for all of them.
    for wanted in
        ["spool: no sync", "ack log: replay skipped", "core: report before the verdict", "limiter: off by one"]
    {
        let all = mutants::all();
        let (_, protections) = all.iter().find(|(name, _)| *name == wanted).expect("a mutant of that name");
        let noticed = (0..20).any(|seed| run(seed, *protections, Show::Nothing).broken.is_some());
        assert!(noticed, "{wanted}");
    }
}
