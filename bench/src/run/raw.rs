//! The baseline of the scenario large-100k: a program that only moves bytes through the same kind of sockets and makes
//! them durable, with none of a mail server's work. Three subcommands of their own processes: `raw-load` sends blocks
//! and awaits one byte for each, `raw-move` reads a block, writes it to disk, answers, and passes it on, `raw-sink`
//! reads blocks and answers each with a byte.
//!
//! The disk part is as good as it gets: a file written before, O_DIRECT + O_DSYNC, blocks that are waiting go in one
//! vectored write. Where O_DIRECT is not to be had, the page cache and fdatasync.

use super::bed::{free_port, wait_for, Guarded};
use super::meter::Meter;
use super::Options;
use anyhow::{Context, Result};
use clap::Args;
use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const CONNECTIONS: u64 = 50;
const FILE_BYTES: u64 = 256 << 20;
const BATCH_BLOCKS: usize = 32;
const ALIGN: usize = 4096;

/// Command line of the three.
#[derive(Args, Clone, Debug)]
pub struct Raw {
    /// Address to listen on or to send to
    #[arg(long)]
    pub at: String,
    /// Where raw-move passes blocks on
    #[arg(long, default_value = "")]
    pub to: String,
    /// File of raw-move
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Bytes of a block
    #[arg(long, default_value_t = 102_400)]
    pub size: usize,
    /// Blocks raw-load sends in all
    #[arg(long, default_value_t = 1000)]
    pub blocks: u64,
    /// Cores
    #[arg(long)]
    pub cores: Option<String>,
}

/// What moving bytes costs.
#[derive(Clone, Copy, Debug)]
pub struct Baseline {
    /// CPU per block with kernel workers, microseconds.
    pub cpu_us: f64,
    /// Blocks per second.
    pub rate: f64,
}

