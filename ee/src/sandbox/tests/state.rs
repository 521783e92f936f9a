//! What a team has beside capsules: capabilities, soft state, timers, sessions; and lies about all of it.

use super::*;

#[test]
fn lies_about_pointers_are_refused_and_counted() {
    let read = |ptr: &str, len: &str| {
        format!("(call $capsule_read (local.get $c) (i32.const 0) (i32.const {ptr}) (i32.const {len}))")
    };
    let lies = [
        read("65535", "2"),
        read("-1", "1"),
        read("0", "-1"),
        read("0", "65537"),
        read("0x7fffffff", "0x7fffffff"),
        "(call $cap_lookup (i32.const 65530) (i32.const 12))".into(),
        "(call $flow_hash (i32.const 65505))".into(),
        "(call $hash_sha256 (i32.const 0) (i32.const 1) (i32.const -32))".into(),
        "(call $hash_sha256 (i32.const -1) (i32.const 1) (i32.const 0))".into(),
        "(call $log (i32.const 0) (i32.const -1) (i32.const 1))".into(),
        "(call $cache_put (i32.const -1) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 5))".into(),
        "(call $cache_put (i32.const 0) (i32.const 1) (i32.const -1) (i32.const 1) (i32.const 5))".into(),
        "(call $random (i32.const 65536) (i32.const 1))".into(),
        "(call $neighborhood_list (call $cap_lookup (i32.const 256) (i32.const 12)) (i32.const 65530) (i32.const -1))".into(),
    ];
    let lies: Vec<&str> = lies.iter().map(String::as_str).collect();
    let mut b = Bench::new(&on_capsule(&say(&lies)));
    let outcome = b.capsule(b"x");
    assert_eq!(outcome.end, Ok(()));
    assert_eq!(usize::from(outcome.refused.pointers), lies.len());
    assert_eq!(b.numbers(), vec![CODE(Error::BadPointer); lies.len()]);
}

#[test]
fn capabilities() {
    let lookup = |at: u32, len: u32| format!("(call $cap_lookup (i32.const {at}) (i32.const {len}))");
    let (b_cap, all, sensors) = (lookup(272, 10), lookup(256, 12), lookup(304, 7));
    let body = format!(
        "{} (local.set $d (call $cap_duplicate (local.get $from) (i32.const 1))) {}",
        say(&[
            &format!("(i32.eq {b_cap} (local.get $from))"),
            &format!("(i32.eq {all} {all})"),
            &format!("(i32.gt_s {sensors} (i32.const 0))"),
            &lookup(1024, 3),
            &format!("(call $capsule_send (local.get $c) {all} (i32.const 1))"),
            &format!("(call $capsule_multicast (local.get $c) {b_cap} (i32.const 1))"),
            &format!("(call $capsule_send (local.get $c) {sensors} (i32.const 1))"),
            "(call $cap_name (local.get $from) (i32.const 2048) (i32.const 4))",
            "(i32.load (i32.const 2048))",
            &format!("(call $neighborhood_list {all} (i32.const 2048) (i32.const 9))"),
            "(i32.eq (i32.load (i32.const 2048)) (local.get $from))",
        ]),
        say(&[
            "(call $capsule_send (local.get $c) (local.get $d) (i32.const 1))",
            "(call $cap_name (local.get $d) (i32.const 2048) (i32.const 4))",
            "(call $neighbor_max_payload (local.get $d))",
            "(call $cap_duplicate (local.get $d) (i32.const 7))",
            "(call $cap_duplicate (local.get $from) (i32.const 8))",
            "(call $cap_drop (local.get $d))",
            "(call $cap_drop (local.get $d))",
        ])
    );
    let mut b = Bench::new(&on_capsule(&body));
    let (bad, not) = (CODE(Error::BadHandle), CODE(Error::NotPermitted));
    let neig = i32::from_le_bytes(*b"neig");
    let expected = [
        1,
        1,
        1,
        CODE(Error::NotFound),
        bad,
        bad,
        bad,
        10,
        neig,
        2,
        1,
        0,
        not,
        not,
        not,
        CODE(Error::BadArgument),
        0,
        bad,
    ];
    assert_eq!(b.capsule_said(b"x"), expected);
}

