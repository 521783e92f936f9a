//! Writes what the fuzz targets start from into `fuzz/seeds`: one sound input or a few for each of them.
//!
//! `cargo test -p ee --test seeds -- --ignored`, after a format has changed.

mod common;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use authagent::keys::PublicKey;
use common::guest::{ask, module, question};
use common::{Fate, Frame, World};
use wire::advert::{Advert, Hearsay};
use wire::budget::Kind;
use wire::control::{Answer, Request, encode};
use wire::describe::Description;
use wire::id::PartHash;
use wire::link::Frame as LinkFrame;
use wire::revoke::Revocation;
use wire::statement::Proof;
use wire::tuple::{Scheme, Tuple};

const POLICY: &str = "[unsigned]\nneighbors = { only = [\"b\"] }\nbudgets = { memory = \"64k\" }\n";

/// Pieces as `fuzz::pieces` cuts them: a number, a length, bytes.
fn pieces<'a>(list: impl IntoIterator<Item = (u8, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, bytes) in list {
        out.push(number);
        out.extend((bytes.len() as u16).to_le_bytes());
        out.extend(bytes);
    }
    out
}

/// A frame of a protected link.
fn written(frame: &LinkFrame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    frame.emit(&mut bytes);
    bytes
}

struct Seeds(PathBuf);

impl Seeds {
    fn put(&self, target: &str, name: &str, bytes: &[u8]) {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    let seeds = Seeds(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds"));
    let flow = ask("ask", 7);
    let tuple = Tuple::decode(&flow.tuple).unwrap();
    let proof = Proof { expiry: 1_800_000_000, scheme: Scheme::Ed25519, signature: vec![7; 64] };
    seeds.put("proof", "ed25519", &proof.encode());
    let blobs: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
    seeds.put("store", "sound", &pieces([(0, &blobs[..])]));
    seeds.put("store", "damaged", &pieces([(0, &blobs[..]), (17, &[0xff; 40]), (0, &[0; 3])]));

    let mut world = World::line(3);
    let heard = Rc::new(RefCell::new(Vec::new()));
    let copy = heard.clone();
    world.tap(move |frame: &mut Frame| {
        copy.borrow_mut().push(frame.clone());
        Fate::Pass
    });
    world.start(0, &flow);
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 1));
    world.run(Duration::from_secs(1));
    let mut frames: Vec<Frame> = heard.take();
    frames.retain(|f| f.to == 1 && f.from == 0);
    for (n, frame) in frames.iter().enumerate() {
        seeds.put("capsule", &format!("frame-{n}"), &frame.bytes[14..]);
        seeds.put("system", &format!("payload-{n}"), frame.capsule().unwrap().1);
    }
    let spread: Vec<(u8, &[u8])> = frames.iter().map(|f| (0x51, &f.bytes[..])).collect();
    seeds.put("net", "spread", &pieces(spread.iter().copied()));

    seeds.put("tuple", "ask", &flow.tuple);
    let mut asks = tuple.clone();
    for (kind, bound) in Kind::ALL.into_iter().zip(1000..) {
        asks.body.request.budgets.set(kind, Some(bound));
    }
    seeds.put("tuple", "budgets", &asks.encode());
    let main = &tuple.body.protocols[0];
    let description = Description {
        name: main.name.clone(),
        capsules: main.capsules.clone(),
        events: main.events,
        session: main.session,
        params: vec![],
        companions: vec![],
    };
    seeds.put("description", "ask", &description.encode());
    seeds.put("limits", "chain", &[0; 1].into_iter().chain((0..36).map(|i| i % 3)).collect::<Vec<u8>>());

    let revocation = Revocation {
        flow: flow.hash(),
        until: 1_800_000_000,
        by: Some("joe".into()),
        scheme: Scheme::Ed25519,
        signature: vec![7; 64],
    };
    seeds.put("revocation", "by-joe", &revocation.encode());
    seeds.put("policy", "small", POLICY.as_bytes());
    let documented = include_str!("../../docs/policy.md").split("```toml\n").nth(1).unwrap();
    seeds.put("policy", "documented", documented.split("```").next().unwrap().as_bytes());

