//! What the backlog promises, and what it costs.

use super::*;
use crate::hold::{HoldRule, HoldRules};
use crate::{Class, HoldReason, MoveReason, SpoolId, UnixSecs};
use rand::{rngs::StdRng, Rng, SeedableRng};

const NOW: u32 = 1_700_000_000;
const DAY: u32 = 86_400;

fn message(id: u64, class: Class) -> NewMessage {
    NewMessage {
        id: SpoolId(id),
        place: (id as u32, 7),
        received: UnixSecs(NOW),
        not_after: None,
        class,
        priority: 0,
        pool: 3,
        tenant: 5,
        size: 1000,
    }
}

fn to(rcpt: u16, queue: &str, due: u32) -> NewRecipient<'_> {
    NewRecipient { rcpt, queue, attempts: 0, unknowns: 0, due: UnixSecs(due), hold: None }
}

fn backlog() -> Backlog {
    let mut backlog = Backlog::new(UnixSecs(NOW), 5 * DAY);
    backlog.advance(UnixSecs(NOW), ClockState::Trusted, 100);
    backlog
}

fn run_to(backlog: &mut Backlog, now: u32) -> usize {
    let mut due = 0;
    loop {
        let done = backlog.advance(UnixSecs(now), ClockState::Trusted, 1000);
        due += done.due;
        if !done.more {
            return due;
        }
    }
}

fn take_all(backlog: &mut Backlog) -> Vec<Taken> {
    let mut out = Vec::new();
    while let Some((queue, class)) = backlog.next_active(Classes::ALL) {
        backlog.take(queue, class, 1, &mut out);
    }
    out
}

#[test]
fn a_message_goes_through_retry_to_its_end() {
    let mut backlog = backlog();
    let recipients = [to(0, "a.test", NOW), to(1, "b.test", NOW), to(2, "a.test", NOW)];
    backlog.insert(&message(1, Class::Bulk), recipients, MoveReason::Received).unwrap();
    let (queue, class) = backlog.next_active(Classes::ALL).unwrap();
    assert_eq!(backlog.queue_name(queue), Some("a.test"));
    let mut taken = Vec::new();
    assert_eq!(backlog.take(queue, class, 10, &mut taken), 2, "one message, one queue: together");
    assert_eq!((taken[0].index, taken[1].index, taken[0].pool, taken[0].tenant), (0, 2, 3, 5));
    assert_eq!(backlog.finish(taken[0].rcpt), None);
    assert!(backlog.put_back(taken[1].rcpt, UnixSecs(NOW + 1200), 1, 0, MoveReason::Retry));
    assert!(!backlog.put_back(taken[1].rcpt, UnixSecs(NOW), 1, 0, MoveReason::Retry), "it is not with the caller");
    let others = take_all(&mut backlog);
    assert_eq!(others.len(), 1);
    assert_eq!(backlog.finish(others[0].rcpt), None);
    assert_eq!(backlog.queue_key("b.test"), None, "an empty queue is forgotten");
    assert_eq!(run_to(&mut backlog, NOW + 1199), 0);
    assert_eq!(run_to(&mut backlog, NOW + 1200), 1);
    let last = take_all(&mut backlog);
    assert_eq!((last[0].index, last[0].attempts), (2, 1));
    let finished = backlog.finish(last[0].rcpt);
    assert_eq!(finished, Some(Finished { id: SpoolId(1), place: (1, 7) }));
    let totals = backlog.totals();
    assert_eq!((totals.messages, totals.recipients, totals.queues), (0, 0, 0));
}

#[test]
fn a_message_without_recipients_is_refused() {
    let refused = backlog().insert(&message(1, Class::Bulk), [], MoveReason::Received);
    assert_eq!(refused, Err(InsertRefused::NoRecipients));
}

