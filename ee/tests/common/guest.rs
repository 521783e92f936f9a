//! Small protocols for tests, honest ones.

use ee::abi::{self, Ty};
use wire::id::{PartHash, TupleHash};
use wire::limits::{Limits, Operation};
use wire::tuple::{
    Body, Budgets, CapsuleType, Credentials, Events, Part, Protocol, Request, Tuple, VERSION, Validity,
};

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
        name: name.into(),
        code: Part::of(module).unwrap(),
        data: vec![],
        capsules: vec![CapsuleType {
            name: "all".into(),
            limits: all(n).with(Operation::Derives, 0),
            derives: vec![],
        }],
        events: Events { boot: Some(0), timer: Some(0), session: Some(0) },
        session: true,
        params: vec![],
        companions: vec![],
    };
    Body {
        version: VERSION,
        nonce: [1; 16],
        protocols: vec![protocol],
        request: Request { privileges: vec![], budgets: Budgets::default() },
        validity: Validity::default(),
        replaces: None,
        extensions: vec![],
    }
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
    let ty = |t: &Ty| if *t == Ty::I64 { " i64" } else { " i32" };
    let list = |kind: &str, types: &[Ty]| match types {
        [] => String::new(),
        types => format!("({kind}{})", types.iter().map(ty).collect::<String>()),
    };
    let import = |s: &abi::Signature| {
        let (name, params, results) = (s.name, list("param", s.params), list("result", s.results));
        format!("(import \"bees\" \"{name}\" (func ${name} {params} {results}))\n")
    };
    let imports: String = abi::IMPORTS.iter().map(import).collect();
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
