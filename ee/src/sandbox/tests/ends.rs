//! Guests that loop, trap, allocate and flood; starts that do not come about, and ends.

use super::*;

#[test]
fn what_loops_for_ever_is_stopped_and_runs_no_more() {
    for metering in [Metering::Epoch, Metering::Fuel] {
        let mut b = Bench::with(metering, &on_capsule("(call $say (i32.const 1)) (loop $l (br $l))"), |s| {
            s.budget.event = Duration::from_micros(500);
        });
        let outcome = b.capsule(b"x");
        assert_eq!(outcome.end, Err(GuestFault::Deadline));
        assert!(outcome.units >= 500, "{metering:?}: {}", outcome.units);
        // What it wanted before is not done.
        assert_eq!(b.numbers(), [0; 0]);
        assert!(b.sandbox.has_ended());
        assert_eq!(b.capsule(b"x").end, Err(GuestFault::Ended));
        assert_eq!(b.buffers.lent(), 0);
    }
}

/// A processor that others want, too: its clock goes on, and the guest has `own` of it for each look.
struct Crowded {
    own: u64,
    looks: AtomicU64,
}

impl Meter for Crowded {
    fn count(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed) * 1000
    }
    fn per_micro(&self) -> u64 {
        1
    }
    fn own(&self) -> u64 {
        self.looks.load(Ordering::Relaxed) * self.own
    }
}

#[test]
fn who_has_little_of_the_processor_is_not_late_for_it() {
    // Long enough for dozens of looks.
    let body = "(local.set $kind (i32.const 30000000))
        (loop $l (br_if $l (local.tee $kind (i32.sub (local.get $kind) (i32.const 1)))))";
    for (own, end) in [(0, Ok(())), (1000, Err(GuestFault::Deadline))] {
        let mut b = Bench::with(Metering::Epoch, &on_capsule(body), |s| {
            s.budget.event = Duration::from_micros(500);
            s.meter = Arc::new(Crowded { own, looks: AtomicU64::new(0) });
        });
        assert_eq!(b.capsule(b"x").end, end, "{own}");
    }
}

#[test]
fn host_functions_use_the_event_up_too() {
    // Without a loop there is no interruption check: only the charge stops this.
    let hash = "(drop (call $hash_sha256 (i32.const 0) (i32.const 65536) (i32.const 0)))\n".repeat(20);
    for metering in [Metering::Epoch, Metering::Fuel] {
        let mut b =
            Bench::with(metering, &on_capsule(&hash), |s| s.budget.event = Duration::from_micros(3_000_000));
        let outcome = b.capsule(b"x");
        assert_eq!(outcome.end, Err(GuestFault::Deadline), "{metering:?}");
    }
}

#[test]
fn fuel_counts_the_same_every_time() {
    let count = || {
        let body = say(&["(call $capsule_len (local.get $c))", "(local.get $from)"]);
        Bench::with(Metering::Fuel, &on_capsule(&body), |_| ()).capsule(b"xyz").units
    };
    let first = count();
    assert!(first > 100, "{first}");
    assert_eq!(first, count());
}