#[test]
fn queues_take_turns_and_critical_mail_goes_first() {
    let mut backlog = backlog();
    for id in 0..30 {
        let queue = ["big.test", "big.test", "small.test"][id as usize % 3];
        backlog.insert(&message(id, Class::Bulk), [to(0, queue, NOW)], MoveReason::Received).unwrap();
    }
    backlog.insert(&message(99, Class::Critical), [to(0, "big.test", NOW)], MoveReason::Received).unwrap();
    let order = take_all(&mut backlog);
    assert_eq!(order.len(), 31);
    assert_eq!(order[0].id, SpoolId(99));
    let small = order[1..21].iter().filter(|t| t.id.0 % 3 == 2).count();
    assert_eq!(small, 10, "a short queue waits for its turn, not for the long queue's end");
}

#[test]
fn priority_bands_go_before_age() {
    let mut backlog = backlog();
    for (id, priority) in [(1, 0), (2, -4), (3, 5), (4, 0)] {
        let new = NewMessage { priority, ..message(id, Class::Transactional) };
        backlog.insert(&new, [to(0, "a.test", NOW)], MoveReason::Received).unwrap();
    }
    let order: Vec<u64> = take_all(&mut backlog).iter().map(|t| t.id.0).collect();
    assert_eq!(order, [3, 1, 4, 2]);
}

#[test]
fn what_finds_no_room_goes_back_to_the_front_in_order() {
    let mut backlog = backlog();
    for id in 1..=4 {
        backlog.insert(&message(id, Class::Bulk), [to(0, "a.test", NOW)], MoveReason::Received).unwrap();
    }
    let queue = backlog.queue_key("a.test").unwrap();
    let mut taken = Vec::new();
    backlog.take(queue, Class::Bulk, 2, &mut taken);
    let keys: Vec<RcptKey> = taken.iter().map(|t| t.rcpt).collect();
    assert_eq!(backlog.drain_ready_back(&keys, UnixSecs(NOW), MoveReason::NoRoom), 2);
    let order: Vec<u64> = take_all(&mut backlog).iter().map(|t| t.id.0).collect();
    assert_eq!(order, [1, 2, 3, 4]);
}

#[test]
fn a_stalled_queue_is_passed_over_until_its_time_or_a_wake() {
    let mut backlog = backlog();
    backlog.insert(&message(1, Class::Bulk), [to(0, "a.test", NOW)], MoveReason::Received).unwrap();
    let (queue, _) = backlog.next_active(Classes::ALL).unwrap();
    backlog.stall(queue, None, UnixSecs(NOW + 30));
    assert_eq!(backlog.next_active(Classes::ALL), None);
    backlog.insert(&message(2, Class::Bulk), [to(0, "a.test", NOW)], MoveReason::Received).unwrap();
    assert_eq!(backlog.next_active(Classes::ALL), None, "newcomers do not end a stall");
    run_to(&mut backlog, NOW + 30);
    assert_eq!(backlog.next_active(Classes::ALL), Some((queue, Class::Bulk)));
    backlog.stall(queue, None, UnixSecs(NOW + 99));
    backlog.wake(queue);
    assert_eq!(take_all(&mut backlog).len(), 2);
}

#[test]
fn a_suspended_queue_is_skipped_until_the_rule_goes() {
    let mut backlog = backlog();
    for (id, queue) in [(1, "c:t@a.test"), (2, "c:u@a.test")] {
        backlog.insert(&message(id, Class::Bulk), [to(0, queue, NOW)], MoveReason::Received).unwrap();
    }
    let mut rules = HoldRules::default();
    let rule = rules.add(HoldRule { tenant: Some("t".into()), ..HoldRule::default() }).unwrap();
    backlog.set_rules(rules.clone());
    let ids: Vec<u64> = take_all(&mut backlog).iter().map(|t| t.id.0).collect();
    assert_eq!(ids, [2]);
    assert!(backlog.queue_info(backlog.queue_key("c:t@a.test").unwrap()).unwrap().suspended);
    backlog.insert(&message(3, Class::Bulk), [to(0, "x:t@b.test", NOW)], MoveReason::Received).unwrap();
    assert_eq!(take_all(&mut backlog), [], "a new queue is judged too");
    rules.remove(rule);
    backlog.set_rules(rules);
    let ids: Vec<u64> = take_all(&mut backlog).iter().map(|t| t.id.0).collect();
    assert_eq!(ids, [1, 3]);
}

