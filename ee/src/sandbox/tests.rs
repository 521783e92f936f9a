//! Guests of all kinds, honest and hostile, against the real engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use nodeos::buf::BLOCK;
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, CapsuleType, Credentials, Events, Param, Part, Request, VERSION, Validity};

use super::*;
use crate::abi::Error;
use crate::engine::CompileError;

/// Counts what the guest is told to: every look is one unit, so that tests need no clock.
#[derive(Default)]
struct Looks(AtomicU64);

impl Meter for Looks {
    fn count(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
    fn per_micro(&self) -> u64 {
        1
    }
}

/// Ticks for ever while armed, from its own thread, far more often than needed: spurious ticks.
struct Ticker {
    armed: Arc<Mutex<bool>>,
}

impl Ticker {
    fn new(engine: &Engine) -> Arc<Self> {
        let armed = Arc::new(Mutex::new(false));
        let (flag, handle) = (Arc::downgrade(&armed), engine.interrupter_handle());
        std::thread::spawn(move || {
            while let Some(armed) = flag.upgrade() {
                if *armed.lock().unwrap() {
                    handle.interrupt();
                }
                drop(armed);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        Arc::new(Self { armed })
    }
}

impl Interrupter for Ticker {
    fn arm(&self, _: Duration) {
        *self.armed.lock().unwrap() = true;
    }
    fn disarm(&self) {
        *self.armed.lock().unwrap() = false;
    }
}

fn engine(metering: Metering) -> &'static Engine {
    static EPOCH: LazyLock<Engine> = LazyLock::new(|| Engine::new(Metering::Epoch).unwrap());
    static FUEL: LazyLock<Engine> = LazyLock::new(|| Engine::new(Metering::Fuel).unwrap());
    if metering == Metering::Epoch { &EPOCH } else { &FUEL }
}

/// A store for a look at the linker.
pub(crate) fn store(engine: &Engine) -> Store<TeamState> {
    let setup = setup(engine, &Account::root(1 << 20), BufPool::new(4), |_| ());
    let kinds = Kinds::new(setup.tuple.main(), 0, &setup.grant).unwrap();
    Store::new(engine.raw(), state(engine, setup, kinds, NOW).unwrap())
}

const NOW: Now = Now { mono: Instant(1_000_000), wall: Some(1_700_000_000) };

fn setup(engine: &Engine, account: &Account, buffers: BufPool, edit: impl FnOnce(&mut Setup)) -> Setup {
    let kind = |name: &str, limits, derives| CapsuleType { name: name.into(), limits, derives };
    let all = |n| Operation::ALL.iter().fold(Limits::NONE, |l, op| l.with(*op, n));
    let main = wire::tuple::Protocol {
        name: "test".into(),
        code: Part::of(b"module").unwrap(),
        data: vec![],
        // 0: anything twice; 1: nothing; 2: whatever 0 derives and may itself not derive.
        capsules: vec![
            kind("A", all(2), vec![1, 2]),
            kind("B", Limits::NONE, vec![]),
            kind("C", Limits::NONE.with(Operation::Sends, 1).with(Operation::Returns, 1), vec![]),
        ],
        events: Events { boot: Some(0), timer: Some(0), session: Some(0) },
        session: true,
        params: vec![Param { name: "hops".into(), value: b"eight".to_vec() }],
        companions: vec![],
    };
    let body = Body {
        version: VERSION,
        nonce: [0; 16],
        protocols: vec![main],
        request: Request::default(),
        validity: Validity::default(),
        replaces: None,
        extensions: vec![],
    };
    let neighbor = |n: u16, name: &str, link| NeighborRef {
        id: NeighborId(n),
        name: name.into(),
        link: LinkId(link),
        max_payload: 1000,
        overhead: 40,
    };
    let mut setup = Setup {
        tuple: Arc::new(Tuple { body, credentials: Credentials::None }),
        hash: TupleHash([7; 32]),
        grant: Grant::everything(Default::default(), vec!["sensors".into()]),
        budget: Budget {
            memory: 1 << 20,
            event: Duration::from_millis(200),
            rate: 1_000_000,
            burst: 4000,
            queue: 8,
            timers: 2,
            cache_entries: 4,
            sessions: 1,
            shares: 100,
        },
        account: account.clone(),
        node_name: "here".into(),
        buffers,
        neighbors: vec![neighbor(5, "b", 0), neighbor(2, "c", 1)],
        links: 2,
        data: vec![("map".into(), (&b"0123456789"[..]).into())],
        meter: Arc::new(Looks::default()),
        interrupter: Ticker::new(engine),
        seed: Some([9; 32]),
        shared: Shared::default(),
    };
    edit(&mut setup);
    setup
}

fn compile(engine: &Engine, text: &str) -> Result<Arc<Code>, CompileError> {
    let module = wat::parse_str(text).expect("the test's module is well-formed");
    engine.compile(wire::id::PartHash::of(&module), &module).map(Arc::new)
}

/// A module with all imports, one page of memory, `data` at 256, and the given handlers. Handlers report by
/// `$say`, which logs a number as 4 bytes, so that a test sees every result.
fn module(handlers: &str) -> String {
    let imports: String = abi::IMPORTS
        .iter()
        .map(|s| {
            let ty = |t: &abi::Ty| if *t == abi::Ty::I64 { " i64" } else { " i32" };
            let list = |kind: &str, l: &[abi::Ty]| {
                if l.is_empty() {
                    String::new()
                } else {
                    format!("({kind}{})", l.iter().map(ty).collect::<String>())
                }
            };
            let name = s.name;
            format!(
                "(import \"bees\" \"{name}\" (func ${name} {} {}))\n",
                list("param", s.params),
                list("result", s.results)
            )
        })
        .collect();
    format!(
        r#"(module {imports}
        (memory (export "memory") 1 4)
        (global (export "bees_abi") i32 (i32.const 1))
        (global (export "bees_inbox") i32 (i32.const 64))
        (data (i32.const 256) "neighborhood")
        (data (i32.const 272) "neighbor/b")
        (data (i32.const 288) "neighbor/c")
        (data (i32.const 304) "sensors")
        (data (i32.const 320) "hops")
        (data (i32.const 336) "map")
        (data (i32.const 1024) "0123456789abcdef")
        (func $say (param $n i32) (local $at i32) (local $u i32)
            ;; decimal digits into 200..., then log
            (local.set $at (i32.const 220))
            (local.set $u (local.get $n))
            (if (i32.lt_s (local.get $n) (i32.const 0)) (then (local.set $u (i32.sub (i32.const 0) (local.get $n)))))
            (loop $digit
                (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $u) (i32.const 10))))
                (local.set $u (i32.div_u (local.get $u) (i32.const 10)))
                (br_if $digit (local.get $u)))
            (if (i32.lt_s (local.get $n) (i32.const 0)) (then
                (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                (i32.store8 (local.get $at) (i32.const 45))))
            (drop (call $log (i32.const 2) (local.get $at) (i32.sub (i32.const 220) (local.get $at)))))
        {handlers})"#
    )
}

