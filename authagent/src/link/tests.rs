//! Two ends and what can happen between them.

use super::*;
use core::cell::Cell;
use proptest::prelude::*;
use std::format;
use wire::anep;
use wire::control::Erred;
use wire::link::{ANSWER_NOISE, COOKIE_LEN, HELLO_NOISE, MAX_HANDSHAKE, OVERHEAD, PROOF_NOISE};

use super::handshake::MAX_OPEN;
use super::task::Outcome;
use crate::keys::SigningKey;

const MS: u64 = 1000;
const SECOND: u64 = 1000 * MS;
/// How long a frame is under way, and how long a step takes.
const DELAY: u64 = MS;
const WORK: u64 = MS / 2;

/// Numbers that look random and are the same in every run (xorshift64*).
struct Random(Cell<u64>);

impl Random {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    fn number(&self) -> u64 {
        let mut n = self.0.get();
        n ^= n >> 12;
        n ^= n << 25;
        n ^= n >> 27;
        self.0.set(n);
        n.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    fn one_in(&self, n: u64) -> bool {
        n != 0 && self.number().is_multiple_of(n)
    }
}

impl Entropy for Random {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        out.iter_mut().for_each(|b| *b = self.number() as u8);
        Ok(())
    }
}

/// One in so many frames suffers this; 0 for none.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    lost: u64,
    twice: u64,
    late: u64,
    changed: u64,
}

enum Thing {
    Frame(Vec<u8>),
    Done(Box<Finished>),
}

/// Both ends; end 0 has the lower identity.
struct Pair {
    ends: [Link; 2],
    random: Random,
    faults: Faults,
    now: u64,
    queue: Vec<(u64, usize, Thing)>,
    /// What each end received.
    heard: [Vec<Vec<u8>>; 2],
    events: [Vec<LinkEvent>; 2],
    refused: [Vec<Refused>; 2],
    /// Everything that was on the link: to which end, and the frame.
    seen: Vec<(usize, Vec<u8>)>,
    steps: usize,
}

fn keys() -> [SigningKey; 2] {
    let mut keys = [1, 2].map(|seed| SigningKey::from_seed(&[seed; 32]));
    keys.sort_by_key(SigningKey::public);
    keys
}

fn end(own: &SigningKey, peer: &SigningKey, cookies: bool, timing: Timing, random: &Random) -> Link {
    let identity = Arc::new(NodeIdentity::new(own.clone(), random).unwrap());
    Link::new(identity, peer.public(), cookies, timing, random).unwrap()
}

impl Pair {
    fn new(seed: u64, timing: Timing) -> Self {
        Self::with(seed, timing, false)
    }

    fn with(seed: u64, timing: Timing, cookies: bool) -> Self {
        let (random, [a, b]) = (Random::new(seed), keys());
        let ends = [end(&a, &b, cookies, timing, &random), end(&b, &a, cookies, timing, &random)];
        Self {
            ends,
            random,
            faults: Faults::default(),
            now: SECOND,
            queue: Vec::new(),
            heard: Default::default(),
            events: Default::default(),
            refused: Default::default(),
            seen: Vec::new(),
            steps: 0,
        }
    }

    fn up(seed: u64, timing: Timing) -> Self {
        let mut pair = Self::new(seed, timing);
        pair.run(SECOND);
        assert!(pair.both_up());
        pair.clear();
        pair
    }

    fn clear(&mut self) {
        self.heard = Default::default();
        self.events = Default::default();
        self.refused = Default::default();
        self.seen.clear();
    }

    fn both_up(&self) -> bool {
        self.ends.iter().all(Link::is_up)
    }

    /// The end starts anew and knows nothing.
    fn restart(&mut self, at: usize, timing: Timing) {
        let keys = keys();
        self.ends[at] = end(&keys[at], &keys[1 - at], false, timing, &self.random);
        self.queue.retain(|(_, to, thing)| *to != at || matches!(thing, Thing::Frame(_)));
    }

