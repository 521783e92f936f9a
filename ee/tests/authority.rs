//! Who may do what: signed flows, policies that change, revocations, rights of control clients, logins.
//! Every signature here is a real one.

mod common;
#[path = "../../nodeos/tests/common/mod.rs"]
mod host;

use std::time::Duration;

use authagent::NoEntropy;
use authagent::channel::{ChannelError, Client, ClientEvent};
use authagent::keys::SigningKey;
use common::guest::{self, Flow, answer, ask, question};
use common::{Options, World, at, platform};
use ee::Node;
use ee::config::NodeConfig;
use ee::node::SessionId;
use host::Host;
use nodeos::buf::BufPool;
use nodeos::link::{LinkId, Mac};
use nodeos::platform::Now;
use smoltcp::iface::SocketHandle;
use wire::control::{Answer, FlowState, LogClass, Request};
use wire::id::TupleHash;
use wire::revoke::Revocation;
use wire::tuple::{Body, Credentials, Extension, Privilege, Scheme, Tuple, Validity};

const SECOND: Duration = Duration::from_secs(1);
/// The signing keys of joe, eve, the revoker and the administrator.
const JOE: u8 = 1;
const EVE: u8 = 2;
const REVOKER: u8 = 3;
const ADMIN: u8 = 4;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

/// Joe may run flows on these terms; eve may look, and stop what is hers.
fn policy(joes_grant: &str) -> String {
    let public = |n| key(n).public();
    format!(
        r#"
        revokers = ["{}"]
        [[principal]]
        name = "joe"
        keys = ["{}"]
        control = ["inject", "stop"]
        [principal.grant]
        {joes_grant}
        [[principal]]
        name = "eve"
        keys = ["{}"]
        control = ["see", "stop"]
        "#,
        public(REVOKER),
        public(JOE),
        public(EVE),
    )
}

fn world_with(n: usize, policy: &str) -> World {
    let node = format!("agent = \"source-based\"\npolicy = '''{policy}'''");
    World::line_with(n, Options { node: &node, ..Options::default() })
}

fn world(n: usize) -> World {
    world_with(n, &policy("privileges = [\"sensors\"]"))
}

fn signed(flow: &Flow, principal: &str, by: u8, edit: impl FnOnce(&mut Body)) -> Flow {
    let mut tuple = Tuple::decode(&flow.tuple).unwrap();
    edit(&mut tuple.body);
    let signature = key(by).sign(&tuple.body.encode()).to_vec();
    tuple.credentials =
        Credentials::Signed { principal: principal.into(), scheme: Scheme::Ed25519, signature };
    Flow { module: flow.module.clone(), tuple: tuple.encode() }
}

fn joes(flow: &Flow) -> Flow {
    signed(flow, "joe", JOE, |_| ())
}

fn as_(world: &mut World, node: usize, principal: &str, request: Request) -> Answer {
    let now = world.time();
    let answer = world.stations[node].node.control(now, principal, request);
    world.settle(node);
    answer
}

fn denied(answer: &Answer) -> bool {
    matches!(answer, Answer::Error(e) if e.text.contains("has no right"))
}

fn load(world: &mut World, node: usize, text: &str) -> Answer {
    world.control(node, Request::PolicyLoad { text: text.into() })
}

fn audit(world: &mut World, node: usize) -> Vec<String> {
    let Answer::Log(lines) = world.control(node, Request::Log { from: 0 }) else { panic!() };
    lines.into_iter().filter(|l| l.class == LogClass::Audit).map(|l| l.text).collect()
}

fn tried(world: &mut World, flow: &Flow) -> String {
    let hash = world.inject(0, flow);
    world.run(Duration::from_millis(20));
    world.why(0, hash)
}