struct Bench {
    sandbox: Sandbox,
    account: Account,
    buffers: BufPool,
}

impl Bench {
    fn new(handlers: &str) -> Self {
        Self::with(Metering::Epoch, handlers, |_| ())
    }

    fn with(metering: Metering, handlers: &str, edit: impl FnOnce(&mut Setup)) -> Self {
        let engine = engine(metering);
        let account = Account::root(1 << 20);
        let buffers = BufPool::new(32);
        let code = compile(engine, &module(handlers)).unwrap();
        let setup = setup(engine, &account, buffers.clone(), edit);
        let sandbox = Sandbox::start(engine, &code, setup, NOW).unwrap();
        Self { sandbox, account, buffers }
    }

    fn deliver(&mut self, event: Event) -> Outcome {
        self.sandbox.deliver(NOW, event)
    }

    fn capsule(&mut self, payload: &[u8]) -> Outcome {
        let packet = self.buffers.copy_of(payload).unwrap();
        self.deliver(Event::Capsule { kind: 0, from: Some(NeighborId(5)), packet })
    }

    /// What the guest said, as numbers, after an event that must end well.
    fn said(&mut self, event: Event) -> Vec<i32> {
        let outcome = self.deliver(event);
        assert_eq!(outcome.end, Ok(()));
        self.numbers()
    }

    fn capsule_said(&mut self, payload: &[u8]) -> Vec<i32> {
        assert_eq!(self.capsule(payload).end, Ok(()));
        self.numbers()
    }

    fn numbers(&mut self) -> Vec<i32> {
        self.sandbox
            .effects()
            .filter_map(|e| if let Effect::Log { text, .. } = e { Some(text.parse().unwrap()) } else { None })
            .collect()
    }

