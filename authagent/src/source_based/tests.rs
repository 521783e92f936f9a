//! The agent alone; `ee/tests/authority.rs` has it in nodes, with real signatures.

use std::format;
use std::string::ToString;
use std::vec;

use wire::grant::Neighbors;
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, Budgets, CapsuleType, Part, Privilege, Protocol, Request, Scheme};

use super::*;
use crate::agent::Source;
use crate::keys::SigningKey;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn at(wall: u64) -> AgentTime {
    AgentTime { mono_us: wall * 1_000_000, wall: Some(wall) }
}

fn body() -> Body {
    let protocol = Protocol {
        capsules: vec![CapsuleType {
            name: "k".into(),
            limits: Limits::NONE.with(Operation::Sends, 9).with(Operation::Returns, 1),
            derives: vec![],
        }],
        ..Protocol::new("p", Part::of(b"module").unwrap())
    };
    let privilege = |name: &str, optional| Privilege { name: name.into(), optional };
    Body {
        request: Request {
            privileges: vec![privilege("sensors", true), privilege("log", false)],
            budgets: Budgets { memory: Some(1 << 40), timers: Some(2), ..Budgets::default() },
        },
        ..Body::new([0; 16], vec![protocol])
    }
}

fn signed(body: Body, principal: &str, by: &SigningKey) -> Tuple {
    let signature = by.sign(&body.encode()).to_vec();
    let credentials = Credentials::Signed { principal: principal.into(), scheme: Scheme::Ed25519, signature };
    Tuple { body, credentials }
}

fn unsigned(body: Body) -> Tuple {
    Tuple { body, credentials: Credentials::None }
}

/// Joe with two keys and a grant; eve, who may log in only; the edge router's rule for neighbors.
fn policy(joe_more: &str) -> String {
    format!(
        r#"
        revokers = ["{}"]
        [[principal]]
        name = "joe"
        keys = ["{}", "{}"]
        until = 2000
        {joe_more}
        [[principal]]
        name = "eve"
        keys = ["{}"]
        control = ["see"]
        "#,
        key(9).public(),
        key(1).public(),
        key(2).public(),
        key(3).public(),
    )
}

const GRANT: &str = r#"grant = { privileges = ["log", "sensors"], neighbors = { except = ["outside"] },
    limits = { sends = 2 }, budgets = { memory = "1M", timers = 5, sessions = 1 }, timer = { min = "10ms" } }"#;

fn agent(joe_more: &str) -> SourceBased {
    SourceBased::new(Policy::parse(&policy(joe_more)).unwrap())
}

/// Shows a tuple and does the verifications; what came out last, and how many there were.
fn see(agent: &mut SourceBased, now: AgentTime, tuple: &Tuple) -> (AgentAction, usize) {
    let flow = TupleHash::of(&tuple.encode());
    let source = Source::Neighbor { name: "b" };
    let (mut verified, mut checks) = (None, 0);
    loop {
        let mut out = vec![];
        let event = AgentEvent::TupleSeen { flow, tuple, source, verified: verified.as_ref() };
        agent.handle(now, event, &mut out);
        match out.swap_remove(0) {
            AgentAction::Verify { key, .. } => verified = Some(Verification::of(tuple, key)),
            other => return (other, checks),
        }
        checks += 1;
    }
}

