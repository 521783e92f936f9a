//! Small protocols for tests, honest ones.

use ee::abi;
use wire::id::{PartHash, TupleHash};
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, CapsuleType, Credentials, Events, Part, Protocol, Tuple};

/// A module and the tuple that names it.
#[derive(Debug, Clone)]
pub struct Flow {
    /// WebAssembly.
    pub module: Vec<u8>,
    /// The tuple's bytes.
    pub tuple: Vec<u8>,
}

impl Flow {
    /// The flow's name on the wire.
    pub fn hash(&self) -> TupleHash {
        TupleHash::of(&self.tuple)
    }

    /// The module's name.
    pub fn part(&self) -> PartHash {
        PartHash::of(&self.module)
    }
}

/// Every capsule may do everything this often.
pub fn all(n: u16) -> Limits {
    Operation::ALL.iter().fold(Limits::NONE, |l, op| l.with(*op, n))
}

/// The tuple's body for one protocol with one capsule type, of which each may do everything `n` times.
pub fn body(name: &str, module: &[u8], n: u16) -> Body {
    let protocol = Protocol {
        capsules: vec![CapsuleType {
            name: "all".into(),
            limits: all(n).with(Operation::Derives, 0),
            derives: vec![],
        }],
        events: Events { boot: Some(0), timer: Some(0), session: Some(0) },
        session: true,
        ..Protocol::new(name, Part::of(module).unwrap())
    };
    Body::new([1; 16], vec![protocol])
}

/// A flow of one module.
pub fn flow(name: &str, module: Vec<u8>, edit: impl FnOnce(&mut Body)) -> Flow {
    let mut body = body(name, &module, 4);
    edit(&mut body);
    let tuple = Tuple { body, credentials: Credentials::None }.encode();
    Flow { module, tuple }
}

/// A flow of these handlers.
pub fn of(name: &str, handlers: &str) -> Flow {
    flow(name, module(handlers), |_| ())
}

/// A module with all imports, one page of memory that may become `max` pages, and these handlers.
pub fn module(handlers: &str) -> Vec<u8> {
    let imports = abi::imports();
    let text = format!(
        r#"(module {imports}
        (memory (export "memory") 1 1024)
        (func (export "bees_abi_1"))
        (global (export "bees_inbox") i32 (i32.const 0))
        (data (i32.const 64) "neighborhood")
        {handlers})"#
    );
    wat::parse_str(text).expect("the test's module is well-formed")
}

/// Asks a node by the first byte of its name, along a line. A program's packet is 8 bytes: 0, the name's
/// byte, 0, 0, and a number of four bytes; the answer is 1, the byte, `constant`, 0, and the number.
pub fn ask(name: &str, constant: u8) -> Flow {
    of(name, &ask_handlers(constant))
}

/// Its handlers.
pub fn ask_handlers(constant: u8) -> String {
    ASK.replace("CONSTANT", &constant.to_string())
}

const ASK: &str = r#"
    (global $session (mut i32) (i32.const 0))
    (global $back (mut i32) (i32.const 0))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (global.set $session (local.get $s))
        (drop (call $capsule_resize (local.get $c) (i32.const 8)))
        (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 0) (i32.const 8)))
        (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0))))
    (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
        (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 0))
            (then
                (drop (call $node_name (i32.const 128) (i32.const 32)))
                (if (i32.eq (i32.load8_u (i32.const 1)) (i32.load8_u (i32.const 128)))
                    (then
                        (i32.store8 (i32.const 0) (i32.const 1))
                        (i32.store8 (i32.const 2) (i32.const CONSTANT))
                        (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 0) (i32.const 8)))
                        (drop (call $capsule_return (local.get $c) (i32.const 0))))
                    (else
                        (global.set $back (local.get $from))
                        (drop (call $capsule_multicast (local.get $c)
                            (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 2))))))
            (else
                (if (global.get $session)
                    (then (drop (call $session_reply (global.get $session) (i32.const 0) (i32.const 8))))
                    (else (drop (call $capsule_send (local.get $c) (global.get $back) (i32.const 0))))))))
"#;

/// Does as a packet says: `t` sets timers until one is refused; `s` sends a capsule of 100 bytes to every neighbor; `g`
/// grows its memory until that is refused. The answer is how often it was done.
pub const TRY: &str = r#"
    (func $report (param $s i32) (param $n i32)
        (i32.store (i32.const 512) (local.get $n))
        (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 4))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (local $n i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 116)) (then
            (block $full (loop $more
                (br_if $full (i32.lt_s (call $timer_set (i64.const 1000) (i64.const 0) (i64.const 0)) (i32.const 0)))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 1000)))))
            (call $report (local.get $s) (local.get $n))))
        (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 103)) (then
            (block $full (loop $more
                (br_if $full (i32.lt_s (memory.grow (i32.const 1)) (i32.const 0)))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br $more)))
            (call $report (local.get $s) (local.get $n))))
        (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 115)) (then
            (drop (call $capsule_resize (local.get $c) (i32.const 100)))
            (local.set $n (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 1)))
            (call $report (local.get $s) (local.get $n)))))