#[test]
fn every_refusal_is_told_counted_and_audited() {
    let mut world = world(1);
    let flow = ask("ask", 1);
    let until = |until| move |b: &mut Body| b.validity = Validity { from: None, until: Some(until) };
    let needs = |name: &str| vec![Privilege { name: name.into(), optional: false }];
    let cases: [(Flow, &str, &str); 9] = [
        (flow.clone(), "not signed", "principal_unsigned"),
        (signed(&flow, "mallory", JOE, |_| ()), "principal mallory is not known", "principal_unknown"),
        (signed(&flow, "joe", EVE, |_| ()), "another key signed", "principal_bad_signatures"),
        (signed(&flow, "eve", EVE, |_| ()), "eve may run no flows", "principal_policy_denied"),
        (signed(&flow, "joe", JOE, until(common::WALL)), "valid until", "principal_tuples_expired"),
        (
            signed(&flow, "joe", JOE, |b| b.validity.from = Some(common::WALL + 9)),
            "valid only from",
            "principal_tuples_not_yet_valid",
        ),
        (
            signed(&flow, "joe", JOE, |b| b.request.privileges = needs("root")),
            "needs privilege root",
            "principal_privileges_denied",
        ),
        (
            signed(&flow, "joe", JOE, |b| b.extensions = vec![Extension::nodes(&["b", "c"])]),
            "meant for other nodes",
            "principal_other_node",
        ),
        (
            {
                let mut tuple = Tuple::decode(&joes(&flow).tuple).unwrap();
                if let Credentials::Signed { scheme, .. } = &mut tuple.credentials {
                    *scheme = Scheme::RsaPssSha256;
                }
                Flow { tuple: tuple.encode(), ..flow.clone() }
            },
            "of which joe has no key",
            "principal_no_key",
        ),
    ];
    for (n, (flow, why, counter)) in cases.iter().enumerate() {
        let told = tried(&mut world, flow);
        assert!(told.starts_with("principal: ") && told.contains(why), "{why}: {told}");
        assert_eq!(world.count(0, counter), 1, "{counter}");
        assert_eq!(world.count(0, "flows_refused"), n as u64 + 1);
        let lines = audit(&mut world, 0);
        assert!(lines.iter().any(|l| l.starts_with("deny flow") || l.starts_with("deny ask")), "{lines:?}");
        assert!(lines.last().unwrap().contains(why), "{lines:?}");
    }
    world.start(0, &signed(&flow, "joe", JOE, |b| b.extensions = vec![Extension::nodes(&["b", "a"])]));
    assert!(audit(&mut world, 0).last().unwrap().starts_with("grant ask"));
}

#[test]
fn a_change_of_any_byte_is_refused() {
    let mut world = world(1);
    let flow = joes(&ask("ask", 1));
    world.put(0, &flow.module);
    for byte in 0..flow.tuple.len() {
        for bit in [byte % 8, 7 - byte % 8] {
            let mut tuple = flow.tuple.clone();
            tuple[byte] ^= 1 << bit;
            let hash = TupleHash::of(&tuple);
            if matches!(world.control(0, Request::FlowInject { tuple }), Answer::Injected(_)) {
                world.run(Duration::from_millis(5));
                let Some(FlowState::Ended(why)) = world.state(0, hash) else {
                    panic!("byte {byte} bit {bit}: {:?}", world.state(0, hash))
                };
                assert!(why.starts_with("principal: "), "byte {byte} bit {bit}: {why}");
            }
        }
    }
    assert_eq!(
        (world.count(0, "flows_started"), world.count(0, "principal_bad_signatures") >= 256),
        (0, true)
    );
    world.start(0, &flow);
}

#[test]
fn an_expired_flow_ends_and_is_not_replayed() {
    let mut world = world(1);
    let flow = signed(&ask("ask", 1), "joe", JOE, |b| b.validity.until = Some(common::WALL + 5));
    let hash = world.start(0, &flow);
    world.run(3 * SECOND);
    assert_eq!(world.state(0, hash), Some(FlowState::Running));
    world.run(4 * SECOND);
    assert!(world.why(0, hash).contains("revoked: tuple was valid until"), "{}", world.why(0, hash));
    assert!(tried(&mut world, &flow).contains("tuple was valid until"));
    assert_eq!(world.count(0, "principal_tuples_expired"), 2);
    assert_eq!(world.count(0, "flows_revoked"), 1);
}

/// A flow that node a asks c through b, spread to all three.
fn spread(world: &mut World, flow: &Flow) -> (TupleHash, SessionId) {
    let hash = world.start(0, flow);
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 1));
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [answer(b'c', 7, 1)], "{:?}", world.log(1));
    (hash, session)
}