/// Runs the three processes and measures the middle one: the median of `options.repeat` loads.
pub fn measure_baseline(options: &Options, size: usize) -> Result<Baseline> {
    let exe = std::env::current_exe()?;
    let dir = std::env::current_dir()?.join(format!("target/bench/raw-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let meter = Meter::new(&format!("ringbench-raw-{}", std::process::id()));
    let (middle, end) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
    let size_text = size.to_string();
    let mut sink = Command::new(&exe);
    sink.args(["launch", "--"]).arg(&exe).args([
        "raw-sink",
        "--at",
        &end,
        "--size",
        &size_text,
        "--cores",
        &options.load_cores,
    ]);
    let _sink = Guarded(spawn(sink)?);
    let mut mover = Command::new(&exe);
    mover.args(["launch", "--cores", &options.mta_cores]);
    for door in meter.doors() {
        mover.arg("--join").arg(door);
    }
    mover.arg("--").arg(&exe).args(["raw-move", "--at", &middle, "--to", &end, "--size", &size_text, "--file"]);
    mover.arg(dir.join("blocks"));
    let mover = Guarded(spawn(mover)?);
    meter.root(mover.0.id() as i32);
    wait_for(Duration::from_secs(60), || std::net::TcpStream::connect(&middle).is_ok()).context("raw-move")?;
    let load = |blocks: u64| -> Result<f64> {
        let mut load = Command::new(&exe);
        load.args(["raw-load", "--at", &middle, "--size", &size_text, "--cores", &options.load_cores, "--blocks"]);
        let began = Instant::now();
        let done = load.arg(blocks.to_string()).stdin(Stdio::null()).status()?;
        anyhow::ensure!(done.success(), "raw-load failed");
        Ok(began.elapsed().as_secs_f64())
    };
    load((options.messages / 10).max(50))?;
    let mut costs = Vec::new();
    for _ in 0..options.repeat.max(1) {
        let before = meter.read()?;
        let seconds = load(options.messages)?;
        std::thread::sleep(Duration::from_millis(200));
        let after = meter.read()?;
        let ns = after.cpu_ns - before.cpu_ns + after.workers_since(&before);
        costs.push((ns as f64 / 1000.0 / options.messages as f64, options.messages as f64 / seconds));
    }
    drop(mover);
    let _ = std::fs::remove_dir_all(&dir);
    costs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (cpu_us, rate) = costs.get(costs.len() / 2).copied().context("no baseline")?;
    Ok(Baseline { cpu_us, rate })
}

fn spawn(mut command: Command) -> Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn().context("starting a baseline process")
}

fn block_on<F: std::future::Future<Output = Result<()>>>(raw: &Raw, future: F) -> Result<()> {
    if let Some(cores) = &raw.cores {
        crate::process::pin_self(cores)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// `raw-load`.
pub fn load(raw: &Raw) -> Result<()> {
    block_on(raw, async {
        let mut tasks = Vec::new();
        for index in 0..CONNECTIONS {
            let share = raw.blocks / CONNECTIONS + u64::from(index < raw.blocks % CONNECTIONS);
            let (at, size) = (raw.at.clone(), raw.size);
            tasks.push(tokio::task::spawn_local(async move {
                let mut socket = TcpStream::connect(&at).await?;
                socket.set_nodelay(true)?;
                let block = vec![b'x'; size];
                let mut answer = [0u8; 1];
                for _ in 0..share {
                    socket.write_all(&block).await?;
                    socket.read_exact(&mut answer).await?;
                }
                anyhow::Ok(())
            }));
        }
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
}

/// `raw-sink`.
pub fn sink(raw: &Raw) -> Result<()> {
    block_on(raw, async {
        let listener = TcpListener::bind(&raw.at).await?;
        loop {
            let (mut socket, _) = listener.accept().await?;
            let size = raw.size;
            tokio::task::spawn_local(async move {
                let mut block = vec![0u8; size];
                while socket.read_exact(&mut block).await.is_ok() {
                    if socket.write_all(b"y").await.is_err() {
                        break;
                    }
                }
            });
        }
    })
}

/// A block with room to start on an aligned address, as O_DIRECT wants it.
struct Block {
    bytes: Vec<u8>,
    from: usize,
    size: usize,
}

impl Block {
    fn new(size: usize) -> Self {
        let bytes = vec![0u8; size + ALIGN];
        let from = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, from, size }
    }
    fn get(&self) -> &[u8] {
        self.bytes.get(self.from..self.from + self.size).unwrap_or_default()
    }
    fn get_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.from..self.from + self.size).unwrap_or_default()
    }
}

type Durable = (Block, oneshot::Sender<Block>);

/// `raw-move`.
pub fn moves(raw: &Raw) -> Result<()> {
    let file = raw.file.clone().context("--file")?;
    let (file, direct) = written_before(&file, raw.size)?;
    let (writer, queue) = mpsc::channel::<Durable>();
    std::thread::spawn(move || write_blocks(&file, direct, &queue));
    block_on(raw, async {
        let listener = TcpListener::bind(&raw.at).await?;
        loop {
            let (socket, _) = listener.accept().await?;
            let (to, size, writer) = (raw.to.clone(), raw.size, writer.clone());
            tokio::task::spawn_local(async move {
                let _ = pass_on(socket, &to, size, &writer).await;
            });
        }
    })
}

async fn pass_on(mut socket: TcpStream, to: &str, size: usize, writer: &mpsc::Sender<Durable>) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut next = TcpStream::connect(to).await?;
    next.set_nodelay(true)?;
    let mut block = Block::new(size);
    let mut answer = [0u8; 1];
    loop {
        socket.read_exact(block.get_mut()).await?;
        let (done, durable) = oneshot::channel();
        writer.send((block, done)).map_err(|_| anyhow::anyhow!("the writer died"))?;
        block = durable.await?;
        socket.write_all(b"y").await?;
        next.write_all(block.get()).await?;
        next.read_exact(&mut answer).await?;
    }
}

fn written_before(path: &Path, size: usize) -> Result<(File, bool)> {
    std::fs::write(path, vec![0u8; FILE_BYTES as usize])?;
    File::open(path)?.sync_all()?;
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    if size.is_multiple_of(ALIGN) {
        if let Ok(file) = OpenOptions::new().write(true).custom_flags(flags).open(path) {
            return Ok((file, true));
        }
    }
    eprintln!("raw-move: no O_DIRECT here, page cache and fdatasync instead");
    Ok((OpenOptions::new().write(true).open(path)?, false))
}

fn write_blocks(file: &File, direct: bool, queue: &mpsc::Receiver<Durable>) {
    let mut offset = 0;
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(BATCH_BLOCKS - 1));
        let slices: Vec<IoSlice<'_>> = batch.iter().map(|(block, _)| IoSlice::new(block.get())).collect();
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if offset + bytes as u64 > FILE_BYTES {
            offset = 0;
        }
        let written = nix::sys::uio::pwritev(file, &slices, offset as i64);
        if written.ok() != Some(bytes) || (!direct && file.sync_data().is_err()) {
            eprintln!("raw-move: the disk failed: {written:?}");
            return;
        }
        offset += bytes as u64;
        for (block, done) in batch {
            let _ = done.send(block);
        }
    }
}