"#;

/// With every event a bit of everything, and some of it once too often: memory, soft state, timers, logs,
/// envelopes, capsules to all neighbors, answers, traps, work that never ends, and blobs where it has the privilege.
pub const BUSY: &str = r#"
    (data (i32.const 128) "blobs")
    (func (export "on_boot") (param $c i32)
        (drop (call $timer_set (i64.const 700) (i64.const 1100) (i64.const 1)))
        (drop (call $timer_set (i64.const 900000) (i64.const 0) (i64.const 2))))
    (func $work (param $c i32) (local $r i32) (local $hood i32)
        (drop (call $random (i32.const 512) (i32.const 64)))
        (local.set $r (i32.load8_u (i32.const 512)))
        (local.set $hood (call $cap_lookup (i32.const 64) (i32.const 12)))
        (if (i32.lt_u (local.get $r) (i32.const 60)) (then (drop (memory.grow (i32.const 1)))))
        (drop (call $cache_put (i32.const 512) (i32.and (local.get $r) (i32.const 7)) (i32.const 600)
            (i32.mul (local.get $r) (i32.const 9)) (i32.mul (local.get $r) (i32.const 8))))
        (drop (call $timer_set (i64.extend_i32_u (i32.mul (local.get $r) (i32.const 100))) (i64.const 0) (i64.const 3)))
        (if (i32.lt_u (local.get $r) (i32.const 16)) (then (drop (call $log (i32.const 3) (i32.const 512) (local.get $r)))))
        (drop (call $blob_put (call $cap_lookup (i32.const 128) (i32.const 5)) (i32.const 512)
            (i32.and (local.get $r) (i32.const 3)) (i32.const 600) (i32.mul (local.get $r) (i32.const 4))))
        (drop (call $envelope_make (call $cap_duplicate (local.get $hood) (i32.const -1)) (i32.const 0) (i32.const 0)
            (i32.const 60)))
        (drop (call $capsule_resize (local.get $c) (i32.mul (local.get $r) (i32.const 5))))
        (drop (call $capsule_multicast (local.get $c) (local.get $hood) (i32.const 1)))
        (if (i32.eq (local.get $r) (i32.const 200)) (then (unreachable)))
        (if (i32.eq (local.get $r) (i32.const 201)) (then (loop $l (br $l)))))
    (func (export "on_timer") (param $c i32) (param i32 i64) (call $work (local.get $c)))
    (func (export "on_capsule") (param $c i32) (param i32 i32 i32)
        (drop (call $capsule_return (local.get $c) (i32.const 1))) (call $work (local.get $c)))
    (func (export "on_session") (param $c i32) (param $s i32) (param i32 i32)
        (drop (call $session_reply (local.get $s) (i32.const 0) (i32.const 999))) (call $work (local.get $c)))
    (func (export "on_expiry") (param i32) (result i32)
        (drop (call $random (i32.const 512) (i32.const 1))) (i32.sub (i32.load8_u (i32.const 512)) (i32.const 200)))
    (func (export "on_stop") (call $work (i32.const 0)))"#;

/// A packet that asks the node `name`.
pub fn question(name: u8, number: u32) -> Vec<u8> {
    let mut packet = vec![0, name, 0, 0];
    packet.extend(number.to_le_bytes());
    packet
}

/// Its answer.
pub fn answer(name: u8, constant: u8, number: u32) -> Vec<u8> {
    let mut packet = vec![1, name, constant, 0];
    packet.extend(number.to_le_bytes());
    packet
}

/// The same flow with a module that is `bytes` longer: of bytes that do not compress.
pub fn big(flow: Flow, bytes: usize) -> Flow {
    let mut module = flow.module;
    // A custom section: 0, its length, a name of one byte, contents (WebAssembly core specification, 5.5.3).
    let mut random = super::Random::new(bytes as u64);
    let mut section = vec![1, b'x'];
    section.extend((0..bytes).map(|_| (random.number() >> 40) as u8));
    module.push(0);
    let mut len = section.len();
    while len >= 0x80 {
        module.push(len as u8 | 0x80);
        len >>= 7;
    }
    module.push(len as u8);
    module.extend(section);
    let mut tuple = Tuple::decode(&flow.tuple).unwrap();
    tuple.body.protocols[0].code = Part::of(&module).unwrap();
    Flow { tuple: tuple.encode(), module }
}
