//! Capsule objects: what is done with them, and their limits.

use super::*;

#[test]
fn a_capsule_is_read_rewritten_and_relayed_in_its_buffer() {
    let body = say(&[
        "(local.get $len)",
        "(i32.load8_u (i32.const 64))",
        "(call $capsule_len (local.get $c))",
        "(call $capsule_kind (local.get $c))",
        "(call $capsule_read (local.get $c) (i32.const 1) (i32.const 2048) (i32.const 100))",
        "(i32.load8_u (i32.const 2048))",
        "(call $capsule_write (local.get $c) (i32.const 0) (i32.const 1024) (i32.const 2))",
        "(call $capsule_write (local.get $c) (i32.const 2) (i32.const 1024) (i32.const 2))",
        "(call $capsule_resize (local.get $c) (i32.const 5))",
        "(call $capsule_send (local.get $c) (call $cap_lookup (i32.const 288) (i32.const 10)) (i32.const 0))",
    ]);
    let mut b = Bench::new(&on_capsule(&body));
    let packet = b.buffers.copy_of(b"xyz").unwrap();
    let address = packet.as_ptr();
    assert_eq!(b.deliver(Event::Capsule { protocol: 0, kind: 0, from: None, packet }).end, Ok(()));
    let mut effects: Vec<_> = b.sandbox.effects().collect();
    // The last thing the guest did was to say that it had sent.
    let Some(Effect::Log { text, .. }) = effects.pop() else { panic!("{effects:?}") };
    assert_eq!(text, "0");
    let Some(Effect::Send { to: NeighborId(2), kind: 0, payload, .. }) = effects.pop() else {
        panic!("{effects:?}")
    };
    assert_eq!((&payload[..], payload.as_ptr()), (&b"01z\0\0"[..], address));
    let said: Vec<i32> = effects
        .iter()
        .map(|e| if let Effect::Log { text, .. } = e { text.parse().unwrap() } else { panic!() })
        .collect();
    assert_eq!(said, [3, i32::from(b'x'), 3, 0, 2, i32::from(b'y'), 0, CODE(Error::NoRoom), 0]);
}

#[test]
fn limits_are_kept_and_a_refused_operation_costs_nothing() {
    let send = "(call $capsule_send (local.get $c) (local.get $from) (i32.const 1))";
    let back = "(call $capsule_return (local.get $c) (i32.const 1))";
    let left = "(call $capsule_left (local.get $c) (i32.const 1))";
    let body = say(&[
        left,
        "(call $capsule_send (local.get $c) (i32.const 77) (i32.const 1))",
        "(call $capsule_send (local.get $c) (local.get $from) (i32.const 4))",
        left,
        send,
        send,
        send,
        left,
        back,
        back,
        back,
        "(call $capsule_left (local.get $c) (i32.const 4))",
    ]);
    let mut b = Bench::new(&on_capsule(&body));
    let depleted = CODE(Error::Depleted);
    let expected = [
        2,
        CODE(Error::BadHandle),
        CODE(Error::BadArgument),
        2,
        0,
        0,
        depleted,
        0,
        0,
        0,
        depleted,
        CODE(Error::BadArgument),
    ];
    assert_eq!(b.capsule_said(b"x"), expected);
    // The next event replenishes.
    assert_eq!(b.capsule_said(b"x"), expected);
}

#[test]
fn derivation_keeps_to_the_declared_graph() {
    let derive = |from: &str, kind: u8| format!("(call $capsule_derive {from} (i32.const {kind}))");
    let (a, b_, c) = (derive("(local.get $c)", 0), derive("(local.get $c)", 1), derive("(local.get $c)", 2));
    let body = format!(
        "{} (local.set $d {c}) {} (local.set $d {b_}) {}",
        say(&[&a, &derive("(local.get $c)", 9)]),
        say(&[
            "(call $capsule_kind (local.get $d))",
            "(call $capsule_left (local.get $d) (i32.const 0))",
            &derive("(local.get $d)", 1),
            "(call $capsule_return (local.get $d) (i32.const 0))",
            "(call $capsule_return (local.get $d) (i32.const 0))",
        ]),
        say(&["(call $capsule_send (local.get $d) (local.get $from) (i32.const 0))", &c]),
    );
    let mut b = Bench::new(&on_capsule(&body));
    let expected = [
        CODE(Error::NotPermitted),
        CODE(Error::BadArgument),
        2,
        1,
        CODE(Error::NotPermitted),
        0,
        CODE(Error::BadHandle),
        CODE(Error::Depleted),
        CODE(Error::Depleted),
    ];
    assert_eq!(b.capsule_said(b"x"), expected);
    b.capsule(b"x");
    assert_eq!(b.sends(), [(5, 2, vec![])]);
}

