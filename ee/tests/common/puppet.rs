//! A guest that calls whatever a test tells it to: any function of the interface with any arguments, several
//! in one event, each able to use the results of those before.

use std::sync::Arc;
use std::time::Duration;

use ee::abi::{self, Ty};
use ee::engine::Code;
use ee::job::{Done, Job, JobId, Work};
use ee::sandbox::{
    Effect, Event, NeighborId, NeighborRef, Outcome, Outlet, Sandbox, SessionId, SessionInput, Setup, Shared,
};
use ee::{Engine, Metering};
use nodeos::account::Account;
use nodeos::buf::BufPool;
use nodeos::link::LinkId;
use nodeos::platform::{Instant, Now, Still};
use nodeos::team::{Accounts, Bandwidth, Budget};
use wire::grant::Grant;
use wire::id::{PartHash, TupleHash};
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, CapsuleType, Credentials, Events, Part, Protocol, Tuple};

/// Stands for the capsule of the running event, as an argument.
pub const CAPSULE: i64 = 0x7fff_ff01;
/// Stands for the neighbor that it came from.
pub const FROM: i64 = 0x7fff_ff02;
/// Where a script's own bytes begin in the guest's memory.
pub const OWN: i64 = 0x7000;
/// Where the 512 bytes begin that a test sees after each script.
pub const OUT: i64 = 0x8000;

/// Stands for the result of a call before: its position in the script.
pub const fn result(at: usize) -> i64 {
    0x7fff_fe00 + at as i64
}

const SEEN: usize = 512;
pub const SESSION: SessionId = SessionId(1);

/// One call.
pub type Call<'a> = (&'a str, &'a [i64]);

/// A node's part of what teams share, and its supply of code and buffers.
pub struct House {
    engine: Engine,
    code: Arc<Code>,
    /// Packet buffers.
    pub buffers: BufPool,
    /// All teams' memory.
    pub memory: Account,
    /// The node's key, sensors and envelopes.
    pub shared: Shared,
    /// Seconds since 1970.
    pub wall: Option<u64>,
}

impl House {
    /// A node with these things to share.
    pub fn new(shared: Shared) -> Self {
        let engine = Engine::new(Metering::Fuel).unwrap();
        let module: Arc<[u8]> = module().into();
        let work = Work::Compile { engine: engine.clone(), hash: PartHash::of(&module), module };
        let Done::Compiled(code) = Job::new(JobId(0), work).run().result else { panic!("not compiled") };
        let (buffers, memory) = (BufPool::new(64), Account::root(64 << 20));
        Self { engine, code: code.unwrap(), buffers, memory, shared, wall: Some(1_800_000_000) }
    }

    /// A team of the flow `hash` with these privileges.
    pub fn team(&self, hash: u8, privileges: &[&str]) -> Puppet {
        self.team_with(hash, privileges, |_| ())
    }

    /// The same, changed by `edit`.
    pub fn team_with(&self, hash: u8, privileges: &[&str], edit: impl FnOnce(&mut Setup)) -> Puppet {
        let account = self.memory.child(Some(2 << 20));
        let mut setup = self.setup(hash, privileges, &account);
        edit(&mut setup);
        let sandbox =
            Sandbox::start(&self.engine, std::slice::from_ref(&self.code), setup, self.now(0)).unwrap();
        let outlet = Outlet::stream();
        let open = Event::Session { session: SESSION, what: SessionInput::Open(outlet.clone()) };
        let mut puppet = Puppet { sandbox, account, outlet, sent: Vec::new(), mono: 0, wall: self.wall };
        assert_eq!(puppet.deliver(open).end, Ok(()));
        puppet
    }

    fn now(&self, mono: u64) -> Now {
        Now { mono: Instant(mono), wall: self.wall }
    }

