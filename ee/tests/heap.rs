//! What sandboxes and whole flows take from the heap: what they are charged bounds it whatever they do, all of it
//! comes back, and relaying a capsule takes nothing.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::guest;
use common::{Options, World};
use ee::job::{Done, Job, JobId, Work};
use ee::sandbox::{Effect, Event, MAX_EFFECTS, NeighborId, NeighborRef, Sandbox, Setup};
use ee::{Engine, Metering};
use nodeos::account::Account;
use nodeos::buf::BufPool;
use nodeos::link::LinkId;
use nodeos::platform::{Instant, Now, Still};
use nodeos::team::{Accounts, Bandwidth, Budget};
use peak_alloc::PeakAlloc;
use wire::control::{FlowState, Request as Ask};
use wire::grant::Grant;
use wire::id::{PartHash, TupleHash};
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, CapsuleType, Companion, Coupling, Credentials, Part, Protocol, Provider, Tuple};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Counts the capsules in its first bytes and passes each on to `c`.
const RELAY: &str = r#"(module
    (import "bees" "cap_lookup" (func $lookup (param i32 i32) (result i32)))
    (import "bees" "capsule_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "bees" "capsule_send" (func $send (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1 2)
    (global (export "bees_abi") i32 (i32.const 1))
    (global (export "bees_inbox") i32 (i32.const 0))
    (global $to (mut i32) (i32.const 0))
    (data (i32.const 100) "neighbor/c")
    (func (export "on_boot") (param i32)
        (global.set $to (call $lookup (i32.const 100) (i32.const 10))))
    (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
        (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
        (if (call $write (local.get $c) (i32.const 0) (i32.const 0) (i32.const 4)) (then unreachable))
        (if (call $send (local.get $c) (global.get $to) (i32.const 0)) (then unreachable))))"#;

/// Wants as much as an event may, and all of it small: empty log lines, until it is refused.
const CROWDED: &str = r#"(module
    (import "bees" "log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1 2)
    (global (export "bees_abi") i32 (i32.const 1))
    (global (export "bees_inbox") i32 (i32.const 0))
    (func (export "on_capsule") (param i32 i32 i32 i32)
        (loop $more (br_if $more (i32.eqz (call $log (i32.const 0) (i32.const 0) (i32.const 0)))))))"#;

/// As many functions as a module may have, all of them in the table.
fn crowd() -> String {
    let functions = "(func (param i32) (result i32) (local.get 0))".repeat(2048);
    let all: String = (0..2048).map(|n| format!(" {n}")).collect();
    format!(
        r#"(module {functions} (table 2048 2048 funcref) (elem (i32.const 0) func{all})
            (memory (export "memory") 1 2) (global (export "bees_abi") i32 (i32.const 1))
            (global (export "bees_inbox") i32 (i32.const 0)))"#
    )
}

fn setup(account: &Account, buffers: &BufPool) -> Setup {
    let kind =
        CapsuleType { name: "Relay".into(), limits: Limits::NONE.with(Operation::Sends, 1), derives: vec![] };
    let main = Protocol { capsules: vec![kind], ..Protocol::new("relay", Part::of(b"-").unwrap()) };
    let body = Body::new([0; 16], vec![main]);
    let neighbor = |id, name: &str| NeighborRef {
        id: NeighborId(id),
        name: name.into(),
        link: LinkId(id),
        max_payload: 1400,
        overhead: 38,
        shortest: 0,
    };
    let budget = Budget {
        memory: 1 << 20,
        event: Duration::from_millis(2),
        rate: 1 << 40,
        burst: 1 << 30,
        queue: 64,
        timers: 64,
        cache_entries: 1024,
        sessions: 8,
        ..Budget::UNLIMITED
    };
    Setup {
        tuple: Arc::new(Tuple { body, credentials: Credentials::None }),
        hash: TupleHash([1; 32]),
        grant: Grant::everything(Default::default(), vec![]),
        budget,
        accounts: Accounts::new(account.clone(), &budget),
        bandwidth: Bandwidth::root(2, &budget),
        node_name: "b".into(),
        buffers: buffers.clone(),
        neighbors: vec![neighbor(0, "a"), neighbor(1, "c")],
        data: vec![],
        meter: Arc::new(Still),
        interrupter: Arc::new(Still),
        seed: Some([5; 32]),
        shared: ee::sandbox::Shared::default(),
    }
}