#[test]
fn held_recipients_stand_still_until_released_or_bounced() {
    let mut backlog = backlog();
    let hold = Some(HoldReason::AckLogDamage);
    let held = |rcpt| NewRecipient { hold, ..to(rcpt, "a.test", NOW) };
    let recipients = [held(0), held(1), to(2, "a.test", NOW + 50)];
    let msg = backlog.insert(&message(1, Class::Bulk), recipients, MoveReason::Recovered).unwrap();
    assert_eq!(backlog.totals().held, 2);
    assert_eq!(take_all(&mut backlog), []);
    let keys = backlog.recipients_of(msg);
    assert!(backlog.hold(keys[2], HoldReason::Operator), "a scheduled recipient can be held");
    run_to(&mut backlog, NOW + 100);
    assert_eq!(take_all(&mut backlog), []);
    let info = backlog.explain(keys[0]).unwrap();
    assert_eq!((info.reason, info.hold, info.state), (MoveReason::Held, hold, RcptState::Held));
    assert!(backlog.release(keys[0]));
    assert!(!backlog.release(keys[0]));
    assert_eq!(take_all(&mut backlog)[0].rcpt, keys[0]);
    let mut out = Vec::new();
    assert_eq!(backlog.take_held(HoldReason::AckLogDamage, 9, &mut out), 1);
    assert_eq!(backlog.finish(out[0].rcpt), None);
    assert_eq!(backlog.finish(keys[2]), None, "a held recipient can be finished");
    assert!(backlog.finish(keys[0]).is_some());
}

#[test]
fn nothing_expires_while_the_clock_is_not_trusted() {
    let mut backlog = backlog();
    let new = NewMessage { not_after: Some(UnixSecs(NOW + 60)), ..message(1, Class::Bulk) };
    backlog.insert(&new, [to(0, "a.test", NOW + 3600)], MoveReason::FutureRelease).unwrap();
    let mut out = Vec::new();
    for clock in [ClockState::Unsynced, ClockState::Jumped(4000)] {
        backlog.advance(UnixSecs(NOW + 7200), clock, 1000);
        assert_eq!(backlog.expired(10, 10, &mut out), 0);
    }
    let taken = take_all(&mut backlog);
    assert_eq!(taken.len(), 1, "it is attempted instead");
    backlog.put_back(taken[0].rcpt, UnixSecs(NOW + 9000), 1, 0, MoveReason::Retry);
    backlog.advance(UnixSecs(NOW + 8999), ClockState::Unsynced, 1000);
    assert_eq!(backlog.totals().scheduled, 1, "and keeps its retry delay");
    run_to(&mut backlog, NOW + 9000);
    assert_eq!(backlog.expired(10, 10, &mut out), 1);
    assert_eq!(backlog.finish(out[0].rcpt).map(|f| f.id), Some(SpoolId(1)));
}

#[test]
fn not_after_is_told_on_the_second() {
    let mut backlog = backlog();
    let new = NewMessage { not_after: Some(UnixSecs(NOW + 60)), ..message(1, Class::Bulk) };
    backlog.insert(&new, [to(0, "a.test", NOW + 3600)], MoveReason::FutureRelease).unwrap();
    let mut out = Vec::new();
    run_to(&mut backlog, NOW + 59);
    assert_eq!(backlog.expired(10, 10, &mut out), 0);
    run_to(&mut backlog, NOW + 60);
    assert_eq!(backlog.expired(10, 10, &mut out), 1);
}