    fn sends(&mut self) -> Vec<(u16, u8, Vec<u8>)> {
        self.sandbox
            .effects()
            .filter_map(|e| match e {
                Effect::Send { to, kind, payload } => {
                    assert!(payload.headroom() >= 64);
                    Some((to.0, kind, payload.to_vec()))
                }
                _ => None,
            })
            .collect()
    }
}

const CODE: fn(Error) -> i32 = Error::code;

/// Wraps statements into `on_capsule`.
fn on_capsule(body: &str) -> String {
    format!(
        r#"(global $kept (mut i32) (i32.const 0))
        (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
            (local $d i32) (local $all i32) {body})"#
    )
}

fn say(expressions: &[&str]) -> String {
    expressions.iter().map(|e| format!("(call $say {e})\n")).collect()
}

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
    assert_eq!(b.deliver(Event::Capsule { kind: 0, from: None, packet }).end, Ok(()));
    let mut effects: Vec<_> = b.sandbox.effects().collect();
    // The last thing the guest did was to say that it had sent.
    let Some(Effect::Log { text, .. }) = effects.pop() else { panic!("{effects:?}") };
    assert_eq!(text, "0");
    let Some(Effect::Send { to: NeighborId(2), kind: 0, payload }) = effects.pop() else {
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
        Sandbox::start(engine, &code, setup, NOW).err()
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
    assert_eq!(b.said(event(8, SessionInput::Open)), [0, 0, 1]);
    assert_eq!(b.deliver(event(8, packet("hello"))).end, Ok(()));
    let effects: Vec<_> = b.sandbox.effects().collect();
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Reply { session: SessionId(8), packet } if packet == b"llo"))
    );
    // There is room for one.
    assert_eq!(b.deliver(event(9, SessionInput::Open)).refused.sessions, 1);
    assert!(matches!(b.sandbox.effects().next(), Some(Effect::CloseSession { session: SessionId(9) })));
    assert_eq!(b.said(event(9, packet("x"))), [0; 0]);
    let bad = CODE(Error::BadHandle);
    assert_eq!(b.said(event(8, packet("q"))), [1, 1, 1, 0, 0, CODE(Error::TooLarge), bad, 0, bad]);
    assert_eq!(b.said(event(8, SessionInput::Close)), [0; 0]);
    // The inbox still has the last packet, so the guest closes this one as well.
    assert_eq!(b.said(event(9, SessionInput::Open)), [0, 0, 1, 0, bad]);
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
        "(i32.wrap_i64 (call $budget_left (i32.const 3)))",
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
    let outcome = b.sandbox.deliver(Now::mono(Instant(1)), Event::Capsule { kind: 0, from: None, packet });
    assert_eq!(outcome.end, Ok(()));
    assert_eq!(b.numbers(), [CODE(Error::Unavailable); 2]);
}

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
    let mut sandbox = Sandbox::start(engine, &code, setup, NOW).unwrap();
    let packet = buffers.copy_of(b"x").unwrap();
    let outcome = sandbox.deliver(NOW, Event::Capsule { kind: 0, from: None, packet });
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
    let error = Sandbox::start(engine, &code, setup, NOW).err();
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
        let error = Sandbox::start(engine, &code, setup, NOW).err().unwrap();
        assert!(matches!(error, StartError::Memory(_) | StartError::Instantiate(_)), "{error}");
        assert_eq!(account.used(), 0);
    }
    // Segments outside the memory.
    let outside = module("(data (i32.const 65535) \"ab\")");
    let code = compile(engine, &outside).unwrap();
    let account = Account::root(1 << 20);
    let setup = setup(engine, &account, BufPool::new(1), |_| ());
    assert!(matches!(Sandbox::start(engine, &code, setup, NOW), Err(StartError::Instantiate(_))));
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
            if let Ok(mut sandbox) = Sandbox::start(engine, &Arc::new(code), setup, NOW) {
                sandbox.deliver(NOW, Event::Boot);
                let packet = buffers.copy_of(b"xyz").unwrap();
                sandbox.deliver(NOW, Event::Capsule { kind: 0, from: Some(NeighborId(5)), packet });
                sandbox.deliver(NOW, Event::Stop);
            }
            proptest::prop_assert_eq!((account.used(), buffers.lent()), (0, 0));
            proptest::prop_assert!(account.peak() <= 1 << 20);
        }
    }
}
