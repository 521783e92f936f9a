//! Events in slices, with fuel and with epochs: what long work gets done, what ends it, and what changes under it.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::cap::{BACKGROUND, SENSORS};
use crate::engine::FIBER_STACK;

const BOTH: [Metering; 2] = [Metering::Epoch, Metering::Fuel];
/// Units of a slice in these tests: one of the meter's, and of fuel, is a microsecond.
const SLICE: u64 = 3000;

const SLICED: Budget =
    Budget { event: Duration::from_micros(SLICE), background: Duration::from_secs(1000), ..BUDGET };

/// Counts a hundred for every look, so that a slice is thirty looks.
#[derive(Default)]
struct Hundreds(AtomicU64);

impl Meter for Hundreds {
    fn count(&self) -> u64 {
        self.0.fetch_add(100, Ordering::Relaxed)
    }
    fn per_micro(&self) -> u64 {
        1
    }
}

/// A loop that takes some slices, but not for ever. With epochs the guest is looked at every 50 us or so.
fn long(metering: Metering) -> String {
    let turns = if metering == Metering::Epoch { 400_000_000 } else { 5000 };
    format!(
        "(local.set $d (i32.const 0)) (loop $long (local.set $d (i32.add (local.get $d) (i32.const 1)))
        (br_if $long (i32.lt_u (local.get $d) (i32.const {turns}))))\n"
    )
}

const FOR_EVER: &str = "(loop $l (br $l))";

fn granted(setup: &mut Setup) {
    setup.grant.privileges = vec![SENSORS.into(), BACKGROUND.into()];
    setup.budget = SLICED;
    setup.meter = Arc::new(Hundreds::default());
}

fn bench(metering: Metering, body: &str) -> Bench {
    Bench::with(metering, &on_capsule(body), granted)
}

impl Bench {
    /// Goes on until the event is over: the last outcome, and how many slices there were.
    fn finish(&mut self, mut outcome: Outcome) -> (Outcome, u64) {
        let mut slices = 1;
        while outcome.more {
            assert!(self.sandbox.is_suspended() && self.sandbox.effects().next().is_none());
            outcome = self.sandbox.resume(Now::mono(NOW.mono + Duration::from_micros(slices)));
            slices += 1;
        }
        (outcome, slices)
    }

    fn state(&mut self) -> &mut TeamState {
        self.sandbox.program().unwrap().run.store.data_mut()
    }
}

#[test]
fn long_work_is_done_in_slices_and_then_wanted() {
    for metering in BOTH {
        let clock = "(call $say (i32.wrap_i64 (call $clock_mono)))";
        let mut b = bench(metering, &format!("{clock} {} {clock}", long(metering)));
        let idle = b.account.used();
        for round in 1..3 {
            let first = b.capsule(b"x");
            assert!(first.more && first.units >= SLICE, "{metering:?}: {first:?}");
            // Nothing else runs meanwhile, and nothing is due.
            assert_eq!(b.deliver(Event::Boot).end, Err(GuestFault::Ended));
            assert!(b.sandbox.due(NOW).is_none() && b.sandbox.deadline().is_none() && !b.sandbox.has_ended());
            let (outcome, slices) = b.finish(first);
            assert_eq!((outcome.end, outcome.more), (Ok(()), false));
            // The clock goes on with each slice.
            let start = NOW.mono.micros() as i32;
            assert_eq!(b.numbers(), [start, start + slices as i32 - 1], "{metering:?}");
            assert_eq!(b.sandbox.stats().calls, round);
        }
        assert_eq!((b.account.used(), b.buffers.lent()), (idle, 0));
        let Bench { sandbox, account, .. } = b;
        drop(sandbox);
        assert_eq!(account.used(), 0);
    }
}

#[test]
fn who_was_not_granted_it_has_one_events_time() {
    for metering in BOTH {
        let mut b = Bench::with(metering, &on_capsule(FOR_EVER), |s| {
            granted(s);
            s.grant.privileges = vec![SENSORS.into()];
        });
        let outcome = b.capsule(b"x");
        assert_eq!((outcome.end, outcome.more), (Err(GuestFault::Deadline), false));
    }
}

