//! A run that is told to end takes everything it started with it. Loads and sinks end with their parent by themselves;
//! a server that changes its user loses that tie, so its control groups are emptied here.

use super::meter;
use anyhow::Result;
use std::path::PathBuf;
use std::sync::Mutex;

static DOORS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Remembers control groups to empty.
pub fn remember(doors: &[PathBuf]) {
    if let Ok(mut known) = DOORS.lock() {
        known.extend_from_slice(doors);
    }
}

/// From now on SIGINT and SIGTERM empty the control groups and end this process.
pub fn watch() -> Result<()> {
    use tokio::signal::unix::{signal, SignalKind};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        let doors = DOORS.lock().map(|doors| doors.clone()).unwrap_or_default();
        for door in &doors {
            meter::empty(door);
            if let Some(group) = door.parent() {
                let _ = std::fs::remove_dir(group);
            }
        }
        std::process::exit(130);
    });
    Ok(())
}
