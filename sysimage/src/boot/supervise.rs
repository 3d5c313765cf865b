//! Programs kept running by process 1.
//!
//! One thread collects ended processes (also those left behind by others), one reads the console, the first one
//! decides. A program that ends is started again after [`Backoff`] says so; the end of the `test` program, or the line
//! `poweroff` on the console, ends the machine.

use super::backoff::Backoff;
use super::conf::BootConf;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;
use std::process::Command;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How long programs may take to end when asked.
const GRACE: Duration = Duration::from_secs(10);

enum Event {
    /// A process ended with this exit code, or with 128 plus its signal.
    Ended(Pid, i32),
    PowerOff,
}

struct Program {
    argv: Vec<String>,
    /// Its end is the machine's end.
    last: bool,
    backoff: Backoff,
    state: State,
}

enum State {
    Running { pid: Pid, since: Instant },
    Waiting { until: Instant },
}

/// Start everything and keep it running; returns when the machine shall be switched off.
pub fn run(conf: &BootConf) -> Result<()> {
    let now = Instant::now();
    let program = |argv: &Vec<String>, last| Program {
        argv: argv.clone(),
        last,
        backoff: Backoff::default(),
        state: State::Waiting { until: now },
    };
    let mut programs: Vec<Program> = conf.run.iter().map(|argv| program(argv, false)).collect();
    programs.extend(conf.test.iter().map(|argv| program(argv, true)));
    let (events, inbox) = channel();
    collector(events.clone())?;
    console(events)?;
    watch(&mut programs, &inbox);
    stop(&programs, &inbox);
    Ok(())
}

fn watch(programs: &mut [Program], inbox: &Receiver<Event>) {
    loop {
        let now = Instant::now();
        for program in programs.iter_mut() {
            start_if_due(program, now);
        }
        let due = programs.iter().filter_map(|p| match p.state {
            State::Waiting { until } => Some(until.saturating_duration_since(now)),
            State::Running { .. } => None,
        });
        let patience = due.min().unwrap_or(Duration::from_secs(3600));
        match inbox.recv_timeout(patience) {
            Ok(Event::PowerOff) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Event::Ended(pid, code)) => {
                if ended(programs, pid, code) {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn start_if_due(program: &mut Program, now: Instant) {
    let State::Waiting { until } = program.state else { return };
    if until > now {
        return;
    }
    let Some((file, arguments)) = program.argv.split_first() else { return };
    // The child is collected by its number, so its handle may go.
    match Command::new(file).args(arguments).spawn() {
        Ok(child) => {
            let pid = Pid::from_raw(child.id() as i32);
            program.state = State::Running { pid, since: now };
        }
        Err(e) => {
            println!("sysimage: {file} does not start: {e}");
            program.state = State::Waiting { until: now + program.backoff.ended(Duration::ZERO) };
        }
    }
}

/// True when the machine shall end.
fn ended(programs: &mut [Program], pid: Pid, code: i32) -> bool {
    let now = Instant::now();
    for program in programs.iter_mut() {
        let State::Running { pid: running, since } = program.state else { continue };
        if running != pid {
            continue;
        }
        let name = program.argv.first().map_or("", String::as_str);
        if program.last {
            println!("sysimage: exit {code}");
            return true;
        }
        let wait = program.backoff.ended(now.saturating_duration_since(since));
        println!("sysimage: {name} ended with {code}, next start in {wait:?}");
        program.state = State::Waiting { until: now + wait };
    }
    false
}

/// Ask every program to end, and end those that don't.
fn stop(programs: &[Program], inbox: &Receiver<Event>) {
    let mut open: Vec<Pid> = Vec::new();
    for program in programs {
        if let State::Running { pid, .. } = program.state {
            if kill(pid, Signal::SIGTERM).is_ok() {
                open.push(pid);
            }
        }
    }
    let start = Instant::now();
    while !open.is_empty() && start.elapsed() < GRACE {
        match inbox.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Ended(pid, _)) => open.retain(|p| *p != pid),
            Ok(Event::PowerOff) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    for pid in open {
        kill(pid, Signal::SIGKILL).ok();
    }
}

/// Collect every ended process; process 1 inherits the orphans of all others.
fn collector(events: Sender<Event>) -> Result<()> {
    let work = move || loop {
        let event = match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) => Event::Ended(pid, code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => Event::Ended(pid, 128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => continue,
            // No process at all just now.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    };
    std::thread::Builder::new().name("collector".into()).spawn(work).context("start the collector")?;
    Ok(())
}

/// Listen to the console for `poweroff`.
fn console(events: Sender<Event>) -> Result<()> {
    let work = move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if line.trim() == "poweroff" && events.send(Event::PowerOff).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("console".into()).spawn(work).context("listen to the console")?;
    Ok(())
}
