//! The flows of the measurement: the victims', and those of the attackers. All are WebAssembly that the node
//! judges and compiles as it does any other; none asks for a privilege unless its row says so.

use anyhow::{Context, Result};
use ee::abi;
use ee::admit::{admit, bounds};
use wire::id::{CapsuleId, PartHash, Path, TupleHash};
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, CapsuleType, Credentials, DataPart, Events, Part, Privilege, Protocol, Tuple};

/// A flow, ready to be injected.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The tuple's bytes.
    pub tuple: Vec<u8>,
    /// Its parts, the module first.
    pub parts: Vec<(PartHash, Vec<u8>)>,
    /// Its name.
    pub hash: TupleHash,
}

impl Guest {
    /// A flow of one module. Flows of the same module and another `number` are others.
    pub fn new(name: &str, module: &[u8], number: u64) -> Result<Self> {
        Self::with(name, module, number, |_| ())
    }

    fn with(name: &str, module: &[u8], number: u64, edit: impl FnOnce(&mut Body)) -> Result<Self> {
        let kind = |name: &str| CapsuleType {
            name: name.into(),
            limits: Operation::ALL
                .iter()
                .fold(Limits::NONE, |limits, op| limits.with(*op, u16::MAX))
                .with(Operation::Derives, 0),
            derives: Vec::new(),
        };
        let protocol = Protocol {
            capsules: ["there", "back", "time"].map(kind).to_vec(),
            events: Events { boot: Some(0), timer: Some(0), session: Some(0) },
            session: true,
            ..Protocol::new(name, Part::of(module).context("the module is too long")?)
        };
        let mut nonce = *b"isolation       ";
        nonce[8..].copy_from_slice(&number.to_le_bytes());
        let mut body = Body::new(nonce, vec![protocol]);
        edit(&mut body);
        let tuple = Tuple { body, credentials: Credentials::None };
        tuple.check()?;
        let tuple = tuple.encode();
        let hash = TupleHash::of(&tuple);
        Ok(Self { tuple, parts: vec![(PartHash::of(module), module.to_vec())], hash })
    }

    /// The identifier of its capsules of one type.
    pub fn id(&self, kind: u16) -> CapsuleId {
        CapsuleId::compute(&self.hash, &Path::default(), kind, &[])
    }
}

/// Type of the victims' capsules from a to c.
pub const THERE: u16 = 0;
/// And from c to a.
pub const BACK: u16 = 1;
/// Capsules that ask how long the longest call of the host takes on that node.
pub const TIME: u16 = 2;

/// What the victims run: capsules of the first type go on to c, of the second to a. The third type is sent
/// back with the microseconds that a hash over 8 KiB took: an eighth of the longest host call, which itself may not
/// fit a short event.
const FORWARD: &str = r#"
    (data (i32.const 128) "neighbor/aneighbor/c")
    (global $a (mut i32) (i32.const 0))
    (global $c (mut i32) (i32.const 0))
    (func (export "on_boot") (param i32)
        (global.set $a (call $cap_lookup (i32.const 128) (i32.const 10)))
        (global.set $c (call $cap_lookup (i32.const 138) (i32.const 10))))
    (func (export "on_capsule") (param $capsule i32) (param $kind i32) (param $len i32) (param $from i32)
        (local $start i64)
        (if (i32.eqz (local.get $kind))
            (then (drop (call $capsule_send (local.get $capsule) (global.get $c) (i32.const 0))) (return)))
        (if (i32.eq (local.get $kind) (i32.const 2))
            (then
                (local.set $start (call $budget_left (i32.const 1)))
                (drop (call $hash_sha256 (i32.const 0) (i32.const 8188) (i32.const 65504)))
                (i64.store (i32.const 512) (i64.sub (local.get $start) (call $budget_left (i32.const 1))))
                (drop (call $capsule_write (local.get $capsule) (i32.const 0) (i32.const 512) (i32.const 8)))))
        (drop (call $capsule_send (local.get $capsule) (global.get $a) (i32.const 0))))
"#;

/// A victim.
pub fn victim(name: &str) -> Result<Guest> {
    Guest::new(name, &module(FORWARD)?, 0)
}

/// Takes capsules and sessions, and does nothing with them.
pub fn sink() -> Result<Vec<u8>> {
    module(
        r#"(func (export "on_capsule") (param i32 i32 i32 i32))
           (func (export "on_session") (param i32 i32 i32 i32))"#,
    )
}