#[test]
fn a_neighbor_that_is_gone_is_gone_at_once() {
    let keep = format!(
        "(if (i32.eqz (global.get $kept)) (then (global.set $kept (call $cap_lookup (i32.const 272) (i32.const 10))))) {}",
        say(&[
            "(call $capsule_send (local.get $c) (global.get $kept) (i32.const 1))",
            "(call $cap_lookup (i32.const 272) (i32.const 10))",
            "(call $cap_name (global.get $kept) (i32.const 0) (i32.const 0))",
            "(local.get $from)",
            "(call $capsule_return (local.get $c) (i32.const 1))",
        ])
    );
    let mut b = Bench::new(&on_capsule(&keep));
    assert_eq!(b.capsule_said(b"x")[0], 0);
    b.sandbox.neighbor_gone(NeighborId(5));
    let (bad, none) = (CODE(Error::BadHandle), CODE(Error::NotFound));
    assert_eq!(b.capsule_said(b"x"), [bad, none, bad, 0, none]);
}

#[test]
fn soft_state() {
    let put = |key: u32, len: u32, ttl: u32| {
        format!(
            "(call $cache_put (i32.const {key}) (i32.const {len}) (i32.const 1024) (i32.const 16) (i32.const {ttl}))"
        )
    };
    let get = |key: u32| {
        format!("(call $cache_get (i32.const {key}) (i32.const 4) (i32.const 2048) (i32.const 4))")
    };
    let body = say(&[
        &get(1024),
        &put(1024, 4, 100),
        &get(1024),
        "(i32.load8_u (i32.const 2051))",
        &put(1024, 65, 100),
        &put(1024, 0, 100),
        &put(1024, 4, 0),
        "(call $cache_refresh (i32.const 1024) (i32.const 4) (i32.const 7))",
        "(call $cache_remove (i32.const 1024) (i32.const 4))",
        "(call $cache_remove (i32.const 1024) (i32.const 4))",
        "(call $cache_refresh (i32.const 1024) (i32.const 4) (i32.const 7))",
        &put(1028, 4, 100),
    ]);
    let mut b = Bench::new(&on_capsule(&body));
    let (none, bad) = (CODE(Error::NotFound), CODE(Error::BadArgument));
    assert_eq!(b.capsule_said(b"x"), [none, 0, 16, i32::from(b'3'), bad, bad, bad, 0, 0, none, none, 0]);
    assert_eq!(b.sandbox.stats().cache_entries, 1);
    let over = Instant(NOW.mono.0 + 100_000);
    assert_eq!(b.sandbox.deadline(), Some(over));
    // Without on_expiry the entry just goes.
    assert!(b.sandbox.due(Now::mono(over)).is_none());
    assert_eq!((b.sandbox.stats().cache_entries, b.sandbox.deadline()), (0, None));
}

#[test]
fn on_expiry_may_keep_an_entry() {
    let handlers = r#"
        (global $times (mut i32) (i32.const 1))
        (func (export "on_boot") (param i32)
            (call $say (call $cache_put (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 10))))
        (func (export "on_expiry") (param $len i32) (result i32)
            (call $say (local.get $len))
            (call $say (i32.load8_u (i32.const 65)))
            (global.set $times (i32.sub (global.get $times) (i32.const 1)))
            (select (i32.const 20) (i32.const 0) (i32.eqz (global.get $times))))"#;
    let mut b = Bench::new(handlers);
    assert_eq!(b.said(Event::Boot), [0]);
    for (at, entries) in [(10_000, 1), (30_000, 0)] {
        let now = Now::mono(Instant(NOW.mono.0 + at));
        let event = b.sandbox.due(now).expect("the entry is over");
        assert_eq!(b.sandbox.deliver(now, event).end, Ok(()));
        assert_eq!(b.numbers(), [4, i32::from(b'1')]);
        assert_eq!(b.sandbox.stats().cache_entries, entries);
    }
    assert_eq!(b.sandbox.deadline(), None);
}

