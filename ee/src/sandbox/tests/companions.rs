//! Companions: calls down and up, what each protocol has for itself, and every way round it that a hostile one
//! could try.

use super::*;
use crate::cap::BACKGROUND;
use wire::tuple::{Companion, Coupling, Provider};

/// Each of the team's modules serves the one before it, under the interface `tree`.
fn chain(metering: Metering, modules: &[String], edit: impl FnOnce(&mut Setup)) -> Bench {
    let modules: Vec<String> = modules.iter().map(|m| module(&with_names(m))).collect();
    chain_of(metering, &modules, edit)
}

/// The same of whole modules.
fn chain_of(metering: Metering, modules: &[String], edit: impl FnOnce(&mut Setup)) -> Bench {
    let engine = engine(metering);
    let account = Account::root(8 << 20);
    let buffers = BufPool::new(32);
    let code: Vec<_> = modules.iter().map(|m| compile(engine, m).unwrap()).collect();
    let setup = setup(engine, &account, buffers.clone(), |setup| {
        let mut tuple = (*setup.tuple).clone();
        let main = tuple.body.protocols[0].clone();
        tuple.body.protocols = (0..modules.len()).map(|_| main.clone()).collect();
        for at in 1..modules.len() {
            let (interface, provider) = ("tree".into(), Provider::Tuple(at as u8));
            let companion = Companion { interface, coupling: Coupling::Tuple, provider };
            tuple.body.protocols[at - 1].companions = vec![companion];
        }
        tuple.check().unwrap();
        setup.tuple = Arc::new(tuple);
        setup.budget.memory = 8 << 20;
        edit(setup);
    });
    let sandbox = Sandbox::start(engine, &code, setup, NOW).unwrap();
    Bench { sandbox, account, buffers }
}

fn with_names(handlers: &str) -> String {
    format!(
        r#"(data (i32.const 2048) "companion/tree")
        (data (i32.const 2064) "parent")
        (data (i32.const 2080) "key")
        (func $tree (result i32) (call $cap_lookup (i32.const 2048) (i32.const 14)))
        (func $parent (result i32) (call $cap_lookup (i32.const 2064) (i32.const 6)))
        (func $b (result i32) (call $cap_lookup (i32.const 272) (i32.const 10)))
        (func $ask (param $op i32) (result i32)
            (call $companion_call (call $tree) (local.get $op) (i32.const 1024) (i32.const 16)))
        {handlers}"#
    )
}