fn now(at: u64) -> Now {
    Now::mono(Instant(at))
}

/// The most that an idle team may be charged beside its linear memory and the code that it shares (issue: seed
/// 000's agents took 10 KB of state), for each of its protocols. These import every function that there is, which makes more than a
/// quarter of it.
const IDLE: u64 = 24 << 10;

/// Takes more of each table with every packet of a program: timers, soft state, capabilities and their duplicates,
/// lines to other teams, sessions.
const TAKES: &str = r#"
    (data (i32.const 128) "neighborhood")
    (data (i32.const 144) "companion/next")
    (global $n (mut i32) (i32.const 0))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (call $take))
    (func (export "on_companion") (param $c i32) (param $from i32) (param $op i32) (param $len i32) (result i32)
        (call $take)
        (call $companion_reply (i32.const 0) (i32.const 16384)))
    (func $take
        (local $cap i32) (local $i i32)
        (local.set $cap (call $cap_lookup (i32.const 128) (i32.const 12)))
        (loop $more
            (global.set $n (i32.add (global.get $n) (i32.const 1)))
            (i32.store (i32.const 512) (global.get $n))
            (drop (call $timer_set (i64.const 900000000) (i64.const 0) (i64.const 3)))
            (drop (call $cache_put (i32.const 512) (i32.const 4) (i32.const 512) (i32.const 40) (i32.const 900000)))
            (drop (call $cap_duplicate (local.get $cap) (i32.const -1)))
            (drop (call $cap_duplicate (local.get $cap) (i32.const 1)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const 20))))
        (drop (call $companion_call (call $cap_lookup (i32.const 144) (i32.const 14)) (i32.const 0)
            (i32.const 0) (i32.const 16384))))
    (func (export "on_timer") (param i32 i32 i64))
    (func (export "on_capsule") (param i32 i32 i32 i32))"#;

/// A full node's flows, each with so many companions: what each is charged is at least what it takes, when it has
/// just started and whatever it does then.
fn flows_are_accounted_for(companions: usize) {
    const FLOWS: u32 = 64;
    let options = Options { node: "flows = 65\nmemory = \"64M\"", ..Options::default() };
    let mut world = World::line_with(2, options);
    let module = guest::module(TAKES);
    let flow = |n: u32| {
        guest::flow("takes", module.clone(), |body| {
            body.nonce[..4].copy_from_slice(&n.to_le_bytes());
            body.protocols = vec![body.protocols[0].clone(); 1 + companions];
            for at in 1..=companions {
                let (interface, provider) = ("next".into(), Provider::Tuple(at as u8));
                let companion = Companion { interface, coupling: Coupling::Tuple, provider };
                body.protocols[at - 1].companions.push(companion);
            }
        })
    };
    let protocols = 1 + companions as u64;
    // Once for what is made once, and then kept.
    let flows: Vec<_> = (0..FLOWS).map(flow).collect();
    world.start(0, &flow(1000));
    let charged = |world: &mut World| world.holds(0).0;
    let run = |world: &mut World, flow: &guest::Flow| {
        world.control(0, Ask::FlowInject { tuple: flow.tuple.clone() });
        world.run(Duration::from_millis(20));
        assert_eq!(world.state(0, flow.hash()), Some(FlowState::Running));
    };
    // The logs are full, as they are at a node that has run for a while.
    for n in 2000..2400 {
        run(&mut world, &flow(n));
        world.stop(0, flow(n).hash(), true);
    }
    let code = world.code_bytes(0);
    let (heap, paid) = (HEAP.current_usage(), charged(&mut world));
    flows.iter().for_each(|flow| run(&mut world, flow));
    let idle = (HEAP.current_usage().saturating_sub(heap) as u64, charged(&mut world) - paid);
    // Every flow is charged the code that all share, and once for each of its protocols.
    let each =
        |(taken, paid): (u64, u64)| (taken / u64::from(FLOWS), paid / u64::from(FLOWS) - protocols * code);
    let sessions: Vec<_> = flows.iter().map(|flow| world.session(0, &flow.hash().to_string())).collect();
    // A team with companions has used up its memory sooner.
    for round in 0..if companions == 0 { 8 } else { 6 } {
        for session in &sessions {
            world.say(0, *session, b"more");
        }
        world.run(Duration::from_millis(50));
        let busy = (HEAP.current_usage().saturating_sub(heap) as u64, charged(&mut world) - paid);
        let (taken, charged) = each(busy);
        eprintln!("round {round}: {taken} bytes of heap, {charged} charged");
        assert!(taken <= charged, "round {round}: {taken} bytes of heap, {charged} charged");
    }
    let (taken, charged) = each(idle);
    let pages = protocols << 16;
    let (beside, paid) = (taken - pages, charged - pages);
    eprintln!("idle flow of {protocols}: {beside} bytes of heap, {paid} charged, beside the pages");
    assert!(taken <= charged && paid <= IDLE * protocols, "{taken} bytes of heap, {charged} charged");
}