    fn setup(&self, hash: u8, privileges: &[&str], account: &Account) -> Setup {
        let all = |n| Operation::ALL.iter().fold(Limits::NONE, |l, op| l.with(*op, n));
        let kind = |name: &str, limits, derives| CapsuleType { name: name.into(), limits, derives };
        let main = Protocol {
            // 0 makes 1 makes 2, and 0 makes 2.
            capsules: vec![
                kind("A", all(2), vec![1, 2]),
                kind("B", Limits::NONE.with(Operation::Derives, 2).with(Operation::Sends, 1), vec![2]),
                kind("C", Limits::NONE.with(Operation::Sends, 1), vec![]),
            ],
            events: Events { boot: None, timer: Some(0), session: Some(0) },
            session: true,
            ..Protocol::new("puppet", Part::of(b"-").unwrap())
        };
        let body = Body::new([hash; 16], vec![main]);
        let neighbor = |id: u16| NeighborRef {
            id: NeighborId(id),
            name: format!("n{id}").into(),
            link: LinkId(0),
            max_payload: 1000,
            overhead: 38,
            shortest: 0,
        };
        let budget = Budget {
            memory: 2 << 20,
            event: Duration::from_millis(50),
            rate: 1 << 40,
            burst: 1 << 30,
            queue: 64,
            timers: 64,
            cache_entries: 64,
            sessions: 2,
            ..Budget::UNLIMITED
        };
        Setup {
            tuple: Arc::new(Tuple { body, credentials: Credentials::None }),
            hash: TupleHash([hash; 32]),
            grant: Grant::everything(Default::default(), privileges.iter().map(|p| p.to_string()).collect()),
            budget,
            accounts: Accounts::new(account.clone(), &budget),
            bandwidth: Bandwidth::root(1, &budget),
            node_name: "here".into(),
            buffers: self.buffers.clone(),
            neighbors: (0..4).map(neighbor).collect(),
            data: vec![],
            meter: Arc::new(Still),
            interrupter: Arc::new(Still),
            seed: Some([hash; 32]),
            shared: self.shared.clone(),
        }
    }
}

/// One team.
pub struct Puppet {
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Its memory.
    pub account: Account,
    outlet: Outlet,
    /// What it sent in the last event: neighbor and capsule type.
    pub sent: Vec<(u16, u8)>,
    /// Microseconds since the start.
    pub mono: u64,
    /// Seconds since 1970.
    pub wall: Option<u64>,
}

impl Puppet {
    fn deliver(&mut self, event: Event) -> Outcome {
        let now = Now { mono: Instant(self.mono), wall: self.wall };
        let mut outcome = self.sandbox.deliver(now, event);
        while outcome.more {
            outcome = self.sandbox.resume(now);
        }
        outcome
    }

    /// Runs a script in one event; every call's result, and the memory at [`OUT`].
    #[track_caller]
    pub fn run(&mut self, own: &[u8], calls: &[Call<'_>]) -> (Vec<i64>, Vec<u8>) {
        let packet = SessionInput::Packet(script(own, calls));
        let outcome = self.deliver(Event::Session { session: SESSION, what: packet });
        assert_eq!(outcome.end, Ok(()));
        self.results(calls.len())
    }

    /// The same in the event of a capsule of type 0 from neighbor 0.
    #[track_caller]
    pub fn run_capsule(&mut self, house: &House, calls: &[Call<'_>]) -> Vec<i64> {
        let packet = house.buffers.copy_of(&script(&[], calls)).expect("a buffer");
        let outcome =
            self.deliver(Event::Capsule { protocol: 0, kind: 0, from: Some(NeighborId(0)), packet });
        assert_eq!(outcome.end, Ok(()));
        self.results(calls.len()).0
    }

    /// One call.
    #[track_caller]
    pub fn call(&mut self, name: &str, args: &[i64]) -> i64 {
        self.run(&[], &[(name, args)]).0[0]
    }

    /// The capability of this name.
    #[track_caller]
    pub fn lookup(&mut self, name: &str) -> i64 {
        self.run(name.as_bytes(), &[("cap_lookup", &[OWN, name.len() as i64])]).0[0]
    }

    fn results(&mut self, calls: usize) -> (Vec<i64>, Vec<u8>) {
        self.sent.clear();
        let mut reply = Vec::new();
        for effect in self.sandbox.effects() {
            match effect {
                Effect::Reply { packet, .. } => {
                    self.outlet.packet_gone(packet.len());
                    reply = packet;
                }
                Effect::Send { to, kind, .. } => self.sent.push((to.0, kind)),
                _ => {}
            }
        }
        let (seen, results) = reply.split_at(SEEN);
        let results = results.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b));
        (results.take(calls).collect(), seen.to_vec())
    }
}

/// A flow of this guest that asks for these privileges: a node runs a script for each packet of a session.
pub fn flow(privileges: &[&str]) -> super::guest::Flow {
    let needed = |name: &&str| wire::tuple::Privilege { name: name.to_string(), optional: false };
    super::guest::flow("puppet", module(), |body| {
        body.request.privileges = privileges.iter().map(needed).collect();
    })
}