#[test]
fn a_circle_of_derivations_needs_a_grant_and_ends_at_its_depth() {
    let circle = |depth: Option<u32>| {
        move |s: &mut Setup| {
            Arc::make_mut(&mut s.tuple).body.protocols[0].capsules[0].derives = vec![0];
            s.grant.cycle_depth = depth;
        }
    };
    let body = format!(
        "(local.set $d (local.get $c)) (loop $again
            (local.set $d (call $capsule_derive (local.get $d) (i32.const 0)))
            (call $say (i32.gt_s (local.get $d) (i32.const 0)))
            (br_if $again (i32.gt_s (local.get $d) (i32.const 0))))
        {}",
        say(&["(local.get $d)"])
    );
    let mut b = Bench::with(Metering::Epoch, &on_capsule(&body), circle(Some(3)));
    assert_eq!(b.capsule_said(b"x"), [1, 1, 1, 0, CODE(Error::Depleted)]);
    let engine = engine(Metering::Epoch);
    let code = compile(engine, &module("")).unwrap();
    let start = |edit: &dyn Fn(&mut Setup)| {
        let setup = setup(engine, &Account::root(1 << 20), BufPool::new(1), edit);
        Sandbox::start(engine, std::slice::from_ref(&code), setup, NOW).err()
    };
    assert_eq!(start(&circle(None)), Some(StartError::Cycle { kind: 0 }));
    // A granted depth of 3 allows 6 + 2 * (6 + 2 * (6 + 2 * 6)) operations.
    let worst = 6 + 2 * (6 + 2 * (6 + 2 * 6));
    let limited = |s: &mut Setup| {
        circle(Some(3))(s);
        s.grant.max_emissions = Some(worst - 1);
    };
    assert_eq!(start(&limited), Some(StartError::Emissions { worst, granted: worst - 1 }));
}

#[test]
fn clamps_lower_limits() {
    let body = say(&[
        "(call $capsule_left (local.get $c) (i32.const 1))",
        "(call $capsule_left (local.get $c) (i32.const 2))",
    ]);
    let mut b = Bench::with(Metering::Epoch, &on_capsule(&body), |s| {
        let upper = Limits::NONE.with(Operation::Sends, 1).with(Operation::Multicasts, 9);
        s.grant.clamps.push(wire::grant::Clamp { protocol: 0, kind: 0, upper });
    });
    assert_eq!(b.capsule_said(b"x"), [1, 2]);
}

#[test]
fn multicast_counts_once_and_reaches_all() {
    let all = "(local.set $all (call $cap_lookup (i32.const 256) (i32.const 12)))";
    let cast =
        |flags: u8| format!("(call $capsule_multicast (local.get $c) (local.get $all) (i32.const {flags}))");
    let body = format!(
        "{all} {}",
        say(&[&cast(1), "(call $capsule_left (local.get $c) (i32.const 2))", &cast(2), &cast(1)])
    );
    let mut b = Bench::new(&on_capsule(&body));
    assert_eq!(b.capsule_said(b"x"), [2, 1, 1, CODE(Error::BadHandle)]);
    b.capsule(b"x");
    let x = || b"x".to_vec();
    assert_eq!(b.sends(), [(5, 0, x()), (2, 0, x()), (2, 0, x())]);
    b.sandbox.neighbor_gone(NeighborId(2));
    assert_eq!(b.capsule_said(b"x"), [1, 1, 0, CODE(Error::BadHandle)]);
    assert_eq!(b.buffers.lent(), 0);
}

#[test]
fn bandwidth_and_payload_bounds_are_kept() {
    let send = "(call $capsule_send (local.get $c) (local.get $from) (i32.const 1))";
    let body = say(&[
        send,
        "(call $capsule_resize (local.get $c) (i32.const 1001))",
        send,
        "(call $capsule_left (local.get $c) (i32.const 1))",
        "(call $capsule_resize (local.get $c) (i32.const 60000))",
        "(call $neighbor_max_payload (local.get $from))",
    ]);
    let mut b = Bench::new(&on_capsule(&body));
    let payload = [0; 1000];
    // The burst of 4000 bytes carries three frames of 1040.
    for _ in 0..3 {
        assert_eq!(b.capsule_said(&payload), [0, 0, CODE(Error::TooLarge), 1, CODE(Error::NoRoom), 1000]);
    }
    assert_eq!(
        b.capsule_said(&payload),
        [CODE(Error::NoBandwidth), 0, CODE(Error::TooLarge), 2, CODE(Error::NoRoom), 1000]
    );
}

#[test]
fn capsule_handles_die_with_their_event() {
    let body = format!(
        "{} (global.set $kept (local.get $c))",
        say(&[
            "(call $capsule_len (global.get $kept))",
            "(call $capsule_send (global.get $kept) (local.get $from) (i32.const 0))"
        ])
    );
    let mut b = Bench::new(&on_capsule(&body));
    for _ in 0..3 {
        assert_eq!(b.capsule_said(b"x"), [CODE(Error::BadHandle); 2]);
    }
}
