//! Over recycled segments the ring is truly asynchronous: the kernel makes no worker thread for its writes. One page
//! left in memory would be enough to bring one up.

mod spool_support;

use std::time::{Duration, Instant};

use queue::spool::{Settings, WriterChoice};
use spool_support::{check, open, put, settings, told, TempDir};

/// Names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default()).collect()
}

#[test]
fn no_kernel_workers_over_recycled_segments() {
    let dir = TempDir::new("workers");
    let (spool, recovery) = open(Settings { spares: 4, ..settings(&dir.0, WriterChoice::Auto) });
    told(recovery);
    if !spool.status().reasons.is_empty() {
        println!("not tested here: {:?}", spool.status().reasons);
        return;
    }
    let wait_for_spares = || {
        let start = Instant::now();
        while spool.status().spares < 4 {
            assert!(start.elapsed() < Duration::from_secs(30), "spares within 30 seconds: {:?}", spool.status());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    for round in 0..6 {
        wait_for_spares();
        let done = put(&spool, round * 1000..round * 1000 + 1000, 4000);
        for (id, number, at) in &done {
            // Maps the sealed segments and brings their pages in: recycling must get rid of them.
            check(&spool, *id, *number, *at, 4000);
            spool.retire(*id, *at);
        }
    }
    let status = spool.status();
    assert!(status.recycled >= 6, "{status:?}");
    assert_eq!(status.counts.unwritten, 0, "all on written space");
    let workers: Vec<String> = threads().into_iter().filter(|name| name.starts_with("iou-wrk")).collect();
    assert_eq!(workers, Vec::<String>::new());
}
