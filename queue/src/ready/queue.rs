//! The ready queue of one path. Room is kept for those who can't wait: bulk may fill 60 % of it, bulk and transactional
//! together 80 %. Critical goes strictly first; transactional and bulk take turns three to one.

use std::collections::BTreeMap;

use super::lane::Lane;
use super::state::{IllegalMove, ReadyState};
use crate::{Class, UnixSecs};

/// Share of room and of connection slots that only critical mail may use.
pub const CRITICAL_KEPT_PERCENT: usize = 20;
/// Share of room that bulk may not use.
pub const NOT_BULK_KEPT_PERCENT: usize = 40;
/// Turns of transactional and of bulk when both wait.
const TURNS: [i32; 2] = [3, 1];

/// Where an item stands among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ordering {
    /// Class of its message.
    pub class: Class,
    /// RFC 6710 priority, -9 to 9: higher goes first within one class and tenant.
    pub priority: i8,
    /// Number of its tenant: tenants share a class by weight.
    pub tenant: u32,
}

/// Connection slots of a path and who uses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// All of them.
    pub total: usize,
    /// Used by critical, transactional, bulk.
    pub used: [usize; 3],
}

impl Slots {
    /// True when a slot is free for this class: the last 20 % (none of fewer than five) are for critical mail.
    #[must_use]
    pub fn free_for(&self, class: Class) -> bool {
        let used: usize = self.used.iter().sum();
        if used >= self.total {
            return false;
        }
        let kept = self.total * CRITICAL_KEPT_PERCENT / 100;
        class == Class::Critical || self.used[1] + self.used[2] < self.total - kept
    }
}

/// Items that wait for a connection on one path.
#[derive(Debug)]
pub struct ReadyQueue<T> {
    lanes: [Lane<T>; 3],
    capacity: usize,
    state: ReadyState,
    weights: BTreeMap<u32, u16>,
    credit: [i32; 2],
}

