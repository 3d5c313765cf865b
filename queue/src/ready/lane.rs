//! One class of a ready queue: tenants share it by weight, within a tenant priority decides, then age.
//!
//! Fairness is by virtual time: every tenant's next item has a finish tag, the last tag plus one over its weight, and
//! the lowest tag goes. A tenant that comes back starts at the present, so nobody saves up turns while idle.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Virtual time one item of weight 1 takes.
const STRIDE: u64 = 1 << 20;

/// The items of one class.
#[derive(Debug)]
pub(super) struct Lane<T> {
    tenants: BTreeMap<u32, Tenant<T>>,
    /// Tenants by the finish tag of their next item.
    turns: BTreeSet<(u64, u32)>,
    /// Tag of the item that went last.
    present: u64,
    len: usize,
}

#[derive(Debug)]
struct Tenant<T> {
    by_priority: BTreeMap<Reverse<i8>, VecDeque<T>>,
    tag: u64,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { tenants: BTreeMap::new(), turns: BTreeSet::new(), present: 0, len: 0 }
    }
}

impl<T> Lane<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, tenant: u32, weight: u16, priority: i8, item: T) {
        let (present, turns) = (self.present, &mut self.turns);
        let entry = self.tenants.entry(tenant).or_insert_with(|| {
            let tag = present + stride(weight);
            turns.insert((tag, tenant));
            Tenant { by_priority: BTreeMap::new(), tag }
        });
        entry.by_priority.entry(Reverse(priority)).or_default().push_back(item);
        self.len += 1;
    }

    pub(super) fn pop(&mut self, weights: &BTreeMap<u32, u16>) -> Option<T> {
        let (tag, tenant) = self.turns.pop_first()?;
        self.present = tag;
        let entry = self.tenants.get_mut(&tenant)?;
        let mut best = entry.by_priority.first_entry()?;
        let item = best.get_mut().pop_front();
        if best.get().is_empty() {
            best.remove();
        }
        if entry.by_priority.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            entry.tag = tag + stride(weights.get(&tenant).copied().unwrap_or(1));
            self.turns.insert((entry.tag, tenant));
        }
        self.len -= 1;
        item
    }

    /// Takes out every item that `wanted` says yes to; the others keep their places.
    pub(super) fn remove_where(&mut self, wanted: &mut impl FnMut(&T) -> bool, out: &mut Vec<T>) {
        let turns = &mut self.turns;
        let before = out.len();
        self.tenants.retain(|number, tenant| {
            tenant.by_priority.retain(|_, items| {
                for _ in 0..items.len() {
                    match items.pop_front() {
                        Some(item) if wanted(&item) => out.push(item),
                        Some(item) => items.push_back(item),
                        None => break,
                    }
                }
                !items.is_empty()
            });
            if tenant.by_priority.is_empty() {
                turns.remove(&(tenant.tag, *number));
            }
            !tenant.by_priority.is_empty()
        });
        self.len -= out.len() - before;
    }
}

fn stride(weight: u16) -> u64 {
    STRIDE / u64::from(weight.max(1))
}