fn refused(action: (AgentAction, usize)) -> Reason {
    match action.0 {
        AgentAction::Refuse { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

fn granted(action: (AgentAction, usize)) -> Grant {
    match action.0 {
        AgentAction::Grant { grant, .. } => grant,
        other => panic!("{other:?}"),
    }
}

fn load(agent: &mut SourceBased, now: AgentTime, text: &str) -> Vec<AgentAction> {
    let mut out = vec![];
    agent.handle(now, AgentEvent::PolicyChanged { policy: text.as_bytes() }, &mut out);
    out
}

#[test]
fn either_key_signs_and_the_lower_of_wish_and_policy_is_granted() {
    for (n, checks) in [(1, 1), (2, 2)] {
        let seen = see(&mut agent(GRANT), at(1000), &signed(body(), "joe", &key(n)));
        assert_eq!(seen.1, checks);
        let grant = granted(seen);
        let budgets =
            Budgets { memory: Some(1 << 20), timers: Some(2), sessions: Some(1), ..Budgets::default() };
        assert_eq!(grant.budgets, budgets);
        assert_eq!(grant.privileges, ["sensors", "log"]);
        assert_eq!(grant.neighbors, Neighbors::Except(vec!["outside".into()]));
        let limits = grant.limits(0, 0, body().protocols[0].capsules[0].limits);
        assert_eq!((limits.get(Operation::Sends), limits.get(Operation::Returns)), (2, 1));
        assert_eq!((grant.min_timer_us, grant.cycle_depth), (Some(10_000), None));
    }
}

#[test]
fn every_refusal_has_its_reason() {
    let now = at(1000);
    let see = |tuple: &Tuple| refused(see(&mut agent(GRANT), now, tuple));
    let joe = || "joe".to_string();
    assert_eq!(see(&unsigned(body())), Reason::Unsigned);
    assert_eq!(see(&signed(body(), "mallory", &key(1))), Reason::UnknownPrincipal("mallory".into()));
    assert_eq!(see(&signed(body(), "joe", &key(3))), Reason::BadSignature { principal: joe() });
    let mut changed = signed(body(), "joe", &key(1));
    changed.body.request.budgets.memory = None;
    assert_eq!(see(&changed), Reason::BadSignature { principal: joe() });
    let mut other = signed(body(), "joe", &key(1));
    if let Credentials::Signed { scheme, .. } = &mut other.credentials {
        *scheme = Scheme::RsaPssSha256;
    }
    assert_eq!(see(&other), Reason::NoKey { principal: joe(), scheme: Scheme::RsaPssSha256 });
    let valid = |from, until| {
        let validity = Validity { from, until };
        signed(Body { validity, ..body() }, "joe", &key(1))
    };
    assert_eq!(see(&valid(None, Some(999))), Reason::Expired { until: 999 });
    assert_eq!(see(&valid(Some(1001), None)), Reason::NotYetValid { from: 1001 });
    assert!(matches!(see(&signed(body(), "eve", &key(3))), Reason::Policy(_)));
    let mut greedy = body();
    greedy.request.privileges.push(Privilege { name: "root".into(), optional: false });
    assert_eq!(see(&signed(greedy, "joe", &key(1))), Reason::Privilege { name: "root".into() });
    let tuple = signed(body(), "joe", &key(1));
    let late = self::see(&mut agent(GRANT), at(2001), &tuple);
    assert_eq!(refused(late), Reason::PrincipalExpired { principal: joe(), until: 2000 });
    let early = self::see(&mut agent(&format!("from = 1500\n{GRANT}")), now, &tuple);
    assert_eq!(refused(early), Reason::PrincipalNotYetValid { principal: joe(), from: 1500 });
    let lost = AgentTime { wall: None, ..now };
    assert_eq!(refused(self::see(&mut agent(GRANT), lost, &tuple)), Reason::TimeUnknown);
}

#[test]
fn a_small_key_proves_nothing() {
    let pem = include_str!("../keys/testdata/rsa2048.pem");
    let text = format!(
        "min_rsa_bits = 3072\n[[principal]]\nname = \"joe\"\nkeys = ['''{pem}''']\ncontrol = [\"see\"]\n[principal.grant]"
    );
    let mut agent = SourceBased::new(Policy::parse(&text).unwrap());
    let mut tuple = unsigned(Body { request: Request::default(), ..body() });
    let (scheme, signature) = (Scheme::RsaPssSha256, vec![0; 256]);
    tuple.credentials = Credentials::Signed { principal: "joe".into(), scheme, signature };
    let flow = TupleHash::of(&tuple.encode());
    let mut show = |verified: Option<&Verification>| {
        let mut out = vec![];
        let source = Source::Neighbor { name: "b" };
        agent.handle(at(1), AgentEvent::TupleSeen { flow, tuple: &tuple, source, verified }, &mut out);
        out.swap_remove(0)
    };
    let AgentAction::Verify { key, .. } = show(None) else { panic!() };
    let wrong = show(Some(&Verification { key: key.clone(), valid: false }));
    assert!(matches!(wrong, AgentAction::Refuse { reason: Reason::BadSignature { .. }, .. }));
    let right = show(Some(&Verification { key, valid: true }));
    let reason = Reason::KeyTooWeak { bits: 2048, least: 3072 };
    assert_eq!(right, AgentAction::Refuse { flow, reason });
    assert!(agent.operators().get("joe").unwrap().keys.is_empty(), "nor does it log in");
}

#[test]
fn a_policy_judges_running_flows_again() {
    let now = at(1000);
    let mut agent = agent(GRANT);
    let tuple = signed(body(), "joe", &key(1));
    let flow = TupleHash::of(&tuple.encode());
    let before = granted(see(&mut agent, now, &tuple));
    let timer = AgentAction::SetTimer { timer: LOOK, at_us: now.mono_us + 60_000_000 };

    assert_eq!(load(&mut agent, now, &policy(GRANT)), [AgentAction::PolicyTaken, timer.clone()]);
    let more = GRANT.replace("1M", "9M").replace("outside", "nobody");
    let out = load(&mut agent, now, &policy(&more));
    let [AgentAction::PolicyTaken, AgentAction::Clamp { grant, .. }, _] = &out[..] else { panic!("{out:?}") };
    assert_eq!(grant.budgets, before.budgets, "nothing is raised");
    assert!(!grant.neighbors.includes("outside") && !grant.neighbors.includes("nobody"));

    let less = GRANT.replace("\"log\", \"sensors\"", "\"log\"").replace("sends = 2", "sends = 1");
    let out = load(&mut agent, now, &policy(&less));
    let AgentAction::Clamp { grant, .. } = &out[1] else { panic!("{out:?}") };
    assert_eq!(grant.privileges, ["log"]);
    assert_eq!(grant.limits(0, 0, Limits::NONE.with(Operation::Sends, 9)).get(Operation::Sends), 1);

    let bad = load(&mut agent, now, "[[principal]]\nname = 5");
    assert!(matches!(&bad[..], [AgentAction::PolicyRefused { why }] if why.contains("line 2, column 8")));
    assert_eq!(agent.flows.len(), 1);

    let out = load(&mut agent, now, &policy(&GRANT.replace("\"log\", ", "")));
    assert_eq!(out[1], AgentAction::Revoke { flow, reason: Reason::Privilege { name: "log".into() } });
    assert!(agent.flows.is_empty());
    assert!(matches!(refused(see(&mut agent, now, &tuple)), Reason::Privilege { .. }));
}

#[test]
fn who_is_gone_takes_the_flows_along() {
    let gone = |text: &str, later| {
        let mut agent = agent(GRANT);
        granted(see(&mut agent, at(1000), &signed(body(), "joe", &key(2))));
        let mut out = vec![];
        if !text.is_empty() {
            out = load(&mut agent, at(1000), text);
        }
        agent.handle(at(later), AgentEvent::Timer { timer: LOOK }, &mut out);
        out.into_iter().find_map(|a| match a {
            AgentAction::Revoke { reason, .. } => Some(reason),
            _ => None,
        })
    };
    assert_eq!(gone("", 1001), None);
    assert_eq!(gone("", 2001), Some(Reason::PrincipalExpired { principal: "joe".into(), until: 2000 }));
    assert_eq!(gone("# nobody", 1001), Some(Reason::UnknownPrincipal("joe".into())));
    let other_key = policy(GRANT).replace(&key(2).public().to_string(), &key(4).public().to_string());
    assert_eq!(gone(&other_key, 1001), Some(Reason::BadSignature { principal: "joe".into() }));
    assert!(matches!(gone(&policy(""), 1001), Some(Reason::Policy(_))));
}

fn revocation(flow: TupleHash, by: Option<&str>, with: &SigningKey) -> Revocation {
    let signature = with.sign(&Revocation::statement(&flow, 3000, by)).to_vec();
    Revocation { flow, until: 3000, by: by.map(Into::into), scheme: Scheme::Ed25519, signature }
}

/// What comes of hearing this, with the checks done; and how many there were.
fn hear(agent: &mut SourceBased, now: AgentTime, from: &str, payload: &[u8]) -> (Vec<AgentAction>, usize) {
    let mut out = vec![];
    agent.handle(now, AgentEvent::Capsule { from, payload }, &mut out);
    let mut checks = 0;
    while let Some(at) = out.iter().position(|a| matches!(a, AgentAction::Check { .. })) {
        let AgentAction::Check { check, key, scheme, message, signature } = out.remove(at) else { panic!() };
        checks += 1;
        let valid = key.verify(scheme, &message, &signature).is_ok();
        agent.handle(now, AgentEvent::Checked { check, valid }, &mut out);
    }
    (out, checks)
}

#[test]
fn a_revocation_needs_the_right_signature() {
    let now = at(1000);
    let tuple = signed(body(), "joe", &key(1));
    let flow = TupleHash::of(&tuple.encode());
    let with_flow = || {
        let mut agent = agent(GRANT);
        for name in ["b", "c", "d"] {
            agent.handle(now, AgentEvent::NeighborUp { name, identity: None }, &mut vec![]);
        }
        granted(see(&mut agent, now, &tuple));
        agent
    };
    for (by, with) in [(None, key(9)), (Some("joe"), key(1)), (Some("joe"), key(2))] {
        let mut agent = with_flow();
        let payload = revocation(flow, by, &with).encode();
        let (out, _) = hear(&mut agent, now, "b", &payload);
        let reason = Reason::Revoked { by: by.map(Into::into) };
        let send = |n: &str| AgentAction::Send { neighbor: n.into(), payload: payload.clone() };
        assert_eq!(out, [AgentAction::Revoke { flow, reason: reason.clone() }, send("c"), send("d")]);
        assert_eq!(hear(&mut agent, now, "c", &payload), (vec![], 0), "told once");
        assert_eq!(refused(see(&mut agent, now, &tuple)), reason);
        let mut told = vec![];
        agent.handle(now, AgentEvent::NeighborUp { name: "e", identity: None }, &mut told);
        assert_eq!(told, [send("e")]);
    }
    // Eve's own signature, a neighbor's, and a changed word: nothing happens.
    for r in [
        revocation(flow, Some("eve"), &key(1)),
        revocation(flow, Some("joe"), &key(3)),
        revocation(flow, Some("mallory"), &key(1)),
        revocation(flow, None, &key(1)),
        Revocation { until: 4000, ..revocation(flow, None, &key(9)) },
    ] {
        assert_eq!(hear(&mut with_flow(), now, "b", &r.encode()).0, []);
    }
    // Eve may revoke, but not what is joe's; her word is passed on, to where it may concern her flow.
    let (out, _) = hear(&mut with_flow(), now, "b", &revocation(flow, Some("eve"), &key(3)).encode());
    assert!(out.iter().all(|a| matches!(a, AgentAction::Send { .. })), "{out:?}");
    let late = revocation(flow, None, &key(9)).encode();
    assert_eq!(hear(&mut with_flow(), at(3001), "b", &late).1, 0, "it has lapsed");
}

#[test]
fn a_neighbor_causes_few_checks() {
    let mut agent = agent(GRANT);
    let now = at(1000);
    let forged = |n: u8| {
        let mut r = revocation(TupleHash([n; 32]), None, &key(1));
        r.signature[0] ^= 1;
        r.encode()
    };
    let checks: usize = (0..100).map(|n| hear(&mut agent, now, "b", &forged(n)).1).sum();
    assert_eq!(checks, revoked::CHECKS_PER_SECOND as usize);
    assert_eq!(hear(&mut agent, now, "c", &forged(1)).1, 1, "another neighbor is still heard");
    // Checks that the node never answers do not fill the agent for ever.
    let mut out = vec![];
    for n in 0..40u8 {
        let from = format!("n{n}");
        agent.handle(now, AgentEvent::Capsule { from: &from, payload: &forged(n) }, &mut out);
    }
    assert_eq!(out.len(), revoked::MAX_CHECKS);
    assert_eq!(hear(&mut agent, at(1061), "b", &forged(1)).1, 1);
}