#[test]
fn the_give_up_age_ends_no_recipient_without_an_attempt_since_start() {
    let mut backlog = Backlog::new(UnixSecs(NOW + 9 * DAY), 5 * DAY);
    let old = NewRecipient { attempts: 20, ..to(0, "a.test", NOW) };
    backlog.insert(&message(1, Class::Bulk), [old], MoveReason::Recovered).unwrap();
    run_to(&mut backlog, NOW + 9 * DAY);
    let mut out = Vec::new();
    assert_eq!(backlog.expired(10, 10, &mut out), 0);
    let taken = take_all(&mut backlog);
    assert_eq!(taken.len(), 1);
    backlog.put_back(taken[0].rcpt, UnixSecs(NOW + 9 * DAY), 20, 0, MoveReason::NoRoom);
    assert_eq!(backlog.expired(10, 10, &mut out), 0, "a full ready queue is no attempt");
    let taken = take_all(&mut backlog);
    backlog.put_back(taken[0].rcpt, UnixSecs(NOW + 9 * DAY), 21, 0, MoveReason::Retry);
    assert_eq!(backlog.expired(10, 10, &mut out), 1);
}

#[test]
fn recipients_of_a_suspended_queue_expire_too() {
    let mut backlog = backlog();
    let mut rules = HoldRules::default();
    rules.add(HoldRule::default()).unwrap();
    backlog.set_rules(rules);
    let new = NewMessage { not_after: Some(UnixSecs(NOW + 60)), ..message(1, Class::Bulk) };
    backlog.insert(&new, [to(0, "a.test", NOW)], MoveReason::Received).unwrap();
    assert_eq!(take_all(&mut backlog), []);
    run_to(&mut backlog, NOW + 61);
    let mut out = Vec::new();
    assert_eq!(backlog.expired(10, 10, &mut out), 1);
}

#[test]
fn a_clock_that_goes_back_hangs_everything_in_anew() {
    let mut backlog = backlog();
    backlog.insert(&message(1, Class::Bulk), [to(0, "a.test", NOW + DAY)], MoveReason::Received).unwrap();
    run_to(&mut backlog, NOW + 3600);
    let done = backlog.advance(UnixSecs(NOW - 3600), ClockState::Jumped(-7200), 1000);
    assert_eq!(done.went_back, 7200);
    let taken = take_all(&mut backlog);
    assert_eq!(taken, []);
    backlog.insert(&message(2, Class::Bulk), [to(0, "a.test", NOW - 3000)], MoveReason::Received).unwrap();
    assert_eq!(run_to(&mut backlog, NOW - 3000), 1, "short delays are short again");
    assert_eq!(run_to(&mut backlog, NOW + DAY), 1);
}

#[test]
fn places_follow_the_spool() {
    let mut backlog = backlog();
    for id in 1..=3 {
        backlog.insert(&message(id, Class::Bulk), [to(0, "a.test", NOW)], MoveReason::Received).unwrap();
    }
    assert_eq!(backlog.set_places(&[(SpoolId(1), (9, 9)), (SpoolId(2), (8, 8)), (SpoolId(7), (1, 1))]), 2);
    let third = backlog.find(SpoolId(3)).unwrap();
    assert!(backlog.set_place(third, (5, 5)));
    let places: Vec<_> = take_all(&mut backlog).iter().map(|t| t.place).collect();
    assert_eq!(places, [(9, 9), (8, 8), (5, 5)]);
}

#[test]
fn a_rebound_recipient_waits_under_its_new_name() {
    let mut backlog = backlog();
    backlog.insert(&message(1, Class::Bulk), [to(0, "a.test", NOW)], MoveReason::Received).unwrap();
    let taken = take_all(&mut backlog);
    assert!(backlog.rebind(taken[0].rcpt, "a.test!hub.test"));
    assert_eq!(backlog.queue_key("a.test"), None);
    backlog.put_back(taken[0].rcpt, UnixSecs(NOW), 0, 0, MoveReason::Rebound);
    let (queue, _) = backlog.next_active(Classes::ALL).unwrap();
    assert_eq!(backlog.queue_name(queue), Some("a.test!hub.test"));
}