/// Never returns.
pub fn endless() -> Result<Vec<u8>> {
    module(r#"(func (export "on_boot") (param i32) (loop $l (br $l)))"#)
}

/// Traps at once.
pub fn crash() -> Result<Vec<u8>> {
    module(r#"(func (export "on_boot") (param i32) (unreachable))"#)
}

/// Works in each event until so many microseconds of its time are left, and always has the next one waiting.
pub fn busy(left: u64) -> Result<Vec<u8>> {
    module(&storm(&format!(
        "(loop $l (br_if $l (i64.gt_s (call $budget_left (i32.const 1)) (i64.const {left}))))"
    )))
}

/// As many timers as a team may have, as often as they fire.
pub fn timers() -> Result<Vec<u8>> {
    module(&storm(""))
}

/// Takes all the memory that it gets, in every form, touches it, gives back what can be given back, and again.
pub fn memory() -> Result<Vec<u8>> {
    module(&storm(
        r#"(local $n i32)
        (block $full (loop $more
            (br_if $full (i32.lt_s (memory.grow (i32.const 1)) (i32.const 0)))
            (i32.store (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 4)) (i32.const 1))
            (br $more)))
        (block $full (loop $more
            (i32.store (i32.const 512) (local.get $n))
            (br_if $full (i32.lt_s
                (call $cache_put (i32.const 512) (i32.const 4) (i32.const 1024) (i32.const 30000) (i32.const 60000))
                (i32.const 0)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_s (local.get $n) (i32.const 20)))))
        (loop $less
            (i32.store (i32.const 512) (local.get $n))
            (drop (call $cache_remove (i32.const 512) (i32.const 4)))
            (br_if $less (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"#,
    ))
}

/// Puts new entries into soft state without end, each in the place of an older one.
pub fn soft_state() -> Result<Vec<u8>> {
    module(&storm(
        r#"(local $n i32)
        (local.set $n (i32.const 100))
        (loop $again
            (global.set $key (i32.add (global.get $key) (i32.const 1)))
            (i32.store (i32.const 512) (global.get $key))
            (drop (call $cache_put (i32.const 512) (i32.const 4) (i32.const 512) (i32.const 256) (i32.const 60000)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"#,
    ))
}

/// Sends long capsules to all neighbors without end.
pub fn sender() -> Result<Vec<u8>> {
    module(&storm(
        r#"(local $n i32)
        (drop (call $capsule_resize (local.get $c) (i32.const 1400)))
        (local.set $n (i32.const 30))
        (loop $again
            (drop (call $capsule_multicast (local.get $c)
                (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 1)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"#,
    ))
}

/// 64 timers that are always due, each of which does `work`.
fn storm(work: &str) -> String {
    format!(
        r#"(global $key (mut i32) (i32.const 0))
        (func (export "on_boot") (param $c i32) (local $n i32)
            (local.set $n (i32.const 64))
            (loop $again
                (drop (call $timer_set (i64.const 1) (i64.const 1) (i64.const 7)))
                (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
        (func (export "on_timer") (param $c i32) (param $t i32) (param $token i64) {work})"#
    )
}

/// How many flows [`family`] starts and kills.
const CHILDREN: usize = 4;

/// A flow with the privilege `flows` that starts flows below itself, kills each as soon as it runs, and starts
/// it again when it is gone.
pub fn family() -> Result<Guest> {
    let child = sink()?;
    let children = (0..CHILDREN).map(|n| Guest::new("child", &child, n as u64));
    let children = children.collect::<Result<Vec<_>>>()?;
    let parent = module(&format!(
        r#"
        (data (i32.const 256) "flowst0t1t2t3")
        (global $flows (mut i32) (i32.const 0))
        (func $start (param $n i32)
            (drop (call $flow_start (global.get $flows) (i32.const 4096)
                (call $data_read (i32.add (i32.const 261) (i32.shl (local.get $n) (i32.const 1))) (i32.const 2)
                    (i32.const 0) (i32.const 4096) (i32.const 8192))
                (i32.const 0))))
        (func $all (local $n i32)
            (loop $next
                (call $start (local.get $n))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $next (i32.lt_s (local.get $n) (i32.const {CHILDREN})))))
        (func (export "on_boot") (param i32)
            (global.set $flows (call $cap_lookup (i32.const 256) (i32.const 5)))
            (drop (call $timer_set (i64.const 1000) (i64.const 1000) (i64.const 0))))
        (func (export "on_timer") (param i32 i32 i64) (call $all))
        (func (export "on_flow") (param $flow i32) (param $state i32)
            (if (i32.eq (local.get $state) (i32.const 1))
                (then (drop (call $flow_stop (local.get $flow) (i32.const 1))))
                (else (drop (call $cap_drop (local.get $flow))) (call $all))))"#
    ))?;
    let data = |name: String, bytes: &[u8]| {
        Part::of(bytes).map(|part| DataPart { name, part }).context("the part is too long")
    };
    let mut parts = vec![data("code".into(), &child)?];
    for (n, child) in children.iter().enumerate() {
        parts.push(data(format!("t{n}"), &child.tuple)?);
    }
    let mut guest = Guest::with("family", &parent, 0, |body| {
        body.protocols[0].data = parts;
        body.request.privileges = vec![Privilege { name: "flows".into(), optional: false }];
    })?;
    guest.parts.push((PartHash::of(&child), child));
    guest.parts.extend(children.into_iter().map(|c| (PartHash::of(&c.tuple), c.tuple)));
    Ok(guest)
}

/// A module among as many different ones as there are numbers.
#[derive(Debug, Clone)]
pub struct Series {
    module: Vec<u8>,
    at: usize,
}

/// Stands in a module where the number goes.
const MARK: &[u8; 8] = b"\xf0numbers";

impl Series {
    fn of(handlers: &str) -> Result<Self> {
        let module = module(&format!("(data (i32.const 1000) \"\\f0numbers\") {handlers}"))?;
        let at = module.windows(MARK.len()).position(|w| w == MARK).context("the mark is gone")?;
        Ok(Self { module, at })
    }

    /// Small ones.
    pub fn small() -> Result<Self> {
        Self::of(r#"(func (export "on_capsule") (param i32 i32 i32 i32))"#)
    }

    /// The worst that is admitted: as many conditions over as many locals as the bounds let pass, in loops
    /// (`ee/tests/worst.rs` has the list from which this is taken), in as many functions.
    pub fn bomb() -> Result<Self> {
        let make = |functions: usize, times: usize| {
            let piece: String = (0..120)
                .map(|i| {
                    let j = (i * 7 + 3) % 120;
                    format!(
                        "(if (local.get {i}) (then (local.set {j} (i32.add (local.get {j}) (i32.const 1)))))"
                    )
                })
                .collect();
            let body = format!("(loop $l {} (br_if $l (local.get 0)))", piece.repeat(times));
            let function = format!("(func (param i32) (local {}) {body})", "i32 ".repeat(119));
            Self::of(&function.repeat(functions))
        };
        let admitted = |functions, times| make(functions, times).is_ok_and(|s| admit(&s.module).is_ok());
        let times = (1..).take_while(|&n| admitted(1, n)).last().context("one is too much already")?;
        let functions =
            (1..).take_while(|&n| admitted(n, times)).last().context("one is too much already")?;
        make(functions, times)
    }

    /// A byte longer than what is admitted.
    pub fn too_long() -> Result<Self> {
        let mut series = Self::small()?;
        // A custom section: 0, its length in five bytes, a name of one byte, contents.
        let fill = bounds::MODULE as usize + 1 - series.module.len() - 6;
        series.module.push(0);
        series.module.extend((0..5).map(|n| (fill >> (7 * n)) as u8 & 0x7f | if n < 4 { 0x80 } else { 0 }));
        series.module.extend([1, b'x']);
        series.module.resize(bounds::MODULE as usize + 1, 0);
        Ok(series)
    }

    /// Deeper than what is admitted.
    pub fn too_deep() -> Result<Self> {
        let depth = bounds::DEPTH as usize + 1;
        Self::of(&format!("(func {} {})", "(block ".repeat(depth), ")".repeat(depth)))
    }

    /// One of them.
    pub fn number(&self, number: u64) -> Vec<u8> {
        let mut module = self.module.clone();
        module[self.at..self.at + 8].copy_from_slice(&number.to_le_bytes());
        module
    }
}

/// A module with all imports and these handlers.
fn module(handlers: &str) -> Result<Vec<u8>> {
    let imports = abi::imports();
    let text = format!(
        r#"(module {imports}
        (memory (export "memory") 1 64)
        (global (export "bees_abi") i32 (i32.const 1))
        (global (export "bees_inbox") i32 (i32.const 0))
        (data (i32.const 64) "neighborhood")
        {handlers})"#
    );
    Ok(wat::parse_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_admitted_or_refused_as_their_names_say() {
        let good = [
            module(FORWARD),
            sink(),
            endless(),
            crash(),
            busy(100),
            timers(),
            memory(),
            soft_state(),
            sender(),
            Series::small().map(|s| s.number(7)),
            Series::bomb().map(|s| s.number(7)),
            family().map(|f| f.parts[0].1.clone()),
        ];
        for module in good {
            admit(&module.unwrap()).unwrap();
        }
        for series in [Series::too_long(), Series::too_deep()] {
            admit(&series.unwrap().number(7)).unwrap_err();
        }
        let series = Series::small().unwrap();
        assert_ne!(PartHash::of(&series.number(1)), PartHash::of(&series.number(2)));
    }

    #[test]
    fn the_bomb_is_near_the_bounds() {
        assert!(Series::bomb().unwrap().module.len() > 20_000);
    }
}
