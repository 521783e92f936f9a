//! The agent interface carries another kind of agent, written in under 100 lines: signatures checked as
//! a job, a policy that changes, revocation that travels from node to node.

#[path = "third/signed_only.rs"]
mod signed_only;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use authagent::agent::{AgentAction, AgentEvent, AgentTime, AuthAgent, Reason, Source, Verification};
use authagent::everything::Everything;
use authagent::keys::{PublicKey, SigningKey};
use signed_only::SignedOnly;
use wire::grant::Neighbors;
use wire::id::TupleHash;
use wire::tuple::{Body, Credentials, Part, Protocol, Scheme, Tuple};

fn tuple(signed_by: Option<(&str, &SigningKey)>) -> Tuple {
    let body = Body::new([1; 16], vec![Protocol::new("p", Part::of(b"module").unwrap())]);
    let credentials = match signed_by {
        None => Credentials::None,
        Some((principal, key)) => Credentials::Signed {
            principal: principal.into(),
            scheme: Scheme::Ed25519,
            signature: key.sign(&body.encode()).into(),
        },
    };
    Tuple { body, credentials }
}

/// As much of a node as an agent sees.
struct Node {
    agent: Box<dyn AuthAgent>,
    flows: BTreeMap<TupleHash, Neighbors>,
    refused: BTreeMap<TupleHash, Reason>,
    jobs: VecDeque<(TupleHash, PublicKey)>,
    sent: VecDeque<(String, Vec<u8>)>,
    policy_taken: Option<bool>,
}

impl Node {
    fn new(agent: impl AuthAgent + 'static, neighbors: &[&str], policy: &str) -> Self {
        let mut node = Self {
            agent: Box::new(agent),
            flows: BTreeMap::new(),
            refused: BTreeMap::new(),
            jobs: VecDeque::new(),
            sent: VecDeque::new(),
            policy_taken: None,
        };
        neighbors.iter().for_each(|&name| node.event(AgentEvent::NeighborUp { name, identity: None }));
        node.event(AgentEvent::PolicyChanged { policy: policy.as_bytes() });
        node
    }

    fn event(&mut self, event: AgentEvent<'_>) {
        let mut out = vec![];
        self.agent.handle(AgentTime { mono_us: 0, wall: None }, event, &mut out);
        for action in out {
            match action {
                AgentAction::Verify { flow, key } => self.jobs.push_back((flow, key)),
                AgentAction::Grant { flow, grant } => drop(self.flows.insert(flow, grant.neighbors)),
                AgentAction::Refuse { flow, reason } => drop(self.refused.insert(flow, reason)),
                AgentAction::Revoke { flow, .. } => drop(self.flows.remove(&flow)),
                AgentAction::Send { neighbor, payload } => self.sent.push_back((neighbor, payload)),
                AgentAction::PolicyTaken => self.policy_taken = Some(true),
                AgentAction::PolicyRefused { .. } => self.policy_taken = Some(false),
                other => panic!("not expected: {other:?}"),
            }
        }
    }

    /// A tuple arrives; jobs that the agent asks for are done at once.
    fn arrives(&mut self, tuple: &Tuple) -> TupleHash {
        let flow = TupleHash::of(&tuple.encode());
        let source = Source::Injected { principal: "admin" };
        self.event(AgentEvent::TupleSeen { flow, tuple, source, verified: None });
        while let Some((flow, key)) = self.jobs.pop_front() {
            let verified = Verification::of(tuple, key);
            self.event(AgentEvent::TupleSeen { flow, tuple, source, verified: Some(&verified) });
        }
        flow
    }
}

#[test]
fn it_is_small() {
    assert!(include_str!("third/signed_only.rs").lines().count() < 100);
}

#[test]
fn only_known_principals_signatures_are_taken() {
    let (alice, mallory) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
    let mut node = Node::new(SignedOnly::default(), &["b"], &format!("alice {}", alice.public()));
    assert_eq!(node.policy_taken, Some(true));

    let good = node.arrives(&tuple(Some(("alice", &alice))));
    assert_eq!(node.flows[&good], Neighbors::Only(vec!["b".into()]));

    for bad in [tuple(None), tuple(Some(("mallory", &mallory))), tuple(Some(("alice", &mallory)))] {
        let flow = node.arrives(&bad);
        assert!(!node.flows.contains_key(&flow) && node.refused.contains_key(&flow));
    }
    let mut changed = tuple(Some(("alice", &alice)));
    changed.body.nonce[0] ^= 1;
    let flow = node.arrives(&changed);
    assert_eq!(node.refused[&flow], Reason::Policy("wrong signature".into()));
}

#[test]
fn a_policy_that_changes_during_the_verification_counts() {
    let (old, new) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
    let mut node = Node::new(SignedOnly::default(), &[], &format!("alice {}", old.public()));
    let tuple = tuple(Some(("alice", &old)));
    let flow = TupleHash::of(&tuple.encode());
    let source = Source::Neighbor { name: "b" };
    node.event(AgentEvent::TupleSeen { flow, tuple: &tuple, source, verified: None });
    let (_, key) = node.jobs.pop_front().unwrap();
    let verified = Verification::of(&tuple, key);
    assert!(verified.valid);
    node.event(AgentEvent::PolicyChanged { policy: format!("alice {}", new.public()).as_bytes() });
    node.event(AgentEvent::TupleSeen { flow, tuple: &tuple, source, verified: Some(&verified) });
    assert!(node.flows.is_empty(), "the old key's word is not enough");
    assert_eq!(node.jobs, [(flow, new.public().into())], "the new key is asked for");
}

#[test]
fn revocation_travels() {
    let alice = SigningKey::from_seed(&[1; 32]);
    let policy = format!("alice {}", alice.public());
    let names = ["a", "b", "c"];
    let neighbors: [&[&str]; 3] = [&["b"], &["a", "c"], &["b"]];
    let mut nodes: BTreeMap<&str, Node> = names
        .iter()
        .zip(neighbors)
        .map(|(&n, to)| (n, Node::new(SignedOnly::default(), to, &policy)))
        .collect();
    let tuple = tuple(Some(("alice", &alice)));
    for node in nodes.values_mut() {
        node.arrives(&tuple);
    }
    assert!(nodes.values().all(|n| n.flows.len() == 1));

    let a = nodes.get_mut("a").unwrap();
    a.event(AgentEvent::PolicyChanged { policy: b"alice nonsense" });
    assert_eq!((a.policy_taken, a.flows.len()), (Some(false), 1));
    a.event(AgentEvent::PolicyChanged { policy: b"" });

    let mut reached = BTreeSet::new();
    while let Some((from, (to, payload))) =
        nodes.iter_mut().find_map(|(&n, node)| Some((n, node.sent.pop_front()?)))
    {
        nodes.get_mut(to.as_str()).unwrap().event(AgentEvent::Capsule { from, payload: &payload });
        reached.insert(to);
    }
    assert_eq!(reached, ["b", "c"].map(String::from).into());
    assert!(nodes.values().all(|n| n.flows.is_empty()));
}

#[test]
fn everything_takes_what_nobody_signed() {
    let mut node = Node::new(Everything::default(), &["b"], "");
    let flow = node.arrives(&tuple(None));
    assert_eq!(node.flows[&flow], Neighbors::All);
    assert_eq!(node.policy_taken, Some(false));
}