fn revocation(flow: TupleHash, by: Option<&str>, with: u8) -> Revocation {
    let until = common::WALL + 1000;
    let signature = key(with).sign(&Revocation::statement(&flow, until, by)).to_vec();
    Revocation { flow, until, by: by.map(Into::into), scheme: Scheme::Ed25519, signature }
}

#[test]
fn a_revocation_reaches_every_node() {
    let mut world = world(3);
    let flow = joes(&ask("ask", 7));
    let (hash, _) = spread(&mut world, &flow);
    for forged in
        [revocation(hash, None, JOE), revocation(hash, Some("joe"), EVE), revocation(hash, Some("eve"), EVE)]
    {
        let answer = world.control(0, Request::FlowRevoke { revocation: forged.encode() });
        assert_eq!(answer, Answer::Done);
        world.run(SECOND);
        assert!((0..3).all(|n| world.state(n, hash) == Some(FlowState::Running)));
    }
    let good = revocation(hash, Some("joe"), JOE).encode();
    assert_eq!(as_(&mut world, 0, "joe", Request::FlowRevoke { revocation: good }), Answer::Done);
    world.run(SECOND);
    for n in 0..3 {
        assert_eq!(world.why(n, hash), "revoked: the flow was revoked by joe");
        assert!(audit(&mut world, n).iter().any(|l| l.starts_with("revoke ask")));
    }
    assert!(tried(&mut world, &flow).contains("revoked by joe"));
    let other = signed(&ask("ask", 7), "joe", JOE, |b| b.nonce = [9; 16]);
    spread(&mut world, &other);
}

#[test]
fn a_hostile_neighbor_revokes_nothing() {
    let mut world = world(3);
    let (hash, session) = spread(&mut world, &joes(&ask("ask", 7)));
    // What b's agent could say to a, straight: forged, cut, and endless.
    let good = revocation(hash, None, REVOKER).encode();
    let mut random = common::Random::new(5);
    let before = world.holds(0);
    for n in 0..500 {
        let mut bytes = good.clone();
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
        bytes.truncate(if n % 5 == 0 { at } else { bytes.len() });
        let mut frame = vec![2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
        frame.resize(14 + wire::capsule::HEADER_LEN, 0);
        wire::capsule::Capsule::emit_header(&mut frame[14..], &wire::system::agent_id(), bytes.len());
        frame.extend(bytes);
        world.hand(0, LinkId(0), &frame);
        world.run(Duration::from_millis(10));
    }
    assert_eq!(world.holds(0), before);
    world.say(0, session, &question(b'c', 2));
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [answer(b'c', 7, 2)]);
}

#[test]
fn an_internal_protocol_never_leaves() {
    let mut world = world(3);
    // b is the edge: c is outside.
    assert_eq!(load(&mut world, 1, &policy("neighbors = { except = [\"c\"] }")), Answer::Done);
    let hash = world.start(0, &joes(&ask("ask", 7)));
    let session = world.session(0, "ask");
    for (name, reached) in [(b'b', true), (b'c', false)] {
        world.say(0, session, &question(name, 1));
        world.run(SECOND);
        assert_eq!(!world.heard(0, session).is_empty(), reached);
    }
    assert_eq!((world.state(1, hash), world.state(2, hash)), (Some(FlowState::Running), None));
    assert_eq!(world.count(2, "capsules_unknown"), 0, "not even a capsule");
}

#[test]
fn another_policy_holds_for_what_runs() {
    let mut world = world(3);
    let (hash, session) = spread(&mut world, &joes(&ask("ask", 7)));
    let same = policy("privileges = [\"sensors\"]");
    assert_eq!(load(&mut world, 1, &same), Answer::Done);
    assert_eq!(world.count(1, "flows_clamped"), 0, "it would get the same");

    let Answer::Error(error) = load(&mut world, 1, "min_rsa_bits = 3000\n[principal]\nname = 1") else {
        panic!()
    };
    assert!(error.text.contains("line 2, column 1"), "{error}");
    let Answer::Policy { agent, text } = world.control(1, Request::PolicyShow) else { panic!() };
    assert_eq!((agent.as_str(), text), ("source-based", same), "the one before stays");

    assert_eq!(
        load(&mut world, 1, &policy("neighbors = { only = [\"a\"] }\nbudgets = { rate = \"8kbit\" }")),
        Answer::Done
    );
    assert_eq!(world.count(1, "flows_clamped"), 1);
    world.say(0, session, &question(b'c', 2));
    world.run(SECOND);
    assert!(world.heard(0, session).is_empty(), "b reaches c no more");
    let grant = world.flow(1, hash).unwrap().grant.unwrap();
    assert_eq!(grant.budgets.rate, Some(1000));
    assert_eq!(world.teams(1)[1].sent.1, Some(1000));

    assert_eq!(load(&mut world, 0, "# nobody"), Answer::Done);
    assert!(world.why(0, hash).contains("revoked: principal joe is not known"));
    assert_eq!(world.holds(0).2, 0);
    let lines = audit(&mut world, 0);
    assert!(lines.iter().any(|l| l.starts_with("policy of 8 bytes loaded by admin")), "{lines:?}");
}