#[test]
fn timers_fire_with_their_token() {
    let handlers = r#"
        (func (export "on_boot") (param i32)
            (call $say (i32.gt_s (call $timer_set (i64.const 5) (i64.const 0) (i64.const 42)) (i32.const 0)))
            (call $say (i32.gt_s (call $timer_set (i64.const 0) (i64.const 10) (i64.const 43)) (i32.const 0)))
            (call $say (call $timer_set (i64.const 5) (i64.const 0) (i64.const 0)))
            (call $say (call $timer_set (i64.const -1) (i64.const 0) (i64.const 0)))
            (call $say (call $timer_cancel (i32.const 1))))
        (func (export "on_timer") (param $c i32) (param $t i32) (param $token i64)
            (call $say (i32.wrap_i64 (local.get $token)))
            (call $say (call $capsule_left (local.get $c) (i32.const 1)))
            (call $say (call $timer_cancel (local.get $t))))"#;
    let mut b = Bench::with(Metering::Epoch, handlers, |s| s.grant.min_timer_us = Some(1000));
    let outcome = b.deliver(Event::Boot);
    assert_eq!(outcome.refused.timers, 1);
    assert_eq!(b.numbers(), [1, 1, CODE(Error::NoRoom), CODE(Error::BadArgument), CODE(Error::BadHandle)]);
    let at = Instant(NOW.mono.0 + 1000);
    assert_eq!(b.sandbox.deadline(), Some(at));
    let first = b.sandbox.due(Now::mono(at)).unwrap();
    assert_eq!(b.said(first), [42, 2, CODE(Error::BadHandle)]);
    let second = b.sandbox.due(Now::mono(at)).unwrap();
    let third = b.sandbox.due(Now::mono(Instant(at.0 + 1000))).unwrap();
    assert_eq!(b.said(second), [43, 2, 0]);
    // Cancelled while its next firing waited in the queue.
    assert_eq!(b.said(third), [0; 0]);
    assert_eq!((b.sandbox.deadline(), b.sandbox.stats().timers), (None, 0));
}

#[test]
fn sessions() {
    let handlers = r#"
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (call $say (local.get $what))
            (call $say (local.get $len))
            (call $say (i32.gt_s (local.get $c) (i32.const 0)))
            (if (i32.eq (local.get $what) (i32.const 1)) (then
                (call $say (call $session_read (local.get $s) (i32.const 2) (i32.const 2048) (i32.const 100)))
                (call $say (call $session_reply (local.get $s) (i32.const 2048) (i32.const 3)))
                (call $say (call $session_reply (local.get $s) (i32.const 0) (i32.const 16385)))
                (call $say (call $session_reply (i32.const 5) (i32.const 0) (i32.const 1)))))
            (if (i32.eq (i32.load8_u (i32.const 64)) (i32.const 113)) (then
                (call $say (call $session_close (local.get $s)))
                (call $say (call $session_close (local.get $s))))))"#;
    let mut b = Bench::new(handlers);
    let event = |session, what| Event::Session { session: SessionId(session), what };
    let packet = |text: &str| SessionInput::Packet(text.as_bytes().to_vec());
    assert_eq!(b.said(event(8, SessionInput::Open(Outlet::stream()))), [0, 0, 1]);
    assert_eq!(b.deliver(event(8, packet("hello"))).end, Ok(()));
    let effects: Vec<_> = b.sandbox.effects().collect();
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Reply { session: SessionId(8), packet } if packet == b"llo"))
    );
    // There is room for one.
    assert_eq!(b.deliver(event(9, SessionInput::Open(Outlet::stream()))).refused.sessions, 1);
    assert!(matches!(b.sandbox.effects().next(), Some(Effect::CloseSession { session: SessionId(9) })));
    assert_eq!(b.said(event(9, packet("x"))), [0; 0]);
    let bad = CODE(Error::BadHandle);
    assert_eq!(b.said(event(8, packet("q"))), [1, 1, 1, 0, 0, CODE(Error::TooLarge), bad, 0, bad]);
    assert_eq!(b.said(event(8, SessionInput::Close)), [0; 0]);
    // The inbox still has the last packet, so the guest closes this one as well.
    assert_eq!(b.said(event(9, SessionInput::Open(Outlet::stream()))), [0, 0, 1, 0, bad]);
    assert_eq!(b.sandbox.stats().sessions, 0);
}

