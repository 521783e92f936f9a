//! A protected link: frames of one who is not the neighbor, at any stage of a handshake with the one who is.
#![no_main]

use std::sync::Arc;
use std::sync::OnceLock;

use authagent::NoEntropy;
use authagent::keys::{NodeIdentity, SigningKey};
use authagent::link::{Link, Received, Timing};
use fuzz::{Sequence, pieces};
use libfuzzer_sys::fuzz_target;
use nodeos::platform::Entropy;
use wire::link::{Frame, MAX_HANDSHAKE};

static ENTROPY: OnceLock<Sequence> = OnceLock::new();

fn entropy(out: &mut [u8]) -> Result<(), NoEntropy> {
    ENTROPY.get_or_init(Sequence::default).fill(out).map_err(|_| NoEntropy)
}

fn end(own: u8, peer: u8, cookies: bool) -> Link {
    static IDENTITIES: OnceLock<[Arc<NodeIdentity>; 2]> = OnceLock::new();
    let key = |seed: u8| SigningKey::from_seed(&[seed; 32]);
    let make = || [1, 2].map(|seed| Arc::new(NodeIdentity::new(key(seed), &entropy).expect("entropy")));
    let identity = IDENTITIES.get_or_init(make)[usize::from(own) - 1].clone();
    Link::new(identity, key(peer).public(), cookies, Timing::default(), &entropy).expect("entropy")
}

/// Frames and steps of work between the ends, so many; the neighbor's frames are its own.
fn step(ends: &mut [Link; 2], now: u64) {
    let mut out = [0; 2048];
    for at in 0..2 {
        ends[at].poll(now, &entropy);
        if let Some(task) = ends[at].task() {
            let _ = ends[at].finished(now, task.run());
        }
        ends[at].poll(now, &entropy);
        while let Some(frame) = ends[at].output() {
            assert!(Frame::parse(&frame).is_ok() && frame.len() <= MAX_HANDSHAKE);
            let _ = ends[1 - at].received(now, &frame, &entropy, &mut out);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::parse(bytes) {
        let mut again = vec![0; frame.len()];
        frame.emit(&mut again);
        assert_eq!(again[..], bytes[..again.len()]);
    }
    let Some((&stage, bytes)) = bytes.split_first() else { return };
    let mut ends = [end(1, 2, stage & 0x80 != 0), end(2, 1, false)];
    let (mut now, mut out) = (0, [0; 2048]);
    for _ in 0..stage & 7 {
        step(&mut ends, now);
    }
    for (number, piece) in pieces(bytes) {
        now += 1 << (number >> 3);
        // What the end says of its own accord is no answer.
        while ends[0].output().is_some() {}
        let received = ends[0].received(now, piece, &entropy, &mut out);
        // Nobody but the neighbor is heard.
        assert!(!matches!(received, Ok(Received::Packet(_))));
        let said: usize = std::iter::from_fn(|| ends[0].output()).map(|f| f.len()).sum();
        assert!(said <= piece.len().max(MAX_HANDSHAKE));
        if let Some(task) = ends[0].task() {
            let _ = ends[0].finished(now, task.run());
        }
        ends[0].poll(now, &entropy);
        while ends[0].event().is_some() {}
    }
});