/// A companion whose handler has this body; it must leave an `i32`.
fn companion(body: &str) -> String {
    format!(
        r#"(global $calls (mut i32) (i32.const 0))
        (func (export "on_companion") (param $c i32) (param $from i32) (param $op i32) (param $len i32) (result i32)
            (local $d i32)
            (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
            {body})"#
    )
}

fn pair(main: &str, other: &str) -> Bench {
    chain(Metering::Epoch, &[on_capsule(main), companion(other)], |_| ())
}

fn code(error: Error) -> i32 {
    error.code()
}

#[test]
fn bytes_go_down_and_come_back() {
    // The companion answers with the message's length times 100 and what it was asked, and replies with bytes 4..12.
    let other = "(drop (call $companion_read (i32.const 4) (i32.const 3000) (i32.const 8)))
        (drop (call $companion_reply (i32.const 3000) (i32.const 8)))
        (i32.add (i32.mul (local.get $len) (i32.const 100)) (local.get $op))";
    let main = say(&[
        "(call $ask (i32.const 7))",
        "(call $companion_answer (i32.const 0) (i32.const 4000) (i32.const 64))",
        "(i32.load8_u (i32.const 4000))",
        "(i32.load8_u (i32.const 4007))",
        "(call $companion_answer (i32.const 6) (i32.const 4000) (i32.const 64))",
        "(call $companion_read (i32.const 0) (i32.const 4000) (i32.const 64))",
        "(call $companion_reply (i32.const 0) (i32.const 4))",
    ]);
    for metering in [Metering::Epoch, Metering::Fuel] {
        let mut b = chain(metering, &[on_capsule(&main), companion(other)], |_| ());
        let said = [1607, 8, i32::from(b'4'), i32::from(b'b'), 2, 0, code(Error::NotFound)];
        assert_eq!(b.capsule_said(b"x"), said);
        let after = b.account.used();
        // The answer lives no longer than its event, and nothing is kept of it.
        assert_eq!(b.capsule_said(b"x"), said);
        assert_eq!(b.account.used(), after);
    }
}

/// The first bytes come in the inbox, as with every handler.
#[test]
fn the_inbox_has_the_first_bytes() {
    let mut b = pair(&say(&["(call $ask (i32.const 0))"]), "(i32.load8_u (i32.const 67))");
    assert_eq!(b.capsule_said(b"x"), [i32::from(b'3')]);
}

#[test]
fn each_has_its_own_state() {
    let put =
        "(call $cache_put (i32.const 2080) (i32.const 3) (i32.const 1024) (i32.const 4) (i32.const 1000))";
    let get = "(call $cache_get (i32.const 2080) (i32.const 3) (i32.const 4000) (i32.const 16))";
    let main = say(&[put, "(call $ask (i32.const 0))", get, "(call $ask (i32.const 0))", get]);
    // The companion sees nothing of the other's entry, and puts one of another length.
    let put =
        "(call $cache_put (i32.const 2080) (i32.const 3) (i32.const 1024) (i32.const 9) (i32.const 1000))";
    let mut b = pair(&main, &format!("(local.set $d {get}) (drop {put}) (local.get $d)"));
    assert_eq!(b.capsule_said(b"x"), [0, code(Error::NotFound), 4, 9, 4]);
}

/// Every number that the caller could pass names nothing in the callee, and the other way round.
#[test]
fn what_one_has_the_other_does_not_reach() {
    let everything = |number: &str| {
        format!(
            "(call $say (call $capsule_len {number}))
            (call $say (call $capsule_send {number} (call $b) (i32.const 0)))
            (call $say (call $timer_cancel {number}))
            (call $say (call $session_reply {number} (i32.const 0) (i32.const 4)))
            (call $say (call $session_close {number}))
            (call $say (call $neighbor_max_payload {number}))"
        )
    };
    // A session is open, a timer runs, and a capability is there; the companion is told their numbers.
    let main = r#"(global $timer (mut i32) (i32.const 0))
        (global $session (mut i32) (i32.const 0))
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (global.set $session (local.get $s))
            (drop (call $timer_cancel (global.get $timer)))
            (global.set $timer (call $timer_set (i64.const 1000) (i64.const 0) (i64.const 5)))
            (drop (call $b))
            (drop (call $ask (local.get $c)))
            (drop (call $ask (global.get $session)))
            (drop (call $ask (global.get $timer)))
            (call $say (call $capsule_len (local.get $c)))
            (call $say (call $timer_cancel (global.get $timer))))"#
        .to_string();
    let other = companion(&format!("{} (i32.const 0)", everything("(local.get $op)")));
    let mut b = chain(Metering::Epoch, &[main, other], |_| ());
    let said = b.said(Event::Session { session: SessionId(3), what: SessionInput::Open(Outlet::stream()) });
    let (bad, none) = (code(Error::BadHandle), &said[..18]);
    // Numbers of one table may be another's: the companion's own call capsule has the number of the caller's.
    assert!(none.iter().enumerate().all(|(at, n)| *n == bad || at < 2), "{said:?}");
    assert_eq!(said[18..], [0, 0], "the caller's are as they were");
}

/// However often it is called, one event brings a companion one capsule, with the limits of the tuple.
#[test]
fn calls_do_not_multiply_limits() {
    let send = "(call $capsule_send (local.get $c) (call $b) (i32.const 1))";
    let main = "(loop $l (call $say (call $ask (i32.const 0)))
        (local.set $d (i32.add (local.get $d) (i32.const 1))) (br_if $l (i32.lt_u (local.get $d) (i32.const 5))))";
    let mut b = pair(main, send);
    let depleted = code(Error::Depleted);
    assert_eq!(b.capsule_said(b"x"), [0, 0, depleted, depleted, depleted]);
    // With the next event comes the next.
    assert_eq!(b.capsule_said(b"x"), [0, 0, depleted, depleted, depleted]);
    // What was sent without being kept is gone.
    let mut b = pair(main, &send.replace("(i32.const 1)", "(i32.const 0)"));
    let bad = code(Error::BadHandle);
    assert_eq!(b.capsule_said(b"x"), [0, bad, bad, bad, bad]);
}