#[test]
fn past_its_slices_an_event_is_over() {
    for metering in BOTH {
        let mut b =
            Bench::with(metering, &on_capsule(&format!("(call $say (i32.const 1)) {FOR_EVER}")), |s| {
                granted(s);
                s.budget.background = Duration::from_micros(4 * SLICE - 1);
            });
        let first = b.capsule(b"x");
        let (outcome, slices) = b.finish(first);
        assert_eq!((outcome.end, slices), (Err(GuestFault::Deadline), 4), "{metering:?}");
        assert!(b.sandbox.has_ended() && b.numbers().is_empty());
        assert_eq!(b.capsule(b"x").end, Err(GuestFault::Ended));
        assert_eq!(b.sandbox.resume(NOW).end, Err(GuestFault::Ended));
        // All is back but the record of the team.
        assert_eq!(b.buffers.lent(), 0);
        let Bench { sandbox, account, .. } = b;
        drop(sandbox);
        assert_eq!(account.used(), 0);
    }
}

#[test]
fn a_trap_in_a_later_slice_is_one() {
    for metering in BOTH {
        let mut b = bench(metering, &format!("(call $say (i32.const 1)) {} (unreachable)", long(metering)));
        let first = b.capsule(b"x");
        let (outcome, slices) = b.finish(first);
        assert!(matches!(&outcome.end, Err(GuestFault::Trap(t)) if t.contains("unreachable")), "{outcome:?}");
        assert!(slices > 1 && b.numbers().is_empty() && b.sandbox.has_ended());
    }
}

#[test]
fn what_is_ended_between_slices_runs_no_more() {
    for metering in BOTH {
        for graceful in [false, true] {
            // Asking for the time that is left reads the meter, so that it shows whether the guest runs.
            let asks = "(loop $l (drop (call $budget_left (i32.const 1))) (br $l))";
            let on_stop = format!("(func (export \"on_stop\") (call $say (i32.const 3)) {asks})");
            let body = format!("(call $say (i32.const 1)) {asks}");
            let meter = Arc::new(Hundreds::default());
            let mut b = Bench::with(metering, &format!("{} {on_stop}", on_capsule(&body)), |s| {
                granted(s);
                s.meter = meter.clone();
            });
            assert!(b.capsule(b"x").more && b.sandbox.resume(NOW).more);
            let count = meter.0.load(Ordering::Relaxed);
            assert!(metering == Metering::Fuel || count > 1000);
            if graceful {
                let outcome = b.deliver(Event::Stop);
                assert_eq!((outcome.end, outcome.more, b.numbers()), (Ok(()), false, vec![]));
                assert!(b.sandbox.has_ended());
            }
            let Bench { sandbox, account, buffers } = b;
            drop(sandbox);
            assert_eq!(meter.0.load(Ordering::Relaxed), count);
            assert_eq!((account.used(), buffers.lent()), (0, 0), "{metering:?}");
        }
    }
}

#[test]
fn what_is_taken_away_meanwhile_is_gone_at_once() {
    for metering in BOTH {
        let body = [
            "(drop (call $capsule_send (local.get $c) (local.get $from) (i32.const 1)))".to_string(),
            "(local.set $all (call $cap_lookup (i32.const 304) (i32.const 7)))".into(),
            "(call $say (i32.gt_s (local.get $all) (i32.const 0)))".into(),
            long(metering),
            say(&[
                "(call $capsule_send (local.get $c) (local.get $from) (i32.const 1))",
                "(call $cap_lookup (i32.const 304) (i32.const 7))",
                "(call $sensor_list (local.get $all) (i32.const 512) (i32.const 8))",
                "(i32.gt_s (call $cap_lookup (i32.const 288) (i32.const 10)) (i32.const 0))",
                "(call $timer_set (i64.const 1) (i64.const 0) (i64.const 0))",
            ]),
        ];
        let mut b = bench(metering, &body.concat());
        let lent = {
            let state = b.state();
            let sensors = state.caps.lookup(SENSORS.as_bytes(), &mut state.neighbors).unwrap();
            state.caps.lend(abi::number_of(sensors), &state.neighbors).unwrap()
        };
        let first = b.capsule(b"x");
        assert!(first.more && !lent.line.is_cut());
        b.sandbox.neighbor_gone(NeighborId(5));
        let (grant, budget) = (Grant::everything(Default::default(), vec![BACKGROUND.into()]), SLICED);
        b.sandbox.clamp(&grant, &Budget { timers: 0, ..budget }).unwrap();
        // What other teams had of it is void while its maker is away.
        assert!(lent.line.is_cut());
        let (outcome, _) = b.finish(first);
        assert_eq!(outcome.end, Ok(()));
        let (mut said, mut sent) = (vec![], 0);
        for effect in b.sandbox.effects() {
            match effect {
                Effect::Log { text, .. } => said.push(text.parse::<i32>().unwrap()),
                Effect::Send { .. } => sent += 1,
                _ => {}
            }
        }
        let [gone, none, withheld] = [Error::BadHandle, Error::NotFound, Error::BadHandle].map(CODE);
        assert_eq!(said, [1, gone, none, withheld, 1, CODE(Error::NoRoom)], "{metering:?}");
        assert_eq!(sent, 0, "what it sent before its neighbor went is not sent");
    }
}