#[test]
fn every_budget_of_a_running_flow_is_lowered() {
    let mut world = world(1);
    let hash = world.start(0, &joes(&ask("ask", 7)));
    let sessions = [world.session(0, "ask"), world.session(0, "ask")];
    let less = "budgets = { event = \"300us\", rate = \"80kbit\", burst = \"1k\", timers = 3, cache_entries = 5, \
                sessions = 1, memory = \"900k\" }";
    assert_eq!(load(&mut world, 0, &policy(less)), Answer::Done);
    let team = &world.teams(0)[1];
    assert_eq!((team.event_us, team.sent.1, team.memory.2), (300, Some(10_000), 900 << 10));
    let budgets = world.flow(0, hash).unwrap().grant.unwrap().budgets;
    assert_eq!((budgets.timers, budgets.cache_entries, budgets.sessions), (Some(3), Some(5), Some(1)));
    assert_eq!(budgets.burst, Some(1024));
    let now = world.time();
    assert_eq!(world.stations[0].node.session_open(now, "ask"), Err(ee::node::SessionError::TooMany));
    for session in sessions {
        world.say(0, session, &question(b'a', 1));
    }
    world.run(SECOND);
    assert_eq!(world.state(0, hash), Some(FlowState::Running), "the two that were open stay");

    // What it declares does not fit the new terms at all.
    assert_eq!(load(&mut world, 0, &policy("max_emissions = 3")), Answer::Done);
    assert!(
        world.why(0, hash).contains("one event could set off 12 send operations, 3 were granted"),
        "{}",
        world.why(0, hash)
    );
}

#[test]
fn a_flow_on_its_way_is_judged_again_too() {
    let mut world = world(1);
    world.compile_us = 500_000;
    let hash = world.inject(0, &joes(&ask("ask", 7)));
    world.run(Duration::from_millis(700));
    assert_eq!(world.state(0, hash), Some(FlowState::Compile));
    assert_eq!(
        load(&mut world, 0, &policy("budgets = { event = \"300us\", memory = \"800k\" }")),
        Answer::Done
    );
    world.run(SECOND);
    assert_eq!(world.state(0, hash), Some(FlowState::Running));
    let team = &world.teams(0)[1];
    assert_eq!((team.event_us, team.memory.2), (300, 800 << 10));

    let other = signed(&ask("ask", 7), "joe", JOE, |b| b.nonce = [2; 16]);
    let hash = world.inject(0, &other);
    world.run(Duration::from_millis(100));
    assert_eq!(world.state(0, hash), Some(FlowState::Judging), "its signature is being checked");
    assert_eq!(load(&mut world, 0, "# nobody"), Answer::Done);
    world.run(SECOND);
    assert!(world.why(0, hash).contains("principal joe is not known"), "the old policy's word is not enough");
}

