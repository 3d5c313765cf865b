//! The composed image boots, memory lies where it should, and what was acknowledged survives a power cut.
//!
//! These boot guests in an emulator and need the kit of `make -f sysimage/kernel.mk guest-tests`; without it they say
//! so and end. Each check that passes is paired with one that has to fail.

use harness::nbd::server::Server;
use harness::nbd::volatile::{Honesty, Volatile};
use harness::vm::guest::Machine;
use harness::vm::kit::{Kit, Workplace};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use sysimage::boot::READY;
use sysimage::disk::{self, DiskSpec};

const PATIENCE: Duration = Duration::from_secs(180);
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const FIRMWARE_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

#[test]
fn composed_disk_is_reproducible_and_boots_under_firmware() {
    let Some(kit) = Kit::from_env() else { return };
    let place = Workplace::new("disk").unwrap();
    let conf = "hostname = guest\ntest = /bin/sysimage durable-probe /data/blocks --count 3\n";
    let spec = kit.spec(&["sysimage"], conf);
    let (one, two) = (place.path().join("one.img"), place.path().join("two.img"));
    let start = Instant::now();
    let small = DiskSpec { data_mib: 64, ..DiskSpec::default() };
    let report = disk::compose(&spec, &small, &one).unwrap();
    let made = start.elapsed();
    disk::compose(&spec, &small, &two).unwrap();
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap(), "equal inputs, different bytes");

    let vars = place.path().join("vars.fd");
    std::fs::copy(FIRMWARE_VARS, &vars).expect("the package ovmf is installed");
    let mut machine = Machine::new(2, 512);
    machine.firmware(Path::new(FIRMWARE), &vars, &one);
    let mut guest = machine.start().unwrap();
    guest.wait_for(READY, PATIENCE).unwrap();
    let booted = guest.age();
    guest.wait_for("have 0", PATIENCE).unwrap();
    guest.wait_for("ack 2", PATIENCE).unwrap();
    guest.wait_for("sysimage: exit 0", PATIENCE).unwrap();
    guest.wait_for("sysimage: power off", PATIENCE).unwrap();
    let sizes = format!("disk {} B, kernel image {} B, root {} B", report.size, report.uki, report.root);
    println!("image: made in {:.1} s, ready after {:.1} s; {sizes}", made.as_secs_f64(), booted.as_secs_f64());
    drop(guest);

    // The data partition outlives the boot.
    let mut guest = machine.start().unwrap();
    guest.wait_for("have 3", PATIENCE).unwrap();
}

#[test]
fn memory_lies_on_the_node_of_its_thread_and_the_probe_notices_when_not() {
    let Some(kit) = Kit::from_env() else { return };
    let place = Workplace::new("numa").unwrap();
    let boot = |command: &str| {
        let made = kit.direct(&["sysimage"], &format!("test = {command}\n"), place.path()).unwrap();
        let mut machine = Machine::two_nodes(512);
        machine.direct(&made.kernel, &made.initramfs, "");
        let mut guest = machine.start().unwrap();
        let exit = guest.wait_for("sysimage: exit", PATIENCE).unwrap();
        println!("numa: {exit} after {:.1} s", guest.age().as_secs_f64());
        (exit, guest.log().join("\n"))
    };
    let (exit, log) = boot("/bin/sysimage numa-probe");
    assert!(exit.ends_with("exit 0"), "{log}");
    assert!(log.contains("node 0 cpu 0: 4096 pages, 0 remote"), "{log}");
    assert!(log.contains("node 1 cpu 2: 4096 pages, 0 remote"), "{log}");
    let (exit, log) = boot("/bin/sysimage numa-probe --wrong-touch");
    assert!(exit.ends_with("exit 1"), "{log}");
    assert!(log.contains("8192 pages are remote"), "{log}");
}

#[test]
fn the_server_takes_and_delivers_a_message_in_a_guest_and_again_after_a_power_cut() {
    let Some(kit) = Kit::from_env().filter(|kit| kit.program("ringpost").is_file()) else { return };
    let place = Workplace::new("server").unwrap();
    let blank = place.path().join("data.ext4");
    disk::make_ext4(&blank, 896, [9; 16], sysimage::compose::DEFAULT_TIME).unwrap();
    let socket = place.path().join("disk.sock");
    let image = Volatile::new(std::fs::read(&blank).unwrap(), Honesty::Honest);
    let server = Server::start(image, &socket, Duration::ZERO).unwrap();
    let conf = "data = /dev/vda\nrun = /bin/ringpost run --dir /data/ringpost --sink /bin/ringbench\n";
    let made = kit.direct(&["ringpost", "ringbench"], conf, place.path()).unwrap();
    let mut machine = Machine::new(2, 768);
    machine.direct(&made.kernel, &made.initramfs, "").nbd(&socket);
    for boot in 0..2 {
        server.power_on();
        let mut guest = machine.start().unwrap();
        guest.wait_for("A first message was accepted: 250", PATIENCE).unwrap();
        let accepted = guest.age();
        guest.wait_for("It arrived at the receiver", PATIENCE).unwrap();
        println!("server: boot {boot}, accepted after {:.1} s, {:?}", accepted.as_secs_f64(), server.cut(boot));
    }
}

fn powercut(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_powercut")).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{text}");
    (output.status.success(), text)
}

#[test]
fn acknowledged_blocks_survive_power_cuts_and_a_missing_sync_is_noticed() {
    if Kit::from_env().is_none() {
        return;
    }
    let (kept, text) = powercut(&["--cuts", "3", "--seed", "7"]);
    assert!(kept, "{text}");
    let careless = "/bin/sysimage durable-probe /data/blocks --no-sync";
    let (noticed, text) = powercut(&["--cuts", "2", "--expect-loss", "--command", careless]);
    assert!(noticed, "{text}");
    let (noticed, text) = powercut(&["--cuts", "2", "--expect-loss", "--lying-disk"]);
    assert!(noticed, "{text}");
}

#[test]
fn accepted_messages_survive_power_cuts_and_a_missing_protection_is_noticed() {
    let Some(kit) = Kit::from_env().filter(|kit| kit.program("spool_probe").is_file()) else { return };
    drop(kit);
    let spool = ["--program", "spool_probe", "--lag-ms", "8", "--seed", "5"];
    let run = |command: &str, more: &[&str]| powercut(&[&spool[..], &["--command", command], more].concat());
    let (kept, text) = run("/bin/spool_probe /data/spool live=300", &["--cuts", "4"]);
    assert!(kept, "{text}");
    let careless = "/bin/spool_probe /data/spool live=300 break=sync_writes";
    let (noticed, text) = run(careless, &["--cuts", "3", "--expect-loss"]);
    assert!(noticed, "{text}");
}