#[test]
fn who_comes_and_goes_meanwhile_is_known_as_it_is_at_the_end() {
    for metering in BOTH {
        let body = [
            "(drop (call $capsule_send (local.get $c) (local.get $from) (i32.const 1)))".to_string(),
            long(metering),
            say(&[
                "(call $capsule_send (local.get $c) (local.get $from) (i32.const 1))",
                "(call $cap_lookup (i32.const 288) (i32.const 10))",
                "(call $neighborhood_list (call $cap_lookup (i32.const 256) (i32.const 12)) (i32.const 512) (i32.const 8))",
            ]),
        ];
        let mut b = bench(metering, &body.concat());
        let first = b.capsule(b"x");
        assert!(first.more);
        let found = |id, name: &str| NeighborRef {
            id: NeighborId(id),
            name: name.into(),
            link: LinkId(0),
            max_payload: 1000,
            overhead: 40,
            shortest: 0,
        };
        let before = b.account.used();
        // Another one has the place of the neighbor that the capsule came from; one is gone; one cannot decide.
        assert!(b.sandbox.neighbor_left(NeighborId(5)) && b.sandbox.neighbor_found(&found(5, "new")));
        assert!(b.sandbox.neighbor_left(NeighborId(2)) && !b.sandbox.neighbor_left(NeighborId(8)));
        assert!(b.sandbox.neighbor_found(&found(7, "seven")));
        let place = b.account.used() - before;
        for _ in 0..3 {
            assert!(b.sandbox.neighbor_left(NeighborId(7)) && b.sandbox.neighbor_found(&found(7, "seven")));
        }
        assert_eq!(b.account.used() - before, place, "one place, paid for once");
        let (outcome, _) = b.finish(first);
        assert_eq!(outcome.end, Ok(()));
        let mut said = vec![];
        for effect in b.sandbox.effects() {
            match effect {
                Effect::Log { text, .. } => said.push(text.parse::<i32>().unwrap()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            said,
            [Error::BadHandle, Error::NotFound].map(CODE).into_iter().chain([2]).collect::<Vec<_>>()
        );
        let state = b.state();
        let names = [5, 7].map(|id| {
            let at = state.neighbors.position(NeighborId(id)).unwrap();
            state.neighbors.get(at).unwrap().is.name.to_string()
        });
        assert_eq!(names, ["new", "seven"]);
    }
}

#[test]
fn terms_that_do_not_fit_and_the_privilege_itself() {
    for metering in BOTH {
        let mut b = bench(metering, FOR_EVER);
        assert!(b.capsule(b"x").more);
        let (mut grant, budget) = (Grant::everything(Default::default(), vec![BACKGROUND.into()]), SLICED);
        grant.max_emissions = Some(0);
        assert!(matches!(b.sandbox.clamp(&grant, &budget), Err(StartError::Emissions { .. })));
        grant.max_emissions = None;
        b.sandbox.clamp(&grant, &budget).unwrap();
        assert!(b.sandbox.resume(NOW).more);
        b.sandbox.withhold(&[]);
        // That was the last slice of an event that is longer than one.
        assert_eq!(b.sandbox.resume(NOW).end, Err(GuestFault::Deadline));

        // A short event still fits into one.
        let mut b = bench(metering, "(call $say (i32.const 1))");
        b.sandbox.withhold(&[]);
        assert_eq!(b.capsule_said(b"x"), [1]);
    }
}

#[test]
fn marks_are_checked_meanwhile() {
    let set = "(drop (call $integrity_set (local.get $from) (i32.const 1024) (i32.const 16)))";
    let mut b = bench(Metering::Fuel, &format!("{set} {}", long(Metering::Fuel)));
    let id = CapsuleId([1; 16]);
    assert_eq!(b.sandbox.check(NeighborId(5), &id, b"x", None), Ok(()));
    let first = b.capsule(b"x");
    assert!(first.more);
    assert_eq!(b.sandbox.check(NeighborId(5), &id, b"x", None), Err(Unsound::Mark));
    assert_eq!(b.finish(first).0.end, Ok(()));
    assert_eq!(b.sandbox.check(NeighborId(5), &id, b"x", None), Err(Unsound::Mark));
    assert!(b.sandbox.mark(NeighborId(5), &id, b"x").is_some());
}

#[test]
fn counted_slices_are_the_same_every_time_and_no_longer_than_twice() {
    let hash = "(drop (call $hash_sha256 (i32.const 0) (i32.const 16) (i32.const 512)))";
    // By turns computing only, and mostly in host functions; in the end computing again.
    let body = format!(
        "{long} (loop $h {hash} (local.set $all (i32.add (local.get $all) (i32.const 1)))
        (br_if $h (i32.lt_u (local.get $all) (i32.const 40)))) {long} (call $say (local.get $d))",
        long = long(Metering::Fuel)
    );
    let run = || {
        let mut b = bench(Metering::Fuel, &body);
        let mut outcome = b.capsule(b"x");
        let mut units = vec![outcome.units];
        while outcome.more {
            outcome = b.sandbox.resume(NOW);
            units.push(outcome.units);
        }
        assert_eq!((outcome.end, b.numbers()), (Ok(()), vec![5000]));
        units
    };
    let units = run();
    assert_eq!(units, run());
    assert!(units.len() > 20, "{units:?}");
    let longest = SLICE + SLICE / 2 + 100;
    assert!(units.iter().all(|&u| u <= longest), "{units:?}");
    assert!(units[..units.len() - 1].iter().all(|&u| u >= SLICE), "{units:?}");
}

#[test]
fn host_functions_in_a_straight_line_end_it() {
    let hash = "(drop (call $hash_sha256 (i32.const 0) (i32.const 65536) (i32.const 0)))\n".repeat(20);
    for metering in BOTH {
        let mut b = Bench::with(metering, &on_capsule(&hash), |s| {
            granted(s);
            s.budget.event = Duration::from_micros(1_000_000);
        });
        assert_eq!(b.capsule(b"x").end, Err(GuestFault::Deadline), "{metering:?}");
    }
}

#[test]
fn the_fiber_is_paid_for() {
    let engine = engine(Metering::Epoch);
    let code = compile(engine, &module("")).unwrap();
    let start = |limit: u64, edit: fn(&mut Setup)| {
        let account = Account::root(limit);
        let sandbox = Sandbox::start(
            engine,
            std::slice::from_ref(&code),
            setup(engine, &account, BufPool::new(1), edit),
            NOW,
        );
        (sandbox.map(drop), account.peak(), account.used())
    };
    let ((plain, less, _), (fiber, more, left)) = (start(1 << 20, |_| ()), start(1 << 20, granted));
    assert_eq!((plain, fiber, left), (Ok(()), Ok(()), 0));
    assert!(more - less >= FIBER_STACK as u64);
    assert!(matches!(start(more - 1, granted).0, Err(StartError::Memory(_) | StartError::Instantiate(_))));
}

/// The deepest call that a guest may make, and there the host functions that use most stack.
#[test]
fn host_functions_have_room_below_the_deepest_guest() {
    let deep = r#"(func $deep (param $n i32) (param $c i32) (local $d i64)
            (if (i32.eqz (local.get $n)) (then
                (drop (call $signature_check (i32.const 0) (i32.const 2000) (i32.const 32) (i32.const 0) (i32.const 16) (i32.const 2032) (i32.const 64)))
                (drop (call $aead_seal (i32.const 2000) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 0)))
                (drop (call $hmac_sha256 (i32.const 0) (i32.const 16) (i32.const 0) (i32.const 16) (i32.const 512)))
                (drop (call $cache_put (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 4096) (i32.const 1000)))
                (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 256) (i32.const 12)) (i32.const 1)))
                (call $say (i32.const 7)))
            (else (call $deep (i32.sub (local.get $n) (i32.const 1)) (local.get $c)))))"#;
    // The public key of RFC 8032, section 7.1, test 2; the signature is none.
    let key = r#"(data (i32.const 2000) "\3d\40\17\c3\e8\43\89\5a\92\b7\0a\a7\4d\1b\7e\bc\9c\98\2c\cf\2e\c4\96\8c\c0\cd\55\f1\2a\f4\66\0c")"#;
    let fits = |depth: u64| {
        let body = on_capsule(&format!("(call $deep (i32.const {depth}) (local.get $c))"));
        let mut b = Bench::with(Metering::Epoch, &format!("{key} {deep} {body}"), |s| {
            granted(s);
            s.budget.event = Duration::from_secs(100);
        });
        let first = b.capsule(b"x");
        let (outcome, _) = b.finish(first);
        match outcome.end {
            Ok(()) => assert_eq!(b.numbers(), [7]),
            Err(fault) => assert!(matches!(&fault, GuestFault::Trap(t) if t.contains("stack")), "{fault}"),
        }
        !b.sandbox.has_ended()
    };
    let (mut low, mut high) = (100, 20_000);
    assert!(fits(low) && !fits(high));
    while high - low > 1 {
        let middle = (low + high) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
}