/// Does what a packet asks, as often as its second byte says, and answers with the last result: `t` sets a
/// timer, `s` looks for the sensors, `d` makes a further capability of them, `g` will take pages of memory, 20 at
/// a time, from a second on.
const GREEDY: &str = r#"
    (data (i32.const 96) "sensors")
    (global $sensors (mut i32) (i32.const 0))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (local $op i32) (local $n i32) (local $r i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (local.set $op (i32.load8_u (i32.const 0)))
        (local.set $n (i32.load8_u (i32.const 1)))
        (block $done (loop $again
            (br_if $done (i32.eqz (local.get $n)))
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (if (i32.eq (local.get $op) (i32.const 116)) (then (local.set $r
                (call $timer_set (i64.const 1000000000) (i64.const 0) (i64.const 0)))))
            (if (i32.eq (local.get $op) (i32.const 103)) (then (local.set $r
                (call $timer_set (i64.const 1000000) (i64.const 50000) (i64.const 0)))))
            (if (i32.eq (local.get $op) (i32.const 100)) (then (local.set $r
                (call $cap_duplicate (global.get $sensors) (i32.const 0)))))
            (if (i32.eq (local.get $op) (i32.const 115)) (then
                (local.set $r (call $cap_lookup (i32.const 96) (i32.const 7)))
                (global.set $sensors (local.get $r))))
            (br $again)))
        (i32.store (i32.const 256) (local.get $r))
        (drop (call $session_reply (local.get $s) (i32.const 256) (i32.const 4))))
    (func (export "on_timer") (param $c i32) (param $t i32) (param $token i64)
        (local $n i32)
        (local.set $n (i32.const 20))
        (loop $again
            (drop (memory.grow (i32.const 1)))
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (br_if $again (local.get $n))))
"#;

fn asked(world: &mut World, session: SessionId, op: u8, times: u8) -> Option<i32> {
    world.say(0, session, &[op, times]);
    world.run(Duration::from_millis(100));
    let heard = world.heard(0, session);
    heard.first().map(|bytes| i32::from_le_bytes(bytes[..4].try_into().unwrap()))
}

fn wants_sensors(b: &mut Body) {
    b.request.privileges = vec![Privilege { name: "sensors".into(), optional: true }];
}

fn greedy() -> Flow {
    signed(&guest::of("greedy", GREEDY), "joe", JOE, wants_sensors)
}

#[test]
fn a_count_below_what_is_in_use_refuses_and_then_strikes() {
    let mut world = world(1);
    let flow = greedy();
    let hash = world.start(0, &flow);
    let session = world.session(0, "greedy");
    assert!(asked(&mut world, session, b't', 10).unwrap() > 0);
    assert!(asked(&mut world, session, b's', 1).unwrap() > 0);
    assert!(asked(&mut world, session, b'd', 1).unwrap() > 0);

    assert_eq!(load(&mut world, 0, &policy("budgets = { timers = 4 }")), Answer::Done);
    assert_eq!(world.state(0, hash), Some(FlowState::Running));
    assert!(asked(&mut world, session, b'd', 1).unwrap() < 0, "the capability at hand is void");
    assert!(asked(&mut world, session, b's', 1).unwrap() < 0, "and there is no other");
    assert!(asked(&mut world, session, b't', 1).unwrap() < 0, "ten timers run, four are allowed");
    for _ in 0..20 {
        if world.state(0, hash) == Some(FlowState::Running) {
            world.say(0, session, &[b't', 200]);
            world.run(Duration::from_millis(50));
        }
    }
    assert!(world.why(0, hash).contains("kept asking"), "{}", world.why(0, hash));
    assert_eq!(world.count(0, "teams_struck_out"), 1);
    // Whoever injects it again does not get round the wait.
    let answer = as_(&mut world, 0, "joe", Request::FlowInject { tuple: flow.tuple });
    assert!(denied(&answer), "{answer:?}");
}

#[test]
fn memory_below_what_is_in_use_refuses_and_then_strikes() {
    let mut world = world(1);
    let hash = world.start(0, &greedy());
    let session = world.session(0, "greedy");
    assert!(asked(&mut world, session, b'g', 1).unwrap() > 0);
    let used = world.teams(0)[1].memory.0;
    let half = format!("privileges = [\"sensors\"]\nbudgets = {{ memory = {} }}", used / 2);
    assert_eq!(load(&mut world, 0, &policy(&half)), Answer::Done);
    assert_eq!(world.state(0, hash), Some(FlowState::Running));
    let team = &world.teams(0)[1];
    assert_eq!((team.memory.0, team.memory.2), (used, used / 2), "what it holds it keeps");
    world.run(3 * SECOND);
    assert!(world.why(0, hash).contains("kept asking"), "{}", world.why(0, hash));
    assert_eq!(world.holds(0).2, 0);
}

