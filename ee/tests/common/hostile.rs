//! Guests that mean harm.

use super::guest::{self, Flow};

/// What a hostile guest does, and how it shows.
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// Its handlers.
    pub handlers: String,
    /// A part of the reason for its end; `None` if it is merely kept in its bounds.
    pub end: Option<&'static str>,
    /// A counter of the node that must move.
    pub counter: Option<&'static str>,
}

impl Attack {
    /// The flow; its limits are as high as limits go.
    pub fn flow(&self) -> Flow {
        guest::flow(self.name, guest::module(&self.handlers), |body| {
            let most = guest::all(u16::MAX).with(wire::limits::Operation::Derives, 0);
            body.protocols[0].capsules[0].limits = most;
        })
    }
}

/// Does `work` from a timer once a millisecond, the first time after a tenth of a second.
fn timer(work: &str) -> String {
    format!(
        "(func (export \"on_boot\") (param i32)
            (drop (call $timer_set (i64.const 100000) (i64.const 1000) (i64.const 0))))
        (func (export \"on_timer\") (param $c i32) (param $t i32) (param $token i64) (local $n i32) {work})"
    )
}

/// `call` for `$n` from `count` down to 1.
fn times(count: u32, call: &str) -> String {
    format!(
        "(local.set $n (i32.const {count}))
        (loop $again (drop {call})
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
    )
}

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let attack = |name, handlers: String, end, counter| Attack { name, handlers, end, counter };
    let deadline = (Some("guest: guest ran past the deadline"), Some("guest_overruns"));
    let trap = |why| (Some(why), Some("guest_traps"));
    let hood = "(call $cap_lookup (i32.const 64) (i32.const 12))";
    let mut all = vec![
        attack("loops", timer("(loop $l (br $l))"), deadline.0, deadline.1),
        attack(
            "loops-at-boot",
            "(func (export \"on_boot\") (param i32) (loop $l (br $l)))".into(),
            deadline.0,
            deadline.1,
        ),
        attack("calls-for-ever", timer("(loop $l (drop (call $clock_mono)) (br $l))"), deadline.0, deadline.1),
        attack(
            "hashes-for-ever",
            timer("(loop $l (drop (call $hash_sha256 (i32.const 0) (i32.const 60000) (i32.const 0))) (br $l))"),
            deadline.0,
            deadline.1,
        ),
        attack(
            "recurses",
            format!("(func $deep (param i64) (call $deep (local.get 0)) (call $deep (local.get 0))) {}", timer("(call $deep (i64.const 1))")),
            Some("guest: guest trapped"),
            Some("guest_traps"),
        ),
        attack("divides-by-zero", timer("(drop (i32.div_u (i32.const 1) (local.get $n)))"), trap("divide by zero").0, trap("").1),
        attack("reads-outside", timer("(drop (i32.load (i32.const 0x7ffffff0)))"), trap("out of bounds").0, trap("").1),
        attack(
            "calls-nothing",
            format!("(table 4 4 funcref) (type $t (func)) {}", timer("(call_indirect (type $t) (i32.const 3))")),
            Some("guest: guest trapped"),
            Some("guest_traps"),
        ),
        attack(
            "grows",
            timer(&times(64, "(memory.grow (i32.const 1))")),
            Some("kept asking"),
            Some("teams_struck_out"),
        ),
        attack(
            "stores",
            timer(&times(
                1000,
                "(block (result i32) (i32.store (i32.const 512) (local.get $n))
                    (call $cache_put (i32.const 512) (i32.const 4) (i32.const 1024) (i32.const 30000) (i32.const 60000)))",
            )),
            Some("guest:"),
            Some("teams_struck_out"),
        ),
        attack(
            "timers",
            timer(&times(500, "(call $timer_set (i64.const 1) (i64.const 1) (i64.const 7))")),
            Some("kept asking for what it may not have"),
            Some("teams_struck_out"),
        ),
        attack(
            "timer-storm",
            format!(
                "(func (export \"on_boot\") (param $c i32) (local $n i32) {}) (func (export \"on_timer\") (param i32 i32 i64))",
                times(64, "(call $timer_set (i64.const 1) (i64.const 1) (i64.const 7))")
            ),
            None,
            None,
        ),
        attack(
            // Earlier each time: every event plans anew when the flow must be looked at.
            "earlier-and-earlier",
            format!(
                "(global $at (mut i64) (i64.const 3600000000)) (global $old (mut i32) (i32.const 0)) {}",
                timer(
                    "(drop (call $timer_cancel (global.get $old)))
                    (global.set $at (i64.sub (global.get $at) (i64.const 10000)))
                    (global.set $old (call $timer_set (global.get $at) (i64.const 0) (i64.const 0)))"
                )
            ),
            None,
            None,
        ),
        attack(
            "floods",
            timer(&format!(
                "(drop (call $capsule_resize (local.get $c) (i32.const 1400))) {}",
                times(600, &format!("(call $capsule_multicast (local.get $c) {hood} (i32.const 1))"))
            )),
            None,
            None,
        ),
        attack(
            "logs",
            timer(&times(1000, "(call $log (i32.const 0) (i32.const 0) (i32.const 4000))")),
            None,
            Some("log_suppressed"),
        ),
        attack(
            "lies-about-handles",
            timer(&times(
                200,
                "(i32.add (i32.add (call $capsule_send (local.get $n) (local.get $n) (i32.const 0))
                    (call $capsule_multicast (local.get $c) (i32.mul (local.get $n) (i32.const 32768)) (i32.const 0)))
                    (i32.add (call $timer_cancel (i32.mul (local.get $n) (i32.const 32769)))
                    (call $session_close (i32.mul (local.get $n) (i32.const 32768)))))",
            )),
            None,
            None,
        ),
        attack("stops-never", "(func (export \"on_stop\") (loop $l (br $l)))".into(), None, None),
        attack("traps-at-the-end", "(func (export \"on_stop\") (unreachable))".into(), None, None),
        attack(
            "fills-the-lru",
            timer(&times(
                2000,
                "(block (result i32) (i32.store (i32.const 512) (local.get $n))
                    (call $cache_put (i32.const 512) (i32.const 4) (i32.const 512) (i32.const 1) (i32.const 1)))",
            )),
            None,
            None,
        ),
    ];
    for (name, call) in LIES {
        all.push(Attack {
            name,
            handlers: timer(&format!("(drop {call})")),
            end: Some("kept asking for what it may not have"),
            counter: Some("teams_struck_out"),
        });
    }
    all
}