/// A companion's capsules are its own: named by its place in the tuple.
#[test]
fn capsules_come_to_and_from_the_companion() {
    let up = "(drop (call $capsule_send (local.get $c) (call $b) (i32.const 0)))
        (drop (call $companion_call (call $parent) (local.get $len) (i32.const 1024) (i32.const 2)))";
    let main = "(call $say (local.get $op)) (call $say (call $companion_call (local.get $from) (i32.const 1) (i32.const 0) (i32.const 1))) (i32.const 0)";
    let mut b = chain(Metering::Epoch, &[companion(main), on_capsule(up)], |_| ());
    let packet = b.buffers.copy_of(b"hello").unwrap();
    let event = Event::Capsule { protocol: 1, kind: 0, from: Some(NeighborId(5)), packet };
    assert_eq!(b.deliver(event).end, Ok(()));
    let effects: Vec<Effect> = b.sandbox.effects().collect();
    assert!(
        matches!(effects[0], Effect::Send { protocol: 1, kind: 0, to: NeighborId(5), .. }),
        "{effects:?}"
    );
    // Its parent heard of it, and may not call it back in the middle of that.
    let said = |e: &Effect| if let Effect::Log { text, .. } = e { text.parse().ok() } else { None };
    assert_eq!(effects.iter().filter_map(said).collect::<Vec<i32>>(), [5, code(Error::Unavailable)]);
}

#[test]
fn nobody_is_entered_twice_and_nothing_leads_out_of_the_tree() {
    let down = companion("(i32.add (call $ask (local.get $op)) (i32.const 1))");
    // The last one calls its parent, which is in the middle of its call, and a companion that it does not have.
    let last = companion(
        "(call $say (call $companion_call (local.get $from) (i32.const 0) (i32.const 0) (i32.const 0)))
        (call $say (call $companion_call (call $parent) (i32.const 0) (i32.const 0) (i32.const 0)))
        (call $say (call $tree))
        (i32.const 40)",
    );
    let main = say(&["(call $ask (i32.const 0))"]);
    let mut b = chain(Metering::Epoch, &[on_capsule(&main), down.clone(), down, last], |_| ());
    let (busy, none) = (code(Error::Unavailable), code(Error::NotFound));
    assert_eq!(b.capsule_said(b"x"), [busy, busy, none, 42]);
    // From the main protocol up there is nothing.
    let main = say(&["(call $companion_call (call $parent) (i32.const 0) (i32.const 0) (i32.const 0))"]);
    assert_eq!(pair(&main, "(i32.const 0)").capsule_said(b"x"), [none]);
}

#[test]
fn lies_about_messages_are_refused() {
    let call = |ptr: &str, len: &str| {
        format!("(call $companion_call (call $tree) (i32.const 0) (i32.const {ptr}) (i32.const {len}))")
    };
    let main = say(&[
        &call("65535", "2"),
        &call("-1", "4"),
        &call("0", "16385"),
        &call("0", "16384"),
        "(call $companion_call (i32.const 12345) (i32.const 0) (i32.const 0) (i32.const 0))",
        "(call $companion_call (call $b) (i32.const 0) (i32.const 0) (i32.const 0))",
    ]);
    let mut b = pair(&main, "(call $companion_reply (i32.const 0) (i32.const 16385))");
    let (pointer, large, bad) = (code(Error::BadPointer), code(Error::TooLarge), code(Error::BadHandle));
    assert_eq!(b.capsule_said(b"x"), [pointer, pointer, large, large, bad, bad]);
}

/// Whatever depth it happens at: the whole event has done nothing, and the team ends.
#[test]
fn a_trap_three_frames_deep_ends_all() {
    let down = companion(
        "(drop (call $capsule_send (local.get $c) (call $b) (i32.const 1))) (call $ask (i32.const 0))",
    );
    let main =
        "(drop (call $capsule_send (local.get $c) (call $b) (i32.const 1))) (drop (call $ask (i32.const 0)))";
    for (last, fault) in
        [("unreachable", None), ("(loop $l (br $l)) unreachable", Some(GuestFault::Deadline))]
    {
        for metering in [Metering::Epoch, Metering::Fuel] {
            let modules = [on_capsule(main), down.clone(), down.clone(), companion(last)];
            let mut b = chain(metering, &modules, |setup| setup.budget.event = Duration::from_millis(20));
            let outcome = b.capsule(b"x");
            match &fault {
                Some(fault) => assert_eq!(outcome.end.as_ref().unwrap_err(), fault),
                None => assert!(matches!(outcome.end, Err(GuestFault::Trap(_))), "{outcome:?}"),
            }
            assert!(b.sandbox.has_ended() && b.sandbox.effects().next().is_none());
            assert_eq!(b.capsule(b"x").end, Err(GuestFault::Ended));
            let Bench { sandbox, account, buffers } = b;
            drop(sandbox);
            assert_eq!((account.used(), buffers.lent()), (0, 0));
        }
    }
}