#[test]
fn seeds_counts_agree_and_nobody_is_lost() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut backlog = backlog();
        let (mut now, mut next_id, mut inserted, mut ended) = (NOW, 0u64, 0usize, 0usize);
        let mut taken: Vec<Taken> = Vec::new();
        for _ in 0..1500 {
            match random.random_range(0..12) {
                0..=2 => {
                    next_id += 1;
                    let names: Vec<String> = (0..random.random_range(1..6))
                        .map(|_| format!("d{}.test", random.random_range(0..9)))
                        .collect();
                    let class = Class::from_byte(random.random_range(0..3));
                    let not_after = random.random_bool(0.2).then(|| UnixSecs(now + random.random_range(0..5000)));
                    let due = now + random.random_range(0..2) * random.random_range(0..5000);
                    let new = NewMessage { not_after, ..message(next_id, class) };
                    let list = names.iter().enumerate().map(|(at, name)| to(at as u16, name, due));
                    backlog.insert(&new, list, MoveReason::Received).unwrap();
                    inserted += names.len();
                }
                3..=5 => {
                    if let Some((queue, class)) = backlog.next_active(Classes::ALL) {
                        backlog.take(queue, class, random.random_range(1..9), &mut taken);
                    }
                }
                6 | 7 if !taken.is_empty() => {
                    let item = taken.swap_remove(random.random_range(0..taken.len()));
                    let due = UnixSecs(now + random.random_range(0..2) * random.random_range(0..20_000));
                    let reason = if random.random() { MoveReason::Retry } else { MoveReason::NoRoom };
                    assert!(backlog.put_back(item.rcpt, due, item.attempts + 1, 0, reason));
                }
                8 if !taken.is_empty() => {
                    let item = taken.swap_remove(random.random_range(0..taken.len()));
                    backlog.finish(item.rcpt);
                    ended += 1;
                }
                9 => {
                    if let Some(item) = taken.pop() {
                        assert!(backlog.hold(item.rcpt, HoldReason::Operator));
                    }
                    if random.random() {
                        backlog.take_held(HoldReason::Operator, 2, &mut taken);
                    }
                }
                10 => {
                    backlog.expired(3, 50, &mut taken);
                    let queues: Vec<QueueKey> = backlog.queues().collect();
                    if let Some(queue) = queues.first() {
                        backlog.stall(*queue, None, UnixSecs(now + random.random_range(0..900)));
                    }
                }
                _ => {
                    now += random.random_range(0..3000);
                    backlog.advance(UnixSecs(now), ClockState::Trusted, random.random_range(1..200));
                }
            }
            let totals = backlog.totals();
            assert_eq!(totals.recipients, inserted - ended, "seed {seed}");
            assert_eq!(totals.taken, taken.len(), "seed {seed}");
            let sum = totals.scheduled + totals.due + totals.taken + totals.held + totals.expired;
            assert_eq!(sum, totals.recipients, "seed {seed}");
            let queued: usize = backlog
                .queues()
                .filter_map(|key| backlog.queue_info(key))
                .map(|q| q.due.iter().sum::<usize>() + q.taken + q.held + q.waiting)
                .sum();
            assert_eq!(queued, totals.recipients, "seed {seed}");
        }
        // Everything comes out in the end, by turn or by expiry.
        for _ in 0..200 {
            now += 1000;
            run_to(&mut backlog, now);
            backlog.expired(1000, 100_000, &mut taken);
            taken.extend(take_all(&mut backlog));
            backlog.take_held(HoldReason::Operator, 1000, &mut taken);
        }
        let rest = taken.drain(..).filter(|item| backlog.finish(item.rcpt).is_some()).count();
        assert!(rest > 0);
        assert_eq!(backlog.totals().messages, 0, "seed {seed}");
        assert_eq!(backlog.totals().recipients, 0, "seed {seed}");
    }
}