/// A pointer or a length outside the memory, in every function that takes one.
const LIES: [(&str, &str); 28] = [
    ("lie-read", "(call $capsule_read (local.get $c) (i32.const 0) (i32.const -1) (i32.const 2))"),
    ("lie-write", "(call $capsule_write (local.get $c) (i32.const 0) (i32.const 65535) (i32.const 2))"),
    ("lie-lookup", "(call $cap_lookup (i32.const 0) (i32.const -1))"),
    (
        "lie-name",
        "(call $cap_name (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 65536) (i32.const 1))",
    ),
    (
        "lie-list",
        "(call $neighborhood_list (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 65533) (i32.const 1))",
    ),
    (
        "lie-integrity",
        "(block (result i32)
            (drop (call $neighborhood_list (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0) (i32.const 1)))
            (call $integrity_set (i32.load (i32.const 0)) (i32.const -1) (i32.const 32)))",
    ),
    (
        "lie-put-key",
        "(call $cache_put (i32.const -4) (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 1))",
    ),
    (
        "lie-put-value",
        "(call $cache_put (i32.const 0) (i32.const 4) (i32.const 1) (i32.const 65536) (i32.const 1))",
    ),
    ("lie-get", "(call $cache_get (i32.const 65535) (i32.const 4) (i32.const 1) (i32.const 1))"),
    ("lie-refresh", "(call $cache_refresh (i32.const 65535) (i32.const 4) (i32.const 1))"),
    ("lie-remove", "(call $cache_remove (i32.const 65535) (i32.const 4))"),
    ("lie-node-name", "(call $node_name (i32.const 0x7fffffff) (i32.const 0x7fffffff))"),
    ("lie-hash", "(call $flow_hash (i32.const 65505))"),
    ("lie-param", "(call $param_get (i32.const -1) (i32.const 1) (i32.const 0) (i32.const 1))"),
    ("lie-data", "(call $data_read (i32.const -1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 1))"),
    ("lie-random", "(call $random (i32.const 65535) (i32.const 2))"),
    ("lie-log", "(call $log (i32.const 0) (i32.const 65535) (i32.const 2))"),
    ("lie-sha", "(call $hash_sha256 (i32.const 0) (i32.const 1) (i32.const 65505))"),
    ("lie-md5", "(call $hash_md5 (i32.const 65535) (i32.const 2) (i32.const 0))"),
    ("lie-group", "(call $neighborhood_make (i32.const 65533) (i32.const 1))"),
    (
        "lie-hmac",
        "(call $hmac_sha256 (i32.const 0) (i32.const 65537) (i32.const 0) (i32.const 1) (i32.const 0))",
    ),
    (
        "lie-check",
        "(call $signature_check (i32.const 0) (i32.const 65505) (i32.const 32) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 64))",
    ),
    (
        "lie-seal",
        "(call $aead_seal (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 65505))",
    ),
    (
        "lie-unseal",
        "(call $aead_open (i32.const 65493) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 0))",
    ),
    ("lie-pair", "(call $seal_make (i32.const 65529))"),
    (
        "lie-envelope",
        "(call $envelope_make (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0) (i32.const 0) (i32.const 65521))",
    ),
    ("lie-open", "(call $envelope_open (i32.const 65521) (i32.const 0) (i32.const 0) (i32.const 0))"),
    ("lie-void", "(call $envelope_void (i32.const -1))"),
];