#[test]
fn the_node_and_the_flow() {
    let body = say(&[
        "(call $node_name (i32.const 2048) (i32.const 2))",
        "(i32.load16_u (i32.const 2048))",
        "(call $flow_hash (i32.const 2048))",
        "(i32.load8_u (i32.const 2079))",
        "(call $param_get (i32.const 320) (i32.const 4) (i32.const 2048) (i32.const 64))",
        "(i32.load8_u (i32.const 2048))",
        "(call $param_get (i32.const 320) (i32.const 3) (i32.const 2048) (i32.const 64))",
        "(call $data_read (i32.const 336) (i32.const 3) (i32.const 8) (i32.const 2048) (i32.const 64))",
        "(i32.load8_u (i32.const 2048))",
        "(call $data_read (i32.const 336) (i32.const 2) (i32.const 8) (i32.const 2048) (i32.const 64))",
        "(i32.wrap_i64 (call $clock_mono))",
        "(i32.wrap_i64 (call $clock_wall))",
        "(call $random (i32.const 2048) (i32.const 8))",
        "(call $hash_md5 (i32.const 0) (i32.const 0) (i32.const 2048))",
        "(i32.load (i32.const 2048))",
        "(call $hash_sha256 (i32.const 0) (i32.const 0) (i32.const 2048))",
        "(i32.load (i32.const 2048))",
        "(i32.wrap_i64 (call $budget_left (i32.const 2)))",
        "(i64.gt_s (call $budget_left (i32.const 0)) (i64.const 100000))",
        "(i64.gt_s (call $budget_left (i32.const 1)) (i64.const 100000))",
        "(i32.wrap_i64 (call $budget_left (i32.const 4)))",
        "(i32.wrap_i64 (call $budget_left (i32.const 13)))",
        "(call $log (i32.const 4) (i32.const 0) (i32.const 0))",
    ]);
    let mut b = Bench::new(&on_capsule(&body));
    let none = CODE(Error::NotFound);
    let word = |w: [u8; 4]| i32::from_le_bytes(w);
    let expected = [
        4,
        i32::from(u16::from_le_bytes(*b"he")),
        0,
        7,
        5,
        i32::from(b'e'),
        none,
        2,
        i32::from(b'8'),
        none,
        1_000_000,
        1_700_000_000,
        0,
        0,
        word([0xd4, 0x1d, 0x8c, 0xd9]),
        0,
        word([0xe3, 0xb0, 0xc4, 0x42]),
        4000,
        1,
        1,
        2,
        CODE(Error::BadArgument),
        CODE(Error::BadArgument),
    ];
    assert_eq!(b.capsule_said(b"x"), expected);
    let mut b = Bench::with(
        Metering::Epoch,
        &on_capsule(&say(&[
            "(call $random (i32.const 0) (i32.const 1))",
            "(i32.wrap_i64 (call $clock_wall))",
        ])),
        |s| s.seed = None,
    );
    let packet = b.buffers.copy_of(b"x").unwrap();
    let outcome =
        b.sandbox.deliver(Now::mono(Instant(1)), Event::Capsule { protocol: 0, kind: 0, from: None, packet });
    assert_eq!(outcome.end, Ok(()));
    assert_eq!(b.numbers(), [CODE(Error::Unavailable); 2]);
}
