//! Where memory lies: nodes, their processors, and the node behind every page of a buffer.
//!
//! Memory lands on the node of the thread that touches it first, so a thread is pinned, then it touches. What this
//! module tells is asked of the kernel page by page; it never changes a policy and never moves a page.

use crate::sys;
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// One memory node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// The processors near it.
    pub cpus: Vec<usize>,
}

/// Pages of one buffer, counted by the node that holds them.
pub type Placement = BTreeMap<u32, usize>;

/// A kernel list such as `0-3,8`, in order; none when it is not one.
pub fn parse_list(text: &str) -> Option<Vec<usize>> {
    const MOST: usize = 1 << 16;
    let mut all = Vec::new();
    for piece in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// Nodes with processors, as `/sys/devices/system/node` names them; one node with processor 0 where it is absent.
pub fn nodes(sys: &Path) -> io::Result<Vec<Node>> {
    let folder = sys.join("devices/system/node");
    let online = match std::fs::read_to_string(folder.join("online")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![Node { id: 0, cpus: vec![0] }]),
        Err(e) => return Err(e),
    };
    let mut nodes = Vec::new();
    for id in parse_list(&online).ok_or(io::ErrorKind::InvalidData)? {
        let list = std::fs::read_to_string(folder.join(format!("node{id}/cpulist")))?;
        let cpus = parse_list(&list).ok_or(io::ErrorKind::InvalidData)?;
        if !cpus.is_empty() {
            nodes.push(Node { id: id as u32, cpus });
        }
    }
    Ok(nodes)
}

/// Bind the calling thread to one processor.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

/// Where the pages of `bytes` lie.
pub fn placement(bytes: &[u8]) -> io::Result<Placement> {
    let mut found = Placement::new();
    for page in bytes.chunks(PAGE) {
        *found.entry(sys::node_of_page(page.as_ptr() as usize)?).or_default() += 1;
    }
    Ok(found)
}

/// Pages that do not lie on `node`.
pub fn remote(placement: &Placement, node: u32) -> usize {
    placement.iter().filter(|(at, _)| **at != node).map(|(_, pages)| pages).sum()
}

/// On a fresh thread pinned to `cpu`: allocate `size` bytes, touch them there, tell where they lie.
pub fn touch_on(cpu: usize, size: usize) -> io::Result<Placement> {
    on_thread(cpu, move || touch(sys::Pages::reserve(size)?))
}

/// The mistake: reserve on a thread pinned to `cpu`, touch on one pinned to `other`, tell where the bytes lie.
pub fn touch_elsewhere(cpu: usize, other: usize, size: usize) -> io::Result<Placement> {
    let reserved = on_thread(cpu, move || sys::Pages::reserve(size))?;
    on_thread(other, move || touch(reserved))
}

/// Write to every page from this thread. Fresh pages, because an allocator may hand out one that another thread
/// touched.
fn touch(mut pages: sys::Pages) -> io::Result<Placement> {
    let bytes = pages.bytes();
    bytes.fill(1);
    placement(bytes)
}

fn on_thread<T: Send + 'static>(cpu: usize, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = std::thread::spawn(move || {
        pin(cpu)?;
        work()
    });
    thread.join().map_err(|_| io::Error::other("the pinned thread panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_are_read() {
        assert_eq!(parse_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list("\n"), Some(vec![]));
        assert_eq!(parse_list("2-1"), None);
        assert_eq!(parse_list("0-99999999"), None);
        assert_eq!(parse_list("a"), None);
    }

    #[test]
    fn nodes_come_from_the_tree_and_memory_only_nodes_are_left_out() {
        let root = std::env::temp_dir().join(format!("sysimage-numa-{}", std::process::id()));
        let folder = root.join("devices/system/node");
        for (node, cpus) in [("node0", "0-1\n"), ("node1", "2-3\n"), ("node2", "\n")] {
            std::fs::create_dir_all(folder.join(node)).unwrap();
            std::fs::write(folder.join(node).join("cpulist"), cpus).unwrap();
        }
        std::fs::write(folder.join("online"), "0-2\n").unwrap();
        let found = nodes(&root).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, [Node { id: 0, cpus: vec![0, 1] }, Node { id: 1, cpus: vec![2, 3] }]);
        assert_eq!(nodes(Path::new("/nowhere")).unwrap().len(), 1);
    }

    #[test]
    fn every_page_of_a_touched_buffer_is_counted() {
        let bytes = vec![1u8; 16 * PAGE];
        // A kernel without the call, or a sandbox that forbids it, is not what this asserts.
        if let Ok(found) = placement(&bytes) {
            assert_eq!(found.values().sum::<usize>(), 16);
        }
        assert_eq!(remote(&Placement::from([(0, 3), (1, 5)]), 0), 5);
    }
}