#[test]
fn rights_are_looked_up_with_each_request() {
    let mut world = world(1);
    let flow = joes(&ask("ask", 1));
    let hash = flow.hash();
    let put = Request::PartPut {
        part: flow.part(),
        total: flow.module.len() as u32,
        offset: 0,
        bytes: flow.module.clone(),
    };
    let inject = Request::FlowInject { tuple: flow.tuple.clone() };
    let stop = Request::FlowStop { flow: hash, kill: false };
    for principal in ["eve", "mallory", ""] {
        assert!(denied(&as_(&mut world, 0, principal, put.clone())));
        assert!(denied(&as_(&mut world, 0, principal, inject.clone())));
    }
    assert_eq!(as_(&mut world, 0, "joe", put), Answer::Done);
    assert_eq!(as_(&mut world, 0, "joe", inject.clone()), Answer::Injected(hash));
    world.run(SECOND);
    // An unsigned flow of the administrator: joe does not see it, eve does.
    world.inject(0, &ask("other", 2));
    world.run(SECOND);
    let names = |answer: Answer| match answer {
        Answer::Flows(page) => page.items.into_iter().map(|f| f.name).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let show = Request::FlowShow { from: 0 };
    assert_eq!(names(as_(&mut world, 0, "joe", show.clone())), ["ask"]);
    assert_eq!(names(as_(&mut world, 0, "eve", show.clone())), ["ask", "other"]);
    assert!(denied(&as_(&mut world, 0, "mallory", show)));
    assert!(denied(&as_(&mut world, 0, "joe", Request::PolicyShow)));
    assert!(denied(&as_(&mut world, 0, "joe", Request::Log { from: 0 })));
    for principal in ["joe", "eve"] {
        assert!(denied(&as_(&mut world, 0, principal, Request::PolicyLoad { text: String::new() })));
    }
    assert!(denied(&as_(&mut world, 0, "eve", stop.clone())), "it is joe's");
    assert_eq!(as_(&mut world, 0, "joe", stop.clone()), Answer::Done);
    // What the administrator stopped, joe does not bring back.
    assert_eq!(as_(&mut world, 0, "joe", inject.clone()), Answer::Injected(hash));
    world.put(0, &flow.module);
    assert_eq!(world.control(0, stop), Answer::Done);
    assert!(denied(&as_(&mut world, 0, "joe", inject)));
    assert!(world.count(0, "operator_requests_denied") > 10);

    assert_eq!(
        load(&mut world, 0, &policy("").replace("\"inject\"", "\"see\", \"reconfigure\"")),
        Answer::Done
    );
    assert!(matches!(as_(&mut world, 0, "joe", Request::PolicyShow), Answer::Policy { .. }));
    let until = "control = [\"reconfigure\"]\nuntil = 5\n";
    let text = policy("").replace("control = [\"inject\", \"stop\"]", until);
    assert_eq!(as_(&mut world, 0, "joe", Request::PolicyLoad { text: text.clone() }), Answer::Done);
    let answer = as_(&mut world, 0, "joe", Request::PolicyLoad { text });
    assert!(denied(&answer), "joe's time is over: {answer:?}");
}

#[test]
fn the_agent_everything_has_no_policy() {
    let mut world = World::line(1);
    let Answer::Error(error) = load(&mut world, 0, "") else { panic!() };
    assert!(error.text.contains("has no policy"));
    assert!(denied(&as_(&mut world, 0, "joe", Request::NodeShow)));
    world.start(0, &ask("ask", 1));
}

/// A node with a management link, and a host beside it.
struct Desk {
    node: Node,
    buffers: BufPool,
    host: Host,
    us: u64,
    port: u16,
}

impl Desk {
    fn new() -> Self {
        let text = format!(
            "[node]\nname = \"a\"\nagent = \"source-based\"\npolicy = '''{}'''\n\
             [control]\nadmin = \"{}\"\n\
             [[link]]\nname = \"mgmt\"\nmac = \"02:00:00:00:00:01\"\naddress = \"10.0.0.1/24\"\nmanagement = true\n",
            policy(""),
            key(ADMIN).public()
        );
        let platform = platform(512, 1);
        let node = Node::new(&NodeConfig::parse(&text).unwrap(), platform.clone(), at(0)).unwrap();
        let host = Host::new(Mac([2, 0, 0, 0, 0, 9]), "10.0.0.9/24");
        Self { node, buffers: platform.buffers, host, us: 1_000_000, port: 40_000 }
    }

    fn now(&self) -> Now {
        at(self.us)
    }

    fn wait(&mut self, time: Duration) {
        let end = self.us + time.as_micros() as u64;
        while self.us < end {
            self.us = (self.us + 100_000).min(end);
            self.settle();
        }
    }

    fn settle(&mut self) {
        let now = self.now();
        for _ in 0..200 {
            self.node.poll(now);
            let mut quiet = true;
            while let Some(frame) = self.node.transmit(now, LinkId(0)) {
                self.host.device.rx.push_back(frame.to_vec());
                quiet = false;
            }
            self.host.iface.poll(now.mono.into(), &mut self.host.device, &mut self.host.sockets);
            while let Some(frame) = self.host.device.tx.pop_front() {
                self.node.frame(now, LinkId(0), self.buffers.copy_of(&frame).unwrap());
                quiet = false;
            }
            if quiet {
                return;
            }
        }
        panic!("node and host never become quiet");
    }

    fn connect(&mut self) -> SocketHandle {
        self.port += 1;
        let socket = self.host.connect("10.0.0.1:3322", self.port);
        self.settle();
        self.wait(Duration::from_millis(200));
        socket
    }

    /// Tries to log in. `None`: the node did not even shake hands.
    fn login(&mut self, principal: &str, with: u8) -> Option<Result<SocketHandle, ChannelError>> {
        self.enter(principal, with).map(|entered| entered.map(|(socket, _)| socket))
    }

    fn enter(&mut self, principal: &str, with: u8) -> Option<Result<(SocketHandle, Client), ChannelError>> {
        let entropy = |out: &mut [u8]| {
            out.iter_mut().zip(7..).for_each(|(b, n)| *b = n);
            Ok::<(), NoEntropy>(())
        };
        let mut client = Client::new(None, principal, Box::new(key(with)), &entropy).unwrap();
        let socket = self.connect();
        let (mut buffer, mut events) = ([0; 4096], vec![]);
        for round in 0..4 {
            if !self.host.tcp(socket).may_send() {
                return (round > 1).then_some(Err(ChannelError::Closed));
            }
            let bytes = client.take_output();
            assert_eq!(self.host.tcp(socket).send_slice(&bytes).unwrap(), bytes.len());
            self.settle();
            let n = self.host.tcp(socket).recv_slice(&mut buffer).unwrap_or(0);
            if let Err(error) = client.push(&buffer[..n], &mut events) {
                return Some(Err(error));
            }
            if events.iter().any(|e| matches!(e, ClientEvent::LoggedIn { .. })) {
                return Some(Ok((socket, client)));
            }
        }
        None
    }

    /// How many answers come to a client from each poll of the node, until nothing moves any more.
    fn answers(&mut self, socket: SocketHandle, client: &mut Client) -> Vec<usize> {
        let now = self.now();
        let (mut buffer, mut events, mut counts) = (vec![0; 1 << 16], vec![], vec![]);
        for _ in 0..40 {
            self.host.iface.poll(now.mono.into(), &mut self.host.device, &mut self.host.sockets);
            while let Some(frame) = self.host.device.tx.pop_front() {
                self.node.frame(now, LinkId(0), self.buffers.copy_of(&frame).unwrap());
            }
            self.node.poll(now);
            while let Some(frame) = self.node.transmit(now, LinkId(0)) {
                self.host.device.rx.push_back(frame.to_vec());
            }
            self.host.iface.poll(now.mono.into(), &mut self.host.device, &mut self.host.sockets);
            let n = self.host.tcp(socket).recv_slice(&mut buffer).unwrap_or(0);
            client.push(&buffer[..n], &mut events).unwrap();
            counts.push(events.drain(..).filter(|e| matches!(e, ClientEvent::Message(_))).count());
        }
        counts
    }

    fn control(&mut self, request: Request) -> Answer {
        let now = self.now();
        let answer = self.node.control(now, ee::config::ADMIN, request);
        self.settle();
        answer
    }

    fn count(&mut self, name: &str) -> u64 {
        let Answer::Node(info) = self.control(Request::NodeShow) else { panic!() };
        info.counters.iter().find(|c| c.name == name).unwrap().value
    }
}

#[test]
fn keys_are_not_tried_by_the_thousand() {
    let mut desk = Desk::new();
    for n in 1..=3 {
        assert!(desk.login("joe", EVE).unwrap().is_err());
        assert_eq!(desk.count("operator_logins_refused"), n);
    }
    assert!(desk.login("joe", JOE).unwrap().is_ok(), "three mistakes are free");
    let mut tries = 0;
    for _ in 0..600 {
        tries += u64::from(desk.login(["joe", "admin", "nobody"][tries as usize % 3], EVE).is_some());
        desk.wait(Duration::from_millis(300));
    }
    assert!((4..16).contains(&tries), "{tries} keys tried in five minutes");
    assert_eq!(desk.count("operator_logins_refused"), 3 + tries);
    assert!(desk.count("operator_logins_limited") > 500);
    assert!(desk.login("admin", ADMIN).is_none(), "from there even the right key waits");
    desk.wait(Duration::from_secs(61));
    assert!(desk.login("admin", ADMIN).unwrap().is_ok());
    let Answer::Log(lines) = desk.control(Request::Log { from: 0 }) else { panic!() };
    let audit: Vec<_> =
        lines.iter().filter(|l| l.class == LogClass::Audit).map(|l| l.text.as_str()).collect();
    assert!(audit.iter().any(|l| l.starts_with("login from 10.0.0.9 refused")), "{audit:?}");
    assert!(audit.contains(&"login joe from 10.0.0.9"));
}

#[test]
fn strangers_do_not_take_every_place() {
    let mut desk = Desk::new();
    let (_first, _second, third) = (desk.connect(), desk.connect(), desk.connect());
    assert!(!desk.host.tcp(third).may_send(), "two of one address wait to log in");
    desk.wait(Duration::from_secs(6));
    assert!(desk.login("admin", ADMIN).unwrap().is_ok(), "who does not log in is sent away");
}

#[test]
fn a_principal_whose_entry_changed_is_sent_away() {
    let mut desk = Desk::new();
    let joe = desk.login("joe", JOE).unwrap().unwrap();
    let eve = desk.login("eve", EVE).unwrap().unwrap();
    let text = policy("").replace("\"inject\", ", "");
    assert_eq!(desk.control(Request::PolicyLoad { text }), Answer::Done);
    desk.wait(SECOND);
    assert!(!desk.host.tcp(joe).may_send() && desk.host.tcp(eve).may_send());
    assert!(desk.login("joe", JOE).unwrap().is_ok());
    assert_eq!(desk.control(Request::PolicyLoad { text: String::new() }), Answer::Done);
    desk.wait(SECOND);
    assert!(!desk.host.tcp(eve).may_send());
    assert!(desk.login("eve", EVE).unwrap().is_err());
    assert!(desk.login("admin", ADMIN).unwrap().is_ok());
}

/// Also of one that ends its stream, or says something that cannot be read.
#[test]
fn each_poll_answers_one_request_of_a_client() {
    for spoilt in [false, true] {
        let mut desk = Desk::new();
        let (socket, mut client) = desk.enter("admin", ADMIN).unwrap().unwrap();
        for _ in 0..6 {
            client.send(&wire::control::encode(&Request::NodeShow)).unwrap();
        }
        let mut bytes = client.take_output();
        if spoilt {
            *bytes.last_mut().unwrap() ^= 1;
        }
        assert_eq!(desk.host.tcp(socket).send_slice(&bytes).unwrap(), bytes.len());
        if !spoilt {
            desk.host.tcp(socket).close();
        }
        let counts = desk.answers(socket, &mut client);
        assert!(counts.iter().all(|n| *n <= 1), "{counts:?}");
        // A channel that broke takes no answers.
        assert_eq!(counts.iter().sum::<usize>(), if spoilt { 0 } else { 6 });
        desk.wait(SECOND);
        assert!(!desk.host.tcp(socket).may_recv(), "the node has closed it, too");
        assert_eq!(desk.count("client_stream_errors"), u64::from(spoilt));
    }
}
