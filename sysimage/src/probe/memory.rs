//! `sysimage numa-probe`: on every node, pin, touch, and ask the kernel where the pages are.
//!
//! With `wrong_touch` the pages are touched from another node, as a careless program would; the probe must then report
//! remote pages. Prints one line per node, `numa: node 0 cpu 0: 4096 pages, 0 remote`.

use crate::numa::{self, Node};
use anyhow::{bail, Context, Result};
use std::path::Path;

/// Run it; an error when pages are remote, or when there are fewer nodes than `wanted`.
pub fn run(wanted: usize, size: usize, wrong_touch: bool) -> Result<()> {
    let nodes = numa::nodes(Path::new("/sys")).context("read the nodes from /sys")?;
    if nodes.len() < wanted {
        bail!("{} memory nodes, {wanted} wanted: start the guest with -numa node,...", nodes.len());
    }
    let mut far = 0;
    for (index, node) in nodes.iter().enumerate() {
        let other = &nodes[(index + 1) % nodes.len()];
        far += one_node(node, other, size, wrong_touch)?;
    }
    if far > 0 {
        bail!("{far} pages are remote: pin the thread first, then touch its memory");
    }
    println!("numa: all local on {} nodes", nodes.len());
    Ok(())
}

fn one_node(node: &Node, other: &Node, size: usize, wrong_touch: bool) -> Result<usize> {
    let (Some(cpu), Some(far_cpu)) = (node.cpus.first(), other.cpus.first()) else {
        bail!("node {} has no processor", node.id);
    };
    let found = if wrong_touch { numa::touch_elsewhere(*cpu, *far_cpu, size) } else { numa::touch_on(*cpu, size) };
    let found = found.with_context(|| format!("place memory on node {}", node.id))?;
    let remote = numa::remote(&found, node.id);
    let pages: usize = found.values().sum();
    println!("numa: node {} cpu {cpu}: {pages} pages, {remote} remote", node.id);
    Ok(remote)
}