impl<T> ReadyQueue<T> {
    /// An empty queue for at most `capacity` items.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { lanes: Default::default(), capacity, state: ReadyState::Ready, weights: BTreeMap::new(), credit: [0; 2] }
    }

    /// Weights of tenants; those not named weigh 1. Takes effect with each tenant's next turn.
    pub fn set_weights(&mut self, weights: BTreeMap<u32, u16>) {
        self.weights = weights;
    }

    /// Adds an item at the end of its class, tenant and priority.
    ///
    /// # Errors
    /// Gives the item back when there is no room for its class.
    pub fn push(&mut self, at: Ordering, item: T) -> Result<(), T> {
        if self.room(at.class) == 0 {
            return Err(item);
        }
        let weight = self.weights.get(&at.tenant).copied().unwrap_or(1);
        self.lanes[at.class as usize].push(at.tenant, weight, at.priority, item);
        Ok(())
    }

    /// How many more items of a class fit.
    #[must_use]
    pub fn room(&self, class: Class) -> usize {
        let [critical, transactional, bulk] = [0, 1, 2].map(|class: usize| self.lanes[class].len());
        let all = self.capacity.saturating_sub(critical + transactional + bulk);
        let not_critical = self.share(CRITICAL_KEPT_PERCENT).saturating_sub(transactional + bulk);
        let only_bulk = self.share(NOT_BULK_KEPT_PERCENT).saturating_sub(bulk);
        match class {
            Class::Critical => all,
            Class::Transactional => all.min(not_critical),
            Class::Bulk => all.min(not_critical).min(only_bulk),
        }
    }

    /// Capacity without the part kept; at least 1, or a small queue would never move.
    fn share(&self, kept_percent: usize) -> usize {
        (self.capacity - self.capacity * kept_percent / 100).max(self.capacity.min(1))
    }

    /// The next item, when the state lets one leave.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_of(|_| true)
    }

    /// The next item among the classes that have a free slot.
    pub fn pop_within(&mut self, slots: &Slots) -> Option<T> {
        self.pop_of(|class| slots.free_for(class))
    }

    fn pop_of(&mut self, may: impl Fn(Class) -> bool) -> Option<T> {
        if self.state != ReadyState::Ready {
            return None;
        }
        let waits = |class: Class| self.lanes[class as usize].len() > 0 && may(class);
        let class = if waits(Class::Critical) {
            Class::Critical
        } else {
            match (waits(Class::Transactional), waits(Class::Bulk)) {
                (false, false) => return None,
                (true, false) => Class::Transactional,
                (false, true) => Class::Bulk,
                (true, true) => self.take_turn(),
            }
        };
        self.lanes[class as usize].pop(&self.weights)
    }

    /// Smooth weighted round robin between transactional and bulk.
    fn take_turn(&mut self) -> Class {
        self.credit[0] += TURNS[0];
        self.credit[1] += TURNS[1];
        let winner = usize::from(self.credit[1] > self.credit[0]);
        self.credit[winner] -= TURNS[0] + TURNS[1];
        [Class::Transactional, Class::Bulk][winner]
    }

    /// Items of all classes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.iter().map(Lane::len).sum()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Items of one class.
    #[must_use]
    pub fn len_of(&self, class: Class) -> usize {
        self.lanes[class as usize].len()
    }

    /// Items that may wait at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the bound. What waits beyond it stays; nothing more comes in until it has left.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Whether anything may leave.
    #[must_use]
    pub fn state(&self) -> &ReadyState {
        &self.state
    }

    /// Moves to another state.
    ///
    /// # Errors
    /// [`IllegalMove`]: the state stays.
    pub fn set_state(&mut self, to: ReadyState) -> Result<(), IllegalMove> {
        self.state = self.state.moved(to)?;
        Ok(())
    }

    /// Time passes: ends a throttle whose time has come. True when the queue is Ready.
    pub fn tick(&mut self, now: UnixSecs) -> bool {
        self.state = self.state.at(now);
        self.state == ReadyState::Ready
    }

    /// Takes out everything, in any state: the path is gone, or the process stops. Order is that of `pop` within a
    /// class.
    pub fn drain(&mut self) -> Vec<T> {
        let mut items = Vec::with_capacity(self.len());
        for lane in &mut self.lanes {
            while let Some(item) = lane.pop(&self.weights) {
                items.push(item);
            }
        }
        items
    }

    /// Takes out, in any state, every item that `wanted` says yes to; the others keep their places.
    pub fn remove_where(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut items = Vec::new();
        for lane in &mut self.lanes {
            lane.remove_where(&mut wanted, &mut items);
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ready::ThrottleReason;
    use rand::{rngs::StdRng, Rng, SeedableRng};

    fn at(class: Class, priority: i8, tenant: u32) -> Ordering {
        Ordering { class, priority, tenant }
    }

    #[test]
    fn room_is_kept_for_those_who_cannot_wait() {
        let mut queue = ReadyQueue::new(10);
        let fill = |queue: &mut ReadyQueue<u32>, class| {
            let mut count = 0;
            while queue.push(at(class, 0, 1), 0).is_ok() {
                count += 1;
            }
            count
        };
        assert_eq!(fill(&mut queue, Class::Bulk), 6);
        assert_eq!(fill(&mut queue, Class::Transactional), 2);
        assert_eq!(fill(&mut queue, Class::Critical), 2);
        assert_eq!(queue.push(at(Class::Critical, 0, 1), 7), Err(7));
        let mut small = ReadyQueue::new(1);
        assert_eq!(small.push(at(Class::Bulk, 0, 1), 1), Ok(()));
        assert_eq!(ReadyQueue::new(0).push(at(Class::Critical, 0, 1), 1), Err(1));
    }

    #[test]
    fn the_last_fifth_of_the_slots_is_for_critical_mail() {
        let table = [
            (10, [0, 4, 3], [true, true, true]),
            (10, [0, 4, 4], [true, false, false]),
            (10, [2, 4, 4], [false, false, false]),
            (10, [9, 0, 0], [true, true, true]),
            (4, [0, 3, 0], [true, true, true]),
            (1, [0, 0, 0], [true, true, true]),
            (0, [0, 0, 0], [false, false, false]),
        ];
        for (total, used, want) in table {
            let slots = Slots { total, used };
            let is = [Class::Critical, Class::Transactional, Class::Bulk].map(|class| slots.free_for(class));
            assert_eq!(is, want, "{slots:?}");
        }
        let mut queue = ReadyQueue::new(10);
        queue.push(at(Class::Bulk, 0, 1), 1).unwrap();
        let slots = Slots { total: 10, used: [0, 4, 4] };
        assert_eq!(queue.pop_within(&slots), None);
        queue.push(at(Class::Critical, 0, 1), 2).unwrap();
        assert_eq!(queue.pop_within(&slots), Some(2));
    }

    #[test]
    fn critical_goes_first_then_three_transactional_for_one_bulk() {
        let mut queue = ReadyQueue::new(100);
        for _ in 0..20 {
            queue.push(at(Class::Bulk, 9, 1), 'b').unwrap();
            queue.push(at(Class::Transactional, 0, 1), 't').unwrap();
        }
        queue.push(at(Class::Critical, -9, 1), 'c').unwrap();
        let order: String = (0..9).filter_map(|_| queue.pop()).collect();
        assert_eq!(order.chars().next(), Some('c'));
        assert_eq!(order.matches('t').count(), 6);
        assert_eq!(order.matches('b').count(), 2);
    }

    #[test]
    fn priority_decides_within_a_tenant_and_age_within_a_priority() {
        let mut queue = ReadyQueue::new(100);
        for (number, priority) in [0, 3, -3, 3, 0].into_iter().enumerate() {
            queue.push(at(Class::Transactional, priority, 1), number).unwrap();
        }
        assert_eq!(queue.drain(), [1, 3, 0, 4, 2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn tenants_share_a_class_by_weight_whoever_came_first() {
        let mut queue = ReadyQueue::new(10_000);
        queue.set_weights(BTreeMap::from([(2, 3)]));
        for tenant in [1, 2, 3] {
            for _ in 0..1000 {
                queue.push(at(Class::Transactional, 0, tenant), tenant).unwrap();
            }
        }
        let mut counts = [0; 4];
        for _ in 0..500 {
            counts[queue.pop().unwrap() as usize] += 1;
        }
        assert_eq!(counts, [0, 100, 300, 100]);
        // One item at a time buys nobody a larger share.
        let mut trickle = 0;
        queue.push(at(Class::Transactional, 0, 9), 9).unwrap();
        for _ in 0..600 {
            if queue.pop() == Some(9) {
                trickle += 1;
                queue.push(at(Class::Transactional, 0, 9), 9).unwrap();
            }
        }
        assert!((95..=105).contains(&trickle), "{trickle}");
    }

    #[test]
    fn nothing_leaves_unless_ready() {
        let mut queue = ReadyQueue::new(10);
        queue.push(at(Class::Critical, 0, 1), 1).unwrap();
        queue.set_state(ReadyState::Throttled { until: UnixSecs(5), reason: ThrottleReason::Site }).unwrap();
        assert_eq!(queue.pop(), None);
        assert!(!queue.tick(UnixSecs(4)));
        assert!(queue.tick(UnixSecs(5)));
        queue.set_state(ReadyState::Suspended).unwrap();
        assert_eq!(queue.pop(), None);
        assert_eq!(queue.remove_where(|item| *item == 1), [1]);
        assert!(queue.is_empty());
    }

    #[test]
    fn seeds_no_item_is_lost_doubled_or_overtaken_by_its_equal() {
        for seed in 0..60 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut queue = ReadyQueue::new(random.random_range(1..80));
            let mut inside: Vec<(Ordering, u32)> = Vec::new();
            for number in 0..2000u32 {
                let class = Class::from_byte(random.random_range(0..3));
                let place = at(class, random.random_range(-2..3), random.random_range(0..4));
                match random.random_range(0..10) {
                    0..=4 => match queue.push(place, (place, number)) {
                        Ok(()) => inside.push((place, number)),
                        Err(_) => assert_eq!(queue.room(class), 0),
                    },
                    5 if number % 7 == 0 => {
                        for item in queue.remove_where(|item| item.0.tenant == 1) {
                            inside.retain(|other| *other != item);
                        }
                        assert!(inside.iter().all(|item| item.0.tenant != 1));
                    }
                    _ => {
                        let Some((place, number)) = queue.pop() else {
                            assert!(inside.is_empty());
                            continue;
                        };
                        assert!(place.class == Class::Critical || inside.iter().all(|i| i.0.class != Class::Critical));
                        let peers = inside.iter().filter(|i| i.0.class == place.class && i.0.tenant == place.tenant);
                        let best = peers.max_by_key(|i| (i.0.priority, std::cmp::Reverse(i.1))).copied();
                        assert_eq!(best, Some((place, number)), "seed {seed}");
                        inside.retain(|item| item.1 != number);
                    }
                }
                assert_eq!(queue.len(), inside.len());
                assert!(queue.len() <= queue.capacity());
            }
        }
    }
}
