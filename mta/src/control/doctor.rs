//! `ringpost doctor`: what this machine can do for mail, and what to change.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::{config, net};

/// Prints what was found, a line each; a remedy where one is needed.
pub fn doctor(path: Option<&Path>) -> Result<()> {
    let config = path.map(config::load).transpose()?;
    let cores = crate::shard::work::allowed_cores();
    println!("cores            {} usable: {cores:?}", cores.len());
    for (node, cpus) in nodes() {
        println!("memory node {node}    cores {cpus}");
    }
    match net::probe() {
        Ok(()) => println!("io_uring         works"),
        Err(why) => println!("io_uring         {why}"),
    }
    limits();
    println!(
        "clock            {}",
        if net::clock_synchronised() {
            "synchronised"
        } else {
            "not known to be synchronised: nothing expires until it is; run chrony or systemd-timesyncd"
        }
    );
    if let Some(config) = &config {
        spool(&config.spool.dir);
        for listener in &config.listeners {
            match std::net::TcpListener::bind(listener.address) {
                Ok(_) => println!("port             {} is free", listener.address),
                Err(error) => println!("port             {}: {error}", listener.address),
            }
        }
    }
    Ok(())
}

/// Memory nodes and their cores, as the kernel lists them.
fn nodes() -> Vec<(usize, String)> {
    let mut nodes = Vec::new();
    for node in 0..64 {
        let path = format!("/sys/devices/system/node/node{node}/cpulist");
        if let Ok(text) = std::fs::read_to_string(path) {
            nodes.push((node, text.trim().to_owned()));
        }
    }
    nodes
}

fn limits() {
    use nix::sys::resource::{getrlimit, Resource};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let remedy = if hard < 100_000 { "; for many connections raise it (LimitNOFILE=1048576)" } else { "" };
        println!("open files       {soft}, at most {hard}{remedy}");
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_MEMLOCK) {
        let remedy = if soft < 8 * 1024 * 1024 { "; the spool writer wants 8 MiB (LimitMEMLOCK=infinity)" } else { "" };
        println!("locked memory    {} KiB{remedy}", soft / 1024);
    }
}

/// Measures what a durable write costs where the spool is.
fn spool(dir: &str) {
    use std::io::Write;
    let path = Path::new(dir);
    if std::fs::create_dir_all(path).is_err() {
        println!("spool            {dir} can't be made");
        return;
    }
    let probe = path.join("doctor.probe");
    let measured = (|| -> std::io::Result<Vec<u128>> {
        let mut file = std::fs::File::create(&probe)?;
        let block = vec![0u8; 4096];
        let mut times = Vec::new();
        for _ in 0..50 {
            let begin = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            times.push(begin.elapsed().as_micros());
        }
        times.sort_unstable();
        Ok(times)
    })();
    // A probe left behind is harmless.
    let _ = std::fs::remove_file(&probe);
    match measured {
        Ok(times) => println!("spool            {dir}: a durable 4 KiB write takes {} us (median of 50)", times[25]),
        Err(error) => println!("spool            {dir}: {error}"),
    }
}