    /// Puts a frame on the link towards an end.
    fn send(&mut self, to: usize, mut frame: Vec<u8>) {
        self.seen.push((to, frame.clone()));
        let Faults { lost, twice, late, changed } = self.faults;
        if self.random.one_in(lost) {
            return;
        }
        if self.random.one_in(changed) {
            let bit = self.random.number() as usize % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        for _ in 0..1 + u64::from(self.random.one_in(twice)) {
            let extra = if self.random.one_in(late) { self.random.number() % (50 * MS) } else { 0 };
            self.queue.push((self.now + DELAY + extra, to, Thing::Frame(frame.clone())));
        }
    }

    /// An end says something; whether it could.
    fn say(&mut self, from: usize, packet: &[u8]) -> bool {
        let mut out = [0; 2000];
        let Some(len) = self.ends[from].seal(self.now, packet, &mut out) else { return false };
        self.send(1 - from, out[..len].to_vec());
        true
    }

    fn hand(&mut self, to: usize, frame: &[u8]) -> Result<Received, Refused> {
        let mut out = [0; 2000];
        let result = self.ends[to].received(self.now, frame, &self.random, &mut out);
        match result {
            Ok(Received::Packet(len)) => self.heard[to].push(out[..len].to_vec()),
            Ok(Received::Handled) => {}
            Err(why) => self.refused[to].push(why),
        }
        result
    }

    fn settle(&mut self) {
        for at in 0..2 {
            if self.now >= self.ends[at].wake() {
                self.ends[at].poll(self.now, &self.random);
            }
            while let Some(frame) = self.ends[at].output() {
                self.send(1 - at, frame);
            }
            if let Some(task) = self.ends[at].task() {
                self.steps += 1;
                self.queue.push((self.now + WORK, at, Thing::Done(Box::new(task.run()))));
            }
            while let Some(event) = self.ends[at].event() {
                self.events[at].push(event);
            }
        }
    }

    fn run(&mut self, time: u64) {
        let end = self.now + time;
        loop {
            self.settle();
            let due = self.queue.iter().map(|(at, ..)| *at).chain(self.ends.iter().map(Link::wake)).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            while let Some(at) = self.queue.iter().position(|(at, ..)| *at <= self.now) {
                let (_, to, thing) = self.queue.remove(at);
                match thing {
                    Thing::Frame(frame) => drop(self.hand(to, &frame)),
                    Thing::Done(done) => {
                        if let Err(why) = self.ends[to].finished(self.now, *done) {
                            self.refused[to].push(why);
                        }
                    }
                }
            }
        }
        self.now = end;
    }

    /// Both ends say something and hear each other.
    #[track_caller]
    fn talks(&mut self) {
        self.clear();
        for from in 0..2 {
            assert!(self.say(from, &[from as u8; 100]), "end {from} cannot speak");
        }
        self.run(100 * MS);
        assert_eq!((self.heard[0].len(), self.heard[1].len()), (1, 1), "{:?}", self.refused);
        assert_eq!(self.heard[1][0], [0; 100]);
    }

    fn handshakes(&self) -> usize {
        let hello = |(_, f): &&(usize, Vec<u8>)| matches!(Frame::parse(f), Ok(Frame::Hello { .. }));
        self.seen.iter().filter(hello).count()
    }
}

#[test]
fn both_begin_at_once_and_one_handshake_comes_of_it() {
    let mut pair = Pair::new(1, Timing::default());
    pair.run(SECOND);
    assert!(pair.both_up());
    let [a, b] = keys().map(|k| k.public());
    assert_eq!(pair.events, [[LinkEvent::Up(b)], [LinkEvent::Up(a)]]);
    // A hello from each, an answer, a proof, and the first sealed frame.
    assert_eq!((pair.seen.len(), pair.steps), (5, 5));
    assert!(pair.ends[0].current.as_ref().unwrap().initiator);
    pair.talks();
}

#[test]
fn nothing_is_sealed_before_and_nothing_unsealed_is_taken() {
    let mut pair = Pair::new(2, Timing::default());
    assert!(!pair.say(0, b"early"));
    let mut clear = [0; 40];
    anep::emit_header(&mut clear, anep::TYPE_CAPSULE, 32);
    assert_eq!(pair.hand(1, &clear), Err(Refused::Unprotected));
    pair.run(SECOND);
    assert_eq!(pair.hand(1, &clear), Err(Refused::Unprotected));
    assert_eq!(pair.hand(1, &clear[..7]), Err(Refused::Malformed));
    pair.talks();
}

#[test]
fn nothing_readable_is_on_the_link() {
    let mut pair = Pair::new(3, Timing::default());
    pair.run(SECOND);
    let secret = b"the capsule's identifier and its payload";
    assert!(pair.say(0, secret));
    pair.run(SECOND);
    assert_eq!(pair.heard[1], [secret.to_vec()]);
    let all: Vec<u8> = pair.seen.iter().flat_map(|(_, f)| f.clone()).collect();
    for piece in [&secret[..8], &keys()[0].public().to_bytes()[..], &keys()[1].public().to_bytes()[..]] {
        assert!(!all.windows(piece.len()).any(|w| w == piece));
    }
}

#[test]
fn loss_reordering_repetition_and_damage_only_delay() {
    for seed in 0..60 {
        let mut pair = Pair::new(seed, Timing::default());
        pair.faults = Faults { lost: 3, twice: 4, late: 3, changed: 5 };
        pair.run(60 * SECOND);
        assert!(pair.both_up(), "seed {seed}");
        pair.clear();
        for n in 0u16..200 {
            assert!(pair.say(usize::from(n % 2), &n.to_be_bytes()));
            pair.run(MS);
        }
        pair.run(SECOND);
        // Each at most once, and nothing that was not said.
        let mut heard: Vec<_> = pair.heard.concat();
        let (count, all) = (heard.len(), 0u16..200);
        heard.sort();
        heard.dedup();
        assert_eq!(heard.len(), count, "seed {seed}: heard twice");
        assert!(heard.iter().all(|p| all.clone().any(|n| p[..] == n.to_be_bytes())));
        assert!(count > 60, "seed {seed}: {count}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let mut pair = Pair::up(4, Timing::default());
    assert!(pair.say(0, b"whole"));
    let (_, good) = pair.seen.last().unwrap().clone();
    pair.queue.clear();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(pair.hand(1, &bad).is_err(), "bit {bit}");
    }
    assert!(pair.heard[1].is_empty());
    assert_eq!(pair.hand(1, &good), Ok(Received::Packet(5)));
    assert_eq!(pair.hand(1, &good), Err(Refused::Replayed));
}

#[test]
fn a_flipped_bit_in_a_handshake_gives_no_link_and_takes_none_away() {
    // Bits of the Noise messages, a few of each byte; the end's own frames follow and the handshake ends.
    for which in 0..3 {
        let mut bit = 16 * 8 + which;
        while bit < MAX_HANDSHAKE * 8 {
            let mut pair = Pair::new(5, Timing::default());
            let mut sent = 0;
            while sent <= which && pair.now < 2 * SECOND {
                pair.settle();
                if pair.seen.len() > sent {
                    sent = pair.seen.len();
                    if let Some((_, _, Thing::Frame(frame))) =
                        pair.queue.iter_mut().rfind(|(_, _, t)| matches!(t, Thing::Frame(_)))
                    {
                        let at = bit % (frame.len() * 8);
                        frame[at / 8] ^= 1 << (at % 8);
                    }
                }
                pair.run(MS / 2);
            }
            pair.run(3 * SECOND);
            assert!(pair.both_up(), "frame {which}, bit {bit}: {:?}", pair.refused);
            pair.talks();
            bit += 61;
        }
    }
}

#[test]
fn what_was_heard_is_not_heard_again_ever() {
    let mut pair = Pair::up(6, Timing::default());
    for n in 0u16..3000 {
        assert!(pair.say(0, &n.to_be_bytes()));
    }
    pair.run(SECOND);
    assert_eq!(pair.heard[1].len(), 3000);
    let seen = std::mem::take(&mut pair.seen);
    for (to, frame) in &seen {
        assert_eq!(pair.hand(*to, frame), Err(Refused::Replayed));
    }
    // A frame that is very late counts as heard.
    assert!(pair.say(0, b"late"));
    let late = pair.seen.pop().unwrap().1;
    pair.queue.clear();
    (0..2500).for_each(|_| assert!(pair.say(0, b"later")));
    pair.run(SECOND);
    assert_eq!(pair.hand(1, &late), Err(Refused::Replayed));
}

#[test]
fn a_recorded_handshake_opens_nothing() {
    let mut pair = Pair::new(7, Timing::default());
    pair.run(SECOND);
    pair.talks();
    let mut record = Pair::new(7, Timing::default());
    record.run(SECOND);
    record.say(0, b"recorded");
    let timing = Timing::default();
    // One end starts anew; somebody else plays it everything that the other end ever sent.
    pair.restart(1, timing);
    pair.clear();
    for _ in 0..3 {
        for (_, frame) in record.seen.iter().filter(|(to, _)| *to == 1) {
            let _ = pair.hand(1, frame);
            while let Some(task) = pair.ends[1].task() {
                let _ = pair.ends[1].finished(pair.now, task.run());
            }
            while pair.ends[1].output().is_some() {}
        }
    }
    assert!(!pair.ends[1].is_up() && pair.heard[1].is_empty());
    pair.run(5 * SECOND);
    pair.talks();
}

#[test]
fn an_end_that_starts_anew_is_back_at_once() {
    for at in 0..2 {
        let mut pair = Pair::up(8, Timing::default());
        pair.restart(at, Timing::default());
        let before = pair.now;
        while !pair.ends[at].is_up() {
            pair.run(MS);
        }
        assert!(pair.now - before < 20 * MS, "{}", pair.now - before);
        let peer = keys()[at].public();
        assert_eq!(pair.events[1 - at], [LinkEvent::Down, LinkEvent::Up(peer)], "the other end is told");
        pair.talks();
    }
}

#[test]
fn a_silent_neighbor_goes_down_and_comes_back() {
    let mut pair = Pair::up(9, Timing::default());
    pair.faults.lost = 1;
    assert!(pair.say(0, b"anybody?"));
    pair.run(60 * SECOND);
    assert_eq!(pair.events[0], [LinkEvent::Down]);
    assert!(!pair.ends[0].is_up());
    pair.faults.lost = 0;
    pair.run(6 * SECOND);
    pair.talks();
}

#[test]
fn an_idle_link_stays_up_and_renews_its_keys() {
    let mut pair = Pair::up(10, Timing::default());
    pair.run(1000 * SECOND);
    assert!(pair.both_up());
    assert!(pair.events.iter().flatten().all(|e| *e == LinkEvent::Renewed), "{:?}", pair.events);
    assert_eq!(pair.events[0].len(), 1000 / 120, "{:?}", pair.events);
    // An end that only listens says that it is there.
    pair.clear();
    for _ in 0..10 {
        assert!(pair.say(0, b"news"));
        pair.run(10 * SECOND);
    }
    assert!(pair.both_up() && pair.handshakes() <= 2, "{}", pair.handshakes());
}

#[test]
fn keys_are_renewed_after_so_many_frames_and_old_ones_soon_forgotten() {
    let timing = Timing { rekey_frames: 100, overlap: 50 * MS, ..Timing::default() };
    let mut pair = Pair::up(11, timing);
    for n in 0u16..1000 {
        assert!(pair.say(0, &n.to_be_bytes()));
        pair.run(2 * MS);
    }
    pair.run(SECOND);
    // Not one frame was lost by it.
    assert_eq!(pair.heard[1].len(), 1000);
    assert!(pair.events[0].len() >= 8, "{:?}", pair.events);
    assert!(pair.refused.concat().is_empty(), "{:?}", pair.refused);
    assert!(pair.ends.iter().all(|e| e.previous.is_none()));
    let (_, first) = pair.seen.iter().find(|(to, f)| *to == 1 && f[8] == 5).unwrap().clone();
    assert_eq!(pair.hand(1, &first), Err(Refused::Stale));
}

#[test]
fn keys_that_are_not_renewed_end() {
    let mut pair = Pair::up(12, Timing::default());
    pair.faults.lost = 1;
    pair.run(241 * SECOND);
    assert!(!pair.ends[0].is_up() && !pair.ends[1].is_up());
    assert!(!pair.say(0, b"no"));
}

#[test]
fn somebody_else_is_never_a_neighbor() {
    // End 1 holds another key than end 0 knows; it knows end 0's.
    let mut pair = Pair::new(13, Timing::default());
    let impostor = SigningKey::from_seed(&[99; 32]);
    pair.ends[1] = end(&impostor, &keys()[0], false, Timing::default(), &pair.random);
    pair.run(100 * SECOND);
    assert!(!pair.ends[0].is_up() && !pair.ends[1].is_up());
    assert!(pair.events.concat().is_empty() && pair.heard.concat().is_empty());
    assert!(pair.refused[0].contains(&Refused::Handshake), "{:?}", pair.refused);
    assert!(!pair.say(0, b"no") && !pair.say(1, b"no"));
}

/// A proof that is checked while another neighbor gets the place of whoever sent it proves nothing of that one.
#[test]
fn what_an_earlier_neighbor_proved_is_not_the_next_ones() {
    let mut pair = Pair::new(14, Timing::default());
    let accepted =
        |thing: &Thing| matches!(thing, Thing::Done(done) if matches!(done.outcome, Outcome::Accepted(_)));
    let at = loop {
        pair.settle();
        match pair.queue.iter().position(|(.., thing)| accepted(thing)) {
            Some(at) => break at,
            None => pair.run(MS / 10),
        }
    };
    let (_, to, Thing::Done(done)) = pair.queue.remove(at) else { panic!("a step") };
    let next = SigningKey::from_seed(&[99; 32]);
    pair.ends[to] = end(&keys()[to], &next, false, Timing::default(), &pair.random);
    assert_eq!(pair.ends[to].finished(pair.now, *done), Ok(()));
    pair.settle();
    assert!(!pair.ends[to].is_up() && pair.events[to].is_empty());
}

/// The handshake of somebody who knows both names and lacks the neighbor's key, and his certificate.
fn impostor(random: &Random, claims: Ed25519Key) -> (snow::Builder<'static>, Vec<u8>) {
    static PROLOGUES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let [a, b] = keys().map(|k| k.public());
    let prologue = PROLOGUES.get_or_init(|| task::prologue(a, b));
    const SECRET: [u8; 32] = [7; 32];
    let ephemeral = draw(random).unwrap();
    let builder = crate::channel::noise::builder(task::PATTERN, prologue, ephemeral).unwrap();
    let public = curve25519_dalek::MontgomeryPoint::mul_base_clamped(SECRET).to_bytes();
    let signature =
        SigningKey::from_seed(&[99; 32]).sign(&[crate::keys::CERTIFICATE_CONTEXT, &public].concat());
    let certificate = [&claims.to_bytes()[..], &signature[..]].concat();
    (builder.local_private_key(&SECRET).unwrap(), certificate)
}

#[test]
fn a_certificate_that_the_neighbor_did_not_make_is_worth_nothing() {
    let own_name = SigningKey::from_seed(&[99; 32]).public();
    let [a, b] = keys().map(|k| k.public());
    for (claims_b, claims_a) in [(own_name, own_name), (b, a)] {
        // As responder, to end 0.
        let mut pair = Pair::new(20, Timing::default());
        pair.settle();
        pair.run(MS);
        let hello = pair.seen.iter().find(|(to, _)| *to == 1).unwrap().1.clone();
        let Ok(Frame::Hello { sender, noise, .. }) = Frame::parse(&hello) else { panic!("a hello") };
        let (builder, certificate) = impostor(&pair.random, claims_b);
        let mut state = builder.build_responder().unwrap();
        state.read_message(noise, &mut []).unwrap();
        let mut answer = [0; ANSWER_NOISE];
        state.write_message(&certificate, &mut answer).unwrap();
        let frame = Frame::Answer { receiver: sender, sender: 1, noise: &answer };
        let mut bytes = vec![0; frame.len()];
        frame.emit(&mut bytes);
        assert_eq!(pair.hand(0, &bytes), Ok(Received::Handled));
        let task = pair.ends[0].task().unwrap();
        assert_eq!(pair.ends[0].finished(pair.now, task.run()), Err(Refused::Handshake));
        assert!(!pair.ends[0].is_up() && pair.ends[0].output().is_none());

        // As initiator, to end 1.
        let (builder, certificate) = impostor(&pair.random, claims_a);
        let mut state = builder.build_initiator().unwrap();
        let mut hello = [0; HELLO_NOISE + 16];
        state.write_message(&[], &mut hello).unwrap();
        let noise = hello.first_chunk().unwrap();
        let frame = Frame::Hello { sender: 2, cookie: [0; COOKIE_LEN], noise };
        let mut bytes = vec![0; frame.len()];
        frame.emit(&mut bytes);
        let mut end = end(&keys()[1], &keys()[0], false, Timing::default(), &pair.random);
        end.received(1, &bytes, &pair.random, &mut []).unwrap();
        let task = end.task().unwrap();
        end.finished(1, task.run()).unwrap();
        let answer = end.output().unwrap();
        let Ok(Frame::Answer { sender, noise, .. }) = Frame::parse(&answer) else { panic!("an answer") };
        state.read_message(noise, &mut [0; 200]).unwrap();
        let mut proof = [0; PROOF_NOISE];
        state.write_message(&certificate, &mut proof).unwrap();
        let frame = Frame::Proof { receiver: sender, noise: &proof };
        bytes.resize(frame.len(), 0);
        frame.emit(&mut bytes);
        end.received(2, &bytes, &pair.random, &mut []).unwrap();
        let task = end.task().unwrap();
        assert_eq!(end.finished(3, task.run()), Err(Refused::Handshake));
        assert!(!end.is_up() && end.event().is_none());
    }
}

#[test]
fn a_cookie_is_asked_for_and_no_curve_is_touched_without_it() {
    let mut pair = Pair::with(14, Timing::default(), true);
    pair.run(SECOND);
    assert!(pair.both_up());
    pair.clear();
    pair.steps = 0;
    for n in 0..1000u32 {
        let hello = Frame::Hello { sender: n, cookie: [n as u8; COOKIE_LEN], noise: &[9; HELLO_NOISE] };
        let mut bytes = vec![0; hello.len()];
        hello.emit(&mut bytes);
        assert_eq!(pair.hand(1, &bytes), Ok(Received::Handled));
        let answer = pair.ends[1].output().unwrap();
        assert!(answer.len() < bytes.len() && matches!(Frame::parse(&answer), Ok(Frame::Cookie { .. })));
        assert!(pair.ends[1].output().is_none() && pair.ends[1].task().is_none());
    }
}

#[test]
fn strangers_cause_few_steps_and_do_not_keep_the_neighbor_out() {
    let mut pair = Pair::up(15, Timing::default());
    let mut steps = 0;
    for n in 0..10_000u32 {
        let noise = core::array::from_fn(|i| (n as u8).wrapping_mul(i as u8) | 1);
        let hello = Frame::Hello { sender: n, cookie: [0; COOKIE_LEN], noise: &noise };
        let mut bytes = vec![0; hello.len()];
        hello.emit(&mut bytes);
        let _ = pair.hand(1, &bytes);
        if let Some(task) = pair.ends[1].task() {
            steps += 1;
            let _ = pair.ends[1].finished(pair.now, task.run());
        }
        while let Some(answer) = pair.ends[1].output() {
            assert!(answer.len() <= bytes.len());
        }
        assert!(pair.ends[1].open.len() <= MAX_OPEN);
        pair.now += MS;
    }
    assert!(steps <= 11 * Timing::default().per_second as usize, "{steps}");
    assert!(pair.refused[1].contains(&Refused::Limited));
    pair.talks();
}

#[test]
fn made_up_proofs_and_answers_do_not_end_a_handshake() {
    let mut pair = Pair::new(16, Timing::default());
    for _ in 0..20 {
        pair.run(MS / 2);
        for (to, frame) in pair.seen.clone() {
            // Somebody on the link answers in the other end's place, sooner than that can.
            let index = u32::from_be_bytes(frame[12..16].try_into().unwrap());
            let answer = Frame::Answer { receiver: index, sender: 1, noise: &[5; ANSWER_NOISE] };
            let proof = Frame::Proof { receiver: index, noise: &[5; PROOF_NOISE] };
            let mut bytes = vec![0; MAX_HANDSHAKE];
            answer.emit(&mut bytes);
            let _ = pair.hand(1 - to, &bytes);
            if let Ok(Frame::Answer { sender, .. }) = Frame::parse(&frame) {
                let proof = Frame::Proof { receiver: sender, noise: &[5; PROOF_NOISE] };
                bytes.resize(proof.len(), 0);
                proof.emit(&mut bytes);
                let _ = pair.hand(1 - to, &bytes);
            }
            bytes.resize(proof.len(), 0);
            proof.emit(&mut bytes);
            let _ = pair.hand(1 - to, &bytes);
        }
    }
    pair.run(5 * SECOND);
    assert!(pair.both_up(), "{:?}", pair.refused);
    assert!(pair.refused.concat().contains(&Refused::Handshake));
}

#[test]
fn without_entropy_nothing_begins() {
    let random = Random::new(17);
    let [a, b] = keys();
    let none = |_: &mut [u8]| Err(NoEntropy);
    let identity = Arc::new(NodeIdentity::new(a, &random).unwrap());
    assert!(Link::new(identity.clone(), b.public(), true, Timing::default(), &none).is_err());
    let mut link = Link::new(identity, b.public(), false, Timing::default(), &none).unwrap();
    link.poll(0, &none);
    assert!(link.output().is_none() && link.task().is_none() && !link.is_up());
    assert_eq!(link.event(), Some(LinkEvent::NoEntropy));
    let hello = Frame::Hello { sender: 1, cookie: [0; COOKIE_LEN], noise: &[9; HELLO_NOISE] };
    let mut bytes = vec![0; hello.len()];
    hello.emit(&mut bytes);
    assert_eq!(link.received(1, &bytes, &none, &mut []), Err(Refused::Entropy));
    assert_eq!(Refused::Entropy.erred(), Erred::Node);
}

#[test]
fn a_packet_must_fit() {
    let mut pair = Pair::up(18, Timing::default());
    let mut out = [0; 200];
    let most = out.len() - OVERHEAD;
    assert_eq!(pair.ends[0].seal(pair.now, &vec![7; most], &mut out), Some(200));
    assert_eq!(pair.ends[0].seal(pair.now, &vec![7; most + 1], &mut out), None);
    let mut small = [0; 10];
    let refused = pair.ends[1].received(pair.now, &out, &pair.random, &mut small);
    assert_eq!(refused, Err(Refused::Forged), "the caller's buffer is too small");
    assert!(!format!("{:?}", pair.ends[0]).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever arrives, in whatever state: no panic, no packet, an answer no longer than the frame, and the link
    /// still works.
    #[test]
    fn any_frames_are_survived(
        frames in proptest::collection::vec(
            (1u8..7, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..260), any::<bool>()), 0..30,
        ),
        early in 0u64..10,
    ) {
        let mut pair = Pair::new(19, Timing::default());
        pair.run(early * MS);
        for (kind, index, rest, known) in frames {
            let index = if known { pair.ends[1].attempt.as_ref().map_or(index, |a| a.index) } else { index };
            let mut bytes = vec![0; 16 + rest.len()];
            anep::emit_header(&mut bytes, anep::TYPE_LINK, 8 + rest.len());
            bytes[8] = kind;
            bytes[12..16].copy_from_slice(&index.to_be_bytes());
            bytes[16..].copy_from_slice(&rest);
            while pair.ends[1].output().is_some() {}
            let _ = pair.hand(1, &bytes);
            let said: usize = std::iter::from_fn(|| pair.ends[1].output()).map(|f| f.len()).sum();
            prop_assert!(said <= bytes.len().max(MAX_HANDSHAKE), "{} for {}", said, bytes.len());
        }
        prop_assert!(pair.heard[1].is_empty());
        pair.run(40 * SECOND);
        prop_assert!(pair.both_up());
    }
}