/// Recursion from guest to guest has the same stack as any other.
#[test]
fn depth_has_an_end() {
    let main = say(&["(call $ask (i32.const 0))"]);
    let deep = companion(
        "(if (result i32) (i32.lt_u (local.get $op) (i32.const 1)) (then (call $ask (i32.const 0))) (else (i32.const 1)))",
    );
    let mut modules = vec![on_capsule(&main)];
    modules.extend((1..15).map(|_| deep.clone()));
    modules.push(companion("(i32.const 99)"));
    let mut b = chain(Metering::Epoch, &modules, |_| ());
    assert_eq!(b.capsule_said(b"x"), [99]);
}

#[test]
fn a_companion_can_be_kept_from_a_neighbor() {
    let deny = "(call $companion_deny (call $tree) (call $b))";
    let main = say(&[
        "(call $ask (i32.const 0))",
        deny,
        "(call $ask (i32.const 0))",
        "(call $neighbor_max_payload (call $b))",
    ]);
    let down = companion("(call $say (call $b)) (call $ask (i32.const 0))");
    let last = companion("(call $b)");
    let mut b = chain(Metering::Epoch, &[on_capsule(&main), down, last], |_| ());
    let said = b.capsule_said(b"x");
    let none = code(Error::NotFound);
    assert!(said[0] > 0 && said[1] > 0, "both know it at first: {said:?}");
    assert_eq!(said[2..], [0, none, none, 1000], "then neither does; the main protocol still does");
    // Nor does what that neighbor sends come to it.
    let packet = b.buffers.copy_of(b"hello").unwrap();
    let event = Event::Capsule { protocol: 1, kind: 0, from: Some(NeighborId(5)), packet };
    assert_eq!(b.said(event), [] as [i32; 0]);
}

/// Nor by a capability that it had before, by a neighborhood, by one of its own making, or by a duplicate.
#[test]
fn nothing_leads_to_a_denied_neighbor() {
    let deny = "(drop (call $companion_deny (call $tree) (call $b)))";
    let main = say(&["(call $ask (i32.const 0))"]);
    let main = on_capsule(&format!("{main} {deny} {}", say(&["(call $ask (i32.const 1))"])));
    let other = format!(
        r#"(global $had (mut i32) (i32.const 0)) (global $group (mut i32) (i32.const 0))
        (global $copy (mut i32) (i32.const 0))
        {}"#,
        companion(
            "(if (i32.eqz (local.get $op)) (then
                (global.set $had (call $b))
                (global.set $copy (call $cap_duplicate (global.get $had) (i32.const -1)))
                (i32.store (i32.const 512) (global.get $had))
                (global.set $group (call $neighborhood_make (i32.const 512) (i32.const 1)))
                (return (i32.const 0))))
            (call $say (call $capsule_send (local.get $c) (global.get $had) (i32.const 1)))
            (call $say (call $capsule_send (local.get $c) (global.get $copy) (i32.const 1)))
            (call $say (call $capsule_multicast (local.get $c) (global.get $group) (i32.const 1)))
            (call $say (call $integrity_set (global.get $had) (i32.const 1024) (i32.const 16)))
            (call $say (call $neighborhood_list
                (call $cap_lookup (i32.const 256) (i32.const 12)) (i32.const 512) (i32.const 4)))
            (call $say (call $capsule_multicast (local.get $c)
                (call $cap_lookup (i32.const 256) (i32.const 12)) (i32.const 1)))
            (i32.const 0)"
        )
    );
    let mut b = chain(Metering::Epoch, &[main, other], |_| ());
    assert_eq!(b.capsule(b"x").end, Ok(()));
    let effects: Vec<Effect> = b.sandbox.effects().collect();
    let sent = effects.iter().filter_map(|e| if let Effect::Send { to, .. } = e { Some(to.0) } else { None });
    assert_eq!(sent.collect::<Vec<_>>(), [2], "only the other neighbor: {effects:?}");
    let said = |e: &Effect| if let Effect::Log { text, .. } = e { text.parse().ok() } else { None };
    let said: Vec<i32> = effects.iter().filter_map(said).collect();
    assert!(said[1..3].iter().all(|n| *n < 0) && said[4] < 0, "{said:?}");
    assert_eq!(said[5..7], [1, 1], "one neighbor is left, and was reached");
}