#[test]
fn a_recipient_costs_what_is_promised() {
    let count = 100_000usize;
    let mut singles = backlog();
    for id in 0..count {
        singles
            .insert(&message(id as u64, Class::Bulk), [to(0, "a.test", NOW + id as u32)], MoveReason::Received)
            .unwrap();
    }
    let single = singles.totals().bytes as f64 / count as f64;
    let mut many = backlog();
    let list = (0..count).map(|at| to(at as u16, "a.test", NOW + at as u32));
    many.insert(&message(1, Class::Bulk), list, MoveReason::Received).unwrap();
    let further = many.totals().bytes as f64 / count as f64;
    let mut names = backlog();
    let texts: Vec<String> = (0..count).map(|at| format!("camp:tenant@domain-{at:06}.test")).collect();
    let list = texts.iter().map(|name| to(0, name, NOW + 100));
    names.insert(&message(1, Class::Bulk), list, MoveReason::Received).unwrap();
    let name = names.totals().bytes as f64 / count as f64 - further;
    println!("single {single:.1}, further {further:.1}, queue name of {} bytes {name:.1}", texts[0].len());
    assert!(single <= 70.0 && further <= 34.0 && name <= 150.0, "{single} {further} {name}");
}

#[test]
fn a_stall_of_one_class_leaves_the_others_their_turn() {
    let mut backlog = Backlog::new(UnixSecs(NOW), 1000);
    let message = |id, class| NewMessage {
        id: SpoolId(id),
        place: (0, 0),
        received: UnixSecs(NOW),
        not_after: None,
        class,
        priority: 0,
        pool: 0,
        tenant: 0,
        size: 1,
    };
    let to = |queue| NewRecipient { rcpt: 0, queue, attempts: 0, unknowns: 0, due: UnixSecs(NOW), hold: None };
    backlog.insert(&message(1, Class::Bulk), [to("a.test")], MoveReason::Received).unwrap();
    let (queue, class) = backlog.next_active(Classes::ALL).unwrap();
    assert_eq!(class, Class::Bulk);
    backlog.stall(queue, Some(Class::Bulk), UnixSecs(u32::MAX));
    assert_eq!(backlog.next_active(Classes::ALL), None);
    backlog.insert(&message(2, Class::Critical), [to("a.test")], MoveReason::Received).unwrap();
    assert_eq!(backlog.next_active(Classes::ALL), Some((queue, Class::Critical)));
    backlog.wake(queue);
    assert_eq!(backlog.due_in(queue, Class::Bulk), 1);
}

#[test]
fn r03_an_unknown_outcome_waits_though_the_message_ends_before_and_the_clock_is_not_trusted() {
    let mut backlog = Backlog::new(UnixSecs(NOW), 432_000);
    backlog.advance(UnixSecs(NOW), ClockState::Trusted, 1000);
    let new = NewMessage { not_after: Some(UnixSecs(NOW + 100)), ..message(1, Class::Bulk) };
    let unknown = NewRecipient { unknowns: 1, attempts: 1, ..to(0, "a.test", NOW + 1800) };
    backlog.insert(&new, [unknown], MoveReason::Recovered).unwrap();
    let jumped = ClockState::Jumped(1000);
    assert_eq!(backlog.advance(UnixSecs(NOW + 1500), jumped, 1000).due, 1, "it came for its end");
    assert_eq!(backlog.next_active(Classes::ALL), None, "which may not come now, nor may an early attempt");
    backlog.advance(UnixSecs(NOW + 1500 + 1800), jumped, 1000);
    assert!(backlog.next_active(Classes::ALL).is_some());
}
