//! Guests of all kinds, honest and hostile, against the real engine.

mod background;
mod capsules;
mod companions;
mod ends;
mod state;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use nodeos::account::Account;
use nodeos::buf::{BLOCK, BufPool};
use nodeos::platform::{Interrupter, Meter};
use nodeos::team::{Accounts, Bandwidth, Budget};
use wire::describe;
use wire::grant::Grant;
use wire::id::TupleHash;
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, CapsuleType, Credentials, Events, Param, Part, Protocol, Tuple};

use super::*;
use crate::abi::{self, Error};
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
    fn arm(&self, _: u64) {
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
    let kinds = Kinds::all(&setup.tuple, &setup.grant).unwrap();
    Store::new(engine.raw(), state(engine, setup, kinds, NOW).unwrap().0)
}

const NOW: Now = Now { mono: Instant(1_000_000), wall: Some(1_700_000_000) };

const BUDGET: Budget = Budget {
    memory: 1 << 20,
    event: Duration::from_millis(200),
    rate: 1_000_000,
    burst: 4000,
    queue: 8,
    timers: 2,
    cache_entries: 4,
    sessions: 1,
    ..Budget::UNLIMITED
};

fn setup(engine: &Engine, account: &Account, buffers: BufPool, edit: impl FnOnce(&mut Setup)) -> Setup {
    let kind = |name: &str, limits, derives| CapsuleType { name: name.into(), limits, derives };
    let all = |n| Operation::ALL.iter().fold(Limits::NONE, |l, op| l.with(*op, n));
    let main = Protocol {
        // 0: anything twice; 1: nothing; 2: whatever 0 derives and may itself not derive.
        capsules: vec![
            kind("A", all(2), vec![1, 2]),
            kind("B", Limits::NONE, vec![]),
            kind("C", Limits::NONE.with(Operation::Sends, 1).with(Operation::Returns, 1), vec![]),
        ],
        events: Events { boot: Some(0), timer: Some(0), session: Some(0) },
        session: true,
        params: vec![Param { name: "hops".into(), value: b"eight".to_vec() }],
        ..Protocol::new("test", Part::of(b"module").unwrap())
    };
    let body = Body::new([0; 16], vec![main]);
    let neighbor = |n: u16, name: &str, link| NeighborRef {
        id: NeighborId(n),
        name: name.into(),
        link: LinkId(link),
        max_payload: 1000,
        overhead: 40,
        shortest: 0,
    };
    let budget = BUDGET;
    let mut setup = Setup {
        tuple: Arc::new(Tuple { body, credentials: Credentials::None }),
        hash: TupleHash([7; 32]),
        grant: Grant::everything(Default::default(), vec!["sensors".into()]),
        budget,
        accounts: Accounts::new(account.clone(), &budget),
        bandwidth: Bandwidth::root(2, &budget),
        node_name: "here".into(),
        buffers,
        neighbors: vec![neighbor(5, "b", 0), neighbor(2, "c", 1)],
        data: vec![vec![("map".into(), (&b"0123456789"[..]).into())]],
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
    let imports = abi::imports();
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
        let sandbox = Sandbox::start(engine, std::slice::from_ref(&code), setup, NOW).unwrap();
        Self { sandbox, account, buffers }
    }

    fn deliver(&mut self, event: Event) -> Outcome {
        self.sandbox.deliver(NOW, event)
    }

    fn capsule(&mut self, payload: &[u8]) -> Outcome {
        let packet = self.buffers.copy_of(payload).unwrap();
        self.deliver(Event::Capsule { protocol: 0, kind: 0, from: Some(NeighborId(5)), packet })
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
                Effect::Send { to, kind, payload, .. } => {
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