/// The next neighbor that has the place of one that was denied is another one; the one that was denied is not, wherever it
/// is found again.
#[test]
fn who_is_denied_is_the_neighbor_not_its_place() {
    let deny = "(drop (call $companion_deny (call $tree) (call $b)))";
    let main = on_capsule(&format!(
        "(if (i32.eq (i32.load8_u (i32.const 64)) (i32.const 100)) (then {deny})) {}",
        say(&["(call $ask (i32.const 0))"])
    ));
    let other = format!(
        r#"(data (i32.const 2100) "neighbor/y") (global $had (mut i32) (i32.const 0))
        {}"#,
        companion(
            "(if (i32.gt_s (call $b) (i32.const 0)) (then (global.set $had (call $b))))
            (call $say (call $b))
            (call $say (call $cap_lookup (i32.const 2100) (i32.const 10)))
            (call $say (call $neighbor_max_payload (global.get $had)))
            (i32.const 0)"
        )
    );
    let is = |id: u16, name: &str| NeighborRef {
        id: NeighborId(id),
        name: name.into(),
        link: LinkId(0),
        max_payload: 900,
        overhead: 40,
        shortest: 0,
    };
    let (none, void) = (code(Error::NotFound), code(Error::BadHandle));
    let mut b = chain(Metering::Epoch, &[main, other], |_| ());
    let said = b.capsule_said(b"x");
    assert!(said[0] > 0 && said[1..3] == [none, 1000], "{said:?}");
    assert_eq!(b.capsule_said(b"d")[..3], [none, none, void]);
    // Back in its place, or found in another one, it is still denied.
    for id in [5, 9] {
        assert!(b.sandbox.neighbor_found(&is(id, "b")));
        assert_eq!(b.capsule_said(b"x")[..3], [none, none, void], "{id}");
        b.sandbox.neighbor_left(NeighborId(id));
    }
    // Another one is known, and what led to the one before leads nowhere.
    assert!(b.sandbox.neighbor_found(&is(5, "y")));
    let said = b.capsule_said(b"x");
    assert!(said[0] == none && said[1] > 0 && said[2] == void, "{said:?}");
}

/// A key for marks makes every protocol's payloads shorter: the flow's capsules have them whoever sends.
#[test]
fn marks_take_room_from_all() {
    let set = "(call $integrity_set (call $b) (i32.const 1024) (i32.const 16))";
    let room = "(call $neighbor_max_payload (call $b))";
    let main = say(&[
        room,
        "(call $ask (i32.const 0))",
        room,
        "(call $integrity_clear (call $b))",
        room,
        "(call $ask (i32.const 1))",
    ]);
    let other = format!("(if (result i32) (local.get $op) (then {room}) (else {set}))");
    let said = pair(&main, &other).capsule_said(b"x");
    let less = 1000 - wire::integrity::OPTION_LEN as i32;
    assert_eq!(said, [1000, 0, less, 0, 1000, 1000]);
}

/// An answer is as long as it is, whatever the caller has room for.
#[test]
fn answers_longer_than_the_buffer_are_cut() {
    let other = "(call $companion_reply (i32.const 0) (i32.const 16384))";
    let main = say(&[
        "(call $ask (i32.const 0))",
        "(call $companion_answer (i32.const 0) (i32.const 65532) (i32.const 4))",
        "(call $companion_answer (i32.const 16380) (i32.const 4000) (i32.const 100))",
        "(call $companion_answer (i32.const 16384) (i32.const 4000) (i32.const 100))",
        "(call $companion_answer (i32.const -1) (i32.const 4000) (i32.const 100))",
        "(call $companion_answer (i32.const 0) (i32.const 65532) (i32.const 5))",
    ]);
    assert_eq!(pair(&main, other).capsule_said(b"x"), [0, 4, 4, 0, 0, code(Error::BadPointer)]);
}