    let requests = [
        Request::NodeShow,
        Request::FlowShow { from: 1 },
        Request::PartPut {
            part: PartHash::of(&flow.module),
            total: flow.module.len() as u32,
            offset: 0,
            bytes: flow.module.clone(),
        },
        Request::FlowInject { tuple: flow.tuple.clone() },
        Request::FlowStop { flow: flow.hash(), kill: false },
        Request::PolicyShow,
        Request::PolicyLoad { text: POLICY.into() },
        Request::FlowRevoke { revocation: revocation.encode() },
    ];
    let requests: Vec<Vec<u8>> = requests.iter().map(encode).collect();
    for (n, request) in requests.iter().enumerate() {
        seeds.put("control", &format!("request-{n}"), request);
    }
    for (name, request) in [("node", Request::NodeShow), ("flows", Request::FlowShow { from: 0 })] {
        let answer: Answer = world.control(1, request);
        seeds.put("control", &format!("answer-{name}"), &encode(&answer));
    }
    let asked = requests.iter().map(|r| (0x53, &r[..]));
    let advert = |name, identity, known: &[Hearsay<'static>]| {
        let advert = Advert { name, identity, interval_ms: 1000, expire_ms: 5000, known: vec![] };
        advert.encode(known.iter().copied()).0
    };
    let far = [Hearsay { name: "far", hops: 1, age_ms: 10, left_ms: 4000 }];
    let key = PublicKey::from_text("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    let Ok(PublicKey::Ed25519(key)) = key else { panic!("a key") };
    let (open, keyed) = (advert("b", None, &far), advert("k", Some(key.to_bytes()), &[]));
    seeds.put("system", "advert", &open);
    let said = [(0x52, &open[..]), (0x54, &keyed), (0x53, &advert("c", None, &far)), (0x92, &open)];
    seeds.put("advert", "three", &pieces(said));
    seeds.put("node", "inject", &pieces(asked.chain(spread.iter().copied())));

    let packet = wire::session::frame(b"find hops 3").unwrap();
    let token = wire::datagram::Token([7; 8]);
    seeds.put("datagram", "open", &wire::datagram::open("hello", None));
    seeds.put("datagram", "cookie", &wire::datagram::open("hello", Some(token)));
    seeds.put("datagram", "packet", &wire::datagram::Said::Packet(token, b"find").encode());
    seeds.put("server", "questions", &pieces([(0, &b"list\ntuple hello\n"[..]), (0, &b"part 12\n"[..])]));
    seeds.put("server", "answers", &pieces([(0, &b"ok 12\nerror no"[..]), (0, &b"thing\n"[..])]));
    seeds.put("session", "hello", &pieces([(0, &b"open hello\n"[..]), (0, &packet), (0, &packet[..5])]));
    seeds.put("admission", "ask", &flow.module);
    seeds.put("admission", "empty", &module(""));
    seeds.put("node_config", "small", include_str!("seeds/node.toml").as_bytes());
    seeds.put("lab", "line", include_str!("seeds/lab.toml").as_bytes());
    let hello = LinkFrame::Hello { sender: 1, cookie: [0; 16], noise: &[9; 32] };
    let answer = LinkFrame::Answer { receiver: 1, sender: 2, noise: &[9; 192] };
    let proof = LinkFrame::Proof { receiver: 1, noise: &[9; 160] };
    let cookie = LinkFrame::Cookie { receiver: 1, cookie: [9; 16] };
    let sealed = LinkFrame::Sealed { receiver: 1, counter: 0, sealed: &[9; 40] };
    let shakes: Vec<Vec<u8>> = [hello, answer, proof, cookie, sealed].iter().map(written).collect();
    for stage in [0, 1, 2, 3, 0x83] {
        let all = pieces(shakes.iter().map(|f| (0x20, &f[..])));
        seeds.put("link", &format!("stage-{stage}"), &[vec![stage], all].concat());
    }
    for stage in 0..3 {
        let bytes: Vec<u8> = [stage].into_iter().chain(pieces([(0, &[0, 32][..]), (0, &[7; 32])])).collect();
        seeds.put("channel", &format!("stage-{stage}"), &bytes);
    }
}