#[test]
fn traps_are_told_apart_and_end_the_guest() {
    for (body, text) in [
        ("(unreachable)", "unreachable"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds"),
        ("(call $capsule_recursion (local.get $c))", "stack"),
    ] {
        let recursion = "(func $capsule_recursion (param i32) (call $capsule_recursion (local.get 0)))";
        let mut b =
            Bench::new(&format!("{recursion} {}", on_capsule(&format!("(call $say (i32.const 1)) {body}"))));
        match b.capsule(b"x").end {
            Err(GuestFault::Trap(t)) => assert!(t.contains(text), "{t}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(b.numbers(), [0; 0]);
        assert_eq!(b.capsule(b"x").end, Err(GuestFault::Ended));
        assert!(b.sandbox.due(NOW).is_none() && b.sandbox.deadline().is_none());
    }
}

#[test]
fn what_allocates_for_ever_gets_no_more_than_its_budget() {
    let grow =
        "(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)))) (call $say (memory.size))";
    let mut b = Bench::new(&on_capsule(grow));
    let outcome = b.capsule(b"x");
    // The module's own maximum of 4 pages, while the budget would give more.
    assert_eq!(b.numbers(), [4]);
    assert_eq!(outcome.refused.memory, 0);
    let used = b.account.used();
    assert!(used > 4 * 65536 && used < 4 * 65536 + 200_000, "{used}");

    let account = Account::root(420 << 10);
    let engine = engine(Metering::Epoch);
    let code = compile(engine, &module(&on_capsule(grow))).unwrap();
    let buffers = BufPool::new(4);
    let setup = setup(engine, &account, buffers.clone(), |_| ());
    let mut sandbox = Sandbox::start(engine, std::slice::from_ref(&code), setup, NOW).unwrap();
    let packet = buffers.copy_of(b"x").unwrap();
    let outcome = sandbox.deliver(NOW, Event::Capsule { protocol: 0, kind: 0, from: None, packet });
    assert_eq!((outcome.end, outcome.refused.memory), (Ok(()), 1));
    assert!(account.peak() <= 420 << 10);
    assert!(sandbox.stats().linear < 4 * 65536);
    drop(sandbox);
    assert_eq!(account.used(), 0);
}

#[test]
fn what_floods_is_held_by_every_bound() {
    // Soft state of 60 KiB entries, log lines, objects: each until it is refused.
    let flood = |call: &str| {
        format!(
            "(local.set $all (i32.const 0)) (loop $l (local.set $all (i32.add (local.get $all) (i32.const 1))) (br_if $l (i32.and (i32.ge_s {call} (i32.const 0)) (i32.lt_u (local.get $all) (i32.const 3000)))))\n"
        )
    };
    let body = [
        flood("(call $cache_put (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 65536) (i32.add (local.get $all) (i32.const 1000)))"),
        flood("(call $cap_duplicate (local.get $from) (i32.const 7))"),
        flood("(call $capsule_derive (local.get $c) (i32.const 1))"),
        flood("(call $log (i32.const 0) (i32.const 0) (i32.const 256))"),
    ]
    .concat();
    let mut b =
        Bench::with(Metering::Epoch, &on_capsule(&body), |s| s.budget.event = Duration::from_secs(100));
    for _ in 0..3 {
        let outcome = b.capsule(b"x");
        assert_eq!(outcome.end, Ok(()));
        let effects = b.sandbox.effects().count();
        assert_eq!(effects, MAX_EFFECTS);
        assert!(b.account.peak() <= 1 << 20);
    }
    assert_eq!(b.buffers.lent(), 0);
    let Bench { sandbox, account, .. } = b;
    drop(sandbox);
    assert_eq!(account.used(), 0);
}

#[test]
fn another_teams_ticks_and_traps_change_nothing() {
    let good = on_capsule(
        "(loop $l (local.set $d (i32.add (local.get $d) (i32.const 1))) (br_if $l (i32.lt_u (local.get $d) (i32.const 3000000)))) (call $say (local.get $d))",
    );
    let mut good = Bench::with(Metering::Epoch, &good, |s| s.budget.event = Duration::from_secs(100));
    let mut bad = Bench::new(&on_capsule("(unreachable)"));
    assert!(bad.capsule(b"x").end.is_err());
    for _ in 0..3 {
        assert_eq!(good.capsule_said(b"x"), [3_000_000]);
        assert!(bad.capsule(b"x").end.is_err());
    }
}

#[test]
fn stop_is_the_last_event() {
    let mut b = Bench::new(r#"(func (export "on_stop") (call $say (i32.const 5)))"#);
    assert_eq!(b.said(Event::Stop), [5]);
    assert_eq!(b.deliver(Event::Boot).end, Err(GuestFault::Ended));
    let mut b = Bench::new("");
    for event in [Event::Boot, Event::Warning(abi::Resource::Memory), Event::Stop] {
        assert!(b.said(event).is_empty());
    }
}

#[test]
fn warnings_are_passed_on() {
    let mut b = Bench::new(r#"(func (export "on_warning") (param $r i32) (call $say (local.get $r)))"#);
    assert_eq!(b.said(Event::Warning(abi::Resource::Bandwidth)), [2]);
}

#[test]
fn a_module_that_declares_otherwise_does_not_start() {
    let description = describe::Description {
        name: "other".into(),
        capsules: vec![],
        events: Events::default(),
        session: false,
        params: vec![],
        companions: vec![],
    };
    let bytes: String = description.encode().iter().map(|b| format!("\\{b:02x}")).collect();
    let engine = engine(Metering::Epoch);
    let code = compile(engine, &module(&format!("(@custom \"bees\" \"{bytes}\")"))).unwrap();
    assert_eq!(code.admitted().description, Some(description));
    let account = Account::root(1 << 20);
    let setup = setup(engine, &account, BufPool::new(1), |_| ());
    let error = Sandbox::start(engine, std::slice::from_ref(&code), setup, NOW).err();
    assert_eq!(error, Some(StartError::Description(describe::Error::Differs("name"))));
    assert_eq!(account.used(), 0);
}

#[test]
fn what_does_not_fit_into_its_budget_does_not_start() {
    let engine = engine(Metering::Epoch);
    let code = compile(engine, &module("")).unwrap();
    for kib in [1, 100] {
        let account = Account::root(kib << 10);
        let setup = setup(engine, &account, BufPool::new(1), |_| ());
        let error = Sandbox::start(engine, std::slice::from_ref(&code), setup, NOW).err().unwrap();
        assert!(matches!(error, StartError::Memory(_) | StartError::Instantiate(_)), "{error}");
        assert_eq!(account.used(), 0);
    }
    // Segments outside the memory.
    let outside = module("(data (i32.const 65535) \"ab\")");
    let code = compile(engine, &outside).unwrap();
    let account = Account::root(1 << 20);
    let setup = setup(engine, &account, BufPool::new(1), |_| ());
    assert!(matches!(
        Sandbox::start(engine, std::slice::from_ref(&code), setup, NOW),
        Err(StartError::Instantiate(_))
    ));
    assert_eq!(account.used(), 0);
}

#[test]
fn without_packet_buffers_a_timer_still_runs() {
    let mut b = Bench::with(
        Metering::Epoch,
        r#"(func (export "on_boot") (param $c i32) (call $say (local.get $c)))"#,
        |_| (),
    );
    let taken: Vec<_> = std::iter::from_fn(|| b.buffers.take()).collect();
    let outcome = b.deliver(Event::Boot);
    assert_eq!((outcome.end, outcome.refused.memory), (Ok(()), 1));
    assert_eq!(b.numbers(), [0]);
    drop(taken);
    assert!(b.account.used() < (1 << 20) - BLOCK as u64);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    /// Whatever became of the module, its team starts or does not, and gives everything back.
    #[test]
    fn changed_modules_harm_nobody(
        edits in proptest::collection::vec((0u8..8, proptest::prelude::any::<proptest::sample::Index>()), 1..5)
    ) {
        let text = module(&on_capsule(&say(&["(call $capsule_len (local.get $c))", "(local.get $from)"])));
        let mut bytes = wat::parse_str(text).unwrap();
        for (bit, at) in edits {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let engine = engine(Metering::Fuel);
        if let Ok(code) = engine.compile(wire::id::PartHash::of(&bytes), &bytes) {
            let (account, buffers) = (Account::root(1 << 20), BufPool::new(8));
            let setup = setup(engine, &account, buffers.clone(), |s| s.budget.event = Duration::from_millis(5));
            if let Ok(mut sandbox) = Sandbox::start(engine, &[Arc::new(code)], setup, NOW) {
                sandbox.deliver(NOW, Event::Boot);
                let packet = buffers.copy_of(b"xyz").unwrap();
                sandbox.deliver(NOW, Event::Capsule { protocol: 0, kind: 0, from: Some(NeighborId(5)), packet });
                sandbox.deliver(NOW, Event::Stop);
            }
            proptest::prop_assert_eq!((account.used(), buffers.lent()), (0, 0));
            proptest::prop_assert!(account.peak() <= 1 << 20);
        }
    }
}