/// The stack that each of them uses is of one bound.
#[test]
fn recursion_in_every_protocol_ends_in_a_trap() {
    // Goes down so many functions deep, then to the next protocol; the last one never turns back.
    let deep = |turns: &str, then: &str| {
        format!(
            r#"(func $deep (param $n i32) (result i32)
                (if (result i32) (i32.lt_u (local.get $n) (i32.const {turns}))
                    (then (i32.add (call $deep (i32.add (local.get $n) (i32.const 1))) (i32.const 1)))
                    (else {then})))"#
        )
    };
    let down =
        format!("{} {}", deep("300", "(call $ask (i32.const 0))"), companion("(call $deep (i32.const 0))"));
    let last = format!("{} {}", deep("-1", "(i32.const 0)"), companion("(call $deep (i32.const 0))"));
    for background in [false, true] {
        let mut modules = vec![on_capsule("(drop (call $ask (i32.const 0)))")];
        modules.extend((0..14).map(|_| down.clone()));
        modules.push(last.clone());
        let mut b = chain(Metering::Epoch, &modules, |setup| {
            setup.budget.event = Duration::from_secs(5);
            if background {
                setup.grant.privileges = vec![BACKGROUND.into()];
            }
        });
        let mut outcome = b.capsule(b"x");
        while outcome.more {
            outcome = b.sandbox.resume(NOW);
        }
        assert!(matches!(outcome.end, Err(GuestFault::Trap(_))), "{outcome:?}");
        let Bench { sandbox, account, buffers } = b;
        drop(sandbox);
        assert_eq!((account.used(), buffers.lent()), (0, 0));
    }
}

#[test]
fn boot_begins_with_the_last_and_stop_with_the_first() {
    let handlers = |n: i32| {
        format!(
            r#"(func (export "on_boot") (param $c i32) (call $say (i32.const {n})) (call $say (call $capsule_left (local.get $c) (i32.const 1))))
            (func (export "on_stop") (call $say (i32.const {n})))"#
        )
    };
    let modules: Vec<String> = (0..3).map(handlers).collect();
    let mut b = chain(Metering::Epoch, &modules, |_| ());
    assert_eq!(b.said(Event::Boot), [2, 2, 1, 2, 0, 2]);
    assert_eq!(b.said(Event::Stop), [0, 1, 2]);
}

/// Timers and expiries come to whom they belong to.
#[test]
fn timers_find_their_owner() {
    let put = "(call $cache_put (i32.const 2080) (i32.const 3) (i32.const 1024) (i32.const 4) (i32.const 1))";
    let handlers = |n: i32| {
        format!(
            r#"(func (export "on_timer") (param $c i32) (param $t i32) (param $token i64) (call $say (i32.const {n})))
            (func (export "on_expiry") (param $len i32) (result i32) (call $say (i32.const {})) (i32.const 0))"#,
            n + 10
        )
    };
    let set = format!("(drop (call $timer_set (i64.const 10) (i64.const 0) (i64.const 0))) (drop {put})");
    let main = format!("{} {}", on_capsule(&format!("{set} (drop (call $ask (i32.const 0)))")), handlers(0));
    let other = format!("{} {}", companion(&format!("{set} (i32.const 0)")), handlers(1));
    let mut b = chain(Metering::Epoch, &[main, other], |_| ());
    assert_eq!(b.capsule_said(b"x"), [] as [i32; 0]);
    let later = Now::mono(NOW.mono + Duration::from_millis(5));
    let mut said = Vec::new();
    while let Some(event) = b.sandbox.due(later) {
        assert_eq!(b.sandbox.deliver(later, event).end, Ok(()));
        said.extend(b.numbers());
    }
    said.sort();
    assert_eq!(said, [0, 1, 10, 11]);
}