/// A script's results out of a session's packet, and the memory at [`OUT`].
pub fn parse(packet: &[u8]) -> (Vec<i64>, &[u8]) {
    let (seen, results) = packet.split_at(SEEN);
    (results.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(), seen)
}

/// A script: how many calls, how many bytes of its own, the calls, the bytes.
pub fn script(own: &[u8], calls: &[Call<'_>]) -> Vec<u8> {
    let mut bytes = (calls.len() as u32).to_le_bytes().to_vec();
    bytes.extend((own.len() as u32).to_le_bytes());
    for (name, args) in calls {
        let function = abi::IMPORTS.iter().position(|s| s.name == *name).expect("a function");
        bytes.extend((function as u64).to_le_bytes());
        for at in 0..8 {
            bytes.extend(args.get(at).copied().unwrap_or(0).to_le_bytes());
        }
    }
    bytes.extend(own);
    bytes
}

/// The puppet's module. Scripts lie at 0x1000, results at 0x2f000: where no pointer and length that a call may have
/// reaches by accident.
fn module() -> Vec<u8> {
    let mut dispatch = String::new();
    for (at, s) in abi::IMPORTS.iter().enumerate() {
        let arg = |(n, ty): (usize, &Ty)| {
            let value = format!("(call $arg (i32.add (local.get $at) (i32.const {})))", 8 + 8 * n);
            if *ty == Ty::I64 { value } else { format!("(i32.wrap_i64 {value})") }
        };
        let args: String = s.params.iter().enumerate().map(arg).collect();
        let call = format!("(call ${} {args})", s.name);
        let value = if s.results == [Ty::I64] { call } else { format!("(i64.extend_i32_s {call})") };
        dispatch += &format!("(if (i32.eq (local.get $f) (i32.const {at})) (then (return {value})))\n");
    }
    super::guest::module(&format!(
        r#"
        (global $s (mut i32) (i32.const 0))
        (global $c (mut i32) (i32.const 0))
        (global $from (mut i32) (i32.const 0))
        (func $arg (param $at i32) (result i64) (local $v i64)
            (local.set $v (i64.load (local.get $at)))
            (if (i64.eq (local.get $v) (i64.const {CAPSULE})) (then (return (i64.extend_i32_u (global.get $c)))))
            (if (i64.eq (local.get $v) (i64.const {FROM})) (then (return (i64.extend_i32_u (global.get $from)))))
            (if (i64.eq (i64.and (local.get $v) (i64.const -256)) (i64.const 0x7ffffe00))
                (then (return (i64.load (i32.add (i32.const 0x2f000)
                    (i32.shl (i32.and (i32.wrap_i64 (local.get $v)) (i32.const 255)) (i32.const 3)))))))
            (local.get $v))
        (func $do (param $at i32) (result i64) (local $f i32)
            (local.set $f (i32.load (local.get $at)))
            {dispatch}
            (i64.const -999))
        (func $run (local $n i32) (local $i i32) (local $at i32)
            (local.set $n (i32.load (i32.const 0x1000)))
            (memory.copy (i32.const {OWN})
                (i32.add (i32.const 0x1008) (i32.mul (local.get $n) (i32.const 72)))
                (i32.load (i32.const 0x1004)))
            (local.set $at (i32.const 0x1008))
            (block $end (loop $next
                (br_if $end (i32.ge_u (local.get $i) (local.get $n)))
                (i64.store (i32.add (i32.const 0x2f000) (i32.shl (local.get $i) (i32.const 3)))
                    (call $do (local.get $at)))
                (local.set $at (i32.add (local.get $at) (i32.const 72)))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br $next)))
            (memory.copy (i32.const 0x2ee00) (i32.const {OUT}) (i32.const {SEEN}))
            (drop (call $session_reply (global.get $s) (i32.const 0x2ee00)
                (i32.add (i32.const {SEEN}) (i32.shl (local.get $n) (i32.const 3))))))
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (global.set $s (local.get $s))
            (if (i32.eqz (local.get $what)) (then (drop (memory.grow (i32.const 2)))))
            (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
            (global.set $c (local.get $c))
            (drop (call $session_read (local.get $s) (i32.const 0) (i32.const 0x1000) (i32.const 0x6000)))
            (call $run))
        (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
            (global.set $c (local.get $c))
            (global.set $from (local.get $from))
            (drop (call $capsule_read (local.get $c) (i32.const 0) (i32.const 0x1000) (i32.const 0x6000)))
            (call $run))
        (func (export "on_timer") (param i32 i32 i64))
        "#
    ))
}