/// One test, because all threads of a process share the heap that is measured.
#[test]
fn the_heap_is_accounted_for() {
    flows_are_accounted_for(0);
    flows_are_accounted_for(3);
    versions_leave_nothing_on_the_heap();
    let engine = Engine::new(Metering::Epoch).unwrap();
    let module: Arc<[u8]> = wat::parse_str(RELAY).unwrap().into();
    let compile_of = |module: &Arc<[u8]>| {
        let work =
            Work::Compile { engine: engine.clone(), hash: PartHash::of(module), module: module.clone() };
        match Job::new(JobId(0), work).run().result {
            Done::Compiled(code) => code.unwrap(),
            _ => panic!("a compilation was asked for"),
        }
    };
    let compile = || compile_of(&module);
    // What is made once, at the first compilation and the first call, is not counted.
    let account = Account::root(8 << 20);
    let buffers = BufPool::new(8);
    drop(buffers.take());
    let warm = compile();
    drop(Sandbox::start(&engine, std::slice::from_ref(&warm), setup(&account, &buffers), now(0)).unwrap());

    let before = HEAP.current_usage();
    let code = compile();
    let compiled = HEAP.current_usage() - before;
    // The image lies outside of the heap that is counted here (Linux maps it): the rest must bound the rest.
    let beside = code.size() - code.image();
    assert!(compiled as u64 <= beside, "{compiled} bytes, {beside} charged");

    // What a node makes for a flow before that starts, its team pays for: the flows above have shown it.
    let given = setup(&account, &buffers);
    let before = HEAP.current_usage();
    let mut sandbox = Sandbox::start(&engine, std::slice::from_ref(&code), given, now(0)).unwrap();
    let taken = HEAP.current_usage() - before;
    let (linear, charged) = (sandbox.stats().linear, account.used());
    let own = charged - linear - code.size();
    assert!(taken as u64 <= own + linear, "{taken} bytes, {own} charged beside {linear}");

    assert_eq!(sandbox.deliver(now(0), Event::Boot).end, Ok(()));
    let relay = |sandbox: &mut Sandbox, n: u64| {
        let packet = buffers.copy_of(b"some payload").unwrap();
        let event = Event::Capsule { protocol: 0, kind: 0, from: Some(NeighborId(0)), packet };
        assert_eq!(sandbox.deliver(now(n), event).end, Ok(()));
        let mut effects = sandbox.effects();
        assert!(matches!(effects.next(), Some(Effect::Send { to: NeighborId(1), kind: 0, .. })));
        assert!(effects.next().is_none());
    };
    (0..10).for_each(|n| relay(&mut sandbox, n));
    for n in 10..1000 {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        relay(&mut sandbox, n);
        assert_eq!((HEAP.peak_usage(), HEAP.current_usage()), (before, before), "capsule {n} took heap");
    }

    drop(sandbox);
    assert_eq!(account.used(), 0);
    assert!(HEAP.current_usage() <= before, "{} bytes are lost", HEAP.current_usage() - before);

    // What waits to be carried out, and that nothing of it stays.
    let crowded = compile_of(&wat::parse_str(CROWDED).unwrap().into());
    let mut given = setup(&account, &buffers);
    given.budget.event = Duration::from_secs(10);
    let mut sandbox = Sandbox::start(&engine, std::slice::from_ref(&crowded), given, now(0)).unwrap();
    let (mut heap, mut paid) = (0, 0);
    for n in 0..4 {
        let packet = buffers.copy_of(b"x").unwrap();
        let event = Event::Capsule { protocol: 0, kind: 0, from: None, packet };
        assert_eq!(sandbox.deliver(now(n), event).end, Ok(()));
        let (taken, charged) = (HEAP.current_usage(), account.used());
        assert_eq!(sandbox.effects().count(), MAX_EFFECTS);
        // The first call makes what is made once.
        if n == 0 {
            (heap, paid) = (HEAP.current_usage(), account.used());
            continue;
        }
        let (taken, charged) = (taken.saturating_sub(heap), charged - paid);
        assert!(taken > 0 && taken as u64 <= charged, "{taken} bytes wait, {charged} charged");
        assert_eq!((HEAP.current_usage(), account.used()), (heap, paid), "event {n}");
    }
    drop((sandbox, crowded));

    // The same with all that grows with the number of functions.
    let crowd: Arc<[u8]> = wat::parse_str(crowd()).unwrap().into();
    drop(compile_of(&crowd));
    let before = HEAP.current_usage();
    let many = compile_of(&crowd);
    let (many_compiled, many_size) = (HEAP.current_usage() - before, many.size());
    let many_beside = many_size - many.image();
    let given = setup(&account, &buffers);
    let before = HEAP.current_usage();
    let sandbox = Sandbox::start(&engine, std::slice::from_ref(&many), given, now(0)).unwrap();
    let many_taken = HEAP.current_usage() - before;
    let many_own = account.used() - many_size;
    drop(sandbox);
    assert_eq!(account.used(), 0);
    // Only now: what the test harness captures lies in the heap as well.
    println!("compiled module: {compiled} bytes of heap, {beside} charged beside the image");
    println!("sandbox: {taken} bytes of heap, {own} charged beside {linear} of memory and the code");
    println!(
        "2048 functions: {many_compiled} bytes of heap, {many_beside} charged; {many_taken}, {many_own} charged"
    );
    assert!(many_taken as u64 <= many_own, "{many_taken} bytes, {many_own} charged");
    assert!(many_compiled as u64 <= many_beside, "{many_compiled} bytes, {many_beside} charged");
}

/// However often a flow is replaced by its next version, one of them is there.
fn versions_leave_nothing_on_the_heap() {
    const KEEPS: &str = r#"
        (func (export "on_handover") (result i32) (call $handover_write (i32.const 0) (i32.const 60000)))
        (func (export "on_takeover") (param i32 i32) (result i32) (i32.const 0))"#;
    let mut world = World::line(2);
    let module = guest::module(KEEPS);
    let mut last: Option<TupleHash> = None;
    let mut used = Vec::new();
    for number in 0..80u8 {
        let flow = guest::flow("keeps", module.clone(), |body| {
            body.nonce = [number; 16];
            body.replaces = last;
            let how = wire::replace::Replacement { handover: true, types: vec![((0, 0), (0, 0))] };
            body.extensions.extend(last.map(|_| how.extension()));
        });
        last = Some(world.start(0, &flow));
        world.run(Duration::from_secs(601));
        used.push(HEAP.current_usage());
    }
    assert_eq!(world.count(0, "flows_replaced"), 79);
    // What the node remembers of flows that ended is full; each version takes more than twice the bound.
    assert!(used[79] < used[70] + 64 * 1024, "{used:?}");
}