/// On fibers calls are suspended with everything else, and go on.
#[test]
fn long_work_in_a_companion_is_done_in_slices() {
    let spin = |turns: u32| {
        format!(
            "(local.set $d (i32.const 0)) (loop $long (local.set $d (i32.add (local.get $d) (i32.const 1)))
            (br_if $long (i32.lt_u (local.get $d) (i32.const {turns}))))"
        )
    };
    for (metering, turns) in [(Metering::Epoch, 400_000_000), (Metering::Fuel, 20_000)] {
        let other = companion(&format!("{} (i32.const 5)", spin(turns)));
        let main = on_capsule(&say(&["(call $ask (i32.const 0))"]));
        let mut b = chain(metering, &[main, other], |setup| {
            setup.grant.privileges = vec![BACKGROUND.into()];
            setup.budget.event = Duration::from_micros(300);
            setup.budget.background = Duration::from_secs(1000);
        });
        for _ in 0..2 {
            let mut outcome = b.capsule(b"x");
            let mut slices = 1;
            while outcome.more {
                outcome = b.sandbox.resume(NOW);
                slices += 1;
            }
            assert_eq!(outcome.end, Ok(()), "{metering:?}");
            assert!(slices > 2, "{metering:?}: {slices}");
            assert_eq!(b.numbers(), [5]);
        }
        // Ended in the middle of a call, it gives everything back.
        assert!(b.capsule(b"x").more);
        let Bench { sandbox, account, buffers } = b;
        drop(sandbox);
        assert_eq!((account.used(), buffers.lent()), (0, 0));
    }
}

/// What all protocols do at boot is charged, on a fiber as without one.
#[test]
fn boot_on_a_fiber_is_charged_for_all_protocols() {
    let boot = r#"(func (export "on_boot") (param $c i32) (local $d i32)
        (loop $l (local.set $d (i32.add (local.get $d) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $d) (i32.const 1000)))))"#;
    let units = |protocols: usize, event_us: u64, background: bool| {
        let modules = vec![boot.to_string(); protocols];
        let mut b = chain(Metering::Fuel, &modules, |setup| {
            setup.budget.event = Duration::from_micros(event_us);
            if background {
                setup.grant.privileges = vec![BACKGROUND.into()];
                setup.budget.background = Duration::from_secs(1000);
            }
        });
        let mut outcome = b.deliver(Event::Boot);
        let mut units = outcome.units;
        while outcome.more {
            outcome = b.sandbox.resume(NOW);
            units += outcome.units;
        }
        assert_eq!(outcome.end, Ok(()));
        units
    };
    let one = units(1, 1_000_000, false);
    assert!(one > 1000 && units(3, 1_000_000, false) == 3 * one);
    // In one slice, and in many.
    assert_eq!([1_000_000, 300].map(|event_us| units(3, event_us, true)), [3 * one; 2]);
}

/// One that is called and calls nobody imports nothing that waits; it is in the same store as those that do.
#[test]
fn a_companion_that_calls_nobody_runs_on_a_fiber_too() {
    let silent = r#"(module (memory (export "memory") 1 1) (func (export "bees_abi_1"))
        (global (export "bees_inbox") i32 (i32.const 0))
        (func (export "on_companion") (param i32 i32 i32 i32) (result i32) (local.get 3)))"#;
    for metering in [Metering::Epoch, Metering::Fuel] {
        let main = module(&with_names(&on_capsule(&say(&["(call $ask (i32.const 0))"]))));
        let mut b = chain_of(metering, &[main, silent.into()], |setup| {
            setup.grant.privileges = vec![BACKGROUND.into()];
            setup.budget.background = Duration::from_secs(1000);
        });
        let mut outcome = b.capsule(b"x");
        while outcome.more {
            outcome = b.sandbox.resume(NOW);
        }
        assert_eq!((outcome.end, b.numbers()), (Ok(()), vec![16]), "{metering:?}");
    }
}

/// Who used much of an event's time is all of its protocols together, measured against all of that time.
#[test]
fn a_team_is_near_its_time_when_all_protocols_together_are() {
    let boot = r#"(func (export "on_boot") (param i32) (local $n i32)
        (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $n) (i32.const 3000)))))"#;
    let booted = |micros: u64| {
        let two = [boot.to_string(), companion("(i32.const 0)") + boot];
        let mut b = chain(Metering::Fuel, &two, |setup| setup.budget.event = Duration::from_micros(micros));
        let outcome = b.deliver(Event::Boot);
        assert_eq!(outcome.end, Ok(()));
        (outcome.units, outcome.near)
    };
    let (units, _) = booted(1_000_000);
    let micros = |percent: u64| units * 100 / percent;
    // The second had only what the first one left, which it used most of.
    assert_eq!((booted(micros(65)), booted(micros(85))), ((units, false), (units, true)));
}
